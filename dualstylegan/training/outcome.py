"""The models that come out of a run."""

from __future__ import annotations

from typing import Any

from PIL import Image

from dualstylegan.media.images import read_picture
from dualstylegan.models.base import Base
from dualstylegan.models.build import sampler_of
from dualstylegan.models.codes import StyleBank, fit_weights
from dualstylegan.models.priors import CodePrior, GaussianPrior, Prior
from dualstylegan.models.stage_two import StageTwo, moments_by_name
from dualstylegan.models.style import Style
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.networks.stylegan2 import Discriminator
from dualstylegan.training.base import photo_codes, trained_networks
from dualstylegan.training.shared import Shared


def trained_base(run: Shared) -> Base:
    """The averaged networks of a base's last phase, and the photos' codes as the prior."""
    settings = run.recipe.base
    last = run.folder.snapshot(f"base{len(settings.phases)}")
    generator, encoder, discriminator = trained_networks(settings, last)
    prior: Prior = GaussianPrior()
    if settings.prior == "codes":
        codes = photo_codes(encoder.to(run.device), run.pictures(settings.size, flip=False))
        prior = CodePrior(codes, jitter=settings.prior_jitter)
    header = _about(run) | {"licence": run.recipe.bundle.licence}
    return Base(header, generator, discriminator, encoder.cpu(), None, prior)


def base_after_stage_two(run: Shared) -> Base:
    """The base with its extrinsic path, and with where stage II stopped."""
    base = run.base
    base.extrinsic = run.folder.snapshot("pretrain", run.from_step)["extrinsic"]
    base.stage_two = end_of_stage_two(run)
    return base


def end_of_stage_two(run: Shared) -> StageTwo:
    """What stage III goes on from: all of it at a step with a checkpoint, else the snapshot's D alone."""
    step = run.from_step or run.folder.snapshot_steps("pretrain")[-1]
    checkpoint = run.folder.checkpoint_at("pretrain", step)
    if checkpoint is None:
        return StageTwo(run.folder.snapshot("pretrain", step)["discriminator"])
    stage, optimizers = checkpoint.state["stage"], checkpoint.state["optimizers"]
    g = run.base.generator
    discriminator = Discriminator(g.size, channels=g.channels)
    return StageTwo(
        stage["adversary"]["network"],
        stage["extrinsic"],
        moments_by_name(DualStyleGAN(g).extrinsic_parameters(), optimizers["generator"]),
        moments_by_name(discriminator.named_parameters(), optimizers["discriminator"]),
        stage["path_mean"],
    )


def trained_style(run: Shared) -> Style:
    recipe, base, wanted = run.recipe, run.base, run.recipe.bundle
    names, intrinsic, extrinsic = run.codes
    samplers = None
    if "samplers" in recipe.stages:
        stored = run.folder.snapshot(run.place("samplers"))
        samplers = {part: sampler_of(state, base.generator.style_dim) for part, state in stored.items()}
    header = _about(run) | {
        "scene": wanted.scene,
        "surface": wanted.surface,
        "finish": wanted.finish,
        "weights": list(fit_weights(wanted.weights, base.generator.rows)),
        "licence": wanted.licence or recipe.data.licence,
        "step": run.from_step or run.folder.snapshot_steps("transfer")[-1],
    }
    if wanted.default_exemplar:
        header["default_exemplar"] = wanted.default_exemplar
    by_name = dict(run.portraits)
    thumbnails = [Image.fromarray(read_picture(by_name[name]).pixels) for name in names] if wanted.thumbnails else None
    bank = StyleBank(tuple(names), extrinsic, intrinsic, run.refined, style=recipe.name)
    return Style(
        header,
        base.header,
        run.transferred,
        base.encoder,
        bank,
        samplers,
        thumbnails,
        base.prior,
        base_folder=base.folder,
    )


def _about(run: Shared) -> dict[str, Any]:
    """What a header says of any model."""
    recipe, wanted = run.recipe, run.recipe.bundle
    return {
        "name": recipe.name,
        "title": wanted.title or recipe.name,
        "mask": wanted.mask,
        "truncation": wanted.truncation,
        "source": recipe.data.source,
        **run.perception.names,
    }
