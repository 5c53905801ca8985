"""Which encoder writes a film, in which pixel format, with which settings: chosen from the film, or as users ask."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import av

from dualstylegan.errors import UsageError, did_you_mean
from dualstylegan.media.film.film import FilmInfo
from dualstylegan.media.film.planes import FULL, LIMITED, UNSAID, Color, is_planar
from dualstylegan.media.paths import kind_of

# suffix -> FFmpeg's name of the container. Others (.wmv, .mpg) are read, and written as .mkv, which holds any sound.
CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
    ".ts": "mpegts",
    ".mts": "mpegts",
    ".m2ts": "mpegts",
    ".flv": "flv",
    ".3gp": "3gp",
}
UNCONTAINED = (".gif", ".png", ".apng", ".webp", "")  # animated pictures, and a folder of frames
TURNING = frozenset({"mp4", "mov", "matroska", "webm", "3gp"})  # containers that can say "show it turned"

_SPEEDS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo")


@dataclass(frozen=True)
class Codec:
    """One of FFmpeg's encoders. `crf` is its quality scale: default, best, worst; None where it has none."""

    name: str
    crf: tuple[float, float, float] | None = None
    presets: tuple[str, ...] = ()
    preset: str | None = None
    options: dict[str, str] = field(default_factory=dict)


# The presets are those that cost a few ms of CPU per frame at 640x360 on one core: the networks need the rest. The crf
# are those where the picture cannot be told from its source at that preset.
CODECS = {
    "h264": Codec("libx264", (19, 0, 51), _SPEEDS, "superfast"),
    "hevc": Codec("libx265", (20, 0, 51), _SPEEDS, "superfast", {"x265-params": "log-level=none:open-gop=0"}),
    "vp9": Codec("libvpx-vp9", (24, 0, 63), tuple("012345678"), "7", {"deadline": "realtime", "row-mt": "1"}),
    "av1": Codec("libsvtav1", (24, 0, 63), tuple(map(str, range(14))), "11"),
    "prores": Codec("prores_ks", None, ("proxy", "lt", "standard", "hq", "4444", "4444xq"), None, {"vendor": "apl0"}),
    "ffv1": Codec("ffv1", None, (), None, {"level": "3", "slices": "4", "slicecrc": "1"}),
    "mpeg4": Codec("mpeg4", (3, 1, 31)),
    "mjpeg": Codec("mjpeg", (3, 1, 31), options={"strict": "unofficial"}),  # it may have limited range
}
_ALIASES = {"h265": "hevc", "x264": "h264", "x265": "hevc", "avc": "h264", "libvpx-vp9": "vp9"}
_ALIASES |= {entry.name: name for name, entry in CODECS.items()}


@dataclass(frozen=True)
class Encoding:
    """What to open: an encoder, a pixel format, options, colours; `notes` says what the film loses by it."""

    family: str
    encoder: str
    pix_fmt: str
    color: Color
    options: dict[str, str]
    quality: float | None = None  # for encoders with a quantiser scale in place of a crf
    notes: tuple[str, ...] = ()


def film_suffix(path: str | os.PathLike) -> str:
    """The suffix a film's result gets where none is asked for: its own where that can be written, else `.mkv`."""
    suffix = Path(path).suffix.lower()
    return suffix if suffix in CONTAINERS or suffix in UNCONTAINED else ".mkv"


def check_encoding(
    path: str | os.PathLike, codec: str | None, crf: float | None, preset: str | None, *, frames: bool = False
) -> None:
    """Raises UsageError where no film could be written to `path` so: better before the work than after. One of `frames`
    may become a folder with a dot in its name."""
    suffix = Path(path).suffix.lower()
    if suffix not in CONTAINERS:
        if suffix not in UNCONTAINED and not (frames and kind_of(path) == "unknown"):
            raise UsageError(
                f"{path}: '{suffix}' is no film. Use .mp4, .mov, .mkv, .webm, .gif, or a name without suffix."
            )
        given = [
            f"--{name}" for name, value in (("codec", codec), ("crf", crf), ("preset", preset)) if value is not None
        ]
        if given:
            raise UsageError(f"{' and '.join(given)}: {suffix or 'a folder of frames'} has no such setting.")
        return
    if codec is not None:
        family, entry = _entry(codec)
        _hold(suffix, entry.name, codec)
    else:
        family, entry = _entry({".webm": "vp9"}.get(suffix, "h264"))
    if codec is not None or suffix != ".webm":
        _options(family, entry, crf, preset)


