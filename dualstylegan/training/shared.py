"""What the stages of one run share: the base, judges, portraits and codes, made when first needed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch

from dualstylegan.errors import TrainingError
from dualstylegan.events import Event
from dualstylegan.media.images import write_picture
from dualstylegan.models.base import Base
from dualstylegan.models.build import Encoder
from dualstylegan.models.library import load_base
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.networks.residual_paths import PATHS, PathedGenerator
from dualstylegan.networks.stylegan2 import Discriminator, Generator
from dualstylegan.recipe import Adversarial, Recipe, resolve_batch
from dualstylegan.runtime.compiling import Compiler, Faster, as_is
from dualstylegan.runtime.processes import Processes
from dualstylegan.training.adversary import Adversary
from dualstylegan.training.base import SHOWN
from dualstylegan.training.data import Portraits, read_prepared, weights_of
from dualstylegan.training.destylization import read_codes
from dualstylegan.training.loop import seed_for
from dualstylegan.training.perception import LAYERS, Perception, load_perception
from dualstylegan.training.portraits import Portrait
from dualstylegan.training.refinement import read_refined
from dualstylegan.training.run import RandomState, RunFolder
from dualstylegan.training.staleness import place_of


class Shared:
    """One recipe in one run folder. What comes after stage III is made from its snapshot `from_step`, or its last."""

    def __init__(self, recipe: Recipe, folder: RunFolder, processes: Processes, from_step: int | None = None):
        self.recipe, self.folder, self.processes, self.from_step = recipe, folder, processes, from_step
        self.verb, self.device = processes.verb, processes.device
        self.notes: list[str] = []  # of the compiler, to be passed on
        self.faster: Faster = Compiler(self.notes.append) if recipe.compile == "auto" else as_is

    @cached_property
    def base(self) -> Base:
        """The base the recipe starts from, or the one this run has trained."""
        where = self.folder.base if self.recipe.kind == "base" else self.recipe.base_model
        base = load_base(where)
        if base.encoder is None:
            raise TrainingError(f"The base '{base.name}' has no encoder: destylization and stage II need one.")
        return base

    @property
    def base_before(self) -> Base | None:
        """The base that the one in the making goes on from, where the recipe names one."""
        return load_base(self.recipe.base_model) if self.recipe.base_model else None

    @property
    def encoder(self) -> Encoder:
        """The base's, on the device."""
        assert self.base.encoder is not None  # `base` has looked
        return self.base.encoder.to(self.device)

    @cached_property
    def perception(self) -> Perception:
        wanted = self.recipe.perception
        layers = {*LAYERS, *self.recipe.transfer.perceptual_layers, *self.recipe.pretrain.perceptual_layers}
        return load_perception(wanted.features, wanted.identity, device=self.device, layers=tuple(sorted(layers)))

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
    def refined(self) -> torch.Tensor | None:
        """The extrinsic codes after refining, where the recipe refines them."""
        if "refine" not in self.recipe.stages:
            return None
        names, _, extrinsic = self.codes
        return read_refined(self.folder.stage(self.place("refine")), names, extrinsic)

    @cached_property
    def transferred(self) -> DualStyleGAN:
        """G after stage III, as of `from_step` or its end."""
        model = self.base.dualstyle()
        model.load_extrinsic_state(self.folder.snapshot("transfer", self.from_step)["extrinsic"])
        return model.eval()

    def finetuned(self, name: str = "finetune") -> Generator:
        """g', or g as another stage like fine-tuning has left it."""
        finetuned = copy.deepcopy(self.base.generator)
        finetuned.load_state_dict(self.folder.snapshot(name)["generator"])
        return finetuned

    def rival(self, name: str) -> Generator | PathedGenerator:
        """What a stage that was to imitate g' has left: g with paths, or another g'."""
        if name not in PATHS:
            return self.finetuned(name)
        pathed = PathedGenerator(self.base.generator, name)
        pathed.paths.load_state_dict(self.folder.snapshot(name)["paths"])
        return pathed

    def pictures(
        self,
        size: int,
        *,
        flip: bool,
        shares: dict[str, float] | None = None,
        portraits: list[Portrait] | None = None,
    ) -> Portraits:
        """All portraits, or some of them, as stages draw from them."""
        data, portraits = self.recipe.data, self.portraits if portraits is None else portraits
        weighed = shares or data.shares or data.open_mouths > 1
        return Portraits(
            portraits,
            size,
            seed=self.recipe.seed,
            processes=self.processes,
            flip=flip,
            weights=weights_of(portraits, data, shares) if weighed else None,
            device=self.device,
        )

    def shown(self, size: int) -> torch.Tensor:
        """Photos for a base's grids: held out ones where there are any."""
        prepared = read_prepared(self.folder.stage("data"))
        return Portraits(prepared.held_out or prepared.training, size, device=self.device).first(SHOWN)

    def adversary(self, settings: Adversarial, state: dict[str, torch.Tensor] | None = None) -> Adversary:
        """A discriminator with the weights `state`, else the one trained with g, else a fresh one."""
        base = self.base
        discriminator = Discriminator(base.generator.size, channels=base.generator.channels)
        if state is None and base.discriminator is not None:
            state = base.discriminator.state_dict()
        if state is not None:
            discriminator.load_state_dict(state)
        return Adversary.of(discriminator, settings, settings.lr, self.processes, self.faster)

    def share(self, settings: Adversarial, name: str) -> tuple[int, int]:
        """(batch, accumulation) of one process."""
        return resolve_batch(settings.effective_batch, self.processes.count, settings.batch, stage=name)

    def seed(self, name: str) -> None:
        """Before networks are made: the same in every process, whatever ran before."""
        RandomState.seed(seed_for(self.recipe.seed, name, "weights"))

    def place(self, name: str) -> str:
        """The name under which a stage's files lie: what follows an earlier snapshot lies apart."""
        return place_of(name, self.from_step)

    def show(self, name: str, step: int, draw: Callable[[], Any]) -> Iterator[Event]:
        """Draw a stage's picture, in one process."""
        if self.processes.is_main:
            path = self.folder.grid(name, step)
            write_picture(path, draw())
            yield Event("note", self.verb, stage=name, output=str(path))
