"""Exemplars by number and name, what users type for a style, blends, weights per row."""

import pytest
import torch

from dualstylegan.choices import row_weights
from dualstylegan.errors import UsageError
from dualstylegan.models.codes import (
    StyleBank,
    blend,
    extrinsic_code,
    fit_weights,
    parse_style,
    parse_weights,
    resolve_exemplars,
)

NAMES = ("b.jpg", "a.jpg", "03.png", "face a+b.jpg")


@pytest.fixture
def bank():
    draw = torch.Generator().manual_seed(0)
    return StyleBank(NAMES, torch.randn(4, 8, 16, generator=draw), style="toon")


def mapping(z):
    return torch.tanh(z) + 1


# StyleBank


def test_ids_are_positions_in_the_given_order_not_sorted_names(bank):
    assert bank.names == NAMES
    assert torch.equal(bank[1], bank["a.jpg"])
    assert torch.equal(bank["1"], bank["a"])


def test_refined_codes_win_and_plain_ones_stay(bank):
    refined = bank.plain + 1
    refined_bank = StyleBank(NAMES, bank.plain, refined=refined)
    assert torch.equal(refined_bank[2], refined[2])
    assert torch.equal(refined_bank.plain, bank.plain)


def test_a_padded_number_is_a_name_first_and_a_plain_one_always_an_index(bank):
    assert bank.index("03") == 2  # 03.png
    assert bank.index("3") == 3


@pytest.mark.parametrize("which", [4, "4", -1, "99"])
def test_an_index_out_of_range_says_how_many_there_are(bank, which):
    with pytest.raises(UsageError, match=r"style 'toon'.*It has 4, numbered 0 to 3"):
        bank[which]


def test_a_misspelt_name_says_the_nearest_one(bank):
    with pytest.raises(UsageError, match=r"Did you mean 'face a\+b.jpg'\?"):
        bank["face a+c.jpg"]


def test_an_ambiguous_stem_asks_for_the_whole_name():
    bank = StyleBank(["x.jpg", "x.png"], torch.zeros(2, 8, 16))
    with pytest.raises(UsageError, match=r"x\.jpg or x\.png"):
        bank["x"]
    assert bank.index("x.png") == 1


def test_names_and_codes_must_be_as_many():
    with pytest.raises(UsageError, match="2 exemplar names need extrinsic codes"):
        StyleBank(["a", "b"], torch.zeros(3, 8, 16))


# What users type


@pytest.mark.parametrize(
    ("text", "name", "exemplar"),
    [
        ("toon:7", "toon", "7"),
        ("toon", "toon", None),
        ("toon:x.jpg", "toon", "x.jpg"),
        ("toon:a:b.jpg", "toon", "a:b.jpg"),
        ("toon:a+b.jpg", "toon", "a+b.jpg"),
        (" toon:7 ", "toon", "7"),
    ],
)
def test_one_style_is_a_name_and_perhaps_an_exemplar(text, name, exemplar):
    request = parse_style(text)
    assert (request.name, request.parts) == (name, ((exemplar, 1.0),))


def test_a_blend_is_a_list_of_weighted_exemplars_of_one_style():
    request = parse_style("anime:42*0.7 + anime:a+b.jpg*.3")
    assert request.name == "anime"
    assert request.parts == (("42", 0.7), ("a+b.jpg", 0.3))
    assert request.is_blend


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("anime:1*0.7+toon:2*0.3", "a blend stays within one style"),
        ("anime:1*0.7+anime:2*0.7", "sum to 1.4; they must sum to 1"),
        ("anime:1*0.7+anime:2", "'anime:2' in .* has no weight"),
        ("anime:1+anime:2", r"write for example anime:1\*0.5\+anime:2\*0.5"),
        ("toon:", "is no style"),
        ("", "is no style"),
        (":3", "is no style"),
    ],
)
def test_what_cannot_be_meant_is_said_in_one_line(text, line):
    with pytest.raises(UsageError, match=line) as raised:
        parse_style(text)
    assert "\n" not in str(raised.value)


