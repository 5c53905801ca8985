"""The pixels of a film's frames: RGB, upright, for whoever looks; planes in the film's own format for whoever writes.

A frame that was changed keeps every sample of its own planes where no pixel changed. Only the rest goes from RGB
through the film's matrix and range: nothing outside a face passes through RGB, and a deep film stays deep around it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import DTypeLike

from dualstylegan.media.film import hdr

# AVCOL_SPC (what files say) -> swscale's number of the same matrix. 2 is "not said".
_SWS_MATRIX = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
UNSAID = 2
LIMITED, FULL = 1, 2

_own = threading.local()


class Turn(NamedTuple):
    """How stored pixels become upright: transposed, then flipped. What the display matrix of a film says."""

    transpose: bool = False
    flip_y: bool = False
    flip_x: bool = False

    def upright(self, stored: np.ndarray) -> np.ndarray:
        """A view of (H, W, ...) as a player shows it."""
        turned = stored.swapaxes(0, 1) if self.transpose else stored
        return turned[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]

    def stored(self, upright: np.ndarray) -> np.ndarray:
        """A view of what is upright as the film stores it."""
        turned = upright[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]
        return turned.swapaxes(0, 1) if self.transpose else turned


AS_STORED = Turn()


def sides_of(frame: av.VideoFrame) -> Any:
    """The frame's side data, which PyAV types as its keys."""
    return frame.side_data


def display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """The nine numbers of the frame's display matrix, where it has one."""
    for side in sides_of(frame):
        if side.type.name == "DISPLAYMATRIX":
            return tuple(np.frombuffer(bytes(side), np.int32).tolist())
    return None


def turn_of(matrix: tuple[int, ...] | None) -> Turn:
    """A stored (p, q) is shown at (a p + c q, b p + d q). Angles that are no quarter turn are left to the player."""
    if matrix is None:
        return AS_STORED
    a, b, _, c, d = (round(value / 65536) for value in matrix[:5])
    if a and d and not b and not c:
        return Turn(False, d < 0, a < 0)
    if b and c and not a and not d:
        return Turn(True, b < 0, c < 0)
    return AS_STORED


@dataclass(frozen=True)
class Color:
    """What a film says of its colours, in the numbers of its container (ITU-T H.273); 2 is "not said"."""

    primaries: int = UNSAID
    transfer: int = UNSAID
    matrix: int = UNSAID
    full_range: bool = False

    @property
    def is_hdr(self) -> bool:
        return self.transfer in (hdr.PQ, hdr.HLG)


UNTOLD = Color()


def color_of(frame: av.VideoFrame) -> Color:
    full = int(frame.color_range) == FULL or frame.format.name.startswith("yuvj")
    return Color(int(frame.color_primaries), int(frame.color_trc), int(frame.colorspace), full)


def _sws_matrix(matrix: int, width: int, height: int) -> int:
    # An unmarked film is taken as players take it: large ones for BT.709, small ones for BT.601.
    return _SWS_MATRIX.get(matrix, 1 if width >= 1280 or height > 576 else 5)


def convert(frame: av.VideoFrame, color: Color, form: str, size: tuple[int, int] | None = None) -> av.VideoFrame:
    """The frame in another pixel format (and size: width, height), its colours staying what they are."""
    if not hasattr(_own, "scaler"):
        _own.scaler = av.video.reformatter.VideoReformatter()  # keeps its tables, but belongs to one thread
    matrix = _sws_matrix(color.matrix, *(size or (frame.width, frame.height)))
    levels = FULL if color.full_range else LIMITED
    source_rgb, target_rgb = frame.format.is_rgb, av.VideoFormat(form).is_rgb
    width, height = size or (frame.width, frame.height)
    return _own.scaler.reformat(
        frame,
        width,
        height,
        form,
        src_colorspace=matrix,
        dst_colorspace=matrix,
        src_color_range=FULL if source_rgb else levels,
        dst_color_range=FULL if target_rgb else levels,
        threads=1,
    )


def to_rgb(frame: av.VideoFrame, color: Color) -> np.ndarray:
    """uint8 (H, W, 3) as stored, not turned; HDR as sRGB."""
    if color.is_hdr:
        return hdr.to_srgb(to_deep_rgb(frame, color), color.transfer)
    picture = convert(frame, color, "rgb24")
    rows = rows_of(picture.planes[0], np.uint8)[: picture.height, : 3 * picture.width]
    return np.ascontiguousarray(rows).reshape(picture.height, picture.width, 3)


def to_deep_rgb(frame: av.VideoFrame, color: Color) -> np.ndarray:
    """uint16 (H, W, 3) as stored, not turned, white being 65535."""
    picture = convert(frame, color, "rgb48le")
    rows = rows_of(picture.planes[0], "<u2")[: picture.height, : 3 * picture.width]
    return np.ascontiguousarray(rows).reshape(picture.height, picture.width, 3)


