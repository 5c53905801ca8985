"""Pictures: every kind is read as upright 8-bit sRGB, and what a file held besides comes out again."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from importlib.util import find_spec
from io import BytesIO

import numpy as np
import pytest
import torch
from conftest import draw_picture
from PIL import ExifTags, Image, ImageCms, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, features
from PIL.TiffImagePlugin import AppendingTiffWriter

from dualstylegan.errors import BadFileError, DualStyleGANError, UsageError
from dualstylegan.media import tiff as tiff_module
from dualstylegan.media.detect import is_animated
from dualstylegan.media.exif import exif_of
from dualstylegan.media.film.video import open_film
from dualstylegan.media.images import Picture, as_picture, from_tensor, read_picture, to_tensor, write_picture
from dualstylegan.media.paths import is_complete, kind_of
from dualstylegan.media.profiles import png_words, profile_of, transform
from dualstylegan.media.tiff import read_pages, write_pages

BROKEN_EXIF = b"Exif\0\0II*\0\xff\xff\xff\xff garbage"
LOSSLESS = ["x.png", "x.tif", "x.bmp"]
LOSSY = ["x.jpg", "x.webp"] + (["x.avif"] if features.check("avif") else [])


def wide_profile() -> bytes:
    """A profile of a wide RGB space (the primaries of Adobe RGB, gamma 2.2), made by hand: 464 bytes of ICC 2."""

    def s15(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(map(s15, values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"wide\0" + b"\0" * 78
    text += b"\0" * (-len(text) % 4)
    parts = {
        b"desc": text,
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.60974, 0.31111, 0.01947),
        b"gXYZ": xyz(0.20528, 0.62567, 0.06087),
        b"bXYZ": xyz(0.14919, 0.06322, 0.74457),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    table, data = struct.pack(">I", len(parts)), b""
    start = 128 + 4 + 12 * len(parts)
    for name, part in parts.items():
        table += name + struct.pack(">II", start + len(data), len(part))
        data += part
    header = b"\0" * 8 + b"\2\x10\0\0mntrRGB XYZ " + b"\0" * 12 + b"acsp" + b"\0" * 28
    header += s15(0.9642) + s15(1.0) + s15(0.8249) + b"\0" * 48
    body = header[4:128] + table + data
    return struct.pack(">I", len(body) + 4) + body


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_give_back_every_pixel(tmp_path, name):
    pixels = draw_picture()
    write_picture(tmp_path / name, pixels)
    assert np.array_equal(read_picture(tmp_path / name).pixels, pixels)


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_formats_stay_close(tmp_path, name):
    pixels = draw_picture()
    write_picture(tmp_path / name, pixels)
    error = np.abs(read_picture(tmp_path / name).pixels.astype(int) - pixels).mean()
    assert error < 2  # of 255: quality 95 on a smooth picture; 4:2:0 or a swapped channel would be far above


def test_jpeg_is_quality_95_without_chroma_subsampling(tmp_path):
    write_picture(tmp_path / "x.jpg", draw_picture())
    Image.fromarray(draw_picture()).save(tmp_path / "reference.jpg", quality=95)
    with Image.open(tmp_path / "x.jpg") as image, Image.open(tmp_path / "reference.jpg") as reference:
        assert JpegImagePlugin.get_sampling(image) == 0  # Pillow's name for 4:4:4
        assert image.quantization == reference.quantization


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_photos_are_read_upright_and_their_orientation_is_reset(tmp_path, orientation, suffix):
    upright = draw_picture(48, 64)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Make] = "Maker"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] = 400
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageWidth] = stored.shape[1]
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageHeight] = stored.shape[0]
    settings = {".jpg": {"quality": 98, "subsampling": 0}, ".webp": {"lossless": True}}.get(suffix, {})
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"in{suffix}", exif=exif.tobytes(), **settings)

    picture = read_picture(tmp_path / f"in{suffix}")
    write_picture(tmp_path / f"out{suffix}", picture)

    assert np.abs(picture.pixels.astype(int) - upright).mean() < 2
    with Image.open(tmp_path / f"out{suffix}") as image:
        assert image.size == (64, 48)
        kept = image.getexif()
        assert kept.get(ExifTags.Base.Orientation, 1) == 1
        assert kept[ExifTags.Base.Make] == "Maker"
        details = kept.get_ifd(ExifTags.IFD.Exif)
        assert details[ExifTags.Base.ISOSpeedRatings] == 400
        assert (details[ExifTags.Base.ExifImageWidth], details[ExifTags.Base.ExifImageHeight]) == (64, 48)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA", "I;16"])
def test_a_turned_tiff_is_read_upright_in_every_mode(tmp_path, mode):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    grey = Image.fromarray(draw_picture(48, 64)).convert("L")
    image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    image.save(tmp_path / "in.tif", exif=exif)
    wanted = as_picture(image.transpose(Image.Transpose.ROTATE_270)).pixels
    assert np.array_equal(read_picture(tmp_path / "in.tif").pixels, wanted)


def test_the_old_thumbnail_is_not_carried_along(tmp_path):
    with Image.open(_with_thumbnail(tmp_path / "in.jpg")) as image:
        assert image.getexif().get_ifd(ExifTags.IFD.IFD1)
    write_picture(tmp_path / "out.jpg", read_picture(tmp_path / "in.jpg"))
    with Image.open(tmp_path / "out.jpg") as image:
        assert image.getexif()[ExifTags.Base.Make] == "Maker"
        assert not image.getexif().get_ifd(ExifTags.IFD.IFD1)


def _with_thumbnail(path):
    """EXIF by hand: IFD0 with a maker, IFD1 with the offset and length of a thumbnail."""
    ifd0 = struct.pack("<H", 1) + struct.pack("<HHI", 271, 2, 6) + struct.pack("<I", 26) + struct.pack("<I", 32)
    maker = b"Maker\0"
    ifd1 = struct.pack("<H", 2) + struct.pack("<HHII", 513, 4, 1, 62) + struct.pack("<HHII", 514, 4, 1, 4) + b"\0" * 4
    exif = b"Exif\0\0" + b"II*\0" + struct.pack("<I", 8) + ifd0 + maker + ifd1 + b"\xff\xd8\xff\xd9"
    Image.fromarray(draw_picture()).save(path, exif=exif)
    return path


def test_broken_exif_does_not_cost_the_photo(tmp_path):
    Image.fromarray(draw_picture()).save(tmp_path / "in.jpg", exif=BROKEN_EXIF)
    picture = read_picture(tmp_path / "in.jpg")
    write_picture(tmp_path / "out.jpg", picture)
    assert read_picture(tmp_path / "out.jpg").pixels.shape == picture.pixels.shape


def test_exif_that_a_format_cannot_hold_does_not_cost_the_picture(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "long " * 20_000  # a JPEG holds 64 KiB
    Image.fromarray(draw_picture()).save(tmp_path / "in.png", exif=exif)
    write_picture(tmp_path / "out.jpg", read_picture(tmp_path / "in.png"))
    assert read_picture(tmp_path / "out.jpg").exif is None


@pytest.mark.parametrize("name", ["x.png", "x.webp", "x.tif"] + (["x.avif"] if features.check("avif") else []))
def test_transparency_is_kept(tmp_path, name):
    image = Image.fromarray(draw_picture())
    alpha = np.tile(np.arange(128, dtype=np.uint8) * 2, (96, 1))
    image.putalpha(Image.fromarray(alpha))
    image.save(tmp_path / name)
    picture = read_picture(tmp_path / name)
    pixels = picture.pixels.copy()
    pixels[:20] = 255 - pixels[:20]
    write_picture(tmp_path / f"out-{name}", pixels, like=picture)
    again = read_picture(tmp_path / f"out-{name}")
    assert np.abs(again.alpha.astype(int) - alpha).max() <= (4 if name.endswith("avif") else 0)


def test_transparency_lies_on_white_where_the_format_has_none(tmp_path):
    picture = Picture(np.zeros((64, 64, 3), np.uint8), alpha=np.zeros((64, 64), np.uint8))
    write_picture(tmp_path / "x.jpg", picture)
    assert read_picture(tmp_path / "x.jpg").pixels.min() >= 250


def test_a_palette_with_transparency_becomes_colours_and_alpha(tmp_path):
    image = Image.fromarray(np.repeat(np.array([[0], [1]], np.uint8), 64, 1).repeat(32, 0), "P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.save(tmp_path / "x.png", transparency=0)
    picture = read_picture(tmp_path / "x.png")
    assert picture.pixels[60, 5].tolist() == [0, 0, 255]
    assert (picture.alpha[5, 5], picture.alpha[60, 5]) == (0, 255)


def grey_ramp() -> np.ndarray:
    return np.tile(np.arange(256, dtype=np.uint8), (64, 1))


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("grey.png", Image.fromarray(grey_ramp())),
        ("grey.jpg", Image.fromarray(grey_ramp())),
        ("grey16.png", Image.fromarray(grey_ramp().astype(np.uint16) * 257)),
        ("grey16.tif", Image.fromarray(grey_ramp().astype(np.uint16) * 257)),
        ("grey32.tif", Image.fromarray(grey_ramp().astype(np.int32) * 257)),
        ("float.tif", Image.fromarray(grey_ramp().astype(np.float32) / 255)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_grey_of_any_depth_is_read_as_the_same_grey(tmp_path, name, image):
    image.save(tmp_path / name)
    pixels = read_picture(tmp_path / name).pixels
    assert np.abs(pixels.astype(int) - grey_ramp()[..., None]).max() <= (3 if name.endswith("jpg") else 0)


def test_grey_stays_grey_until_there_is_colour_in_it(tmp_path):
    Image.fromarray(grey_ramp()).save(tmp_path / "in.jpg")
    picture = read_picture(tmp_path / "in.jpg")
    write_picture(tmp_path / "same.jpg", picture)
    coloured = picture.pixels.copy()
    coloured[10:30, 10:30] = [200, 40, 60]
    write_picture(tmp_path / "coloured.jpg", coloured, like=picture)
    with Image.open(tmp_path / "same.jpg") as same, Image.open(tmp_path / "coloured.jpg") as changed:
        assert (same.mode, changed.mode) == ("L", "RGB")


def test_sixteen_bit_colour_is_narrowed_to_its_high_bytes(tmp_path):
    pixels = draw_picture(64, 64)
    rows = b"".join(b"\0" + (pixels[y].astype(">u2") * 257).tobytes() for y in range(64))
    (tmp_path / "x.png").write_bytes(_png(64, 64, depth=16, colour=2, rows=rows))
    assert np.array_equal(read_picture(tmp_path / "x.png").pixels, pixels)


def _png(width: int, height: int, *, depth: int, colour: int, rows: bytes) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", ["x.jpg", "x.tif"])
def test_cmyk_is_read_as_rgb_and_written_as_rgb_once_changed(tmp_path, name):
    pixels = draw_picture()
    Image.fromarray(pixels).convert("CMYK").save(tmp_path / name)
    picture = read_picture(tmp_path / name)
    assert np.abs(picture.pixels.astype(int) - pixels).mean() < 3
    changed = picture.pixels.copy()
    changed[:9] = 7
    write_picture(tmp_path / f"out-{name}", changed, like=picture)
    with Image.open(tmp_path / f"out-{name}") as image:
        assert image.mode == "RGB"


def test_lab_is_read(tmp_path):
    pixels = draw_picture()
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    to_lab.apply(Image.fromarray(pixels)).save(tmp_path / "x.tif")
    assert np.abs(read_picture(tmp_path / "x.tif").pixels.astype(int) - pixels).mean() < 2


def test_an_animation_gives_its_first_frame(tmp_path):
    red, blue = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")
    for name in ("x.gif", "x.webp", "x.png"):
        red.save(tmp_path / name, save_all=True, append_images=[blue], duration=100)
        assert read_picture(tmp_path / name).pixels[30, 30, 0] > 200
        write_picture(tmp_path / f"out-{name}", read_picture(tmp_path / name))
        assert read_picture(tmp_path / f"out-{name}").pixels[30, 30, 0] > 200


def test_wide_colours_come_in_as_srgb_and_go_out_untouched_except_where_changed(tmp_path):
    profile, stored = wide_profile(), draw_picture()
    Image.fromarray(stored).save(tmp_path / "in.png", icc_profile=profile)
    picture = read_picture(tmp_path / "in.png")
    assert np.abs(picture.pixels.astype(int) - stored).mean() > 3  # converted, not taken at face value

    changed = picture.pixels.copy()
    changed[20:40, 20:40] = [120, 110, 100]
    write_picture(tmp_path / "out.png", changed, like=picture)
    with Image.open(tmp_path / "out.png") as image:
        assert image.info["icc_profile"] == profile
        out = np.asarray(image)
    outside = np.ones(stored.shape[:2], bool)
    outside[20:40, 20:40] = False
    assert np.array_equal(out[outside], stored[outside])
    again = read_picture(tmp_path / "out.png").pixels[20:40, 20:40]
    assert np.abs(again.astype(int) - [120, 110, 100]).max() <= 2  # there and back through 8 bits


def test_pixels_changed_in_place_are_written_too(tmp_path):
    Image.fromarray(draw_picture()).save(tmp_path / "in.png", icc_profile=wide_profile())
    picture = read_picture(tmp_path / "in.png")
    picture.pixels[20:40, 20:40] = 255
    write_picture(tmp_path / "out.png", picture)
    assert read_picture(tmp_path / "out.png").pixels[30, 30].min() >= 253


def test_srgb_under_any_name_is_not_converted(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(draw_picture()).save(tmp_path / "in.png", icc_profile=profile)
    picture = read_picture(tmp_path / "in.png")
    write_picture(tmp_path / "out.png", picture)
    assert picture.native is None
    assert np.array_equal(picture.pixels, draw_picture())
    with Image.open(tmp_path / "out.png") as image:
        assert image.info["icc_profile"] == profile


@pytest.mark.parametrize("profile", [b"not a profile", wide_profile()[:200]])
def test_a_damaged_profile_counts_as_none(tmp_path, profile):
    Image.fromarray(draw_picture()).save(tmp_path / "in.png", icc_profile=profile)
    assert np.array_equal(read_picture(tmp_path / "in.png").pixels, draw_picture())


def test_a_crop_in_another_size_takes_the_profile_but_not_the_alpha(tmp_path):
    image = Image.fromarray(draw_picture())
    image.putalpha(128)
    image.save(tmp_path / "in.png", icc_profile=wide_profile())
    picture = read_picture(tmp_path / "in.png")
    write_picture(tmp_path / "crop.png", picture.pixels[:64, :64].copy(), like=picture)
    with Image.open(tmp_path / "crop.png") as crop:
        assert (crop.size, crop.mode) == ((64, 64), "RGB")
        assert crop.info["icc_profile"] == wide_profile()


def test_a_lossless_webp_stays_lossless_and_a_lossy_one_lossy(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 4), dtype=np.uint8)
    noise[:20, :, 3] = 0  # what is invisible is kept, too
    Image.fromarray(noise).save(tmp_path / "in.webp", lossless=True, exact=True)
    picture = read_picture(tmp_path / "in.webp")
    write_picture(tmp_path / "out.webp", picture)
    with Image.open(tmp_path / "out.webp") as image:
        assert np.array_equal(np.asarray(image), noise)
    Image.fromarray(noise[..., :3]).save(tmp_path / "lossy.webp", quality=60)
    write_picture(tmp_path / "still-lossy.webp", read_picture(tmp_path / "lossy.webp"))
    assert b"VP8L" not in (tmp_path / "still-lossy.webp").read_bytes()


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".jp2", ".tga", ".bmp", ".dds", ".qoi"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_goes_into_every_format_that_has_it(tmp_path, suffix, mode):
    image = Image.fromarray(draw_picture())
    image.putalpha(Image.fromarray(np.tile(np.arange(128, dtype=np.uint8) * 2, (96, 1))))
    image.convert(mode).save(tmp_path / "in.png")
    write_picture(tmp_path / f"x{suffix}", read_picture(tmp_path / "in.png"))
    again = read_picture(tmp_path / f"x{suffix}")
    assert np.array_equal(again.alpha, np.asarray(image.getchannel("A")))
    write_picture(tmp_path / f"again{suffix}", again)
    assert np.array_equal(read_picture(tmp_path / f"again{suffix}").alpha, again.alpha)


def test_a_gif_is_transparent_where_a_picture_is_more_than_half(tmp_path):
    image = Image.fromarray(draw_picture())
    image.putalpha(Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 64, 1).repeat(96, 0)))
    image.save(tmp_path / "in.png")
    write_picture(tmp_path / "x.gif", read_picture(tmp_path / "in.png"))
    assert np.array_equal(read_picture(tmp_path / "x.gif").alpha, np.asarray(image.getchannel("A")))


@pytest.mark.parametrize("colour", [0, 2], ids=["grey", "RGB"])
def test_one_transparent_colour_of_sixteen_bits_is_found(tmp_path, colour):
    channels = 3 if colour else 1
    levels = (np.arange(64) * 1000 + 7).astype(">u2").repeat(channels)
    png = _png(64, 8, depth=16, colour=colour, rows=(b"\0" + levels.tobytes()) * 8)
    clear = b"tRNS" + struct.pack(">H", 9007) * channels
    chunk = struct.pack(">I", len(clear) - 4) + clear + struct.pack(">I", zlib.crc32(clear))
    (tmp_path / "x.png").write_bytes(png[:33] + chunk + png[33:])
    alpha = read_picture(tmp_path / "x.png").alpha
    assert (alpha[:, 9] == 0).all()
    assert (np.delete(alpha, 9, 1) == 255).all()


def _worded(path, image: Image.Image, **words: bytes) -> None:
    """A PNG with chunks of its own about its colours."""
    info = PngImagePlugin.PngInfo()
    for name, data in words.items():
        info.add(name.encode(), data)
    image.save(path, pnginfo=info)


def _chunks(path) -> dict[bytes, bytes]:
    with path.open("rb") as stream:
        words = png_words(stream)
    del words[b"IHDR"]
    return words


P3 = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
WORDS = {
    "sRGB": {"sRGB": b"\0"},
    "in short": {"gAMA": struct.pack(">I", 45455)},
    "linear": {"gAMA": struct.pack(">I", 100_000)},
    "wide": {"gAMA": struct.pack(">I", 45455), "cHRM": P3},
    "P3": {"cICP": bytes([12, 13, 0, 1])},
    "PQ": {"cICP": bytes([9, 16, 0, 1])},
    "HLG": {"cICP": bytes([9, 18, 0, 1]), "sRGB": b"\0"},
}


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_what_a_png_says_of_its_colours_is_said_again(tmp_path, words, mode):
    stored = Image.fromarray(draw_picture()).convert(mode)
    _worded(tmp_path / "in.png", stored, **words)
    picture = read_picture(tmp_path / "in.png")
    write_picture(tmp_path / "same.png", picture)
    changed = picture.pixels.copy()
    changed[20:40, 20:40] = (120, 110, 100)
    write_picture(tmp_path / "changed.png", changed, like=picture)

    with Image.open(tmp_path / "same.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(stored))
    assert _chunks(tmp_path / "same.png") == {name.encode(): data for name, data in words.items()}
    again = read_picture(tmp_path / "changed.png").pixels
    assert np.abs(again[20:40, 20:40].astype(int) - (120, 110, 100)).max() <= 3  # there and back through 8 bits
    if mode != "L":  # grey has become colour, in sRGB
        assert _chunks(tmp_path / "changed.png") == _chunks(tmp_path / "in.png")
        outside = np.ones(again.shape[:2], bool)
        outside[20:40, 20:40] = False
        with Image.open(tmp_path / "changed.png") as image:
            assert np.array_equal(np.asarray(image)[outside], np.asarray(stored)[outside])


def test_a_png_s_words_are_understood():
    picture = Image.new("RGB", (4, 4), (128, 128, 128))

    def read(**words: bytes) -> int:
        stream = BytesIO()
        info = PngImagePlugin.PngInfo()
        for name, data in words.items():
            info.add(name.encode(), data)
        picture.save(stream, "PNG", pnginfo=info)
        profile = profile_of(png_words(stream), grey=False, has_icc=False)
        return 128 if profile is None else transform(profile, "RGB").apply(picture).getpixel((0, 0))[0]

    linear = round(255 * (1.055 * (128 / 255) ** (1 / 2.4) - 0.055))
    assert read(gAMA=struct.pack(">I", 100_000)) == linear == read(cICP=bytes([1, 8, 0, 1]))
    assert read(gAMA=struct.pack(">I", 45455)) == 128 == read(sRGB=b"\0", gAMA=struct.pack(">I", 100_000))
    assert read(cICP=bytes([9, 16, 0, 1])) > 160  # half of PQ's scale is about 100 cd/m2, half of a white page
    for nonsense in (b"\0" * 32, b"\xff" * 32, P3[:8] * 4):
        assert read(cHRM=nonsense) == 128


@pytest.mark.parametrize("name", ["x.jpg", "x.webp", "x.tif", "x.bmp", "x.tga", "x.jp2", "x.ppm"])
@pytest.mark.parametrize("said", ["profile", "words"])
def test_colours_are_the_same_in_a_format_that_says_them_otherwise(tmp_path, name, said):
    if said == "profile":
        Image.fromarray(draw_picture()).save(tmp_path / "in.png", icc_profile=wide_profile())
    else:
        _worded(tmp_path / "in.png", Image.fromarray(draw_picture()), cICP=bytes([12, 13, 0, 1]))
    picture = read_picture(tmp_path / "in.png")
    write_picture(tmp_path / name, picture)
    again = read_picture(tmp_path / name).pixels
    assert np.abs(again.astype(int) - picture.pixels).mean() < 2.5


def test_exif_that_is_too_much_for_a_format_is_kept_as_far_as_it_fits(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.MakerNote] = b"\1" * 70_000
    details[ExifTags.Base.ISOSpeedRatings] = 400
    details[ExifTags.Base.UserComment] = b"ASCII\0\0\0" + b"c" * 50_000
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    for name in ("in.png", "in.webp"):
        Image.fromarray(draw_picture()).save(tmp_path / name, exif=exif)
        write_picture(tmp_path / "out.jpg", read_picture(tmp_path / name))
        with Image.open(tmp_path / "out.jpg") as image:
            kept = image.getexif()
            assert kept[ExifTags.Base.Make] == "Maker"
            assert kept.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"
            details = kept.get_ifd(ExifTags.IFD.Exif)
            assert details[ExifTags.Base.ISOSpeedRatings] == 400
            assert len(details[ExifTags.Base.UserComment]) == 50_008
            assert ExifTags.Base.MakerNote not in details


def test_a_tag_that_cannot_be_written_does_not_cost_the_others(tmp_path):
    image = Image.fromarray(draw_picture())
    exif = image.getexif()
    exif[ExifTags.Base.Make] = "Maker"
    exif[ExifTags.Base.XResolution] = "a word"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FNumber] = "another"
    with pytest.raises((TypeError, ValueError, AttributeError)):
        exif.tobytes()
    write_picture(tmp_path / "x.jpg", as_picture(image))
    with Image.open(tmp_path / "x.jpg") as written:
        assert dict(written.getexif())[ExifTags.Base.Make] == "Maker"


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif", "x.bmp", "x.webp"])
@pytest.mark.parametrize("dpi", [(0, 0), (70_000, 70_000), (float("nan"), 72), (float("inf"), 72), (-5, 5), (1e12, 1)])
def test_no_resolution_costs_a_picture_its_tags(tmp_path, name, dpi):
    picture = read_picture(_with_thumbnail(tmp_path / "in.jpg"))
    picture.dpi = dpi
    write_picture(tmp_path / name, picture)
    again = read_picture(tmp_path / name)
    assert np.abs(again.pixels.astype(int) - picture.pixels).mean() < 2
    assert name == "x.bmp" or b"Maker" in again.exif
    if dpi == (70_000, 70_000) and name in ("x.png", "x.tif", "x.bmp"):
        assert np.allclose([*map(float, again.dpi)], dpi)
    assert again.dpi != (70_000 - 65_536,) * 2


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_a_resolution_of_nought_by_nought_is_read_past(tmp_path, suffix):
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    exif[ExifTags.Base.XResolution] = exif[ExifTags.Base.YResolution] = TiffImagePlugin.IFDRational(0, 0)
    Image.fromarray(draw_picture()).save(tmp_path / f"in{suffix}", exif=exif)
    for target in ("x.jpg", "x.tif", "x.png"):
        write_picture(tmp_path / target, read_picture(tmp_path / f"in{suffix}"))
        with Image.open(tmp_path / target) as image:
            assert image.getexif()[ExifTags.Base.Make] == "Maker"


def _page(number: int) -> tuple[Image.Image, dict]:
    """A picture of a mode, size, resolution, profile and EXIF of its own."""
    mode = ("RGB", "L", "1", "I;16", "P", "CMYK", "RGBA", "F", "I", "LA")[number]
    image = Image.fromarray(draw_picture(40 + number, 60 - number, seed=number))
    if mode in ("I;16", "F", "I"):
        kind = {"I;16": np.uint16, "F": np.float32, "I": np.int32}[mode]
        image = Image.fromarray(np.asarray(image.convert("L")).astype(kind) * kind(200))
    else:
        image = image.quantize(20) if mode == "P" else image.convert(mode)
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = f"page {number}"
    if number % 2:
        exif[ExifTags.Base.Orientation] = 6
    if number in (1, 3, 6):
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"ASCII\0\0\0" + b"long enough" * number
        exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (number, 2.0, 3.0)
    extra = {"exif": exif, "dpi": (100 + number, 100 + number)}
    return image, extra | ({"icc_profile": wide_profile()} if number == 0 else {})


def _save_pages(path, pages) -> None:
    with AppendingTiffWriter(path, new=True) as tiff:
        for image, extra in pages:
            exif = Image.Exif()  # only what Pillow's writer can move: inner tables are tested by what we write
            exif.update({tag: value for tag, value in extra["exif"].items() if tag not in (0x8769, 0x8825)})
            image.save(tiff, format="TIFF", **extra | {"exif": exif})
            tiff.newFrame()


def test_every_page_of_a_tiff_keeps_its_size_mode_and_tags(tmp_path):
    made = [_page(number) for number in range(10)]
    _save_pages(tmp_path / "in.tif", made)
    read = read_pages(tmp_path / "in.tif")
    for page, (_, extra) in zip(read, made, strict=True):
        page.exif = exif_of(as_picture_with(extra["exif"]))
    changed = [page.pixels.copy() if number % 4 == 0 else None for number, page in enumerate(read)]
    for pixels in filter(lambda one: one is not None, changed):
        pixels[5:15, 5:15] = (200, 40, 60)
    write_pages(tmp_path / "out.tif", changed, read)
    again = read_pages(tmp_path / "out.tif")
    with Image.open(tmp_path / "out.tif") as image:
        assert image.n_frames == 10
        for number, (source, extra) in enumerate(made):
            image.seek(number)
            turned = source.transpose(Image.Transpose.ROTATE_270) if number % 2 else source
            assert image.size == turned.size
            assert image.info["dpi"] == extra["dpi"]
            assert image.tag_v2.get(34675) == extra.get("icc_profile")
            kept = image.getexif()
            assert kept[ExifTags.Base.ImageDescription] == f"page {number}"
            assert kept.get(ExifTags.Base.Orientation, 1) == 1
            for table in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
                assert kept.get_ifd(table) == extra["exif"].get_ifd(table)
            if changed[number] is None:
                assert image.mode == source.mode
                assert np.array_equal(np.asarray(image), np.asarray(turned))
            else:
                assert np.abs(again[number].pixels.astype(int) - changed[number]).max() <= 2


def as_picture_with(exif: Image.Exif) -> Image.Image:
    image = Image.new("L", (4, 4))
    image.info["exif"] = exif.tobytes()
    return image


def test_a_tiff_s_preview_is_no_page_and_too_many_pages_are_refused(tmp_path, monkeypatch):
    picture, preview = Image.fromarray(draw_picture()), Image.fromarray(draw_picture(24, 32))
    _save_pages(tmp_path / "in.tif", [(preview, {"exif": Image.Exif()}), (picture, {"exif": Image.Exif()})])
    assert len(read_pages(tmp_path / "in.tif")) == 2
    with AppendingTiffWriter(tmp_path / "preview.tif", new=True) as tiff:
        for image, kind in ((picture, 0), (preview, 1), (preview.convert("1"), 4)):
            image.save(tiff, format="TIFF", tiffinfo={ExifTags.Base.NewSubfileType: kind})
            tiff.newFrame()
    (page,) = read_pages(tmp_path / "preview.tif")
    assert np.array_equal(page.pixels, draw_picture())
    monkeypatch.setattr(tiff_module, "MAX_MEGAPIXELS", 0.01)
    with pytest.raises(BadFileError, match="2 pages"):
        read_pages(tmp_path / "in.tif")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".gif", ".bmp"])
def test_a_picture_cut_off_is_one_clear_line(tmp_path, suffix):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(tmp_path / f"whole{suffix}")
    whole = (tmp_path / f"whole{suffix}").read_bytes()
    path = tmp_path / f"cut{suffix}"
    for kept in (len(whole) // 2, len(whole) // 10, 20):
        path.write_bytes(whole[:kept])
        with pytest.raises(BadFileError) as caught:
            read_picture(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def _damaged(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Cut, spliced with another file, with bits turned, bytes replaced or left out, or numbers made huge."""
    out, at = bytearray(data), int(rng.integers(len(data)))
    match int(rng.integers(6)):
        case 0:
            del out[at:]
        case 1:
            out[at:] = other[int(rng.integers(len(other))) :]
        case 2:
            for place in rng.integers(len(out), size=5):
                out[place] ^= 1 << int(rng.integers(8))
        case 3:
            out[at : at + 50] = rng.bytes(50)
        case 4:
            del out[at : at + int(rng.integers(1, 200))]
        case 5:
            at %= 300
            out[at : at + 4] = b"\xff\xff\xff\x7f"
    return bytes(out)


