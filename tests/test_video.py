"""Films in and out: what is not changed comes back as it was, and what cannot be read is one line."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from drawn_films import draw_film, drawn_frame, frames_of, packets_of, read_deep, stamps_of, write_deep
from PIL import Image, ImageCms, PngImagePlugin

from dualstylegan.errors import BadFileError, DualStyleGANError, UsageError
from dualstylegan.media.detect import is_film
from dualstylegan.media.film import parts
from dualstylegan.media.film.planes import planes_of
from dualstylegan.media.film.video import FilmWriter, film_suffix, open_film
from dualstylegan.media.mark import is_marked
from dualstylegan.media.paths import is_complete
from dualstylegan.runtime.files import is_temporary

BOX = np.s_[30:60, 40:80]  # where the tests change a 160x90 frame


def inverted(frame):
    pixels = frame.pixels.copy()
    pixels[BOX] = 255 - pixels[BOX]
    return pixels


def copy(source: Path, target: Path, change=lambda frame: None, given=None, **settings):
    """Read all of `source` and write it to `target`; returns (the film, the writer), both done."""
    with open_film(source, **(given or {})) as film, FilmWriter(target, film, **settings) as out:
        for frame in film:
            out.write(frame, change(frame))
    return film, out


def difference(one, other) -> float:
    return float(np.abs(np.asarray(one, int) - np.asarray(other, int)).mean())


def streams_of(path: Path) -> list[tuple[str, str | None]]:
    with av.open(str(path)) as film:
        return [(stream.type, getattr(stream, "name", None)) for stream in film.streams]


# As it was


CONTAINERS = {
    "a.mp4": {"audio": "aac"},
    "a.mov": {"audio": "pcm_s16le", "codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "a.mkv": {"audio": "flac", "audio_tracks": 2},
    "a.webm": {"audio": "libopus", "codec": "libvpx-vp9"},
    "a.ts": {"audio": "libmp3lame", "codec": "mpeg2video"},
    "a.avi": {"audio": "libmp3lame", "codec": "mjpeg", "pix_fmt": "yuvj420p", "full_range": True},
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_times_and_sound_come_out_as_they_went_in(tmp_path, name):
    source = draw_film(tmp_path / name, **CONTAINERS[name])
    film, out = copy(source, tmp_path / "out" / name, inverted)
    assert stamps_of(out.path) == stamps_of(source)
    assert len(frames_of(out.path)) == 20
    for track in range(CONTAINERS[name].get("audio_tracks", 1)):
        assert packets_of(out.path, track=track) == packets_of(source, track=track)
    with open_film(out.path) as again:
        assert (again.info.time_base, again.info.rate) == (film.info.time_base, film.info.rate)
        assert again.info.has_audio
    assert (film.problems, out.notes) == ([], [])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_a_variable_rate_stays_variable(tmp_path, suffix):
    pts = [0, 40, 41, 90, 400, 407, 1000, 1033, 1066, 2500]
    codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
    source = draw_film(tmp_path / f"a{suffix}", 10, pts=pts, time_base=Fraction(1, 1000), codec=codec)
    _, out = copy(source, tmp_path / f"b{suffix}", inverted)
    assert stamps_of(out.path) == stamps_of(source) == [Fraction(stamp, 1000) for stamp in pts]


def test_a_picture_that_begins_late_still_does(tmp_path):
    late = [6400 + 512 * index for index in range(10)]  # half a second after the sound
    source = draw_film(tmp_path / "a.mp4", 10, pts=late, time_base=Fraction(1, 12800), audio="aac")
    _, out = copy(source, tmp_path / "b.mp4")
    assert stamps_of(out.path) == stamps_of(source)
    assert packets_of(out.path) == packets_of(source)
    assert stamps_of(out.path)[0] == Fraction(1, 2)


def test_a_clock_that_begins_anywhere_begins_at_0_elsewhere(tmp_path):
    pts = [900000 + 3600 * index for index in range(10)]
    source = draw_film(tmp_path / "a.ts", 10, pts=pts, time_base=Fraction(1, 90000))
    with open_film(source) as film:
        assert [frame.time_s for frame in film] == pytest.approx([index / 25 for index in range(10)])
    _, same = copy(source, tmp_path / "b.ts")
    assert stamps_of(same.path) == stamps_of(source)
    _, other = copy(source, tmp_path / "b.mp4")
    assert stamps_of(other.path) == [Fraction(index, 25) for index in range(10)]


def test_the_last_frame_is_shown_as_long_as_before(tmp_path):
    source = draw_film(tmp_path / "a.mkv", 3, pts=[0, 40, 80], time_base=Fraction(1, 1000), audio="flac")
    with open_film(source) as film:
        durations = [frame.duration for frame in film]
    _, out = copy(source, tmp_path / "b.mp4")
    with av.open(str(out.path)) as film:
        assert [packet.duration for packet in film.demux(video=0) if packet.size] == durations


def test_words_chapters_tags_and_attachments_are_kept(tmp_path):
    words, chapters = [(0.1, 0.5, "hello"), (0.6, 0.7, "you")], [(0, 0.4, "one"), (0.4, 0.8, "two")]
    source = draw_film(
        tmp_path / "a.mkv",
        audio="flac",
        subtitles=words,
        chapters=chapters,
        attachment=b"123",
        metadata={"title": "A film", "comment": "drawn"},
    )
    _, out = copy(source, tmp_path / "b.mkv")
    assert streams_of(out.path) == streams_of(source)
    assert packets_of(out.path, "subtitle") == packets_of(source, "subtitle")
    with av.open(str(source)) as before, av.open(str(out.path)) as after:
        assert after.chapters() == before.chapters()
        assert {key.lower(): after.metadata[key] for key in after.metadata} | {"encoder": ""} == {
            key.lower(): before.metadata[key] for key in before.metadata
        } | {"encoder": ""}
        assert after.streams.attachments[0].data == b"123"
    assert out.notes == []


def test_what_a_container_cannot_hold_is_one_line_each(tmp_path):
    source = draw_film(
        tmp_path / "a.mkv", audio="flac", subtitles=[(0.1, 0.5, "hello")], attachment=b"123", chapters=[(0, 0.4, "one")]
    )
    _, out = copy(source, tmp_path / "b.ts")
    assert len(out.notes) == 4
    assert all("\n" not in note and ".ts" in note for note in out.notes)
    assert len(frames_of(out.path)) == 20


def test_mp4_keeps_its_words_chapters_and_tags(tmp_path):
    source = draw_film(
        tmp_path / "a.mp4",
        audio="aac",
        subtitles=[(0.1, 0.5, "hello")],
        chapters=[(0, 0.4, "one"), (0.4, 0.8, "two")],
        metadata={"title": "A film", "com.example.device": "a phone"},
    )
    _, out = copy(source, tmp_path / "b.mp4")
    assert streams_of(out.path) == streams_of(source)
    assert packets_of(out.path, "subtitle") == packets_of(source, "subtitle")
    with av.open(str(source)) as before, av.open(str(out.path)) as after:
        assert after.chapters() == before.chapters()
        assert after.metadata == before.metadata


def test_a_cover_is_kept_and_is_no_film(tmp_path):
    bare = draw_film(tmp_path / "bare.mp4", audio="aac")
    source = with_cover(bare, tmp_path / "a.mp4")
    _, out = copy(source, tmp_path / "b.mp4")
    assert len(frames_of(out.path)) == 20
    with av.open(str(out.path)) as film:
        covers = [stream for stream in film.streams.video if stream.disposition & av.stream.Disposition.attached_pic]
        assert len(covers) == 1
    sound = with_cover(bare, tmp_path / "c.m4a", pictures=False)
    sound.rename(tmp_path / "c.mp4")
    with pytest.raises(BadFileError, match="sound but no pictures"):
        open_film(tmp_path / "c.mp4")


def with_cover(source: Path, target: Path, pictures: bool = True) -> Path:
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 32, 32, "yuvj420p", Fraction(1, 25)
    picture = av.VideoFrame(32, 32, "yuvj420p")
    data = b"".join(bytes(packet) for packet in [*encoder.encode(picture), *encoder.encode(None)])
    with av.open(str(source)) as film, av.open(str(target), "w", format="mp4") as out:
        streams = [one for one in film.streams if one.type == "audio" or (pictures and one.type == "video")]
        tracks = {one.index: out.add_stream_from_template(one, opaque=True) for one in streams}
        cover = out.add_mux_stream("mjpeg", width=32, height=32)
        cover.disposition = 1 << 10
        cover.time_base = Fraction(1, 90000)
        packet = av.Packet(data)
        packet.stream, packet.pts, packet.dts, packet.time_base = cover, 0, 0, Fraction(1, 90000)
        out.mux(packet)
        for packet in film.demux(streams):
            if packet.size:
                packet.stream = tracks[packet.stream.index]
                out.mux(packet)
    return target


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_a_turned_film_is_upright_to_look_at_and_turned_when_written(tmp_path, rotation, suffix):
    source = draw_film(tmp_path / "a.mp4", 4, rotation=rotation, options={"crf": "10"})
    stored = frames_of(source)[2]
    upright = np.rot90(stored, rotation // 90)
    film, out = copy(source, tmp_path / f"b{suffix}", inverted_top_left)
    assert (film.info.width, film.info.height) == upright.shape[1::-1]
    with open_film(source) as film:
        assert np.array_equal(list(film)[2].pixels, upright)
    with open_film(out.path) as again:
        shown = list(again)[2].pixels
        assert again.info.rotation == (0 if suffix == ".avi" else film.info.rotation)
    expected = upright.copy()
    expected[:40, :20] = 255 - expected[:40, :20]
    assert difference(shown, expected) < 6  # of 255: compression


def inverted_top_left(frame):
    pixels = frame.pixels.copy()
    pixels[:40, :20] = 255 - pixels[:40, :20]
    return pixels


def test_a_mirrored_film_is_mirrored_again(tmp_path):
    source = tmp_path / "a.mp4"
    with av.open(str(source), "w") as film:
        stream = film.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 90, "yuv420p"
        stream.set_display_rotation(90, hflip=True)
        film.mux(stream.encode(av.VideoFrame.from_ndarray(drawn_frame(3), format="rgb24")))
        film.mux(stream.encode())
    _, out = copy(source, tmp_path / "b.mp4")
    with open_film(source) as one, open_film(out.path) as other:
        assert one.info.matrix == other.info.matrix
        assert one.info.turn == other.info.turn != (False, False, False)
        upright = next(iter(one)).pixels
        assert upright.shape == (160, 90, 3)
        # counter-clockwise, then left for right
        assert difference(upright, np.rot90(drawn_frame(3))[:, ::-1]) < 6
        assert difference(upright, next(iter(other)).pixels) < 4


@pytest.mark.parametrize("rotation", [None, 90])
def test_samples_keep_their_shape(tmp_path, rotation):
    source = draw_film(tmp_path / "a.mp4", 4, sample_aspect_ratio=Fraction(4, 3), rotation=rotation)
    film, out = copy(source, tmp_path / "b.mp4")
    assert film.info.sample_aspect_ratio == (Fraction(3, 4) if rotation else Fraction(4, 3))
    with open_film(out.path) as again:
        assert again.info.sample_aspect_ratio == film.info.sample_aspect_ratio


# Colours


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("color", ["bt601", "bt709", "bt2020"])
def test_colours_are_kept_and_a_change_has_the_colours_it_was_given(tmp_path, color, full):
    source = draw_film(tmp_path / "a.mp4", 6, color=color, full_range=full, options={"crf": "8"})
    film, out = copy(source, tmp_path / "b.mp4", painted, crf=8)
    before, after = frames_of(source), frames_of(out.path)
    with open_film(out.path) as again:
        assert again.info.color == film.info.color
        assert again.info.color.full_range == full
        shown = list(again)[3].pixels
    assert difference(shown[BOX][4:-4, 4:-4], np.full((22, 32, 3), PAINT)) < 2.5  # of 255
    outside = np.ones((90, 160), bool)
    outside[26:64, 36:84] = False
    assert difference(before[3][outside], after[3][outside]) < 1.5
    assert difference(shown[outside], after[3][outside]) == 0


PAINT = (200, 60, 120)


def painted(frame):
    pixels = frame.pixels.copy()
    pixels[BOX] = PAINT
    return pixels


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("color", ["bt601", "bt709"])
def test_a_film_with_nothing_to_restyle_is_a_plain_re_encode(tmp_path, color, full):
    source = draw_film(tmp_path / "a.mp4", 12, color=color, full_range=full)
    _, out = copy(source, tmp_path / "b.mp4")
    plain = tmp_path / "plain.mp4"
    with av.open(str(source)) as film, av.open(str(plain), "w") as target:
        stream = target.add_stream("libx264", rate=25, options={"crf": "19", "preset": "superfast"})
        stream.width, stream.height, stream.pix_fmt = 160, 90, film.streams.video[0].pix_fmt
        stream.codec_context.color_range = 2 if full else 1
        for frame in film.decode(video=0):
            frame.pict_type = 0
            target.mux(stream.encode(frame))
        target.mux(stream.encode())
    for one, other in zip(frames_of(plain, None), frames_of(out.path, None), strict=True):
        assert difference(one, other) <= 1.0  # levels of 255, in the film's own planes


def test_a_frame_keeps_every_sample_where_no_pixel_changed(tmp_path):
    source = draw_film(tmp_path / "a.mkv", 4, codec="ffv1")
    _, out = copy(source, tmp_path / "b.mkv", lambda frame: inverted(frame) if frame.index % 2 else None)
    with av.open(str(source)) as before, av.open(str(out.path)) as after:
        pairs = list(zip(before.decode(video=0), after.decode(video=0), strict=True))
    for number, (one, other) in enumerate(pairs):
        assert other.format.name == "yuv420p"
        for a, b, step in zip(planes_of(one), planes_of(other), (1, 2, 2), strict=True):
            outside = np.ones(a.shape, bool)
            if number % 2:
                outside[30 // step : 60 // step, 40 // step : 80 // step] = False
                assert not np.array_equal(a[~outside], b[~outside])
            assert np.array_equal(a[outside], b[outside])


def test_giving_back_equal_pixels_changes_nothing(tmp_path):
    source = draw_film(tmp_path / "a.mkv", 3, codec="ffv1")
    _, out = copy(source, tmp_path / "b.mkv", lambda frame: frame.pixels.copy())
    assert all(np.array_equal(a, b) for a, b in zip(frames_of(source, None), frames_of(out.path, None), strict=True))


@pytest.mark.parametrize("codec", ["libx265", "libx264", "ffv1"])
def test_ten_bits_stay_ten_bits(tmp_path, codec):
    options = {"x265-params": "log-level=none:lossless=1"} if codec == "libx265" else {"crf": "4"}
    options = {} if codec == "ffv1" else options
    source = draw_film(tmp_path / "a.mkv", 4, codec=codec, pix_fmt="yuv420p10le", options=options)
    film, out = copy(source, tmp_path / "b.mkv", inverted)
    assert film.info.bit_depth == 10
    with open_film(out.path) as again:
        assert (again.info.bit_depth, again.info.pix_fmt) == (10, "yuv420p10le")
        deep = planes_of(list(again)[2].source)[0]
        assert len(np.unique(deep % 4)) == 4  # not 8 bits shifted
    assert out.notes == []


def test_ten_bits_into_eight_is_said(tmp_path):
    source = draw_film(tmp_path / "a.mkv", 4, codec="ffv1", pix_fmt="yuv420p10le")
    _, out = copy(source, tmp_path / "b.mkv", codec="mpeg4")
    assert out.notes == ["10 bits become 8: mpeg4 has no more"]


@pytest.mark.parametrize("transfer", ["pq", "hlg"])
def test_hdr_stays_tagged_in_ten_bits(tmp_path, transfer):
    source = hdr_film(tmp_path / "a.mp4", transfer)
    film, out = copy(source, tmp_path / "b.mp4")
    assert film.info.is_hdr
    with open_film(out.path) as again:
        assert again.info.color == film.info.color
        assert (again.info.bit_depth, again.info.codec) == (10, "hevc")


@pytest.mark.parametrize("transfer", ["pq", "hlg"])
def test_what_is_pasted_into_hdr_looks_as_it_was_made(tmp_path, transfer):
    source = hdr_film(tmp_path / "a.mp4", transfer)
    _, out = copy(source, tmp_path / "b.mkv", painted, crf=4)
    frame = frames_source(out.path)[2]
    assert difference(frame.pixels[BOX][4:-4, 4:-4], np.full((22, 32, 3), PAINT)) < 4  # of 255
    # as bright as it is meant to be: HDR's own numbers for it are lower, white being far above a page's white
    luma = planes_of(frame.source)[0][40:50, 50:70] / 1023
    assert 0.25 < luma.mean() < 0.5


@pytest.mark.parametrize("target", [("b.gif", {}), ("b.mp4", {"codec": "mpeg4"}), ("frames", {})])
def test_hdr_is_never_flattened_silently(tmp_path, target):
    source = hdr_film(tmp_path / "a.mp4", "pq")
    name, settings = target
    with open_film(source) as film, pytest.raises(UsageError, match="HDR"):
        FilmWriter(tmp_path / name, film, **settings)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mp4"]


def hdr_film(path, transfer):
    options = {"x265-params": "log-level=none"}
    return draw_film(
        path, 4, codec="libx265", pix_fmt="yuv420p10le", color="bt2020", transfer=transfer, options=options
    )


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("b.mp4", {}),
        ("b.mp4", {"codec": "hevc"}),
        ("b.webm", {}),
        ("b.mkv", {"codec": "av1"}),
        ("b.mov", {"codec": "prores"}),
        ("b.mkv", {"codec": "ffv1"}),
        ("b.mkv", {"codec": "mpeg4"}),
        ("b.avi", {}),
        ("b.gif", {}),
    ],
)
def test_odd_sizes_are_shown_as_they_were(tmp_path, name, settings):
    source = draw_film(tmp_path / "a.webm", 3, size=(161, 89), codec="libvpx-vp9")
    try:
        _, out = copy(source, tmp_path / name, **settings)
    except UsageError as error:
        assert "161x89" in str(error) and settings.get("codec") in ("av1", "prores")
        return
    assert frames_of(out.path)[0].shape == (89, 161, 3)
    assert difference(frames_of(out.path)[1], frames_of(source)[1]) < 8


def test_transparency_is_kept_where_the_codec_has_it(tmp_path):
    source = tmp_path / "a.mov"
    with av.open(str(source), "w") as film:
        stream = film.add_stream("prores_ks", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuva444p10le"
        stream.options = {"profile": "4444"}
        pixels = np.dstack([drawn_frame(2, 64, 48), np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))])
        film.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")))
        film.mux(stream.encode())
    change = lambda frame: 255 - frame.pixels  # noqa: E731
    film, out = copy(source, tmp_path / "b.mov", change)
    assert film.info.alpha and out.notes == []
    before, after = (planes_of(av.open(str(path)).decode(video=0).__next__())[3] for path in (source, out.path))
    assert before.min() < 100 < 900 < before.max()
    assert difference(before, after) < 2 * 4096 / 255
    _, out = copy(source, tmp_path / "b.mp4")
    assert any("transparency" in note for note in out.notes)


@pytest.mark.parametrize("resume", [None, "toon"])
def test_a_webm_keeps_its_transparency_in_parts_too(tmp_path, monkeypatch, resume):
    monkeypatch.setattr(parts, "PART_FRAMES", 4)
    source = tmp_path / "a.webm"
    with av.open(str(source), "w") as film:
        stream = film.add_stream("libvpx-vp9", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuva420p"
        for index in range(10):
            ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))
            frame = av.VideoFrame.from_ndarray(np.dstack([drawn_frame(index, 64, 48), ramp]), format="rgba")
            frame.pts = index
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
    _, out = copy(source, tmp_path / "b.webm", lambda frame: 255 - frame.pixels, resume=resume)
    frames = frames_source(out.path)
    assert len(frames) == 10 and out.notes == []
    assert difference(planes_of(frames[7].source)[3], ramp) < 4


def test_interlaced_films_stay_interlaced(tmp_path):
    source = draw_film(tmp_path / "a.mp4", 6, size=(160, 96), interlaced=True)
    film, out = copy(source, tmp_path / "b.mp4")
    assert film.info.interlaced
    with open_film(out.path) as again:
        assert again.info.interlaced


# A part of a film


def test_a_range_has_its_frames_and_its_sound(tmp_path):
    source = draw_film(tmp_path / "a.mp4", 100, audio="aac", options={"g": "25"})
    film, out = copy(source, tmp_path / "b.mp4", given={"start_s": 1.2, "end_s": 2.4})
    assert film.info.frames == 30
    assert stamps_of(out.path) == [Fraction(index, 25) for index in range(30)]
    wanted = [
        (time - Fraction(6, 5), data) for time, data in packets_of(source) if Fraction(6, 5) <= time < Fraction(12, 5)
    ]
    heard = packets_of(out.path)
    assert [data for _, data in heard] == [data for _, data in wanted]
    # an MP4 says when a track begins in milliseconds
    assert max(abs(one - other) for (one, _), (other, _) in zip(heard, wanted, strict=True)) <= Fraction(1, 1000)
    with open_film(source) as whole:
        expected = [frame.pixels for frame in whole][30:60]
    with open_film(source, start_s=1.2, end_s=2.4) as part:
        frames = list(part)
    assert [frame.index for frame in frames] == list(range(30))
    assert frames[0].time_s == pytest.approx(1.2)
    assert all(np.array_equal(frame.pixels, pixels) for frame, pixels in zip(frames, expected, strict=True))


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.ts", "a.avi", "a.mov"])
def test_a_range_begins_at_the_right_frame_in_every_container(tmp_path, name):
    codec = {"a.webm": "libvpx-vp9", "a.avi": "mpeg4", "a.ts": "mpeg2video"}.get(name, "libx264")
    source = draw_film(tmp_path / name, 100, codec=codec, options={"g": "30"})
    with open_film(source) as whole:
        times = [frame.time_s for frame in whole]
    with open_film(source, start_s=2.0, max_frames=10) as part:
        assert [frame.time_s for frame in part] == [time for time in times if time > 1.999][:10]


def test_at_most_so_many_frames(tmp_path):
    source = draw_film(tmp_path / "a.mp4", 50, audio="aac")
    film, out = copy(source, tmp_path / "b.mp4", given={"max_frames": 10})
    assert film.info.frames == 10
    assert stamps_of(out.path) == [Fraction(index, 25) for index in range(10)]
    assert 0.35 < float(packets_of(out.path)[-1][0]) < 0.4


@pytest.mark.parametrize("given", [{"start_s": -1}, {"start_s": 2, "end_s": 2}, {"max_frames": 0}])
def test_an_impossible_range_is_wrong_usage(tmp_path, given):
    source = draw_film(tmp_path / "a.mp4", 5)
    with pytest.raises(UsageError):
        open_film(source, **given)


def test_a_range_beyond_the_end_is_one_line(tmp_path):
    source = draw_film(tmp_path / "a.mp4", 5)
    with pytest.raises(BadFileError, match="no frame from 7 s on"):
        open_film(source, start_s=7)


CLAPS_S = (10.0, 62.0, 121.0, 300.0, 599.0)


@pytest.fixture(scope="module")
def clapped(tmp_path_factory):
    """Ten minutes at 2 frames a second; the picture is white for one frame at each clap."""

    def draw(index):
        return np.full((32, 32, 3), 255 if index / 2 in CLAPS_S else 20, np.uint8)

    path = tmp_path_factory.mktemp("claps") / "a.mp4"
    sound = {"audio": "flac", "audio_rate": 8000, "clap_s": CLAPS_S}
    return draw_film(path, draw, count=1200, size=(32, 32), fps=2, options={"g": "20"}, **sound)


@pytest.mark.parametrize("given", [{}, {"start_s": 61.3, "end_s": 122.0}])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_clap_is_heard_when_it_is_seen(tmp_path, clapped, suffix, given):
    _, out = copy(clapped, tmp_path / f"b{suffix}", inverted_corner, given=given)
    expected = [clap for clap in CLAPS_S if not given or given["start_s"] <= clap < given["end_s"]]
    seen, heard = claps_in(out.path)
    assert len(seen) == len(heard) == len(expected)
    assert np.abs(np.array(seen) - heard).max() < 0.005  # a frame is 0.5 s
    assert np.allclose(seen, np.array(expected) - given.get("start_s", 0), atol=0.5)


def inverted_corner(frame):
    pixels = frame.pixels.copy()
    pixels[:8, :8] = 255 - pixels[:8, :8]
    return pixels


def claps_in(path):
    """When the picture is white, and when it clicks."""
    with av.open(str(path)) as film:
        seen = [frame.time for frame in film.decode(video=0) if frame.to_ndarray(format="gray").mean() > 128]
    heard = []
    with av.open(str(path)) as film:
        for frame in film.decode(audio=0):
            samples = np.abs(frame.to_ndarray().astype(float)).max(0) / 32768
            loud = np.flatnonzero(samples > 0.3)
            if loud.size and (not heard or frame.time - heard[-1] > 1):
                heard.append(frame.time + loud[0] / frame.sample_rate)
    return seen, np.array(heard)


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"codec": "h246"}, "No codec 'h246'. Did you mean 'h264'"),
        ({"codec": "aac"}, "No codec 'aac'"),
        ({"crf": 70}, "--crf 70 is beyond h264's 0 .best. to 51"),
        ({"codec": "prores", "crf": 5}, "prores has no --crf"),
        ({"preset": "fastest"}, "h264 has no preset 'fastest'. Did you mean 'fast"),
        ({"codec": "mpeg4", "preset": "fast"}, "mpeg4 has no --preset"),
        ({"codec": "h264"}, ".webm cannot hold h264"),
    ],
)
def test_settings_that_cannot_be_are_wrong_usage_before_any_work(tmp_path, settings, message):
    source = draw_film(tmp_path / "a.mp4", 3)
    with open_film(source) as film, pytest.raises(UsageError, match=message) as caught:
        FilmWriter(tmp_path / ("b.webm" if settings == {"codec": "h264"} else "b.mov"), film, **settings)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_no_film_is_wrong_usage(tmp_path):
    source = draw_film(tmp_path / "a.mp4", 3)
    with open_film(source) as film:
        for name, settings in (("b.wmv", {}), ("b.jpg", {}), ("b.gif", {"crf": 3}), ("frames", {"codec": "h264"})):
            with pytest.raises(UsageError):
                FilmWriter(tmp_path / name, film, **settings)
    assert [film_suffix(name) for name in ("a.MP4", "a.wmv", "a.gif", "folder")] == [".mp4", ".mkv", ".gif", ""]


@pytest.mark.parametrize(
    ("codec", "suffix", "stored"),
    [
        ("h264", ".mkv", "h264"),
        ("h265", ".mp4", "hevc"),
        ("vp9", ".webm", "vp9"),
        ("av1", ".mp4", "av1"),
        ("prores", ".mov", "prores"),
        ("mjpeg", ".avi", "mjpeg"),
        ("libx264", ".ts", "h264"),
        ("libx264", ".m2ts", "h264"),
        ("libx264", ".flv", "h264"),
        ("mpeg4", ".3gp", "mpeg4"),
    ],
)
def test_every_codec_writes_every_frame(tmp_path, codec, suffix, stored, capfd):
    source = draw_film(tmp_path / "a.mp4", 20, audio="aac" if suffix in (".mp4", ".mkv", ".ts") else None)
    _, out = copy(source, tmp_path / f"b{suffix}", inverted, codec=codec)
    with open_film(out.path) as film:
        assert film.info.codec == stored
        frames = list(film)
    assert len(frames) == 20
    expected = inverted(frames_source(source)[7])
    assert difference(frames[7].pixels, expected) < 8
    before, after = stamps_of(source), stamps_of(out.path)
    # Matroska and transport streams know no time before 0, where an MP4's sound begins: all is a little later there
    assert all(abs((b - after[0]) - (a - before[0])) <= Fraction(1, 1000) for a, b in zip(before, after, strict=True))
    assert after[0] < Fraction(1, 25) or suffix == ".flv"  # it has no time before 0 either
    assert is_marked(out.path) and is_complete(out.path) and not is_marked(source)
    assert capfd.readouterr().err == ""


def frames_source(path):
    with open_film(path) as film:
        return list(film)


def test_another_size_is_written_upright_with_its_own_samples(tmp_path):
    source = draw_film(tmp_path / "a.mp4", 3, rotation=90, sample_aspect_ratio=Fraction(4, 3), audio="aac")
    square = {"size": (64, 64), "sample_aspect_ratio": Fraction(1)}
    copy(source, tmp_path / "b.mp4", lambda frame: frame.pixels[:64, :64], **square)
    with open_film(tmp_path / "b.mp4") as again:
        assert (again.info.width, again.info.height, again.info.rotation) == (64, 64, 0)
        assert again.info.sample_aspect_ratio == 1
    assert packets_of(tmp_path / "b.mp4") == packets_of(source)


def test_one_frame_can_go_to_several_films(tmp_path):
    source = draw_film(tmp_path / "a.mp4", 8)
    with open_film(source) as film:
        one, other = (FilmWriter(tmp_path / name, film) for name in ("b.mp4", "c.mkv"))
        with one, other:
            for frame in film:
                one.write(frame)
                other.write(frame, inverted(frame))
    assert stamps_of(one.path) == stamps_of(other.path) == stamps_of(source)


# Whole or not at all, and in parts


def test_a_film_that_fails_leaves_nothing(tmp_path):
    source = draw_film(tmp_path / "a.mp4", 10, audio="aac")
    (tmp_path / "out").mkdir()
    with pytest.raises(RuntimeError), open_film(source) as film, FilmWriter(tmp_path / "out" / "b.mp4", film) as out:
        for frame in film:
            out.write(frame)
            if frame.index == 5:
                raise RuntimeError("the network broke")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_film_without_a_frame_is_wrong_usage(tmp_path):
    source = draw_film(tmp_path / "a.mp4", 3)
    message = "at least one frame"
    with open_film(source) as film, pytest.raises(UsageError, match=message), FilmWriter(tmp_path / "b.mp4", film):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mp4"]


PARTS = {
    "b.mp4": {"audio": "aac"},
    "b.webm": {"codec": "libvpx-vp9", "audio": "libopus"},
    "b.mkv": {"codec": "libx265", "pix_fmt": "yuv420p10le", "options": {"x265-params": "log-level=none"}},
    "b.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le", "audio": "pcm_s16le"},
}


@pytest.mark.parametrize("name", PARTS)
def test_a_stopped_film_goes_on_without_a_lost_or_doubled_frame(tmp_path, name, monkeypatch):
    monkeypatch.setattr(parts, "PART_FRAMES", 8)
    source = draw_film(tmp_path / f"a{Path(name).suffix}", 45, **PARTS[name])
    target = tmp_path / "out" / name
    with pytest.raises(RuntimeError):
        stopped_copy(source, target, 21)
    assert not target.exists()
    assert all(is_temporary(entry) for entry in target.parent.iterdir())
    with open_film(source) as film, FilmWriter(target, film, resume="toon") as out:
        assert out.done == 16
        asked = []
        for frame in film:
            if frame.index >= out.done:
                asked.append(frame.index)
                out.write(frame, inverted(frame))
    assert asked == list(range(16, 45))
    assert [entry.name for entry in target.parent.iterdir()] == [name]

    _, plain = copy(source, tmp_path / f"plain{target.suffix}", inverted)
    assert stamps_of(target) == stamps_of(plain.path) == stamps_of(source)
    for one, other in zip(frames_of(target), frames_of(plain.path), strict=True):
        assert difference(one, other) < 3  # the same pictures, other key frames
    if "audio" in PARTS[name]:
        assert packets_of(target) == packets_of(source)


def stopped_copy(source, target, at, key="toon"):
    with open_film(source) as film, FilmWriter(target, film, resume=key) as out:
        for frame in film:
            if frame.index == at:
                raise RuntimeError("stopped")
            out.write(frame, inverted(frame))


def test_numbered_frames_become_a_film_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART_FRAMES", 4)
    source = numbered(tmp_path / "a", 10, size=(160, 90))
    with pytest.raises(RuntimeError):
        stopped_copy(source, tmp_path / "b.mp4", 9)
    with open_film(source) as film, FilmWriter(tmp_path / "b.mp4", film, resume="toon") as out:
        assert out.done == 8
        for frame in film:
            out.write(frame, inverted(frame))
    assert stamps_of(out.path) == [Fraction(index, 25) for index in range(10)]


def test_parts_of_a_variable_rate_join_with_times_that_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART_FRAMES", 8)
    pts = np.cumsum(np.random.default_rng(0).choice([1, 2, 40, 500], 45)).tolist()
    source = draw_film(tmp_path / "a.mp4", 45, pts=pts, time_base=Fraction(1, 1000))
    with pytest.raises(RuntimeError):
        stopped_copy(source, tmp_path / "b.mp4", 30)
    _, out = copy(source, tmp_path / "b.mp4", inverted, resume="toon")
    assert stamps_of(out.path) == stamps_of(source)


def test_other_settings_or_another_source_begin_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART_FRAMES", 8)
    source = draw_film(tmp_path / "a.mp4", 20)
    target = tmp_path / "b.mp4"

    def left(key="toon", given=None, **settings):
        with pytest.raises(RuntimeError):
            stopped_copy(source, target, 18)
        with open_film(source, **(given or {})) as film:
            return FilmWriter(target, film, resume=key, **settings).done

    assert left() == 16
    assert left("anime") == 0
    assert left(crf=30) == 0
    assert left(given={"max_frames": 19}) == 0
    with pytest.raises(RuntimeError):
        stopped_copy(source, target, 18)
    draw_film(source, 20, size=(160, 90), options={"crf": "30"})
    with open_film(source) as film:
        out = FilmWriter(target, film, resume="toon")
    assert out.done == 0
    assert out.notes == ["settings or source changed: begun anew"]


def test_a_killed_run_leaves_whole_parts_only(tmp_path):
    source = draw_film(tmp_path / "a.mp4", 40)
    script = (
        "import sys, time\n"
        "from dualstylegan.media.film import parts\n"
        "from dualstylegan.media.film.video import FilmWriter, open_film\n"
        "parts.PART_FRAMES = 8\n"
        "with open_film('a.mp4') as film, FilmWriter('b.mp4', film, resume='x') as out:\n"
        "    for frame in film:\n"
        "        if frame.index == 30:\n"
        "            print('there', flush=True); time.sleep(60)\n"
        "        out.write(frame)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "there\n"
        run.kill()
    assert not (tmp_path / "b.mp4").exists()
    settings = parts.PART_FRAMES
    assert settings == 240
    with open_film(source) as film, FilmWriter(tmp_path / "b.mp4", film, resume="x") as out:
        assert out.done == 24
        for frame in film:
            out.write(frame)
    assert stamps_of(tmp_path / "b.mp4") == stamps_of(source)


def test_a_finished_run_that_died_while_joining_needs_no_frame(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART_FRAMES", 8)
    source = draw_film(tmp_path / "a.mp4", 16, audio="aac")
    out = FilmWriter(tmp_path / "b.mp4", open_film(source).info, resume="x")
    with pytest.raises(RuntimeError), open_film(source) as film, out:
        for frame in film:
            out.write(frame)
        raise RuntimeError("killed here")
    with open_film(source) as film, FilmWriter(tmp_path / "b.mp4", film, resume="x") as out:
        assert out.done == 16
    assert stamps_of(tmp_path / "b.mp4") == stamps_of(source)


# Animated pictures


def animated(path: Path, durations=(100, 250, 40), loop=0, alpha=False) -> Path:
    frames = []
    for index in range(len(durations)):
        picture = Image.fromarray(drawn_frame(4 * index, 60, 40)).quantize(64).convert("RGBA")
        if alpha:
            clear = np.zeros((40, 60), np.uint8) + 255
            clear[:10, : 10 + index] = 0
            picture.putalpha(Image.fromarray(clear))
        frames.append(picture)
    extra = {"disposal": 2} if path.suffix == ".gif" else {"lossless": True} if path.suffix == ".webp" else {}
    more = {} if loop is None else {"loop": loop}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=list(durations), **more, **extra)
    return path


def shown(path: Path) -> list[tuple[int, np.ndarray]]:
    """(duration in ms, RGBA) of every frame, as Pillow shows it."""
    with Image.open(path) as image:
        frames = []
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            frames.append((round(image.info["duration"]), np.asarray(image.convert("RGBA"))))
        return frames


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("loop", [0, 3, None])
def test_an_animated_picture_keeps_its_times_loop_and_transparency(tmp_path, suffix, alpha, loop):
    loop = 1 if loop is None and suffix != ".gif" else loop
    source = animated(tmp_path / f"a{suffix}", loop=loop, alpha=alpha)
    assert is_film(source)
    _, out = copy(source, tmp_path / f"b{suffix}", lambda frame: half_changed(frame) if frame.index == 1 else None)
    before, after = shown(source), shown(out.path)
    assert [duration for duration, _ in after] == [duration for duration, _ in before] == [100, 250, 40]
    with Image.open(source) as one, Image.open(out.path) as other:
        assert one.info.get("loop") == other.info.get("loop")
    for number, ((_, one), (_, other)) in enumerate(zip(before, after, strict=True)):
        assert np.array_equal(one[..., 3], other[..., 3])
        seen = one[..., 3] > 0
        if number == 1:
            seen[20:] = False
        assert difference(one[seen], other[seen]) == 0
    assert out.notes == []
    assert is_marked(out.path) and is_complete(out.path) and not is_marked(source)


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_an_animated_picture_says_again_what_its_colours_are(tmp_path, suffix):
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    frames = [Image.fromarray(drawn_frame(4 * index, 60, 40)) for index in range(3)]
    source, extra = tmp_path / f"a{suffix}", {"duration": 50}
    if suffix == ".png":
        extra["pnginfo"] = PngImagePlugin.PngInfo()
        extra["pnginfo"].add(b"cICP", bytes([12, 13, 0, 1]))
    frames[0].save(source, save_all=True, append_images=frames[1:], icc_profile=icc, **extra)
    _, out = copy(source, tmp_path / f"b{suffix}", half_changed)
    with Image.open(out.path) as image:
        assert image.n_frames == 3
        assert image.info["icc_profile"] == icc
    assert (bytes([12, 13, 0, 1]) in out.path.read_bytes()) == (suffix == ".png")


def half_changed(frame):
    pixels = frame.pixels.copy()
    pixels[20:] = 255 - pixels[20:]
    return pixels


def test_gif_to_film_and_film_to_gif(tmp_path):
    source = animated(tmp_path / "a.gif", durations=[40] * 6)
    _, out = copy(source, tmp_path / "b.mp4", half_changed)
    assert stamps_of(out.path) == [Fraction(40 * index, 1000) for index in range(6)]
    with open_film(out.path) as film:
        assert film.info.pix_fmt == "yuv420p"  # plays everywhere
        filmed = [frame.pixels for frame in film]
    _, gif = copy(out.path, tmp_path / "c.gif")
    frames = shown(gif.path)
    assert [duration for duration, _ in frames] == [40] * 6
    assert max(difference(one, two[..., :3]) for one, (_, two) in zip(filmed, frames, strict=True)) < 8


def test_a_film_s_sound_cannot_go_into_a_gif_and_that_is_said(tmp_path):
    source = draw_film(tmp_path / "a.mp4", 3, audio="aac")
    _, out = copy(source, tmp_path / "b.gif")
    assert out.notes == ["its sound is left out: .gif holds none"]


def test_a_still_picture_is_no_film(tmp_path):
    for suffix in (".gif", ".png", ".webp", ".jpg"):
        Image.fromarray(drawn_frame(0)).save(tmp_path / f"a{suffix}")
        assert not is_film(tmp_path / f"a{suffix}")


# Numbered frames


def numbered(folder: Path, count=6, name="{:06d}.png", first=1, size=(60, 40)) -> Path:
    folder.mkdir(parents=True)
    for index in range(count):
        Image.fromarray(drawn_frame(index, *size)).save(folder / name.format(first + index))
    return folder


@pytest.mark.parametrize("name", ["{:06d}.png", "{}.png", "frame_{:04d}.jpg", "frame{:03d}.tif"])
def test_a_folder_of_numbered_frames_is_a_film(tmp_path, name):
    source = numbered(tmp_path / "a", 12, name, first=0)
    assert is_film(source) == ("{:06d}" in name or "{:04d}" in name), "as encoders number them; others where asked for"
    film, out = copy(source, tmp_path / "b", lambda frame: half_changed(frame) if frame.index == 7 else None)
    assert film.info.frames == 12
    names = [name.format(index) for index in range(12)]
    assert sorted(entry.name for entry in out.path.iterdir()) == sorted(names)
    for index, one in enumerate(names):
        same = (source / one).read_bytes() == (out.path / one).read_bytes()
        assert same == (index != 7)
    changed = np.asarray(Image.open(out.path / names[7]))
    assert difference(changed, half_changed(frames_source(source)[7])) < (3 if ".jpg" in name else 0.001)


def test_photos_with_numbers_are_no_film(tmp_path):
    assert not is_film(numbered(tmp_path / "camera", name="IMG_{:04d}.png"))
    assert not is_film(numbered(tmp_path / "by hand", name="{:02d}.png"))
    assert not is_film(numbered(tmp_path / "few", count=4))
    gap = numbered(tmp_path / "gap")
    (gap / "000003.png").unlink()
    assert not is_film(gap)
    more = numbered(tmp_path / "more")
    (more / "000001.png").rename(more / "me.png")
    assert not is_film(more)
    for folder in (gap, more):
        with pytest.raises(BadFileError, match="numbered"):
            open_film(folder)
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    for index in range(6):
        noise = np.random.default_rng(index).integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC).save(strangers / f"{index:05d}.png")
    assert not is_film(strangers)
    with open_film(strangers) as film:
        assert film.info.frames == 6, "who opens them as a film gets one"


def test_sixteen_bits_stay_sixteen_bits(tmp_path):
    source = tmp_path / "a"
    source.mkdir()
    rng = np.random.default_rng(0)
    deep = [
        (drawn_frame(index, 60, 40).astype(np.uint16) * 257 + rng.integers(0, 99, (40, 60, 3))) for index in range(4)
    ]
    for index, pixels in enumerate(deep):
        write_deep(source / f"{index:06d}.png", pixels.clip(0, 65535).astype(np.uint16))
    film, out = copy(source, tmp_path / "b", lambda frame: half_changed(frame) if frame.index == 2 else None)
    assert film.info.bit_depth == 16
    assert (out.path / "000001.png").read_bytes() == (source / "000001.png").read_bytes()
    before, after = read_deep(source / "000002.png"), read_deep(out.path / "000002.png")
    assert after.dtype == np.uint16
    assert np.array_equal(before[:20], after[:20])
    assert difference(after[20:], 65535 - before[20:].astype(int)) < 200


def test_a_film_becomes_numbered_frames_and_the_other_way_round(tmp_path):
    source = draw_film(tmp_path / "a.mp4", 5)
    _, out = copy(source, tmp_path / "frames")
    assert sorted(entry.name for entry in out.path.iterdir()) == [f"{index:06d}.png" for index in range(1, 6)]
    for path, frame in zip(sorted(out.path.iterdir()), frames_source(source), strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), frame.pixels)
    _, back = copy(out.path, tmp_path / "b.mp4")
    assert stamps_of(back.path) == stamps_of(source)
    copy(source, out.path)  # an older one is replaced
    other = tmp_path / "photos"
    other.mkdir()
    (other / "000001.png").write_bytes(b"a frame")
    (other / "mine.txt").write_text("kept")
    with pytest.raises(UsageError, match="other things"):
        copy(source, other)
    assert (other / "mine.txt").read_text() == "kept"


# What cannot be read


def test_a_film_that_is_cut_off_gives_what_it_has(tmp_path):
    whole = draw_film(tmp_path / "a.mkv", 60, size=(160, 90)).read_bytes()
    source = tmp_path / "cut.mkv"
    source.write_bytes(whole[: len(whole) * 2 // 3])
    film, out = copy(source, tmp_path / "b.mkv")
    assert 10 < len(frames_of(out.path)) < 60
    assert any("cut off" in problem or "damaged" in problem for problem in film.problems)


def test_a_film_cut_off_behind_its_index_says_so(tmp_path):
    plain = draw_film(tmp_path / "a.mp4", 60).read_bytes()
    source = tmp_path / "cut.mp4"
    source.write_bytes(index_first(plain)[: len(plain) * 2 // 3])
    film, out = copy(source, tmp_path / "b.mp4")
    count = len(frames_of(out.path))
    assert 10 < count < 60
    assert len(film.problems) >= 1
    assert any("of 60 frames: the file is cut off" in problem for problem in film.problems)


def index_first(data: bytes) -> bytes:
    """The same MP4 with its index before its frames, as for the web."""
    boxes, at = {}, 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        boxes[data[at + 4 : at + 8]] = data[at : at + size]
        at += size
    moov, moved = bytearray(boxes[b"moov"]), len(boxes[b"moov"])
    at = moov.index(b"stco")
    for number in range(int.from_bytes(moov[at + 8 : at + 12], "big")):
        place = slice(at + 12 + 4 * number, at + 16 + 4 * number)
        moov[place] = (int.from_bytes(moov[place], "big") + moved).to_bytes(4, "big")
    return boxes[b"ftyp"] + bytes(moov) + boxes.get(b"free", b"") + boxes[b"mdat"]


def test_a_damaged_film_gives_what_can_be_decoded(tmp_path):
    data = bytearray(draw_film(tmp_path / "a.mp4", 60, options={"g": "10", "crf": "5"}).read_bytes())
    middle = data.index(b"mdat") + 4 + len(data) // 3
    data[middle : middle + 3000] = np.random.default_rng(0).bytes(3000)
    source = tmp_path / "damaged.mp4"
    source.write_bytes(data)
    film, out = copy(source, tmp_path / "b.mp4", inverted)
    assert 40 <= len(frames_of(out.path)) <= 60
    assert film.problems and all("\n" not in problem for problem in film.problems)


def header_only(path):
    with av.open(str(path), "w", options={}) as film:
        stream = film.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 7680, 4320, "yuv420p"
        film.start_encoding()
    return path


BROKEN = {
    "missing.mp4": lambda path: None,
    "empty.mp4": lambda path: path.write_bytes(b""),
    "text.mp4": lambda path: path.write_text("this is no film\n" * 50),
    "noise.mkv": lambda path: path.write_bytes(np.random.default_rng(0).bytes(20000)),
    "no_index.mp4": lambda path: cut(draw_film(path, 30), 0.8),
    "playlist.mp4": lambda path: path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/hostname\n"),
    "concat.mp4": lambda path: path.write_text("ffconcat version 1.0\nfile 'a.mp4'\n"),
    "broken.gif": lambda path: path.write_bytes(b"GIF89a" + b"\0" * 20),
    "header8k.mp4": header_only,
    "header8k.mkv": header_only,
    "folder": lambda path: path.mkdir(),
}


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_film_is_one_line_with_its_name(tmp_path, name):
    BROKEN[name](tmp_path / name)
    with pytest.raises(BadFileError) as caught:
        open_film(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value).replace(str(tmp_path), "")) < 120


def test_sound_alone_is_no_film(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as film:
        stream = film.add_stream("aac", rate=44100)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, 0
        film.mux(stream.encode(frame))
        film.mux(stream.encode())
    with pytest.raises(BadFileError, match="sound but no pictures"):
        open_film(path)


def test_one_frame_is_a_film(tmp_path):
    source = draw_film(tmp_path / "a.mp4", 1, audio="aac", audio_seconds=1)
    _, out = copy(source, tmp_path / "b.mp4", inverted)
    assert len(frames_of(out.path)) == 1
    assert packets_of(out.path) == packets_of(source)


@pytest.mark.parametrize("name", ["a:b.mp4", "50%d.mp4", "with space & ümlaut.mp4", "pipe:1.mp4"])
def test_any_file_name_is_a_file_name(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw_film("plain.mp4", 3, audio="aac").rename(name)
    _, out = copy(Path(name), Path("out", name))
    assert len(frames_of(f"file:{out.path}")) == 3


def test_memory_does_not_grow_with_the_film(tmp_path):
    """In a process of its own, the peak after a film and after a longer one, with half of their frames changed."""
    script = (
        "import resource, sys\n"
        "from dualstylegan.media.film.video import FilmWriter, open_film\n"
        "for source in sys.argv[1:]:\n"
        "    with open_film(source) as film, FilmWriter(source + '-out.mp4', film) as out:\n"
        "        for frame in film:\n"
        "            out.write(frame, 255 - frame.pixels if frame.index % 2 else None)\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    sources = [draw_film(tmp_path / f"{count}.mp4", count, size=(320, 180), audio="aac") for count in (120, 480)]
    run = [sys.executable, "-c", script, *map(str, sources)]
    peaks = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    assert int(peaks[1]) - int(peaks[0]) < 20 * 1024  # KiB; 30 MB as the film's own pictures


def test_errors_while_writing_name_the_film(tmp_path, monkeypatch):
    source = draw_film(tmp_path / "a.mp4", 3)
    (tmp_path / "file").write_text("")
    with pytest.raises(DualStyleGANError, match=r"Cannot write .*b\.mp4"):
        copy(source, tmp_path / "file" / "b.mp4")
