"""Films in and out: what is not changed comes back as it was, and what cannot be read is one line."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from drawn_films import draw_film, drawn_frame, frames_of, packets_of, stamps_of

from dualstylegan.errors import BadFileError, UsageError
from dualstylegan.media.planes import planes_of
from dualstylegan.media.video import FilmWriter, open_film

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
        stream = target.add_stream("libx264", rate=25, options={"crf": "18", "preset": "superfast"})
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


def test_interlaced_films_stay_interlaced(tmp_path):
    source = draw_film(tmp_path / "a.mp4", 6, size=(160, 96), interlaced=True)
    film, out = copy(source, tmp_path / "b.mp4")
    assert film.info.interlaced
    with open_film(out.path) as again:
        assert again.info.interlaced
