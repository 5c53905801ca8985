"""A style, ready to be put on faces: find them, crop, encode, render, paste back. Films smooth between these steps."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from dualstylegan.choices import MASKS, SCENES, STRUCTURE_ROWS, SURFACES, check_choice
from dualstylegan.errors import NoFaceError, UsageError
from dualstylegan.faces.crop import add_tint, crop_face, part_shown, paste_face
from dualstylegan.faces.face import Face, transform
from dualstylegan.faces.find import Detector, make_detector
from dualstylegan.faces.masks import draw_mask
from dualstylegan.faces.matte import blend, in_front, photo_mattes, portrait_mattes, view_of, wide_from_photo
from dualstylegan.media.images import Picture, as_picture, read_picture
from dualstylegan.models import library
from dualstylegan.models.build import Encoder
from dualstylegan.models.codes import ExtrinsicCode, StylePart, StyleRequest, extrinsic_code, parse_style
from dualstylegan.models.library import FoundStyle, Library
from dualstylegan.models.style import Style
from dualstylegan.networks.finish import SCALE, FinishNet
from dualstylegan.networks.matte import MatteNet
from dualstylegan.networks.stylegan2 import Box
from dualstylegan.runtime.devices import to_device
from dualstylegan.stylizing.drawing import Drawing, choose_weights
from dualstylegan.stylizing.scene import PAIRS_PX, Scene, fit_scene, mix_scenes
from dualstylegan.stylizing.settings import StylizerSettings
from dualstylegan.weights import load_finish, load_matte

FINISH_FROM, FINISH_ALL = 1.0, 1.5  # crops wider than the style draws, by these, are finished a little, and wholly
MOST_TO_FINISH = 256  # px: larger portraits have detail of their own
REGIONS_FROM = 256  # px: smaller portraits take as long in part as whole

__all__ = ["Placed", "Stylizer", "choose_weights"]

AnyPicture = Image.Image | np.ndarray


@dataclass(frozen=True)
class Placed:
    """A face drawn for a frame: the portrait (3, S, S), where a person is in it and in the photo around the face, both
    None where nobody asked, and its opacity."""

    face: Face
    portrait: Tensor
    matte: Tensor | None = None
    person: Tensor | None = None
    opacity: float = 1.0

    @property
    def nbytes(self) -> int:
        return sum(4 * one.numel() for one in (self.portrait, self.matte, self.person) if one is not None)


class Stylizer(Drawing):
    """`Stylizer("toon:7")(photo)` is the photo with every face in the style of exemplar 7.

    Between the steps stand plain values: frames uint8 (H, W, 3) RGB; faces with points in source pixels; crops
    (N, 3, E, E) and portraits (N, 3, S, S), RGB in [-1, 1], on the CPU; codes (N, rows, dim) in W+. Every step takes
    any number of faces and works in batches of `batch`, which is halved when memory runs out.
    """

    settings: StylizerSettings

    def __init__(
        self,
        style: str | FoundStyle | Style,
        exemplar: int | str | Tensor | None = None,
        settings: StylizerSettings | None = None,
        *,
        models: Library | None = None,
        offline: bool | None = None,
        **keywords: Any,
    ):
        """`style` is NAME:ID, a blend (`anime:42*0.7+anime:17*0.3`), NAME:PICTURE, or NAME or a loaded Style with
        `exemplar`: an index, a name, a picture's path or a code (rows, dim) in Z+. None means the style's own default.

        `keywords` are settings by name: `Stylizer("toon:7", structure=.5)`. What `models` has read is shared; the
        networks of a Style given move to the device. A style given as text is fetched where it is not here yet. Raises
        UsageError for settings, styles and exemplars that do not exist, and what `library.obtain` and `Library.style`
        raise.
        """
        settings = replace(settings or StylizerSettings(), **keywords)
        super().__init__(settings)
        named = None if isinstance(exemplar, Tensor) else exemplar
        if isinstance(style, str):
            request = parse_style(style)
            if named is not None:
                request = StyleRequest(request.name, (StylePart(str(named), 1.0),))
            style = library.obtain(request, wplus=settings.wplus, offline=offline)
        if isinstance(style, FoundStyle):
            self.take(style, (models or Library()).style(style, wplus=settings.wplus))
        else:
            self.take(library.found_in(style, named), style)
        header = self.style.header
        self.mask = settings.mask or header.get("mask", "face")
        check_choice("mask", self.mask, MASKS)
        self.scene = header.get("scene", "keep") if settings.scene == "auto" else settings.scene
        check_choice("scene", self.scene, SCENES)
        self.surface = header.get("surface", "oil") if self.scene == "paint" else None
        check_choice("surface", self.surface or "oil", SURFACES)
        self.finishes = bool(settings.finish == "auto" and header.get("finish") and header["size"] <= MOST_TO_FINISH)

        self.encoder = self._choose_encoder(settings.wplus).to(self.device)
        self.detector: Detector = (
            make_detector(settings.detector, self.device, min_face=settings.min_face)
            if isinstance(settings.detector, str)
            else settings.detector
        )
        self.exemplar, self.extrinsic = self._read_exemplar(exemplar)
        with torch.no_grad():  # a style that stays the same is computed once
            self._prepared = None if settings.preserve_color else self.model.prepare(self.extrinsic, self.weights, "w+")

    @property
    def request(self) -> StyleRequest:
        return self.found.request

    @property
    def name(self) -> str:
        return self.style.name

    @property
    def title(self) -> str:
        """Short, for the head of a column: `toon:7`."""
        return f"{self.name}:{self.exemplar.partition(' ')[0]}" if len(self.request.parts) == 1 else self.request.slug

    @property
    def description(self) -> str:
        """One line: which exemplar (NAME alone has one of its own), how large, computed where and how."""
        default = " by default" if self.request.parts[0].exemplar is None else ""
        where = f"{self.device.type} in {str(self.dtype).removeprefix('torch.')}"
        return f"{self.name}: exemplar {self.exemplar}{default}, {self.size} px, on {where}"

    @property
    def fingerprint(self) -> str:
        """The same for stylizers that make the same portraits of the same faces."""
        settings = replace(self.settings, detector=getattr(self.detector, "name", ""), batch=None)
        code = hashlib.sha256(self.extrinsic.cpu().numpy().tobytes()).hexdigest()
        what = [self.description, asdict(settings), self.style.header, self.style.base_header, code]
        return json.dumps(what, default=str)

    @property
    def crop_size(self) -> int:
        """The side of a crop for `encode`, px."""
        return self.encoder.input_size

    @property
    def rows_needed(self) -> tuple[int, ...]:
        """The rows of a face's code that reach the picture: a colour row of weight 1 is all exemplar."""
        return tuple(
            row
            for row, weight in enumerate(self.weights)
            if row < STRUCTURE_ROWS or weight != 1 or self.settings.preserve_color
        )

    def __call__(
        self, pictures: AnyPicture | list[AnyPicture] | tuple[AnyPicture, ...]
    ) -> AnyPicture | list[AnyPicture]:
        """One picture or several, PIL images or uint8 (H, W, 3) RGB arrays; the same kinds come back, restyled.

        A picture without a face comes back unchanged. PIL images come back upright, with their transparency.
        """
        if isinstance(pictures, list | tuple):
            return self._restyle(pictures)
        return self._restyle([pictures])[0]

    def _restyle(self, pictures: Sequence[AnyPicture]) -> list[AnyPicture]:
        sources = [as_picture(picture) for picture in pictures]
        frames = [source.pixels for source in sources]
        found = self.find(frames)
        everyone = [(frame, face) for frame, faces in zip(frames, found, strict=True) for face in faces]
        for _, face in everyone:
            if warning := self.warning_about(face):
                warnings.warn(warning, stacklevel=3)
        if not everyone:
            return [_same_kind(s.pixels, s, given) for s, given in zip(sources, pictures, strict=True)]

        crops = torch.cat([self.crop(frame, [face]) for frame, face in everyone])
        portraits = iter(self.render(self.encode(crops), self.region_of([face for _, face in everyone])))
        styled = []
        for source, given, faces in zip(sources, pictures, found, strict=True):
            own = [next(portraits) for _ in faces]
            placed = self.place(faces, own, self.persons(source.pixels, faces))
            frame = self.compose(source.pixels, placed, self.scene_of(source.pixels, faces, own)) if faces else None
            styled.append(_same_kind(source.pixels if frame is None else frame, source, given))
        return styled

    def find(self, pictures: Sequence[np.ndarray]) -> list[list[Face]]:
        """The faces of each picture, uint8 (H, W, 3) RGB, the largest last: it is nearest, and pasted last."""
        return [self.choose(faces) for faces in self.detector.find(list(pictures))]

    def choose(self, faces: Sequence[Face]) -> list[Face]:
        """Those of a picture's faces that are to be restyled, from the smallest to the largest."""
        ordered = sorted(faces, key=lambda face: face.crop_side_px)
        return ordered[-1:] if self.settings.faces == "largest" else ordered

    def crop(self, picture: np.ndarray, faces: Sequence[Face]) -> Tensor:
        """The aligned crops (N, 3, E, E) of a picture's faces, at the encoder's input size."""
        size = self.crop_size
        if not faces:
            return torch.empty(0, 3, size, size)
        return torch.stack([crop_face(picture, face.crop_from_photo, size) for face in faces])

    def encode(self, crops: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """Crops (N, 3, E, E) to the faces' own codes (N, rows, dim) in W+, not truncated, float32 on `device`.

        Only `rows` (those needed, unless told) are computed; the others hold nothing of use.
        """
        wanted = self.rows_needed if rows is None else tuple(rows)

        def encode(batch: Tensor) -> Tensor:
            # Always in float32: a rounded code is another face, and bfloat16 would save a CPU but a quarter here.
            codes = self.encoder(to_device(batch, self.device), rows=wanted)
            return codes if self.encoder.space == "w+" else self.model.generator.mapping(codes)

        return self._whole(encode, crops, (self.model.rows, self.model.style_dim))

    def region_of(self, faces: Sequence[Face], scene: str | None = None) -> Box | None:
        """What `lay` shows of these faces' portraits, for `render`; None where all of them is looked at: by a matte, by
        the finish of large faces, or by the fit of a scene, which `scene` says is to come (None: the style's own)."""
        if self.size < REGIONS_FROM or self.mask != "face" or (scene or self.scene) != "keep" or not faces:
            return None
        if any(map(self._finished_share, faces)):
            return None
        lefts, tops, rights, bottoms = zip(*(part_shown(face, self.size, self.mask) for face in faces), strict=True)
        return min(lefts), min(tops), max(rights), max(bottoms)

    def render(self, codes: Tensor, region: Box | None = None) -> Tensor:
        """Codes (N, rows, dim) in W+ to portraits (N, 3, S, S), clamped to [-1, 1], float32 on the CPU.

        Of a `region` (left, top, right, bottom; px) alone what it needs is computed; around it portraits are grey.
        """

        def render(batch: Tensor) -> Tensor:
            batch = to_device(batch, self.device)
            with self.autocast():
                style = self._prepared or self.model.prepare(self._with_colors_of(batch), self.weights, "w+")
                images = self.model(batch, style, truncation=self.truncation, intrinsic_space="w+", region=region)
            return images.float().clamp_(-1, 1).cpu()

        return self._whole(render, codes, (3, self.size, self.size))

    def _finished(self, faces: Sequence[Face], portraits: Sequence[Tensor], which: Sequence[int]) -> list[Tensor]:
        """Each face's portrait; of large faces, where the style is finished, in two or four times the size and with the
        sharper lines that this takes."""
        shares = [self._finished_share(face) for face in faces]
        wanted = sorted({number for number, share in zip(which, shares, strict=True) if share})
        larger = self.finish(torch.stack([portraits[number] for number in wanted])) if wanted else ()
        finished = dict(zip(wanted, larger, strict=True))
        return [
            _mixed(finished[number], portraits[number], share, face.crop_side_px) if share else portraits[number]
            for face, number, share in zip(faces, which, shares, strict=True)
        ]

    def _finished_share(self, face: Face) -> float:
        """Growing with the face, so that one that comes nearer in a film does not change at once."""
        larger = face.crop_side_px / self.size
        return min(max((larger - FINISH_FROM) / (FINISH_ALL - FINISH_FROM), 0), 1) if self.finishes else 0

    def finish(self, portraits: Tensor) -> Tensor:
        """Portraits (N, 3, S, S) in four times the size, with sharper lines: (N, 3, 4 S, 4 S) in [-1, 1]."""
        net = _finish_net(self.device)

        def finish(batch: Tensor) -> Tensor:
            with self.autocast():
                return net(to_device(batch, self.device)).float().clamp_(-1, 1).cpu()

        return self._whole(finish, portraits, (3, SCALE * self.size, SCALE * self.size))

    def persons(self, picture: np.ndarray, faces: Sequence[Face]) -> Tensor:
        """Where a person is in the picture around each face, for `place`."""
        return self.persons_in([view_of(picture, face) for face in faces])

    def persons_in(self, views: Sequence[Tensor]) -> Tensor:
        """The same of views that are cut already."""
        return photo_mattes(_matte_net(), views)

    def place(
        self,
        faces: Sequence[Face],
        portraits: Sequence[Tensor],
        persons: Iterable[Tensor | None],
        which: Sequence[int] | None = None,
    ) -> list[Placed]:
        """Portraits made ready for their places: finished, and with the outline of who is in them. `which` says for
        each face which portrait is its own, where several share one."""
        which = range(len(portraits)) if which is None else which
        mattes = [None] * len(portraits) if self.mask == "face" else portrait_mattes(_matte_net(), portraits)
        finished = self._finished(faces, portraits, which)
        return [
            Placed(face, portrait, mattes[number], person)
            for face, portrait, person, number in zip(faces, finished, persons, which, strict=True)
        ]

    def scene_of(self, picture: np.ndarray, faces: Sequence[Face], portraits: Sequence[Tensor]) -> Scene | None:
        """What these faces' change asks of the picture around them, large ones more; None where it is kept."""
        return None if self.scene == "keep" or not faces else self.fit(picture, faces, portraits)

    def fit(self, picture: np.ndarray, faces: Sequence[Face], portraits: Sequence[Tensor]) -> Scene:
        """The same, of one face or more."""
        scenes = []
        for face, portrait in zip(faces, portraits, strict=True):
            head = draw_mask("head", transform(face.crop_from_photo, face.points.astype(np.float64)))
            crop = crop_face(picture, face.crop_from_photo, PAIRS_PX)
            scenes.append((fit_scene(crop, portrait, head, face.crop_side_px, self.surface), face.crop_side_px**2))
        return mix_scenes(scenes)

    def compose(self, frame: np.ndarray, placed: Sequence[Placed], scene: Scene | None = None) -> np.ndarray:
        """A new frame: the scene, in it the faces, those given last in front."""
        under = frame if scene is None else scene.under(frame)
        under = under.copy() if under is frame or not under.flags.writeable else under
        self.lay(under, placed)
        return under if scene is None else scene.over(under)

    def lay(
        self, frame: np.ndarray, placed: Sequence[Placed], behind: Sequence[tuple[Face, np.ndarray]] = ()
    ) -> list[tuple[Face, np.ndarray]]:
        """The faces in a frame, in place: first they tint the skin around them, then they cover what is theirs. Those
        laid before are `behind` them, with their masks; what comes back is these and the new ones."""
        blends = [blend(self.mask, frame, one.portrait, one.face, one.person, one.matte) for one in placed]
        for one, laid in zip(placed, blends, strict=True):
            if laid.tint is not None:
                add_tint(frame, laid.tint, wide_from_photo(one.face), one.opacity)
        everyone = list(behind)
        for one, laid in zip(placed, blends, strict=True):
            portrait, mask = one.portrait, in_front(laid.mask, one.face, everyone)
            if laid.shift is not None:
                portrait = portrait + _enlarged(torch.from_numpy(laid.shift), portrait.shape[-1])
            paste_face(frame, portrait, one.face, mask=mask, opacity=one.opacity, in_place=True)
            everyone.append((one.face, one.opacity * mask))
        return everyone

    def paste(
        self, frame: np.ndarray, crop: Tensor, face: Face, opacity: float = 1.0, *, in_place: bool = False
    ) -> np.ndarray:
        """The frame with one portrait (3, S, S) in the face's place, the rest of the picture as it is."""
        frame = frame if in_place and frame.flags.writeable else frame.copy()
        (placed,) = self.place([face], [crop], self.persons(frame, [face]))
        self.lay(frame, [replace(placed, opacity=opacity)])
        return frame

    def warning_about(self, face: Face) -> str | None:
        """One line where a face is so large that the portrait will look soft in its place."""
        drawn = self.size * (SCALE if self.finishes else 1)
        if face.crop_side_px <= 2 * drawn:
            return None
        return f"A face's crop is {face.crop_side_px:.0f} px wide, the style draws {drawn}: it will look soft."

    def _choose_encoder(self, wplus: bool) -> Encoder:
        encoder = self.style.encoder_wplus if wplus else self.style.encoder
        if encoder is None:
            raise UsageError(
                f"The style {self.name} has no W+ encoder: leave out wplus."
                if wplus
                else f"The style {self.name} has no encoder, so it cannot be put on photos."
            )
        return encoder

    @torch.no_grad()
    def _read_exemplar(self, exemplar: int | str | Tensor | None) -> tuple[str, Tensor]:
        """What the exemplar is called, and its code (1, rows, dim) in W+."""
        generator = self.model.generator
        if isinstance(exemplar, Tensor):
            found = ExtrinsicCode(exemplar, "z+", "a code")
        else:
            found = extrinsic_code(
                self.found.exemplars,
                self.style.bank,
                mapping=lambda code: generator.mapping(code.to(self.device)),
                encode=self._encode_portrait,
            )
        return found.label, generator.to_w_plus(found.code.to(self.device)[None], found.space)

    def _encode_portrait(self, path: Path) -> Tensor:
        """The extrinsic code (rows, dim) in Z+ of the largest face in a picture that is no exemplar of the style."""
        encoder = self.style.encoder
        if encoder is None or encoder.space != "z+":
            raise UsageError(f"'{path}' cannot be an exemplar: the style {self.name} has no Z+ encoder.")
        pixels = read_picture(path).pixels
        faces = self.detector.find([pixels])[0]
        if not faces:
            raise NoFaceError(f"{path}: no face found. An exemplar is a portrait; try a larger or more frontal one.")
        crop = crop_face(pixels, max(faces, key=lambda face: face.crop_side_px).crop_from_photo, encoder.input_size)
        return encoder.to(self.device)(crop[None].to(self.device))[0]

    def _with_colors_of(self, codes: Tensor) -> Tensor:
        """The exemplar's code with each face's own colour rows: (N, rows, dim), W+."""
        mixed = self.extrinsic.repeat(len(codes), 1, 1)
        mixed[:, STRUCTURE_ROWS:] = codes[:, STRUCTURE_ROWS:]
        return mixed

    @torch.no_grad()
    def _whole(self, compute: Callable[[Tensor], Tensor], items: Tensor, empty: tuple[int, ...]) -> Tensor:
        results = list(self.in_batches(compute, items))
        return torch.cat(results) if results else torch.empty(0, *empty)


def _mixed(finished: Tensor, portrait: Tensor, share: float, side_px: float) -> Tensor:
    """As much of a finished portrait as `share`, twice the portrait's size where that is enough."""
    size = portrait.shape[-1]
    if side_px <= 2 * size:
        finished = interpolate(finished[None], size=2 * size, mode="area")[0]
    if share == 1:
        return finished
    plain = interpolate(portrait[None], size=finished.shape[-1], mode="bicubic", align_corners=False)[0]
    return plain.clamp_(-1, 1).lerp_(finished, share)


def _enlarged(planes: Tensor, size: int) -> Tensor:
    return interpolate(planes[None], size=size, mode="bilinear", align_corners=False)[0]


@cache
def _finish_net(device: torch.device) -> FinishNet:
    return load_finish().to(device)


@cache
def _matte_net() -> MatteNet:
    return load_matte()


def _same_kind(frame: np.ndarray, source: Picture, given: AnyPicture) -> AnyPicture:
    if isinstance(given, np.ndarray):
        return frame
    image = Image.fromarray(frame)
    if source.alpha is not None:
        image.putalpha(Image.fromarray(source.alpha))
    return image
