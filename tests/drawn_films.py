"""Little films, drawn: any container, codec, size, rate, time stamps, rotation, colour and sound a test needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

MATRICES = {"bt709": 1, "bt601": 6, "bt2020": 9}  # AVCOL_SPC numbers; primaries and transfer have their own
PRIMARIES = {"bt709": 1, "bt601": 6, "bt2020": 9}
TRANSFERS = {"bt709": 1, "bt601": 6, "bt2020": 14, "pq": 16, "hlg": 18}


def drawn_frame(index: int, width: int = 160, height: int = 90, *, speed: float = 2.0) -> np.ndarray:
    """uint8 (height, width, 3): a soft colourful ground that drifts, and a bright square that moves with it.

    The square begins at x = `speed * index` (wrapped) and its shade follows the index: frames can be told apart.
    """
    coarse = np.random.default_rng(5).integers(40, 200, (6, 10, 3), dtype=np.uint8)
    wide = Image.fromarray(coarse).resize((2 * width, height), Image.Resampling.BICUBIC)
    shift = int(speed * index) % width
    pixels = np.array(wide)[:, shift : shift + width].copy()
    side = max(2, min(width, height) // 4)
    x, y = shift % max(1, width - side), (height - side) // 2
    pixels[y : y + side, x : x + side] = (250, 230 - 4 * (index % 40), 60)
    return pixels


def draw_film(
    path: str | Path,
    frames: int | Sequence[np.ndarray] | Callable[[int], np.ndarray] = 20,
    *,
    count: int | None = None,
    size: tuple[int, int] = (160, 90),
    fps: Fraction | float = 25,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    audio: str | None = None,
    audio_tracks: int = 1,
    audio_rate: int | None = None,
    audio_seconds: float | None = None,
    clap_s: Sequence[float] = (),
    rotation: int | None = None,
    sample_aspect_ratio: Fraction | None = None,
    color: str = "bt709",
    full_range: bool = False,
    transfer: str | None = None,
    metadata: dict[str, str] | None = None,
    chapters: Sequence[tuple[float, float, str]] = (),
    subtitles: Sequence[tuple[float, float, str]] = (),
    attachment: bytes | None = None,
    options: dict[str, str] | None = None,
    interlaced: bool = False,
) -> Path:
    """Write a film and return its path.

    `frames` is how many to draw with `drawn_frame`, or the frames uint8 (H, W, 3) themselves, or a function of the
    index together with `count`. `pts` in units of `time_base` gives a variable rate; without them `fps` rules. `audio`
    is a codec ("aac", "flac", "pcm_s16le", "libopus"): quiet noise, with a loud click of 5 ms at each of `clap_s`.
    `rotation` is counter-clockwise degrees in the display matrix. `color` names matrix, primaries and transfer.
    `chapters` and `subtitles` are (start, end, text) in seconds.
    """
    path = Path(path)
    if isinstance(frames, int):
        frames, count = (lambda index: drawn_frame(index, *size)), frames
    elif not callable(frames):
        drawn = list(frames)
        frames, count = drawn.__getitem__, len(drawn)
    assert count is not None, "a function of the index needs count="
    rate = Fraction(fps).limit_denominator(1001)
    base = time_base or 1 / rate
    stamps = list(pts) if pts is not None else [round(index / rate / base) for index in range(count)]
    matrix, limits = MATRICES[color], 2 if full_range else 1

    known = {".mp4", ".mov", ".m4v", ".3gp"}
    container_options = {"video_track_timescale": str(base.denominator)} if path.suffix in known else {}
    if metadata:
        container_options["movflags"] = "use_metadata_tags"
    if path.suffix not in known:
        container_options = {}
    with av.open(str(path), "w", container_options=container_options) as film:
        film.metadata.update(metadata or {})
        stream = film.add_stream(codec, rate=rate, options={"threads": "1", **(options or {})})
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        context = stream.codec_context
        context.time_base = base
        stream.time_base = base
        context.color_range, context.colorspace = limits, matrix
        context.color_primaries, context.color_trc = PRIMARIES[color], TRANSFERS[transfer or color]
        if sample_aspect_ratio:
            context.sample_aspect_ratio = sample_aspect_ratio
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if interlaced:
            context.flags |= 1 << 18 | 1 << 29  # interlaced DCT and motion estimation
            context.field_order = 2
        tracks = [_add_audio(film, audio, audio_rate) for _ in range(audio_tracks)] if audio else []
        words = None
        if subtitles:
            words = film.add_mux_stream("mov_text" if path.suffix in known else "subrip")
            words.time_base = Fraction(1, 1000)
        if attachment is not None:
            film.add_attachment("note.ttf", "application/x-truetype-font", attachment)
        if chapters:
            film.set_chapters(
                [
                    {
                        "id": number,
                        "start": round(start * 1000),
                        "end": round(end * 1000),
                        "time_base": Fraction(1, 1000),
                        "metadata": {"title": title},
                    }
                    for number, (start, end, title) in enumerate(chapters)
                ]
            )

        seconds = audio_seconds if audio_seconds is not None else (float(stamps[-1] * base + 1 / rate) if stamps else 1)
        sounds = [_Sound(film, track, seconds, clap_s, seed) for seed, track in enumerate(tracks)]
        for index, stamp in enumerate(stamps[:count]):
            pixels = frames(index)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = frame.reformat(
                size[0], size[1], pix_fmt, dst_colorspace=_SWS[matrix], dst_color_range=limits, threads=1
            )
            frame.colorspace, frame.color_range = matrix, limits
            frame.pts, frame.time_base = stamp, base
            film.mux(stream.encode(frame))
            for sound in sounds:
                sound.write_until(float(stamp * base) + 0.1)
        film.mux(stream.encode())
        for sound in sounds:
            sound.write_until(float("inf"))
            film.mux(sound.stream.encode())
        if words is not None:
            _add_words(film, words, subtitles, path.suffix in known)
    return path


_SWS = {1: 1, 6: 5, 9: 9}  # swscale's numbers of the matrices


def _add_audio(film, codec, rate):
    rate = rate or (48000 if codec == "libopus" else 44100)
    stream = film.add_stream(codec, rate=rate)
    stream.layout = "mono"
    return stream


class _Sound:
    """Noise and clicks, encoded and muxed as far as the picture has come."""

    def __init__(self, film, stream, seconds, clap_s, seed):
        self.film, self.stream, self.clap_s = film, stream, clap_s
        self.noise = np.random.default_rng(seed)
        self.total, self.at = round(seconds * stream.rate), 0

    def write_until(self, second: float) -> None:
        rate, form = self.stream.rate, self.stream.codec_context.format.name
        while self.at < min(self.total, second * rate):
            values = self.noise.normal(0, 60, min(1024, self.total - self.at))
            for clap in self.clap_s:
                begin, end = round(clap * rate) - self.at, round((clap + 0.005) * rate) - self.at
                values[max(0, begin) : max(0, end)] = 24000
            data = values.astype(np.int16)[None]
            if form.startswith("flt"):
                data = (data / 32768).astype(np.float32)
            elif form.startswith("s32"):
                data = data.astype(np.int32) << 16
            frame = av.AudioFrame.from_ndarray(data, format=form, layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, self.at, Fraction(1, rate)
            self.film.mux(self.stream.encode(frame))
            self.at += values.size


def _add_words(film, stream, subtitles, as_mov_text):
    for start, end, text in subtitles:
        data = text.encode()
        if as_mov_text:
            data = len(data).to_bytes(2, "big") + data
        packet = av.Packet(data)
        packet.stream, packet.time_base = stream, Fraction(1, 1000)
        packet.pts = packet.dts = round(start * 1000)
        packet.duration = round((end - start) * 1000)
        film.mux(packet)


def frames_of(path: str | Path, format: str | None = "rgb24") -> list[np.ndarray]:
    """Every frame of a film's first picture track, as FFmpeg shows it (not turned), in `format` or in its own."""
    with av.open(str(path)) as film:
        return [frame.to_ndarray(format=format) if format else frame.to_ndarray() for frame in film.decode(video=0)]