def from_rgb(pixels: np.ndarray, color: Color, form: str) -> av.VideoFrame:
    """A frame in `form` from uint8 (H, W, 3) as stored."""
    if color.is_hdr:
        frame = av.VideoFrame.from_ndarray(hdr.from_srgb(pixels, color.transfer), format="rgb48le")
    else:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    return tagged(convert(frame, color, form), color)


def tagged(frame: av.VideoFrame, color: Color) -> av.VideoFrame:
    frame.color_primaries, frame.color_trc = color.primaries, color.transfer
    frame.colorspace, frame.color_range = color.matrix, FULL if color.full_range else LIMITED
    return frame


def is_planar(form: av.VideoFormat) -> bool:
    """Every component in a plane of its own, in whole bytes of this machine's order."""
    planes = [part.plane for part in form.components]
    return len(set(planes)) == len(planes) and not (form.has_palette or form.is_bit_stream or form.is_big_endian)


def rows_of(plane: Any, kind: DTypeLike) -> np.ndarray:
    """A view of a plane's rows, with what pads them at their ends."""
    rows = np.frombuffer(plane, kind)
    return rows.reshape(-1, plane.line_size // rows.itemsize)


def planes_of(frame: av.VideoFrame) -> list[np.ndarray]:
    """One view (h, w) uint8 or uint16 per component of a planar frame, in the order of its components."""
    views = []
    for part in frame.format.components:
        rows = rows_of(frame.planes[part.plane], np.uint8 if part.bits <= 8 else "<u2")
        views.append(rows[: part.height, : part.width])
    return views


def with_changes(frame: av.VideoFrame, pixels: np.ndarray, before: np.ndarray, color: Color) -> av.VideoFrame:
    """`frame` (planar) with `pixels` where they differ from `before`; both uint8 (H, W, 3) as stored. A new frame.

    The very frame comes back when nothing differs.
    """
    box = changed_box(pixels, before)
    if box is None:
        return frame
    parts = frame.format.components
    wide = max(_step(frame.width, part.width) for part in parts)
    high = max(_step(frame.height, part.height) for part in parts)
    top, left, bottom, right = _aligned(box, high, wide, frame.height, frame.width)
    inside = np.s_[top:bottom, left:right]
    fresh = from_rgb(pixels[inside], color, frame.format.name)
    changed = pixels[inside] != before[inside]
    changed = changed[..., 0] | changed[..., 1] | changed[..., 2]

    copy = tagged(av.VideoFrame(frame.width, frame.height, frame.format.name), color)
    masks = {(1, 1): changed}
    for part, old, new, target in zip(parts, planes_of(frame), planes_of(fresh), planes_of(copy), strict=True):
        target[:] = old
        if part.is_alpha:
            continue
        steps = _step(frame.height, part.height), _step(frame.width, part.width)
        if steps not in masks:
            masks[steps] = _coarser(changed, *steps)
        y, x = top // steps[0], left // steps[1]
        h, w = new.shape
        np.copyto(target[y : y + h, x : x + w], new, where=masks[steps])
    return copy


def changed_box(pixels: np.ndarray, before: np.ndarray) -> tuple[int, int, int, int] | None:
    """(top, left, bottom, right) around all that differs between two uint8 (H, W, 3), wider by three pixels at most, or
    None."""
    if pixels is before:
        return None
    height, width = pixels.shape[:2]
    one, other = (np.ascontiguousarray(image).reshape(height, -1) for image in (pixels, before))
    step = 8 if 3 * width % 8 == 0 else 1  # bytes that are compared at once
    if step == 8:
        one, other = one.view(np.uint64), other.view(np.uint64)
    differs = one != other
    (rows,) = differs.any(1).nonzero()
    if not rows.size:
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    (columns,) = differs[top:bottom].any(0).nonzero()
    left, right = int(columns[0]) * step // 3, -(-(int(columns[-1]) + 1) * step // 3)
    return top, left, bottom, right


def _aligned(
    box: tuple[int, int, int, int], high: int, wide: int, height: int, width: int
) -> tuple[int, int, int, int]:
    """The box grown to whole chroma samples and to 16 pixels: scalers read a few beyond a narrow strip."""
    top, left, bottom, right = box
    top, left = max(0, min(top, height - 16)) // high * high, max(0, min(left, width - 16)) // wide * wide
    bottom, right = max(bottom, top + 16), max(right, left + 16)
    return top, left, min(height, -(-bottom // high) * high), min(width, -(-right // wide) * wide)


def _step(whole: int, part: int) -> int:
    """How many luma samples one of the component's covers: 1, 2 or 4."""
    return 1 if part == whole else max(1, round(whole / part))


def _coarser(mask: np.ndarray, high: int, wide: int) -> np.ndarray:
    """True where any of the high x wide pixels is; the last ones may be cut by an odd edge."""
    h, w = mask.shape
    if h % high or w % wide:
        mask = np.pad(mask, ((0, -h % high), (0, -w % wide)))
    out = mask[::high, ::wide].copy()
    for y in range(high):
        for x in range(wide):
            out |= mask[y::high, x::wide]
    return out