DAMAGED = {
    "a.jpg": {}, "p.jpg": {"progressive": True}, "a.png": {}, "a.webp": {}, "l.webp": {"lossless": True}, "a.gif": {},
    "a.bmp": {}, "a.tga": {}, "a.jp2": {}, "a.ppm": {}, "lzw.tif": {"compression": "tiff_lzw"}, "raw.tif": {},
    "zip.tif": {"compression": "tiff_adobe_deflate"}, "jpeg.tif": {"compression": "jpeg"},
    "bits.tif": {"compression": "packbits"},
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_no_damage_to_a_file_is_more_than_one_line(tmp_path, name, capfd):
    frames = [Image.fromarray(draw_picture(40, 50, seed)) for seed in range(3)]
    several = {"save_all": True, "append_images": frames[1:]} if name[-3:] in ("png", "gif", "ebp", "tif") else {}
    frames[0].save(tmp_path / name, **DAMAGED[name], **several)
    frames[1].save(tmp_path / f"other-{name}")
    whole, other = (tmp_path / name).read_bytes(), (tmp_path / f"other-{name}").read_bytes()
    rng, refused = np.random.default_rng(5), 0
    for number in range(60):
        (tmp_path / name).write_bytes(_damaged(whole, other, rng))
        for read in (read_pages, lambda path: list(open_film(path)) if is_animated(path) else []):
            try:
                read(tmp_path / name)
            except BadFileError as error:
                refused += 1
                assert str(tmp_path / name) in str(error) and "\n" not in str(error), number
        is_complete(tmp_path / name)
    assert refused
    assert capfd.readouterr().err == ""


def test_what_is_no_picture_is_said(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "folder.jpg").mkdir()
    for name, words in {
        "empty.jpg": "is empty",
        "text.jpg": "is not a picture",
        "folder.jpg": "is a folder",
        "missing.jpg": "no such file",
    }.items():
        with pytest.raises(BadFileError, match=words):
            read_picture(tmp_path / name)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    (tmp_path / "bomb.png").write_bytes(_png(60_000, 60_000, depth=8, colour=2, rows=b"\0" * 100))
    with pytest.raises(BadFileError, match="178 megapixels"):
        read_picture(tmp_path / "bomb.png")


def test_pictures_from_64_px_to_a_hundred_megapixels_are_read_and_nothing_is_said(tmp_path):
    write_picture(tmp_path / "small.jpg", draw_picture(64, 64))
    Image.new("L", (10_000, 10_000), 90).save(tmp_path / "large.jpg")
    Image.new("L", (64, 64)).save(tmp_path / "odd.jpg", exif=BROKEN_EXIF)
    names = [str(tmp_path / name) for name in ("small.jpg", "large.jpg", "odd.jpg")]
    # In a process of its own: pytest replaces the warning filters.
    script = (
        "import sys; from dualstylegan.media.images import *; print(*[read_picture(p).width for p in sys.argv[1:]])"
    )
    run = subprocess.run([sys.executable, "-c", script, *names], capture_output=True, text=True, check=True)
    assert (run.stdout.split(), run.stderr) == (["64", "10000", "64"], "")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_picture(tmp_path / "x.webp", draw_picture())
    before = (tmp_path / "x.webp").read_bytes()
    with pytest.raises(DualStyleGANError, match=r"x\.webp"):
        write_picture(tmp_path / "x.webp", np.zeros((4, 20_000, 3), np.uint8))  # WebP ends at 16383 px
    assert (tmp_path / "x.webp").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x.webp"]


def test_a_suffix_that_is_no_format_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match=r"\.xyz"):
        write_picture(tmp_path / "x.xyz", draw_picture())


