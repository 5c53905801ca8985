"""A silent clip from pictures that are made one by one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

from dualstylegan.errors import DualStyleGANError, UsageError
from dualstylegan.media.paths import atomic_output

CLIP_SUFFIXES = (".mp4", ".mov", ".mkv")


def write_clip(path: str | os.PathLike, frames: Iterable[np.ndarray], *, fps: float = 25.0, quality: int = 17) -> int:
    """Write frames uint8 (H, W, 3) sRGB, H and W even, as H.264 yuv420p; returns how many. Whole or not at all.

    `quality` is x264's rate factor: lower is better. Raises UsageError for a suffix that is no container of this.
    """
    path = Path(path)
    if path.suffix.lower() not in CLIP_SUFFIXES:
        raise UsageError(f"{path} is no name for a clip; use one that ends in {', '.join(CLIP_SUFFIXES)}.")
    import av  # 0.2 s, and most work needs no film

    count = 0
    with atomic_output(path) as temporary:
        try:
            with av.open(str(temporary), "w") as clip:
                stream = None
                for pixels in frames:
                    if stream is None:
                        stream = clip.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
                        stream.height, stream.width = pixels.shape[:2]
                        stream.pix_fmt = "yuv420p"
                        stream.options = {"crf": str(quality)}
                        # players take unmarked small pictures for BT.601: say which matrix this is
                        context = stream.codec_context
                        context.color_primaries = context.color_trc = context.colorspace = 1  # BT.709
                        context.color_range = 1  # limited
                    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                    frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
                    clip.mux(stream.encode(frame))
                    count += 1
                if stream is None:
                    raise UsageError(f"{path}: a clip needs at least one frame.")
                clip.mux(stream.encode())  # an empty frame is the flush marker
        except av.FFmpegError as error:
            raise DualStyleGANError(f"Cannot write {path}: {error.strerror or error}.") from error
    return count
