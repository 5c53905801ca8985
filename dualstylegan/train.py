"""The verb train: everything a recipe asks for, in order, from wherever an earlier run of it has stopped.

for event in train(load_recipe("pixar", data__folder="portraits"), "runs/pixar"):
    print(event)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from dualstylegan.errors import TrainingError, UsageError, did_you_mean
from dualstylegan.events import Event
from dualstylegan.media.images import read_picture, write_picture
from dualstylegan.models.base import Base, save_base
from dualstylegan.models.build import sampler_of
from dualstylegan.models.codes import StyleBank, fit_weights
from dualstylegan.models.fetch import Terms
from dualstylegan.models.library import fetch_base, load_base
from dualstylegan.models.priors import CodePrior, GaussianPrior, Prior
from dualstylegan.models.stage_two import StageTwo, moments_by_name
from dualstylegan.models.style import Style, save_style
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.networks.part_critics import PartCritics
from dualstylegan.networks.residual_paths import PATHS, PathedGenerator
from dualstylegan.networks.stylegan2 import Discriminator, Generator
from dualstylegan.recipe import RIVALS, Adversarial, BasePhase, Recipe, dump_recipe, resolve_batch
from dualstylegan.runtime.compiling import faster
from dualstylegan.runtime.files import sweep
from dualstylegan.runtime.processes import Processes
from dualstylegan.training.adversary import Adversary
from dualstylegan.training.base import (
    SHOWN,
    BaseStage,
    drawn_px,
    phase_networks,
    photo_codes,
    trained_networks,
)
from dualstylegan.training.check import check, check_exemplars
from dualstylegan.training.comparison import compare_with
from dualstylegan.training.data import Portraits, prepare_portraits, read_prepared, weights_of
from dualstylegan.training.destylization import destylization_grid, destylize_portraits, read_codes
from dualstylegan.training.finetune import FinetuneStage
from dualstylegan.training.fitting import say_left_out
from dualstylegan.training.intrinsic import RandomFaces
from dualstylegan.training.loop import Pace, Stage, seed_for, train_stage
from dualstylegan.training.perception import LAYERS, Perception, fetch_perception, load_perception
from dualstylegan.training.portraits import Portrait
from dualstylegan.training.pretrain import PretrainStage
from dualstylegan.training.refinement import read_distances, read_refined, refine_codes, refinement_grid
from dualstylegan.training.results import PortraitResults
from dualstylegan.training.run import RandomState, RunFolder
from dualstylegan.training.samplers import covered_exemplars, part_of, train_samplers
from dualstylegan.training.staleness import FINAL, demand_longer_only, settings_of
from dualstylegan.training.trackers import tracked
from dualstylegan.training.transfer import TransferStage


def train(
    recipe: Recipe,
    run: str | Path | None = None,
    *,
    stage: str | None = None,
    until: str | None = None,
    from_step: int | None = None,
    redo: str | None = None,
    dry_run: bool = False,
    cpu: bool = False,
    verb: str = "train",
) -> Iterator[Event]:
    """Run what `recipe` asks for in the folder `run` (default: runs/NAME); stages that are done are passed over.

    `stage` runs that one alone, `until` all up to that one. `from_step` makes what comes after stage III from an
    earlier snapshot. `redo` forgets a stage and all after it first. `dry_run` only says what would be done, how long it
    might take and how much memory. Whatever can be known to fail is refused first (training/check.py).
    A base and judges that are not here yet are fetched first. Yields progress with loss figures, grids, and a summary
    whose output is the model. Raises UsageError for stages the recipe does not have, TrainingError for what training
    itself cannot do.
    """
    for name in (stage, until, redo):
        if name is not None and name not in recipe.stages:
            raise UsageError(
                f"Recipe '{recipe.name}' has no stage '{name}'.{did_you_mean(name, recipe.stages)} "
                f"It has {', '.join(recipe.stages)}."
            )
    folder = RunFolder(run or Path("runs") / recipe.name)
    processes = Processes.launched(timeout_s=recipe.process_timeout_s, cpu=cpu, verb=verb)
    processes.agree(lambda: check(recipe, folder, processes.count, until=until, from_step=from_step, redo=redo))
    if dry_run:
        from dualstylegan.training.estimate import plan

        yield from plan(recipe, folder)
        return

    folder.create()
    with processes.together(folder.path), folder.alone() if processes.is_main else nullcontext():
        training = Training(recipe, folder, processes, from_step)
        if processes.is_main:
            sweep(folder.path, keep=processes.messages)
            if redo:
                training.forget(redo)
            folder.create(dump_recipe(recipe))
        processes.wait_for_all("prepared")
        yield from training.fetch()
        events = training.run_all(stage, until)
        yield from tracked(events, recipe, folder, cpu=cpu) if recipe.log_with and processes.is_main else events
        yield training.summary()


class Training:
    """One recipe in one run folder: a method for every stage, and what stages share, made when first needed."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        processes: Processes,
        from_step: int | None = None,
    ):
        self.recipe, self.folder, self.processes, self.from_step = recipe, folder, processes, from_step
        self.verb = processes.verb
        self.pace = Pace(
            recipe.seed,
            recipe.log_every,
            recipe.grid_every,
            recipe.checkpoint_every,
            recipe.snapshot_every,
            recipe.precision,
        )

    @property
    def work(self) -> dict[str, Callable[[], Iterator[Event]]]:
        """What each stage does."""
        return {
            "data": self.prepare,
            "base": self.train_base,
            "pretrain": self.pretrain,
            "finetune": self.finetune,
            **{name: partial(self.finetune, name) for name in RIVALS},
            "compare": self.compare,
            "destylize": self.destylize,
            "transfer": self.transfer,
            "refine": self.refine,
            "samplers": self.train_samplers,
            "bundle": self.bundle,
        }

    def asked_for(self, stage: str | None, until: str | None = None) -> tuple[str, ...]:
        """All stages, one of them, those until one, or with `from_step` those that turn a snapshot into a model."""
        stages = self.recipe.stages
        if self.from_step is not None:
            final = tuple(name for name in stages if name in FINAL)
            if stage is not None and stage not in final:
                raise UsageError(f"--from goes with the stages {', '.join(final)}, not with '{stage}'.")
            return final[: final.index(stage) + 1] if stage else final
        return (stage,) if stage else stages[: stages.index(until) + 1] if until else stages

    def run_all(self, stage: str | None, until: str | None) -> Iterator[Event]:
        for name in self.asked_for(stage, until):
            yield from self.run(name, again=name == stage)

    def run(self, name: str, *, again: bool = False) -> Iterator[Event]:
        """One stage, unless it is done. `again` lets a stage that ends in one file be made again."""
        self._demand_earlier_stages(name)
        settings = self._settings(name)
        known = self.folder.begun_with(self._place(name))
        if known is not None and known != settings:
            demand_longer_only(self.recipe, self.folder, name, known, settings)
            self.folder.reopen(self._place(name))
        if self.folder.is_done(self._place(name)) and not (again and name == "bundle"):
            yield Event("skipped", self.verb, stage=name, message=f"{name}: done before")
            return

        if self.processes.is_main:
            self.folder.begin(self._place(name), settings)
        yield from self.work[name]()
        self.processes.wait_for_all(f"{name}-worked")
        if self.processes.is_main:
            self.folder.finish(self._place(name))
        self.processes.wait_for_all(f"{name}-done")

    def fetch(self) -> Iterator[Event]:
        """What the recipe stands on and is not here yet, one process at a time; the first one speaks."""
        wanted, terms = self.recipe.perception, Terms(self.verb)
        for events in (
            fetch_base(self.recipe.base_model, terms) if self.recipe.kind != "base" else (),
            fetch_perception(wanted.features, wanted.identity, terms),
        ):
            for event in events:
                if self.processes.is_main:
                    yield event

    def forget(self, name: str) -> None:
        """Undo a stage and all after it."""
        for later in self.recipe.stages[self.recipe.stages.index(name) :]:
            self.folder.forget(later)
            for index in range(len(self.recipe.base.phases) if later == "base" else 0):
                self.folder.forget(f"base{index + 1}")

    def summary(self) -> Event:
        if self.folder.comparison.is_file():
            what = f"{self.recipe.name}: {self.folder.comparison}, with pictures in {self.folder.grid('compare', 0)}"
            return Event("summary", self.verb, message=what, output=str(self.folder.comparison))
        made = self.folder.style if self.recipe.kind == "style" else self.folder.base
        if not made.is_dir():
            return Event(
                "summary",
                self.processes.verb,
                message=f"{self.recipe.name}: {self.folder.path}",
                output=str(self.folder.path),
            )
        use = f"dsg stylize PHOTO --style {made}:0" if self.recipe.kind == "style" else f"--base {self.folder.path}"
        return Event("summary", self.verb, message=f"{self.recipe.name}: {made} is ready ({use})", output=str(made))

    # The stages

    def prepare(self) -> Iterator[Event]:
        """Find, check and align the portraits; the ones left out are named."""
        size = self.recipe.base.size if self.recipe.kind == "base" else self.base.generator.size
        prepared = yield from prepare_portraits(
            self.recipe.data,
            self.folder.stage("data"),
            size,
            processes=self.processes,
        )
        check_exemplars(self.recipe, [portrait.name for portrait in prepared.training], self.recipe.stages)

    def train_base(self) -> Iterator[Event]:
        settings, images = self.recipe.base, 0
        compiling, notes = self.recipe.compile == "auto", []
        for index, phase in enumerate(settings.phases):
            name = f"base{index + 1}"
            before = self.folder.snapshot(f"base{index}") if index else None
            self._seed(name)
            share = resolve_batch(phase.batch, self.processes.count, stage=name)
            generator, encoder, discriminator = phase_networks(settings, index, before, self.processes.device)
            adversary = None
            if discriminator is not None:
                adversary = Adversary.of(discriminator, settings, phase.discriminator_lr, self.processes)
            px = drawn_px(settings, phase, encoder)
            critics = self._part_critics(phase, before) if phase.parts else None
            stage = BaseStage(
                name,
                phase,
                settings,
                generator=generator,
                encoder=encoder,
                adversary=adversary,
                photos=self._pictures(px, flip=self.recipe.data.flip, shares=phase.shares or None),
                shown=self._shown(max(phase.size, encoder.input_size) if settings.passes > 1 else phase.size),
                perception=self.perception,
                share=share,
                processes=self.processes,
                images_before=images,
                critics=critics,
                **({"faster": lambda function: faster(function, notes.append)} if compiling else {}),
            )
            for event in self._train(stage):
                while notes:
                    yield Event("note", "train", stage=name, message=notes.pop(0))
                yield event
            self.processes.wait_for_all(name)
            images += phase.steps * phase.batch
        if self.processes.is_main:
            save_base(self.folder.base, self._trained_base())

    def _part_critics(self, phase: BasePhase, before: dict[str, Any] | None) -> Adversary:
        """Critics of eyes and mouths, as the phase before has left them where it had any. Their photos are jittered,
        which must do for an augmentation: it moves parts out of their places."""
        network, settings = PartCritics(), self.recipe.base
        if before and before.get("critics"):
            network.load_state_dict(before["critics"]["network"])
        network.to(self.processes.device)
        return Adversary(network, lr=phase.discriminator_lr, r1=settings.r1, r1_every=settings.r1_every, name="parts")

    def _trained_base(self) -> Base:
        """The averaged networks of the last phase, and the photos' codes as the prior."""
        settings, recipe = self.recipe.base, self.recipe
        generator, encoder, discriminator = trained_networks(
            settings, self.folder.snapshot(f"base{len(settings.phases)}")
        )
        prior: Prior = GaussianPrior()
        if settings.prior == "codes":
            photos = self._pictures(settings.size, flip=False)
            codes = photo_codes(encoder.to(self.processes.device), photos)
            prior = CodePrior(codes, jitter=settings.prior_jitter)
        header = {
            "name": recipe.name,
            "title": recipe.bundle.title or recipe.name,
            "mask": recipe.bundle.mask,
            "truncation": recipe.bundle.truncation,
            "licence": recipe.bundle.licence,
            "source": recipe.data.source,
            **self.perception.names,
        }
        return Base(header, generator, discriminator, encoder.cpu(), None, prior)

    def pretrain(self) -> Iterator[Event]:
        self._seed("pretrain")
        settings, model = self.recipe.pretrain, DualStyleGAN(self.base.generator).to(self.processes.device)
        stage = PretrainStage(
            model,
            self.base.encoder.to(self.processes.device),
            self._adversary(settings),
            RandomFaces(self.base, self.processes.device),
            self.perception,
            settings,
            share=self._share(settings, "pretrain"),
            processes=self.processes,
        )
        yield from self._train(stage)

    def finetune(self, name: str = "finetune") -> Iterator[Event]:
        """g to g', or in an experiment one of its rivals: g's paths, or g once more with other chances."""
        self._seed(name)
        settings, g = self.recipe.finetune, self.base.generator.to(self.processes.device)
        stage = FinetuneStage(
            g,
            self._adversary(settings),
            self._pictures(self.base.generator.size, flip=self.recipe.data.flip),
            RandomFaces(self.base, self.processes.device, settings.mixing),
            settings,
            share=self._share(settings, "finetune"),
            processes=self.processes,
            name=name,
            pathed=PathedGenerator(g, name).to(self.processes.device) if name in PATHS else None,
        )
        yield from self._train(stage)

    def compare(self) -> Iterator[Event]:
        """One process measures how near each rival has come to g'."""
        if not self.processes.is_main:
            return
        device, recipe = self.processes.device, self.recipe
        faces = RandomFaces(self.base, device)
        RandomState.seed(seed_for(recipe.seed, "compare"))
        models = {"g": self.base.generator, "finetune": self._finetuned("finetune")}
        models |= {name: self._finetuned(name) for name in recipe.compare.paths}
        models = {name: model.to(device).eval() for name, model in models.items()}
        made = compare_with("finetune", models, faces.draw(recipe.compare.codes), self.perception)
        made.write(self.folder.comparison)
        for line in made.lines:
            yield Event("note", self.verb, stage="compare", message=line)
        yield from self._show("compare", 0, lambda: made.sheet)

    def _finetuned(self, name: str) -> Generator | PathedGenerator:
        """What a stage like fine-tuning has left."""
        learned, generator = self.folder.snapshot(name), self.base.generator
        if name in PATHS:
            pathed = PathedGenerator(generator, name)
            pathed.paths.load_state_dict(learned["paths"])
            return pathed
        finetuned = copy.deepcopy(generator)
        finetuned.load_state_dict(learned["generator"])
        return finetuned

    def destylize(self) -> Iterator[Event]:
        folder, device = self.folder.stage("destylize"), self.processes.device
        finetuned = self._finetuned("finetune")
        yield from destylize_portraits(
            folder,
            self.portraits,
            generator=self.base.generator.to(device),
            finetuned=finetuned.to(device),
            encoder=self.base.encoder.to(device),
            perception=self.perception,
            settings=self.recipe.destylize,
            seed=self.recipe.seed,
            processes=self.processes,
        )
        self.processes.wait_for_all("destylized")
        names = [portrait.name for portrait in self.portraits]
        yield from say_left_out(PortraitResults(folder), names, "destylize", self.processes)
        check_exemplars(self.recipe, self.codes[0], self.recipe.stages)
        yield from self._show("destylize", 0, lambda: destylization_grid(folder, self.portraits))

    def transfer(self) -> Iterator[Event]:
        self._seed("transfer")
        settings, device = self.recipe.transfer, self.processes.device
        _, intrinsic, extrinsic = self.codes
        before = self.base.stage_two
        stage = TransferStage(
            self.base.dualstyle().to(device),  # averaged: so the average of stage III begins with that of stage II
            self._adversary(settings, before and before.discriminator),
            self._pictures(self.base.generator.size, flip=self.recipe.data.flip, portraits=self.exemplars),
            intrinsic,
            extrinsic,
            RandomFaces(self.base, device, settings.mixing),
            self.perception,
            settings,
            noise_from=self.recipe.destylize.structure_rows,
            share=self._share(settings, "transfer"),
            processes=self.processes,
        )
        if before is not None:
            stage.go_on_from(before)
        yield from self._train(stage)

    def refine(self) -> Iterator[Event]:
        folder, device = self.folder.stage(self._place("refine")), self.processes.device
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
        yield from self._show("refine", self.from_step or 0, lambda: refinement_grid(folder, self.portraits))

    def train_samplers(self) -> Iterator[Event]:
        """One process trains them: they take minutes."""
        if not self.processes.is_main:
            return
        codes, samplers, coverage = self._final_codes(), {}, {}
        for part, epoch, epochs, error, network in train_samplers(
            codes, settings=self.recipe.samplers, seed=self.recipe.seed, device=self.processes.device
        ):
            samplers[part] = network
            if epoch % 10 == 0 or epoch == epochs:
                yield Event(
                    "progress",
                    self.processes.verb,
                    stage=f"samplers ({part})",
                    current=epoch,
                    total=epochs,
                    data={"error": error},
                )
        for part, network in samplers.items():
            coverage[part] = covered_exemplars(network, part_of(codes, part))
        message = ", ".join(f"{part}: {count} of {len(codes)}" for part, count in coverage.items())
        yield Event(
            "note",
            self.processes.verb,
            stage="samplers",
            message=f"exemplars nearest to 1000 samples: {message}",
            data=coverage,
        )
        state = {part: network.state_dict() for part, network in samplers.items()}
        self.folder.save_snapshot(self._place("samplers"), 0, state)

    def bundle(self) -> Iterator[Event]:
        if not self.processes.is_main:
            return
        if self.recipe.kind == "style":
            made = save_style(self.folder.style, self._style())
        else:
            base = self.base
            base.extrinsic = self.folder.snapshot("pretrain", self.from_step)["extrinsic"]
            base.stage_two = self._stage_two()
            made = save_base(self.folder.base, base)
        yield Event("done", self.verb, stage="bundle", output=str(made))

    def _stage_two(self) -> StageTwo:
        """What stage III goes on from: all of it at a step with a checkpoint, else the snapshot's D alone."""
        step = self.from_step or self.folder.snapshot_steps("pretrain")[-1]
        checkpoint = self.folder.checkpoint_at("pretrain", step)
        if checkpoint is None:
            return StageTwo(self.folder.snapshot("pretrain", step)["discriminator"])
        stage, optimizers = checkpoint.state["stage"], checkpoint.state["optimizers"]
        g = self.base.generator
        discriminator = Discriminator(g.size, channels=g.channels)
        return StageTwo(
            stage["adversary"]["network"],
            stage["extrinsic"],
            moments_by_name(DualStyleGAN(g).extrinsic_parameters(), optimizers["generator"]),
            moments_by_name(discriminator.named_parameters(), optimizers["discriminator"]),
            stage["path_mean"],
        )

    def _style(self) -> Style:
        recipe, base = self.recipe, self.base
        names, intrinsic, extrinsic = self.codes
        refined = self._final_codes() if "refine" in recipe.stages else None
        samplers = None
        if "samplers" in recipe.stages:
            stored = self.folder.snapshot(self._place("samplers"))
            samplers = {part: sampler_of(state, base.generator.style_dim) for part, state in stored.items()}
        header = {
            "name": recipe.name,
            "title": recipe.bundle.title or recipe.name,
            "mask": recipe.bundle.mask,
            "scene": recipe.bundle.scene,
            "surface": recipe.bundle.surface,
            "finish": recipe.bundle.finish,
            "weights": list(fit_weights(recipe.bundle.weights, base.generator.rows)),
            "truncation": recipe.bundle.truncation,
            "licence": recipe.bundle.licence or recipe.data.licence,
            "source": recipe.data.source,
            "step": self.from_step or self.folder.snapshot_steps("transfer")[-1],
            **self.perception.names,
        }
        if recipe.bundle.default_exemplar:
            header["default_exemplar"] = recipe.bundle.default_exemplar
        by_name = dict(self.portraits)
        thumbnails = [read_picture(by_name[name]).pixels for name in names] if recipe.bundle.thumbnails else None
        bank = StyleBank(names, extrinsic, intrinsic, refined, style=recipe.name)
        return Style(
            header,
            base.header,
            self.transferred,
            base.encoder,
            bank,
            samplers,
            thumbnails,
            base.prior,
            base_folder=base.folder,
        )

    # What stages share

    @cached_property
    def base(self) -> Base:
        """The base the recipe starts from, or the one this run has trained."""
        where = self.folder.base if self.recipe.kind == "base" else self.recipe.base_model
        base = load_base(where)
        if base.encoder is None:
            raise TrainingError(f"The base '{base.name}' has no encoder: destylization and stage II need one.")
        return base

    @cached_property
    def perception(self) -> Perception:
        wanted = self.recipe.perception
        layers = {*LAYERS, *self.recipe.transfer.perceptual_layers, *self.recipe.pretrain.perceptual_layers}
        return load_perception(
            wanted.features, wanted.identity, device=self.processes.device, layers=tuple(sorted(layers))
        )

    @cached_property
    def portraits(self) -> list[Portrait]:
        """The aligned portraits in ID order."""
        return list(read_prepared(self.folder.stage("data")).training)

    @cached_property
    def codes(self) -> tuple[list[str], torch.Tensor, torch.Tensor]:
        """(names in ID order, intrinsic, extrinsic) of the destylized portraits."""
        return read_codes(self.folder.stage("destylize"), [portrait.name for portrait in self.portraits])

    @cached_property
    def exemplars(self) -> list[Portrait]:
        """The portraits that have codes, in ID order."""
        names = set(self.codes[0])
        return [portrait for portrait in self.portraits if portrait.name in names]

    @cached_property
    def transferred(self) -> DualStyleGAN:
        """G after stage III, as of `from_step` or its end."""
        model = self.base.dualstyle()
        model.load_extrinsic_state(self.folder.snapshot("transfer", self.from_step)["extrinsic"])
        return model.eval()

    def _final_codes(self) -> torch.Tensor:
        names, _, extrinsic = self.codes
        return (
            read_refined(self.folder.stage(self._place("refine")), names, extrinsic)
            if "refine" in self.recipe.stages
            else extrinsic
        )

    def _pictures(
        self,
        size: int,
        *,
        flip: bool,
        shares: dict[str, float] | None = None,
        portraits: list[Portrait] | None = None,
    ) -> Portraits:
        """All portraits, or some of them, as stages draw from them."""
        processes, data = self.processes, self.recipe.data
        portraits = self.portraits if portraits is None else portraits
        weighed = shares or data.shares or data.open_mouths > 1
        return Portraits(
            portraits,
            size,
            seed=self.recipe.seed,
            processes=processes,
            flip=flip,
            weights=weights_of(portraits, data, shares) if weighed else None,
            device=processes.device,
        )

    def _shown(self, size: int) -> torch.Tensor:
        """Photos for a base's grids: held out ones where there are any."""
        prepared = read_prepared(self.folder.stage("data"))
        return Portraits(prepared.held_out or prepared.training, size, device=self.processes.device).first(SHOWN)

    def _adversary(self, settings: Adversarial, state: dict[str, torch.Tensor] | None = None) -> Adversary:
        """A discriminator with the weights `state`, else the one trained with g, else a fresh one."""
        base = self.base
        discriminator = Discriminator(base.generator.size, channels=base.generator.channels)
        if state is None and base.discriminator is not None:
            state = base.discriminator.state_dict()
        if state is not None:
            discriminator.load_state_dict(state)
        return Adversary.of(discriminator, settings, settings.lr, self.processes)

    def _share(self, settings: Adversarial, name: str) -> tuple[int, int]:
        return resolve_batch(settings.effective_batch, self.processes.count, settings.batch, stage=name)

    def _seed(self, name: str) -> None:
        """Before networks are made: the same in every process, whatever ran before."""
        RandomState.seed(seed_for(self.recipe.seed, name, "weights"))

    # Which stage was made how

    def _place(self, name: str) -> str:
        """The name under which a stage's files lie: what follows an earlier snapshot lies apart."""
        return f"{name}-{self.from_step:06d}" if self.from_step and name in FINAL else name

    def _settings(self, name: str) -> dict[str, Any]:
        base = None if self.recipe.kind == "base" else self.base.header["sha256"]
        return settings_of(self.recipe, name, base=base, from_step=self.from_step)

    def _demand_earlier_stages(self, name: str) -> None:
        stages = self.recipe.stages
        for earlier in stages[: stages.index(name)]:
            under_way = self.from_step is not None and earlier in ("transfer", "pretrain")
            if not under_way and not self.folder.is_done(self._place(earlier)):
                raise TrainingError(f"{self.folder.path}: stage '{name}' comes after '{earlier}', which is not done.")

    def _train(self, stage: Stage) -> Iterator[Event]:
        yield from train_stage(stage, self.folder, self.processes, self.pace)

    def _show(self, name: str, step: int, draw: Callable[[], Any]) -> Iterator[Event]:
        if self.processes.is_main:
            path = self.folder.grid(name, step)
            write_picture(path, draw())
            yield Event("note", self.verb, stage=name, output=str(path))
