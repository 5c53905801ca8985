"""The Stylizer: same kinds out as in, faces restyled and nothing else, settings in their order of precedence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from test_crop_paste import face_at
from tiny_style import DIM, SIZE, DrawnFaces, drawn_photo, one_core, tiny_style

from dualstylegan import Stylizer
from dualstylegan.choices import row_weights
from dualstylegan.errors import DualStyleGANError, NoFaceError, UsageError
from dualstylegan.models.codes import fit_weights
from dualstylegan.models.library import Library, load_style
from dualstylegan.networks.dualstyle import DualStyleGAN
from dualstylegan.stylizing import stylizer as stylizer_module
from dualstylegan.stylizing.settings import StylizerSettings
from dualstylegan.stylizing.stylizer import Placed, choose_weights

__all__ = ["one_core"]

TWO_FACES = ((90, 120, 36), (230, 110, 48))


@pytest.fixture(scope="module")
def style(tmp_path_factory) -> str:
    return str(tiny_style(tmp_path_factory.mktemp("styles")))


def make(style, exemplar=None, **settings) -> Stylizer:
    return Stylizer(style, exemplar, **{"device": "cpu", "precision": "float32", "detector": DrawnFaces(), **settings})


# What goes in and comes out


def test_the_same_kind_comes_back(style):
    stylizer, photo = make(f"{style}:1"), drawn_photo()
    array, image = stylizer(photo), stylizer(Image.fromarray(photo))
    assert array.shape == photo.shape and array.dtype == np.uint8
    assert isinstance(image, Image.Image) and image.size == (320, 240)
    assert np.array_equal(np.asarray(image), array)
    both = stylizer([photo, Image.fromarray(photo)])
    assert isinstance(both, list) and isinstance(both[0], np.ndarray) and isinstance(both[1], Image.Image)
    assert stylizer([]) == []


def test_every_face_changes_and_nothing_outside_them(style):
    photo = drawn_photo(faces=TWO_FACES)
    before = photo.copy()
    changed = (make(f"{style}:0", mask="face")(photo) != photo).any(-1)
    assert np.array_equal(photo, before), "the picture given must stay as it is"
    for x, y, r in TWO_FACES:
        assert changed[y - r // 2 : y + r // 2, x - r // 2 : x + r // 2].mean() > 0.9
    rows, columns = np.mgrid[:240, :320]
    far = np.all([np.hypot((columns - x) / 2.2, (rows - y) / 2.4) > r for x, y, r in TWO_FACES], axis=0)
    assert not changed[far].any()


def test_largest_means_one_face(style):
    photo = drawn_photo(faces=TWO_FACES)
    changed = (make(f"{style}:0", mask="face", faces="largest")(photo) != photo).any(-1)
    assert changed[110, 230] and not changed[:, :120].any()


def test_transparency_and_a_picture_without_a_face_pass_through(style):
    photo = drawn_photo(faces=())
    assert np.array_equal(make(style)(photo), photo)
    image = Image.fromarray(drawn_photo()).convert("RGBA")
    image.putalpha(77)
    out = make(style)(image)
    assert out.mode == "RGBA" and set(np.unique(np.asarray(out)[..., 3])) == {77}


def test_what_is_no_picture_is_refused_in_one_line(style):
    with pytest.raises(UsageError, match="float64"):
        make(style)(np.zeros((8, 8, 3)))


def test_a_face_larger_than_the_model_earns_a_warning(style):
    with pytest.warns(UserWarning, match=rf"the style draws {SIZE}"):
        make(style)(drawn_photo(640, 640, faces=((320, 320, 150),)))


# The picture is the method's


def test_steps_composed_by_hand_give_the_same_picture(style):
    stylizer, photo = make(f"{style}:2"), drawn_photo(faces=TWO_FACES)
    (faces,) = stylizer.find([photo])
    portraits = stylizer.render(stylizer.encode(stylizer.crop(photo, faces)))
    assert portraits.shape == (2, 3, SIZE, SIZE) and portraits.abs().max() <= 1
    placed = stylizer.place(faces, portraits, stylizer.persons(photo, faces))
    assert np.array_equal(stylizer.compose(photo, placed), stylizer(photo))
    one = drawn_photo()
    ((face,),) = stylizer.find([one])
    (portrait,) = stylizer.render(stylizer.encode(stylizer.crop(one, [face])))
    assert np.array_equal(stylizer.paste(one, portrait, face), stylizer(one))


@pytest.mark.parametrize("settings", [{}, {"structure": 0.3, "color": 0.4}, {"preserve_color": True, "color": 0.9}])
def test_a_portrait_is_what_the_network_makes_of_both_codes(style, settings):
    stylizer = make(f"{style}:1", **settings)
    crops = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    model, z_i, z_e = stylizer.model, stylizer.style.encoder(crops), stylizer.style.bank[1].repeat(3, 1, 1)
    if settings.get("preserve_color"):
        z_e[:, 7:] = z_i[:, 7:]
    weights = row_weights(model.rows, settings.get("structure", 0.75), settings.get("color", 1.0))
    with torch.no_grad():
        wanted = model(z_i, z_e, weights=weights, truncation=0.75).clamp(-1, 1)
    # float32 through the same layers in another order (a prepared style, W+ instead of Z+ between the steps)
    torch.testing.assert_close(stylizer.render(stylizer.encode(crops)), wanted, atol=1e-5, rtol=0)


def test_a_blend_is_linear_in_w_plus(style):
    f = make(style).model.generator.mapping
    bank = load_style(style).bank
    blended = make(f"{style}:0*0.7+{style}:2*0.3").extrinsic
    torch.testing.assert_close(blended[0], 0.7 * f(bank[0]) + 0.3 * f(bank[2]), atol=1e-6, rtol=0)


def test_any_portrait_can_be_the_exemplar(style, tmp_path):
    photo = drawn_photo(seed=5)
    Image.fromarray(photo).save(tmp_path / "me.png")
    stylizer = make(f"{style}:{tmp_path / 'me.png'}")
    (faces,) = stylizer.find([photo])
    with torch.no_grad():
        code = stylizer.style.encoder(stylizer.crop(photo, faces))
        torch.testing.assert_close(stylizer.extrinsic, stylizer.model.generator.mapping(code))


def test_an_exemplar_without_a_face_is_said(style, tmp_path):
    Image.fromarray(drawn_photo(faces=())).save(tmp_path / "sea.png")
    with pytest.raises(NoFaceError, match=r"sea\.png"):
        make(f"{style}:{tmp_path / 'sea.png'}")


def test_a_loaded_style_takes_an_index_a_name_or_a_code(style):
    loaded = load_style(style)
    by_index, by_name = make(loaded, 1), make(loaded, "bea.png")
    by_code = make(loaded, loaded.bank[1])
    assert torch.equal(by_index.extrinsic, by_name.extrinsic) and torch.equal(by_index.extrinsic, by_code.extrinsic)
    assert torch.equal(make(loaded).extrinsic, make(loaded, 0).extrinsic), "no exemplar means the default one"


def test_bfloat16_stays_near_float32(style):
    photo = drawn_photo()
    exact, fast = make(f"{style}:1")(photo), make(f"{style}:1", precision="bfloat16")(photo)
    error = (exact.astype(float) - fast).reshape(-1)
    assert 10 * np.log10(255**2 / max(np.mean(error**2), 1e-9)) > 40


# No work that cannot reach the picture


def test_heads_of_colour_rows_taken_from_the_exemplar_are_not_run(style):
    photo = drawn_photo()
    stylizer, asked = make(f"{style}:1"), []
    forward = stylizer.encoder.forward
    stylizer.encoder.forward = lambda images, rows=None: asked.append(rows) or forward(images, rows)
    (faces,) = stylizer.find([photo])
    crops = stylizer.crop(photo, faces)
    frugal = stylizer.render(stylizer.encode(crops))
    assert asked == [tuple(range(7))]
    assert torch.equal(frugal, stylizer.render(stylizer.encode(crops, range(stylizer.model.rows))))


def test_the_colour_rows_that_matter_are_run(style):
    rows = range(load_style(style).model.rows)
    assert make(style, preserve_color=True).rows_needed == tuple(rows)
    assert make(style, color=0.5).rows_needed == tuple(rows)
    assert make(style, weights=[1] * 8 + [0.5] + [1] * 9).rows_needed == (*range(7), 8)


def test_styles_on_one_base_share_its_encoder(style, tmp_path):
    tiny_style(tmp_path, "first"), tiny_style(tmp_path, "second")
    models = Library()
    first = make(str(tmp_path / "first"), models=models)
    second = make(str(tmp_path / "second"), models=models)
    again = make(str(tmp_path / "first") + ":2", models=models)
    assert second.encoder is first.encoder and second.model is not first.model
    assert again.model is first.model and not torch.equal(again.extrinsic, first.extrinsic)


# Settings


def test_weights_go_before_structure_and_color_before_the_header_before_the_paper():
    header = row_weights(10, 0.2, 0.6)
    assert choose_weights(10, None, None, None, None) == row_weights(10, 0.75, 1)
    assert choose_weights(10, header, None, None, None) == header
    assert choose_weights(10, header, 0.5, None, None) == row_weights(10, 0.5, 0.6)
    assert choose_weights(10, header, None, 0.1, None) == row_weights(10, 0.2, 0.1)
    assert choose_weights(10, header, 0.5, 0.5, [0.9] * 10) == (0.9,) * 10


def test_weights_of_eighteen_rows_fit_smaller_models():
    late = (0,) * 4 + (0.75,) * 3 + (1,) * 11
    assert choose_weights(10, None, None, None, late) == fit_weights(late, 10) == late[:10]
    for wrong in ([1] * 9, [1] * 19, [float("nan")] * 10):
        with pytest.raises(UsageError):
            choose_weights(10, None, None, None, wrong)


def test_settings_come_whole_or_by_name(style):
    whole = Stylizer(f"{style}:1", settings=StylizerSettings(structure=0.3, device="cpu", detector=DrawnFaces()))
    assert whole.settings.structure == 0.3 and whole.weights == make(f"{style}:1", structure=0.3).weights
    assert Stylizer(f"{style}:1", settings=whole.settings, structure=0.4).weights[0] == 0.4


def test_a_fingerprint_tells_stylizers_apart_that_make_other_portraits(style):
    changes = (
        {},
        {"structure": 0.3},
        {"mask": "crop"},
        {"min_face": 20.0},
        {"preserve_color": True},
        {"faces": "largest"},
    )
    known = {make(f"{style}:1", **change).fingerprint for change in changes} | {make(f"{style}:2").fingerprint}
    assert len(known) == len(changes) + 1
    assert make(f"{style}:1", batch=2).fingerprint in known, "how many at a time makes no difference"


def test_a_styles_header_brings_its_own_defaults(tmp_path):
    weights = list(row_weights(10, 0.1, 0.2))
    own = {"weights": weights, "truncation": 0.5, "mask": "crop", "default_exemplar": "cyd.png"}
    stylizer = make(str(tiny_style(tmp_path, **own)))
    assert stylizer.weights == row_weights(10, 0.1, 0.2)
    assert (stylizer.truncation, stylizer.mask) == (0.5, "crop")
    assert torch.equal(stylizer.extrinsic, make(str(tmp_path / "tiny"), "cyd.png").extrinsic)
    assert "cyd.png" in stylizer.description and "by default" in stylizer.description


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mask": "had"}, "Did you mean 'head'"),
        ({"precision": "float3"}, "float32"),
        ({"device": "cuda:77"}, "cuda:77"),
        ({"device": "toaster"}, "toaster"),
        ({"faces": "some"}, "all, largest"),
        ({"wplus": True}, "no W+ encoder"),
    ],
)
def test_a_wrong_setting_is_one_line_that_says_what_exists(style, settings, said):
    with pytest.raises(UsageError) as error:
        make(style, **settings)
    assert said in str(error.value)


def test_a_wrong_exemplar_says_what_exists(style):
    with pytest.raises(UsageError, match="numbered 0 to 2"):
        make(f"{style}:3")


# Only what is shown


@pytest.fixture
def regions(monkeypatch) -> list:
    """Small models are drawn in part too, and this is which."""
    seen, forward = [], DualStyleGAN.forward
    monkeypatch.setattr(stylizer_module, "REGIONS_FROM", SIZE)

    def watched(self, *args, region=None, **kwargs):
        seen.append(region)
        return forward(self, *args, region=region, **kwargs)

    monkeypatch.setattr(DualStyleGAN, "forward", watched)
    return seen


def test_only_what_a_mask_shows_is_drawn_and_looks_the_same(style, regions, monkeypatch):
    photo = drawn_photo(faces=TWO_FACES)
    part = make(f"{style}:1", mask="face", scene="keep")(photo)
    assert regions and None not in regions
    assert all((right - left) * (bottom - top) < SIZE * SIZE for left, top, right, bottom in regions)
    monkeypatch.setattr(Stylizer, "region_of", lambda *_: None)
    whole = make(f"{style}:1", mask="face", scene="keep")(photo)
    assert regions[-1] is None
    assert np.abs(part.astype(int) - whole).max() <= 1  # steps of 255: other sizes round differently


def test_faces_laid_one_by_one_share_what_they_both_cover_as_if_laid_at_once(style):
    stylizer = make(f"{style}:1", mask="head", scene="keep")
    faces = [face_at(120, 120, 110), face_at(170, 125, 130)]
    placed = [Placed(face, torch.full((3, 32, 32), value)) for face, value in zip(faces, (-1.0, 1.0), strict=True)]
    at_once, one_by_one = drawn_photo(faces=()), drawn_photo(faces=())
    assert [face for face, _ in stylizer.lay(at_once, placed)] == faces
    stylizer.lay(one_by_one, placed[1:], stylizer.lay(one_by_one, placed[:1]))
    np.testing.assert_array_equal(one_by_one, at_once)
    x, y = faces[0].points[30].round().astype(int)
    assert (at_once[y, x] == 0).all()  # the first one's nose, beneath the second one's head


@pytest.mark.parametrize("settings", [{"mask": "head"}, {"mask": "face", "scene": "tone"}], ids=["matte", "scene"])
def test_where_all_of_a_portrait_is_looked_at_all_is_drawn(style, regions, settings):
    make(f"{style}:1", **settings)(drawn_photo(faces=((160, 120, 14),)))
    assert regions == [None]


# Memory


def test_out_of_memory_halves_the_batch_and_goes_on(style):
    stylizer = make(f"{style}:1", batch=8)
    codes = stylizer.encode(torch.zeros(5, 3, SIZE, SIZE))
    wanted, forward, sizes = stylizer.render(codes), stylizer.model.forward, []

    def cramped(intrinsic, *args, **kwargs):
        sizes.append(len(intrinsic))
        if len(intrinsic) > 2:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory")
        return forward(intrinsic, *args, **kwargs)

    stylizer.model.forward = cramped
    torch.testing.assert_close(stylizer.render(codes), wanted, atol=1e-5, rtol=0)
    assert stylizer.batch == 2 and sizes == [5, 2, 2, 1], "half of what was tried, not half of what might have been"


def test_no_memory_for_a_single_face_is_one_line(style):
    stylizer = make(style)

    def none_left(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    stylizer.model.forward = none_left
    with pytest.raises(DualStyleGANError, match=f"one face at {SIZE} px"):
        stylizer.render(torch.zeros(1, stylizer.model.rows, DIM))


def test_other_failures_are_not_mistaken_for_a_lack_of_memory(style):
    stylizer = make(style)
    with pytest.raises(RuntimeError):
        stylizer.encode(torch.zeros(1, 5, SIZE, SIZE))
    assert stylizer.batch > 1