def stamps_of(path: str | Path) -> list[Fraction]:
    """When each frame of a film is shown, in seconds, exactly."""
    with av.open(str(path)) as film:
        return [frame.pts * frame.time_base for frame in film.decode(video=0)]


def packets_of(path: str | Path, kind: str = "audio", track: int = 0) -> list[tuple[Fraction, bytes]]:
    """Each packet of a track: when (seconds, exactly) and its bytes."""
    with av.open(str(path)) as film:
        stream = [one for one in film.streams if one.type == kind][track]
        return [(packet.pts * packet.time_base, bytes(packet)) for packet in film.demux(stream) if packet.size]


def write_deep(path: Path, pixels: np.ndarray) -> None:
    """A PNG of 16 bits: `pixels` uint16 (H, W, 3)."""
    encoder = av.CodecContext.create("png", "w")
    frame = av.VideoFrame.from_ndarray(pixels.astype(">u2").astype(np.uint16), format="rgb48le").reformat(
        format="rgb48be"
    )
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = (
        frame.width,
        frame.height,
        "rgb48be",
        Fraction(1, 25),
    )
    path.write_bytes(b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)]))


def read_deep(path: Path) -> np.ndarray:
    """The uint16 (H, W, 3) of a PNG that has 16 bits."""
    decoder = av.CodecContext.create("png", "r")
    frame = [*decoder.decode(av.Packet(path.read_bytes())), *decoder.decode(None)][0]
    assert frame.format.name == "rgb48be"
    return frame.to_ndarray(format="rgb48le")