def _entry(codec: str) -> tuple[str, Codec]:
    name = _ALIASES.get(codec.lower(), codec.lower())
    if name in CODECS:
        return name, CODECS[name]
    try:
        found = av.Codec(name, "w")
    except ValueError:
        found = None
    if found is None or found.type != "video" or not _formats(name):
        known = ", ".join(CODECS)
        raise UsageError(f"No codec '{codec}'.{did_you_mean(codec, CODECS)} Known: {known}, or an FFmpeg encoder.")
    options = {one.name: one for one in av.CodecContext.create(name, "w").supported_options.private}
    crf = options.get("crf") or options.get("cq")
    scale = (float(crf.default or 0), max(0.0, crf.min), crf.max) if crf else None
    presets = tuple(one.name for one in options["preset"].choices) if "preset" in options else ()
    return name, Codec(name, scale, presets)


def _hold(suffix: str, encoder: str, codec: str) -> None:
    form = CONTAINERS[suffix]
    if not _holds(form, encoder):
        raise UsageError(f"{suffix} cannot hold {codec}. Use .mkv, or another --codec.")


@lru_cache(maxsize=64)
def _holds(form: str, encoder: str) -> bool:
    import io

    with av.open(io.BytesIO(), "w", format=form) as trial:
        try:
            trial.add_stream(encoder)
        except ValueError:
            return False
    return True


@lru_cache(maxsize=32)
def _formats(encoder: str) -> tuple[str, ...]:
    """The planar pixel formats an encoder takes: frames are patched plane by plane."""
    formats = av.Codec(encoder, "w").video_formats or []
    planar = [one for one in formats if is_planar(one) and not one.name.startswith(("yuvj", "nv"))]
    if encoder == "libx265":  # it names transparency without writing it, and 12 bits play nowhere
        planar = [one for one in planar if not one.name.startswith("yuva") and one.components[0].bits <= 10]
    return tuple(one.name for one in planar)


def _options(family: str, entry: Codec, crf: float | None, preset: str | None) -> tuple[dict[str, str], float | None]:
    options, quality = dict(entry.options), None
    if crf is not None and entry.crf is None:
        raise UsageError(
            f"{family} has no --crf: {'its --preset sets the quality' if entry.presets else 'it is lossless'}."
        )
    if entry.crf is not None:
        value, (_, least, most) = entry.crf[0] if crf is None else crf, entry.crf
        if not least <= value <= most:
            raise UsageError(f"--crf {crf:g} is beyond {family}'s {least:g} (best) to {most:g}.")
        if family in ("mpeg4", "mjpeg"):
            quality = value
        else:
            options["crf"] = f"{value:g}"
    if preset is not None and preset not in entry.presets:
        if not entry.presets:
            raise UsageError(f"{family} has no --preset.")
        known = ", ".join(entry.presets)
        raise UsageError(f"{family} has no preset '{preset}'.{did_you_mean(preset, entry.presets)} Known: {known}.")
    preset = entry.preset if preset is None else preset
    if preset is not None:
        options[{"vp9": "cpu-used", "prores": "profile"}.get(family, "preset")] = preset
    return options, quality


