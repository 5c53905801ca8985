"""What each stage of a recipe does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from dualstylegan.events import Event
from dualstylegan.models.base import save_base
from dualstylegan.models.style import save_style
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.networks.part_critics import PartCritics
from dualstylegan.networks.residual_paths import PATHS, PathedGenerator
from dualstylegan.networks.stylegan2 import Generator
from dualstylegan.recipe import RIVALS, BasePhase, resolve_batch
from dualstylegan.training.adversary import Adversary
from dualstylegan.training.base import BaseStage, drawn_px, phase_networks
from dualstylegan.training.check import check_exemplars
from dualstylegan.training.comparison import compare_with
from dualstylegan.training.data import prepare_photos, prepare_portraits, read_photos
from dualstylegan.training.destylization import destylization_grid, destylize_portraits
from dualstylegan.training.finetune import FinetuneStage
from dualstylegan.training.fitting import say_left_out
from dualstylegan.training.going_on import hand_over
from dualstylegan.training.intrinsic import RandomFaces
from dualstylegan.training.loop import Pace, Stage, seed_for, train_stage
from dualstylegan.training.outcome import base_after_stage_two, trained_base, trained_style
from dualstylegan.training.pretrain import PretrainStage
from dualstylegan.training.refinement import read_distances, refine_codes, refinement_grid
from dualstylegan.training.results import PortraitResults
from dualstylegan.training.run import RandomState
from dualstylegan.training.samplers import covered_exemplars, part_of, train_samplers
from dualstylegan.training.shared import Shared
from dualstylegan.training.transfer import TransferStage


class Stages(Shared):
    """A method for every stage, and for every network that one trains."""

    @property
    def work(self) -> dict[str, Callable[[], Iterator[Event]]]:
        """What each stage does."""
        return {
            "data": self.prepare,
            "base": self.train_base,
            "pretrain": lambda: self.train(self.pretraining()),
            **{name: partial(self.finetune, name) for name in ("finetune", *RIVALS)},
            "compare": self.compare,
            "destylize": self.destylize,
            "transfer": lambda: self.train(self.transferring()),
            "refine": self.refine,
            "samplers": self.train_samplers,
            "bundle": self.bundle,
        }

    def prepare(self) -> Iterator[Event]:
        """Find, check and align the portraits; the ones left out are named."""
        size = self.recipe.base.size if self.recipe.kind == "base" else self.base.generator.size
        folder = self.folder.stage("data")
        prepared = yield from prepare_portraits(self.recipe.data, folder, size, processes=self.processes)
        names = [portrait.name for portrait in prepared.training]
        check_exemplars(self.recipe, names, self.recipe.stages)
        if self.recipe.data.photos:
            yield from prepare_photos(self.recipe.data, names, folder, size, processes=self.processes)

    def train_base(self) -> Iterator[Event]:
        for index in range(len(self.recipe.base.phases)):
            stage = self.base_phase(index)
            yield from self.train(stage)
            self.processes.wait_for_all(stage.name)
        if self.processes.is_main:
            save_base(self.folder.base, trained_base(self))

    def base_phase(self, index: int) -> BaseStage:
        """One phase of a base, as the one before it has left its networks."""
        name, settings = f"base{index + 1}", self.recipe.base
        phase = settings.phases[index]
        before = self.folder.snapshot(f"base{index}") if index else None
        self.seed(name)
        known = self.base_before if index == 0 else None
        generator, encoder, discriminator = phase_networks(settings, index, before, self.device, known)
        if known and known.encoder and not self.folder.last_checkpoint(name):
            fitting = self.pictures(encoder.input_size, flip=True)
            hand_over(known.encoder.to(self.device), encoder, fitting.next)
        adversary = None
        if discriminator is not None:
            adversary = Adversary.of(discriminator, settings, phase.discriminator_lr, self.processes, self.faster)
        px, shown_px = drawn_px(settings, phase, encoder), phase.size
        if settings.passes > 1:
            shown_px = max(shown_px, encoder.input_size)
        return BaseStage(
            name,
            phase,
            settings,
            generator=generator,
            encoder=encoder,
            adversary=adversary,
            photos=self.pictures(px, flip=self.recipe.data.flip, shares=phase.shares or None),
            shown=self.shown(shown_px),
            perception=self.perception,
            share=resolve_batch(phase.batch, self.processes.count, stage=name),
            processes=self.processes,
            images_before=sum(earlier.steps * earlier.batch for earlier in settings.phases[:index]),
            critics=self._part_critics(phase, before) if phase.parts else None,
            faster=self.faster,
        )

    def _part_critics(self, phase: BasePhase, before: dict[str, Any] | None) -> Adversary:
        """Critics of eyes and mouths, as the phase before has left them where it had any. Their photos are jittered,
        which must do for an augmentation: it moves parts out of their places."""
        network, settings = PartCritics(), self.recipe.base
        if before and before.get("critics"):
            network.load_state_dict(before["critics"]["network"])
        network.to(self.device)
        return Adversary(network, lr=phase.discriminator_lr, r1=settings.r1, r1_every=settings.r1_every, name="parts")

    def pretraining(self) -> PretrainStage:
        self.seed("pretrain")
        settings = self.recipe.pretrain
        return PretrainStage(
            DualStyleGAN(self.base.generator).to(self.device),
            self.encoder,
            self.adversary(settings),
            RandomFaces(self.base, self.device),
            self.perception,
            settings,
            share=self.share(settings, "pretrain"),
            processes=self.processes,
            faster=self.faster,
        )

    def finetune(self, name: str) -> Iterator[Event]:
        """g to g', or in an experiment one of its rivals: g's paths, or g once more with other chances."""
        self.seed(name)
        settings, g = self.recipe.finetune, self.base.generator.to(self.device)
        stage = FinetuneStage(
            g,
            self.adversary(settings),
            self.pictures(g.size, flip=self.recipe.data.flip),
            RandomFaces(self.base, self.device, settings.mixing),
            settings,
            share=self.share(settings, "finetune"),
            processes=self.processes,
            name=name,
            pathed=PathedGenerator(g, name).to(self.device) if name in PATHS else None,
            faster=self.faster,
        )
        yield from self.train(stage)

    def compare(self) -> Iterator[Event]:
        """One process measures how near each rival has come to g'."""
        if not self.processes.is_main:
            return
        device, recipe = self.device, self.recipe
        faces = RandomFaces(self.base, device)
        RandomState.seed(seed_for(recipe.seed, "compare"))
        models: dict[str, Generator | PathedGenerator] = {"g": self.base.generator, "finetune": self.finetuned()}
        models |= {name: self.rival(name) for name in recipe.compare.paths}
        models = {name: model.to(device).eval() for name, model in models.items()}
        made = compare_with("finetune", models, faces.draw(recipe.compare.codes), self.perception)
        made.write(self.folder.comparison)
        for line in made.lines:
            yield Event("note", self.verb, stage="compare", message=line)
        yield from self.show("compare", 0, lambda: made.sheet)

    def destylize(self) -> Iterator[Event]:
        folder, device = self.folder.stage("destylize"), self.device
        yield from destylize_portraits(
            folder,
            self.portraits,
            generator=self.base.generator.to(device),
            finetuned=self.finetuned().to(device),
            encoder=self.encoder,
            perception=self.perception,
            settings=self.recipe.destylize,
            seed=self.recipe.seed,
            photos=read_photos(self.folder.stage("data")) if self.recipe.data.photos else {},
            processes=self.processes,
            faster=self.faster,
        )
        self.processes.wait_for_all("destylized")
        names = [portrait.name for portrait in self.portraits]
        yield from say_left_out(PortraitResults(folder), names, "destylize", self.processes)
        check_exemplars(self.recipe, self.codes[0], self.recipe.stages)
        yield from self.show("destylize", 0, lambda: destylization_grid(folder, self.portraits))

    def transferring(self) -> TransferStage:
        self.seed("transfer")
        settings, device = self.recipe.transfer, self.device
        _, intrinsic, extrinsic = self.codes
        before = self.base.stage_two
        stage = TransferStage(
            self.base.dualstyle().to(device),  # averaged: so the average of stage III begins with that of stage II
            self.adversary(settings, before.discriminator if before else None),
            self.pictures(self.base.generator.size, flip=self.recipe.data.flip, portraits=self.exemplars),
            intrinsic,
            extrinsic,
            RandomFaces(self.base, device, settings.mixing),
            self.perception,
            settings,
            noise_from=self.recipe.destylize.structure_rows,
            share=self.share(settings, "transfer"),
            processes=self.processes,
            faster=self.faster,
        )
        if before is not None:
            stage.go_on_from(before)
        return stage

    def refine(self) -> Iterator[Event]:
        folder, device = self.folder.stage(self.place("refine")), self.device
        names, intrinsic, extrinsic = self.codes
        yield from refine_codes(
            folder,
            self.portraits,
            model=self.transferred.to(device),
            names=names,
            intrinsic=intrinsic,
            extrinsic=extrinsic,
            perception=self.perception,
            settings=self.recipe.refine,
            seed=self.recipe.seed,
            processes=self.processes,
        )
        self.processes.wait_for_all("refined")
        yield from say_left_out(PortraitResults(folder), names, "refine", self.processes)
        if self.processes.is_main:
            before, after = read_distances(folder, names)
            message = f"refine: perceptual distance to the exemplars {before:.3f} -> {after:.3f}"
            yield Event("note", self.verb, stage="refine", message=message, data={"before": before, "after": after})
        yield from self.show("refine", self.from_step or 0, lambda: refinement_grid(folder, self.portraits))

    def train_samplers(self) -> Iterator[Event]:
        """One process trains them: they take minutes."""
        if not self.processes.is_main:
            return
        codes = self.codes[2] if self.refined is None else self.refined
        samplers = {}
        for part, epoch, epochs, error, network in train_samplers(
            codes, settings=self.recipe.samplers, seed=self.recipe.seed, device=self.device
        ):
            samplers[part] = network
            if epoch % 10 == 0 or epoch == epochs:
                about: dict[str, Any] = {"stage": f"samplers ({part})", "current": epoch, "total": epochs}
                yield Event("progress", self.verb, data={"error": error}, **about)
        coverage = {part: covered_exemplars(network, part_of(codes, part)) for part, network in samplers.items()}
        counts = ", ".join(f"{part}: {count} of {len(codes)}" for part, count in coverage.items())
        message = f"exemplars nearest to 1000 samples: {counts}"
        yield Event("note", self.verb, stage="samplers", message=message, data=coverage)
        state = {part: network.state_dict() for part, network in samplers.items()}
        self.folder.save_snapshot(self.place("samplers"), 0, state)

    def bundle(self) -> Iterator[Event]:
        if not self.processes.is_main:
            return
        if self.recipe.kind == "style":
            made = save_style(self.folder.style, trained_style(self))
        else:
            made = save_base(self.folder.base, base_after_stage_two(self))
        yield Event("done", self.verb, stage="bundle", output=str(made))

    def train(self, stage: Stage) -> Iterator[Event]:
        recipe = self.recipe
        every = recipe.log_every, recipe.grid_every, recipe.checkpoint_every, recipe.snapshot_every
        yield from train_stage(stage, self.folder, self.processes, Pace(recipe.seed, *every, recipe.precision))