def test_the_longest_existing_path_wins_over_the_grammar(tmp_path):
    style = tmp_path / "run:2" / "style"
    style.mkdir(parents=True)
    assert parse_style(f"{style}:7").parts == (("7", 1.0),)
    assert parse_style(f"{style}:7").name == str(style)
    assert parse_style(str(style)).parts == ((None, 1.0),)

    picture = tmp_path / "me*0.3+you:1*0.7"
    picture.touch()
    assert parse_style(f"toon:{picture}").parts == ((str(picture), 1.0),)
    blend_of_both = parse_style(f"toon:{picture}*.5+toon:1*.5")
    assert blend_of_both.parts == ((str(picture), 0.5), ("1", 0.5))
    the_other_way = parse_style(f"toon:1*.5+toon:{picture}*.5")
    assert the_other_way.parts == (("1", 0.5), (str(picture), 0.5))


def test_a_chance_folder_does_not_hide_a_style_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toon:7").mkdir()
    assert parse_style("toon:7").name == "toon"
    (tmp_path / "toon:7" / "header.json").touch()
    assert parse_style("toon:7").name == "toon:7"


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("toon:7", "toon-7"),
        ("toon", "toon"),
        ("run/style:x y.jpg", "run-x_y"),
        ("anime:4*.7+anime:1*.3", "anime-4x0.7+1x0.3"),
    ],
)
def test_a_request_names_output_files(text, slug, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "style").mkdir(parents=True)
    assert parse_style(text).slug == slug


# From a request to a code


def found(text, bank, default=0):
    return resolve_exemplars(parse_style(text), bank.exemplars, default)


def test_an_exemplar_is_a_code_in_z_plus(bank):
    code = extrinsic_code(found("toon:a.jpg", bank), bank, mapping=mapping)
    assert torch.equal(code.code, bank[1])
    assert (code.space, code.label) == ("z+", "1 (a.jpg)")


def test_the_name_alone_is_the_styles_default(bank):
    code = extrinsic_code(found("toon", bank, default="03.png"), bank, mapping=mapping)
    assert torch.equal(code.code, bank[2])
    assert code.label == "2 (03.png)"


def test_a_blend_mixes_in_w_plus(bank):
    code = extrinsic_code(found("toon:0*.75+toon:a*.25", bank), bank, mapping=mapping)
    assert code.space == "w+"
    torch.testing.assert_close(code.code, 0.75 * mapping(bank[0]) + 0.25 * mapping(bank[1]))
    torch.testing.assert_close(code.code, blend([bank[0], bank[1]], [0.75, 0.25], mapping))


def test_a_picture_is_encoded_on_the_spot_unless_it_is_an_exemplar(bank, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("me.jpg", "a.jpg"):
        (tmp_path / name).touch()
    seen = []

    def encode(path):
        seen.append(path.name)
        return torch.ones(8, 16)

    def code(text):
        return extrinsic_code(found(text, bank), bank, mapping=mapping, encode=encode).code

    assert torch.equal(code("toon:me.jpg"), torch.ones(8, 16))
    assert torch.equal(code("toon:a.jpg"), bank[1])
    assert torch.equal(code("toon:./a.jpg"), torch.ones(8, 16))  # written as a path, meant as a path
    assert seen == ["me.jpg", "a.jpg"]


def test_a_missing_picture_says_what_exists(bank):
    with pytest.raises(UsageError, match=r"No exemplar 'nobody\.jpg' in style 'toon', and no such picture"):
        found("toon:nobody.jpg", bank)


# Weights


def test_weights_for_eighteen_rows_fit_smaller_models_by_cutting_colour_rows():
    weights = (0.0,) * 4 + (0.75,) * 3 + (1.0,) * 11
    assert fit_weights(weights, 12) == (0.0,) * 4 + (0.75,) * 3 + (1.0,) * 5
    assert fit_weights(weights, 18) == weights
    assert row_weights(8, 0.5, 1) == (0.5,) * 7 + (1.0,)


@pytest.mark.parametrize("count", [8, 17, 19])
def test_weights_that_fit_no_model_are_refused(count):
    with pytest.raises(UsageError, match=f"{count} weights do not fit"):
        fit_weights([1.0] * count, 18)


def test_weights_are_written_with_counts():
    assert parse_weights("0x4,.75x3, 1x11") == (0.0,) * 4 + (0.75,) * 3 + (1.0,) * 11
    assert parse_weights("1,0.5") == (1.0, 0.5)
    with pytest.raises(UsageError, match="'a' in weights"):
        parse_weights("1,a")