def choose(
    info: FilmInfo,
    path: Path,
    *,
    size: tuple[int, int],
    codec: str | None = None,
    crf: float | None = None,
    preset: str | None = None,
) -> Encoding:
    """How to write a film like `info` to `path` with stored frames of `size` (width, height).

    Without `codec` the family is the source's where that is one for the container, at its depth: H.264, HEVC for more
    than 8 bits, ProRes, FFV1, VP9 or AV1 in WebM. Raises UsageError for what cannot be.
    """
    suffix = path.suffix.lower()
    if codec is None:
        family = _family(info, suffix)
        family, entry = _entry(family)
    else:
        family, entry = _entry(codec)
    _hold(suffix, entry.name, codec or family)
    options, quality = _options(family, entry, crf, preset)
    notes = []
    pix_fmt = _pix_fmt(info, entry.name, size)
    if pix_fmt is None:
        raise UsageError(f"{family} cannot write {size[0]}x{size[1]}: it needs even numbers. Try --codec vp9 or h264.")
    form = av.VideoFormat(pix_fmt)
    depth = form.components[0].bits
    if info.is_hdr and depth < 10:
        raise UsageError(f"{info.path} is HDR, which {family} cannot write here in 10 bits. Use --codec hevc.")
    if depth < info.bit_depth and info.bit_depth > 8 and info.bit_depth - depth > (2 if depth >= 10 else 0):
        notes.append(f"{info.bit_depth} bits become {depth}: {family} has no more")
    if info.alpha and not any(part.is_alpha for part in form.components):
        notes.append(f"its transparency is lost: {family} in {suffix} holds none")
    if family == "prores" and preset is None:
        options["profile"] = _prores_profile(info, form)
    color = info.color
    if form.is_rgb:
        color = replace(color, matrix=0, full_range=True)
    elif av.VideoFormat(info.pix_fmt).is_rgb or color.matrix == 0:
        color = replace(color, matrix=1, full_range=False)  # RGB has no matrix to keep
        if color.primaries == UNSAID:
            color = replace(color, primaries=1, transfer=1)
    if family == "hevc":
        options["x265-params"] = ":".join([options["x265-params"], *_light(info)])
    return Encoding(family, entry.name, pix_fmt, color, options, quality, tuple(notes))


def _family(info: FilmInfo, suffix: str) -> str:
    deep = info.bit_depth > 8 and info.kind == "container"
    if suffix == ".webm":
        return "av1" if deep or info.codec == "av1" else "vp9"
    if suffix == ".avi" and info.codec != "ffv1":
        return "mpeg4"  # H.264 needs time stamps, which AVI has not: every frame would come late
    if info.codec in ("prores", "ffv1") and _holds(CONTAINERS[suffix], CODECS[info.codec].name):
        return info.codec
    if info.alpha and suffix == ".mov":
        return "prores"
    if info.alpha and suffix == ".mkv":
        return "ffv1" if deep else "vp9"
    if (deep or info.is_hdr) and suffix in (".mp4", ".m4v", ".mov", ".mkv", ".ts", ".mts", ".m2ts"):
        return "hevc"
    return "h264"


def _prores_profile(info: FilmInfo, form: av.VideoFormat) -> str:
    if form.name.startswith(("yuv444", "yuva444")):
        return "4444xq" if "XQ" in (info.profile or "") else "4444"
    names = {"Apple ProRes 422 Proxy": "proxy", "Proxy": "proxy", "LT": "lt", "Standard": "standard", "HQ": "hq"}
    return names.get(info.profile or "", "hq")