def test_arrays_and_pil_images_are_taken_alike():
    pixels = draw_picture()
    assert np.array_equal(as_picture(pixels).pixels, as_picture(Image.fromarray(pixels)).pixels)
    with pytest.raises(UsageError, match="float32"):
        as_picture(pixels.astype(np.float32))


def test_every_grey_value_survives_the_tensor_and_back():
    pixels = np.repeat(grey_ramp()[..., None], 3, -1)
    tensor = to_tensor(pixels)
    assert tensor.shape == (3, 64, 256)
    assert (tensor.min(), tensor.max()) == (-1, 1)
    assert np.array_equal(from_tensor(tensor), pixels)
    assert np.array_equal(from_tensor(to_tensor(pixels[None])), pixels[None])


def test_out_of_range_values_are_clamped_not_wrapped():
    image = torch.tensor([-3.0, 0.0, 3.0]).view(3, 1, 1).expand(3, 2, 2)
    assert from_tensor(image)[0, 0].tolist() == [0, 128, 255]


def test_heif_is_read_where_its_plug_in_is_and_named_where_not(tmp_path):
    path = tmp_path / "IMG_1.HEIC"
    if find_spec("pillow_heif") is None:
        path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))
        assert kind_of(path) == "unknown"
        with pytest.raises(BadFileError, match="pip install pillow-heif"):
            read_picture(path)
    else:
        drawn = Image.fromarray(np.asarray(draw_picture()))
        drawn.save(path, "HEIF")
        assert kind_of(path) == "picture"
        assert np.abs(read_picture(path).pixels.astype(int) - np.asarray(drawn)).mean() < 10