def _pix_fmt(info: FilmInfo, encoder: str, size: tuple[int, int]) -> str | None:
    """The encoder's format that keeps most of the film's: alpha, depth, then chroma; None where none fits the size.

    H.264, HEVC and AV1 have whole chroma samples only: odd sizes go to the next finer grid, 4:2:2 or 4:4:4, so that a
    player shows 641x359 as 641x359.
    """
    source = av.VideoFormat(info.pix_fmt, 64, 64)
    rgb, alpha = source.is_rgb, any(part.is_alpha for part in source.components)
    if len(source.components) < 3:
        chroma = "420"
    elif rgb:
        chroma = "444" if encoder in ("ffv1", "prores_ks") else "420"  # 4:4:4 plays in few players
    else:
        across, down = (64 // getattr(source.components[1], side) for side in ("width", "height"))
        chroma = {(1, 1): "444", (2, 1): "422", (2, 2): "420"}.get((across, down), "422" if down == 1 else "444")
    offered = _formats(encoder)
    whole = encoder in ("libx264", "libx265", "libsvtav1", "prores_ks")
    depths = sorted({8, 9, 10, 12, 14, 16}, key=lambda bits: (bits < info.bit_depth, abs(bits - info.bit_depth)))
    chromas = [one for one in ("420", "422", "444") if one >= chroma] + [one for one in ("422", "420") if one < chroma]
    for with_alpha in (True, False) if alpha else (False,):
        for bits in depths:
            tail = "" if bits == 8 else f"{bits}le"
            names = [f"yuv{'a' * with_alpha}{one}p{tail}" for one in chromas]
            if rgb and encoder == "ffv1":
                names = [f"gbr{'a' * with_alpha}p{tail}", *names]
            for name in names:
                if name in offered and (not whole or _fits(name, size)):
                    return name
    return None


def _fits(name: str, size: tuple[int, int]) -> bool:
    width, height = size
    if "420" in name:
        return width % 2 == 0 and height % 2 == 0
    return width % 2 == 0 if "422" in name else True


def _light(info: FilmInfo) -> list[str]:
    """x265's words for the mastering display and the light levels of an HDR film."""
    words = []
    if "mastering" in info.light:
        (rx, ry, gx, gy, bx, by, wx, wy), (least, most) = info.light["mastering"]
        points = [round(value * 50000) for value in (gx, gy, bx, by, rx, ry, wx, wy)]
        words.append(
            "master-display=G({},{})B({},{})R({},{})WP({},{})".format(*points)
            + f"L({round(most * 10000)},{round(least * 10000)})"
        )
    if "levels" in info.light:
        words.append("max-cll={},{}".format(*info.light["levels"]))
    return [*words, "hdr10=1"] if words else []


def configure(
    context: av.VideoCodecContext, info: FilmInfo, encoding: Encoding, size: tuple[int, int], **values: object
) -> None:
    """Set an encoder's context up; `values` are further attributes (time_base, framerate, sample_aspect_ratio)."""
    context.width, context.height = size
    context.pix_fmt = encoding.pix_fmt
    threads = encoder_threads(*size)
    context.thread_count = threads
    options = dict(encoding.options)
    if encoding.family == "hevc":
        options["x265-params"] += f":pools={threads}:frame-threads=1"
    elif encoding.family == "av1":
        os.environ.setdefault("SVT_LOG", "1")  # else it tells its settings on stderr
        options["svtav1-params"] = f"lp={threads}"
    context.options = options
    color = encoding.color
    context.color_primaries, context.color_trc = color.primaries, color.transfer
    context.colorspace, context.color_range = color.matrix, FULL if color.full_range else LIMITED
    if encoding.quality is not None:
        context.qscale = True
        context.options = {**options, "global_quality": str(round(encoding.quality * 118))}  # FF_QP2LAMBDA
    if encoding.family == "hevc":
        context.codec_tag = "hvc1"  # Apple's players want this one of the two names
    context.flags |= int(av.codec.context.Flags.frame_duration)  # the last frame of a film has only this
    if info.interlaced and encoding.family in ("h264", "mpeg4", "prores"):
        context.flags |= 1 << 18 | 1 << 29  # interlaced DCT and motion estimation
        context.field_order = info.field_order
    for name, value in values.items():
        setattr(context, name, value)


def encoder_threads(width: int, height: int) -> int:
    """One for small pictures: the networks need the cores. More where a core alone could not follow."""
    return max(1, min((os.cpu_count() or 2) // 2, 8, -(-width * height // (1280 * 720))))
