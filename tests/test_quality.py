"""The quality bench measures what it says: distances, ranks, head yaw; and whoever only memorises misses a goal."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from tiny_style import face_points, one_core, tiny_style  # noqa: F401
from torch.nn.functional import normalize

from dualstylegan.faces.landmarks import MIRRORED
from dualstylegan.media.images import from_tensor
from dualstylegan.models.base import Base
from dualstylegan.models.library import load_style
from dualstylegan.networks.small_encoder import SmallEncoder
from dualstylegan.networks.stylegan2 import Generator
from dualstylegan.stylizing.stylizer import Stylizer
from dualstylegan.training.run import RunFolder

sys.path.insert(0, str(ROOT / "tests" / "bench"))

import held_out
import measures
import quality

SIZE = 32
FACE = face_points(0.5, 0.55, 0.3).astype(np.float64)


def features(count: int, dim: int = 8, mean: float = 0.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1, (count, dim))


def turned_face(turn: float) -> np.ndarray:
    """Landmarks (68, 2) of the frontal face whose nose has moved to the viewer's right by a part of its width."""
    face = FACE.copy()
    face[27:36, 0] += turn * 0.3
    return face


# Distances between sets


def test_a_set_is_at_no_distance_from_another_half_of_itself_and_far_from_another():
    everything = features(400)
    near = measures.kernel_distance(everything[:200], everything[200:])
    far = measures.kernel_distance(everything[:200], features(200, mean=1.0, seed=1))
    assert abs(near) < 0.02 * far


def test_the_kernel_distance_is_the_papers_on_three_numbers():
    x, y = np.array([[1.0], [2.0], [0.0]]), np.array([[0.0], [3.0], [1.0]])
    kernel = lambda a, b: (a * b + 1) ** 3  # noqa: E731
    of_others = lambda v: np.mean([kernel(a, b) for i, a in enumerate(v) for j, b in enumerate(v) if i != j])  # noqa: E731
    cross = np.mean([kernel(a, b) for a in x[:, 0] for b in y[:, 0]])
    expected = of_others(x[:, 0]) + of_others(y[:, 0]) - 2 * cross
    assert measures.kernel_distance(x, y, subsets=2, size=3) == pytest.approx(expected)


def test_lab_of_known_colors():
    colors = torch.tensor([[1.0, 1, 1], [-1, -1, -1], [1, -1, -1]]).reshape(3, 3, 1, 1)
    expected = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20]]  # white, black, sRGB red
    np.testing.assert_allclose(measures.to_lab(colors)[:, :, 0, 0], expected, atol=0.05)


def test_color_distance_counts_means_and_spreads_inside_the_mask_only():
    images = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask = torch.zeros(SIZE, SIZE)
    mask[8:24, 8:24] = 1
    changed = torch.where(mask > 0, images, -images)
    a, b = (measures.color_statistics(pictures, mask) for pictures in (images, changed))
    found = measures.color_distances(a, b)
    np.testing.assert_allclose(np.diag(found), 0, atol=1e-6)
    mean, cov = np.zeros((1, 3)), np.eye(3)[None]
    assert measures.color_distances((mean, cov), (mean + np.array([3, 0, 4]), 4 * cov))[0, 0] == pytest.approx(25 + 3)


def test_grey_pictures_have_no_chroma():
    grey = torch.rand(2, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)).repeat(1, 3, 1, 1) * 2 - 1
    assert measures.chroma(grey, torch.ones(SIZE, SIZE)) < 0.1
    assert measures.chroma(grey * torch.tensor([1, 0.2, -1]).reshape(3, 1, 1), torch.ones(SIZE, SIZE)) > 20


def test_textures_are_told_apart_by_their_grams():
    rows = torch.arange(SIZE) % 4 < 2
    stripes, bars = rows[:, None].expand(SIZE, SIZE), rows[None].expand(SIZE, SIZE)
    maps = torch.stack([torch.stack([m.float(), m.roll(2, 0).float()]) for m in (stripes, stripes.roll(1, 0), bars)])
    found = measures.grams([maps], torch.ones(SIZE, SIZE))
    assert np.linalg.norm(found[0] - found[1]) < 0.1 * np.linalg.norm(found[0] - found[2])


# Ranks


def test_ranks_count_who_is_nearer_and_ties_are_no_merit():
    table = np.array([[0.1, 0.5, 0.9], [0.5, 0.5, 0.5], [3.0, 2.0, 1.0]])
    assert measures.ranks(table, np.array([0, 0, 0])).tolist() == [0, 2, 2]
    assert measures.share_first(table, np.array([0, 0, 2])) == pytest.approx(2 / 3)


def test_the_nearest_tenth_of_thirty_five_is_three():
    table = np.tile(np.arange(35.0), (5, 1))
    assert measures.share_among_nearest(table, np.arange(5)) == pytest.approx(3 / 5)


def test_correlation_of_what_never_varies_is_none():
    assert measures.correlation(np.ones(4), np.arange(4.0)) == 0
    assert measures.correlation(np.arange(4.0), -np.arange(4.0)) == pytest.approx(-1)


# Landmarks


def test_shape_does_not_depend_on_place_size_and_turn():
    angle = 0.4
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = 3 * FACE @ turn.T + [5, -2]
    same, other = measures.shapes(np.stack([moved, turned_face(0.3)]), FACE), measures.shapes(FACE[None], FACE)
    np.testing.assert_allclose(same[0], other[0], atol=1e-6)
    assert np.linalg.norm(same[1] - other[0]) > 0.01


def test_yaw_grows_to_the_viewers_right_and_a_mirror_turns_it_round():
    faces = np.stack([turned_face(turn) for turn in (-0.5, 0, 0.5)])
    found = measures.yaw(faces)
    assert found[0] < -0.1
    assert abs(found[1]) < 0.01
    assert found[2] > 0.1
    mirrored = faces[:, MIRRORED] * [-1, 1] + [1, 0]
    np.testing.assert_allclose(measures.yaw(mirrored), -found, atol=1e-6)


def test_yaw_and_eyes_do_not_mind_a_tilted_head():
    angle = 0.3
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    face = turned_face(0.4)[None]
    np.testing.assert_allclose(measures.yaw(face @ turn.T), measures.yaw(face), atol=1e-6)
    np.testing.assert_allclose(measures.eye_area(2 * face @ turn.T), measures.eye_area(face), rtol=1e-6)


def test_eyes_that_grow_by_half_have_more_than_twice_the_area():
    face = FACE.copy()
    for eye in (slice(36, 42), slice(42, 48)):
        face[eye] = face[eye].mean(0) + 1.5 * (face[eye] - face[eye].mean(0))
    grown, before = measures.eye_area(np.stack([face, FACE]))
    assert grown / before == pytest.approx(2.25)


# Paths


def test_the_way_gone_is_a_share_of_the_straight_way():
    start, end = torch.zeros(1, 3, 4, 4), torch.rand(1, 3, 4, 4)
    mask = torch.ones(4, 4)
    assert measures.way_gone(start + 0.3 * (end - start), start, end, mask)[0] == pytest.approx(0.3, abs=1e-5)


def test_the_largest_step_is_measured_against_its_own_path():
    steps, whole = np.array([[0.1, 0.1, 0.1], [2.0, 6.0, 2.0]]), np.array([0.3, 10.0])
    assert measures.largest_step(steps, whole) == pytest.approx(0.6)


def test_a_blend_that_jumps_has_a_step_of_the_whole_way_and_an_even_one_has_not():
    torch.manual_seed(0)
    start, end = torch.rand(2, 1, 3, 8, 8)

    def largest(shares):
        films = [torch.lerp(start, end, share) for share in shares]
        steps = np.stack([quality.pixels_apart(a, b) for a, b in pairwise(films)], axis=1)
        return measures.largest_step(steps, quality.pixels_apart(films[0], films[-1]))

    assert largest(np.linspace(0, 1, 9)) == pytest.approx(1 / 8, abs=1e-3)
    assert largest([0] * 4 + [1] * 5) == pytest.approx(1)


# Goals


def test_a_goal_without_a_limit_is_neither_met_nor_missed():
    goals = (quality.Goal("a", "", at_most=0.5), quality.Goal("b", "", at_least=0.5), quality.Goal("c", ""))
    assert [goal.met(0.6) for goal in goals] == [False, True, None]
    assert quality.missed(goals, {"a": 0.6, "b": 0.4, "c": 0.0}) == ["a", "b"]
    assert quality.missed(goals, {}) == []


def test_prints_are_judged_by_texture_and_only_readable_faces_by_identity():
    wanted = {goal.key for goal in quality.style_goals(readable=True, grey=True, big_eyes=False) if goal.wanted}
    assert {"texture_near", "identity_first"} <= wanted
    assert not {"color_near", "eyes_grow"} & wanted
    toon = {goal.key for goal in quality.style_goals(readable=False, grey=False, big_eyes=True) if goal.wanted}
    assert {"color_near", "eyes_grow"} <= toon
    assert not {"texture_near", "identity_first"} & toon


def test_random_pairs_take_every_photo_and_every_exemplar_alike():
    pairs = quality.Pairs.random(64, 32, each=4)
    assert np.bincount(pairs.photo).tolist() == [4] * 64
    assert np.bincount(pairs.exemplar).tolist() == [8] * 32


# Who only memorises


class DrawnJudges:
    """Judges of drawn pictures: the top rows say who it is and how the face is shaped, the rest is the style."""

    @staticmethod
    def identities(images):
        return normalize(images[:, :, :2].flatten(1), dim=1).numpy()

    @staticmethod
    def points(images):
        moves = images[:, :, :2].flatten(1)[:, :136].reshape(-1, 68, 2).double().numpy()
        faces = FACE + 0.02 * moves
        faces[:, 27:36, 0] += 0.1 * images[:, 0, 0, 0].double().numpy()[:, None]
        return faces

    @staticmethod
    def pooled(images):
        inside = images[:, :, 4:]
        return torch.cat([inside.mean((2, 3)), inside.std((2, 3))], dim=1).double().numpy()

    @staticmethod
    def textures(images, mask):
        return measures.grams([images], mask)

    @staticmethod
    def apart(a, b):
        return (a - b).square().mean((1, 2, 3)).sqrt().double().numpy()

    @staticmethod
    def found(images):
        return 1.0


def drawn(rows: torch.Tensor, color: torch.Tensor) -> torch.Tensor:
    """Pictures (N, 3, S, S): a person's two `rows` (N, 3, 2, S) above a patch of `color` (N, 3)."""
    images = color[:, :, None, None] + 0.1 * torch.randn(len(rows), 3, SIZE, SIZE)
    images[:, :, :2] = rows
    return images.clamp(-1, 1)


@pytest.fixture
def judge() -> tuple[quality.StyleJudge, quality.Pairs, torch.Tensor, torch.Tensor]:
    """Sixty-four greyish people, twenty colourful portraits of others; and what each is drawn from."""
    torch.manual_seed(0)
    people, others = torch.rand(64, 3, 2, SIZE) * 2 - 1, torch.rand(20, 3, 2, SIZE) * 2 - 1
    greys, colors = 0.1 * torch.rand(64, 3), torch.rand(20, 3) * 1.6 - 0.8
    seen = quality.Seen.by(DrawnJudges, drawn(people, greys))
    mask = torch.ones(SIZE, SIZE)
    mask[:4] = 0
    return (
        quality.StyleJudge(drawn(others, colors), seen, DrawnJudges, mask),
        quality.Pairs.random(64, 20),
        people,
        colors,
    )


def test_a_photo_in_the_exemplars_colors_meets_every_goal(judge):
    judge, pairs, people, colors = judge
    claims = quality.Claims(drawn(people[pairs.photo], colors[pairs.exemplar]), np.arange(len(pairs)))
    assert quality.missed(judge.goals, judge.judge(claims, pairs)) == []


def test_of_cartoons_no_likeness_is_asked(judge):
    judge, *_ = judge
    cartoons = quality.StyleJudge(judge.portraits, judge.seen, DrawnJudges, judge.mask, likeness=False)
    demanded = [{goal.key for goal in one.goals if goal.wanted} for one in (judge, cartoons)]
    assert demanded[0] - demanded[1] == {"identity_first"}


def test_the_exemplar_unchanged_misses_who_it_is(judge):
    judge, pairs, *_ = judge
    figures = judge.judge(quality.Claims(judge.portraits, pairs.exemplar), pairs)
    assert {"identity_first", "shape_first", "yaw"} <= set(quality.missed(judge.goals, figures))
    assert figures["kid_ratio"] < 0.1
    assert figures["color_near"] == 1


def test_the_photo_unchanged_misses_the_style(judge):
    judge, pairs, *_ = judge
    figures = judge.judge(quality.Claims(judge.seen.images, pairs.photo), pairs)
    assert {"kid_ratio", "color_near"} <= set(quality.missed(judge.goals, figures))
    assert figures["identity_first"] == figures["shape_first"] == 1


# The photos


def touched(folder, names) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name)


def test_the_first_list_is_what_recipe_mini_holds_out(tmp_path, monkeypatch):
    sets = ("frl_london_neutral", "frl_london_smiling")
    touched(
        tmp_path, [f"{folder}/{i:03d}_{n}.jpg" for folder, n in zip(sets, ("03", "08"), strict=True) for i in range(70)]
    )
    rule = replace(held_out.first_rule(tmp_path), min_images=1)
    assert (rule.held_out, rule.folder) == (64, str(tmp_path))
    monkeypatch.setattr(held_out, "first_rule", lambda photos: rule)
    found = held_out.first_list(tmp_path)
    people = {held_out.person_of_photo(name) for name in found}
    assert len(found) == len(people) == 64
    assert people <= {f"frl_london-{i:03d}" for i in range(70)}


def test_the_second_list_is_people_that_mini256_holds_out_in_all_their_photos(tmp_path):
    rows = [
        (f"{source}/{i:03d}_{n}.jpg", source, f"frl_london:{i:03d}")
        for source, n in (("frl_london_neutral", "03"), ("frl_london_smiling", "08"))
        for i in range(200)
    ]
    touched(tmp_path, [row[0] for row in rows])
    lines = ["file,source,person_id", *(",".join(row) for row in rows)]
    (tmp_path / "faces.csv").write_text("\n".join(lines) + "\n")
    found = held_out.second_list(tmp_path)
    people = [held_out.person_of_photo(name) for name in found]
    assert 0.03 < len({*people}) / 200 < 0.14
    assert all(people.count(person) == 2 for person in people)
    assert all(path.is_file() for path in found.values())


def test_a_person_is_called_alike_wherever_the_photo_lies():
    who = held_out.person_of_photo
    assert who("frl_london_smiling/004_08.jpg") == who("frl_london_neutral/frl_london-004/004_03.jpg")
    assert who("congress_gpo/L000579.jpg") == who("civil_house/L000579/alan-lowenthal.jpg")
    assert who("interfaces_cc0/030.jpg") != who("frl_canada/030.jpg")


@pytest.mark.parametrize(("training", "count"), [(["x/B/b.jpg"], 0), (["x/B/b.jpg", "new/A/other.jpg"], 1)])
def test_who_was_trained_on_is_counted_by_person(tmp_path, training, count):
    photos = quality.Photos(["x/A.jpg"], [], [], None)
    index = tmp_path / "run/stages/data" / quality.INDEX
    index.parent.mkdir(parents=True)
    index.write_text(json.dumps({"training": training}))
    base = Base({"name": "x"}, None, folder=tmp_path / "run/base")
    assert quality.trained_on(base, photos) == count
    named = Base({"name": "x", "held_out": [] if count else ["x/A.png"]}, None, folder=tmp_path / "elsewhere/base")
    assert quality.trained_on(named, photos) == count


# Eyes, sharpness, bases


def eyed(left: float, right: float, count: int = 3, size: int = 64) -> torch.Tensor:
    """Faces whose left and right eye are stripes of these contrasts; mirrored alike where both are the same."""
    at = torch.arange(size)
    stripes = torch.where((torch.minimum(at, size - 1 - at) // 2) % 2 == 0, 1.0, -1.0)
    strength = torch.where(at < size // 2, left, right)
    return (stripes * strength).expand(count, 3, size, size).clone()


def test_eyes_alike_are_at_no_distance_and_one_eye_faint_is_seen_whichever_way_round():
    assert measures.eyes_unlike(eyed(0.5, 0.5)) == 0
    assert measures.eyes_unlike(eyed(0.5, 0.3)) == pytest.approx(0.2, abs=1e-6)
    assert measures.eye_contrast(eyed(0.5, 0.4)) == pytest.approx(1.25)
    lit = eyed(0.5, 0.4)  # photos may be lit from one side: what is drawn so is right
    assert measures.one_sided(lit, lit.flip(3), lit) == pytest.approx(0, abs=1e-6)
    assert measures.one_sided(eyed(0.5, 0.5), eyed(0.5, 0.5), lit) == pytest.approx(0, abs=1e-6)
    assert measures.one_sided(eyed(0.5, 0.4), eyed(0.5, 0.4), eyed(0.5, 0.5)) == pytest.approx(0.25)


def test_fine_energy_is_what_is_finer_than_four_pixels_inside_the_mask():
    at = torch.arange(64)
    fine, coarse = ((torch.pi * at / half).cos().expand(1, 3, 64, 64) for half in (1.5, 8))
    everywhere = torch.ones(1, 1, 64, 64)
    whole, none = (measures.fine_energy(images, everywhere)[0] for images in (fine, coarse))
    assert whole > 0.3 and none < 0.02
    left = everywhere * (at < 32)
    assert measures.fine_energy(fine * (at >= 32), left)[0] < 0.1 * whole


@pytest.mark.parametrize("people", [quality.FIRST, quality.SECOND])
def test_a_whole_base_is_measured_on_either_list(tmp_path, people):
    g = Generator(32, style_dim=8, mapping_layers=1, channels={4: 8, 8: 8, 16: 8, 32: 8}).eval()
    base = Base({"name": "x", "held_out": []}, g, encoder=SmallEncoder(g.rows, 8, 32, channels=8).eval())
    pictures = [np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8) for i in range(4)]
    photos = quality.Photos(list("abcd"), pictures, [np.diag([1 / 64, 1 / 64, 1.0])] * 4, DrawnJudges, people)
    figures, drawn = quality.measure_base(base, photos)
    assert set(figures) == {goal.key for goal in quality.base_goals(256, people)}
    assert figures["trained_on"] == 4
    assert np.isfinite(list(figures.values())).all()
    assert figures["sharpness"] < 0.5  # 32 px hold little of what is fine at 256
    quality.report_base(base, figures, people)
    quality.write_base_sheets(tmp_path, drawn)


def test_a_drawer_draws_what_the_stylizer_draws(tmp_path):
    style = load_style(tiny_style(tmp_path))
    style.thumbnails = [Image.new("RGB", (64, 64))] * 3
    picture = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    photos = quality.Photos(["a"], [picture], [np.diag([1 / 80, 1 / 80, 1.0])], None)
    drawer = quality.StyleOnPhotos(style, photos)
    stylizer = Stylizer(style, 1, device="cpu", precision="float32", detector=DrawnJudges)
    expected = stylizer.render(stylizer.encode(photos.crops(style.encoder.input_size)))
    torch.testing.assert_close(drawer.draw(np.array([0]), np.array([1])), expected, atol=1e-5, rtol=0)
    flat = Stylizer(style, 1, structure=0.0, device="cpu", precision="float32", detector=DrawnJudges)
    expected = flat.render(flat.encode(photos.crops(style.encoder.input_size)))
    torch.testing.assert_close(drawer.draw(np.array([0]), np.array([1]), structure=0.0), expected, atol=1e-5, rtol=0)


def test_of_two_styles_it_is_said_by_whom_the_first_keeps_more():
    first = {"identity_cosine": 0.5, "shape_distance": 0.1, "perceptual_distance": 0.7}
    second = {"identity_cosine": 0.3, "shape_distance": 0.2, "perceptual_distance": 0.6}
    assert quality.keeps_more(first, second) == ["identity_cosine", "shape_distance"]


def test_another_systems_pictures_get_the_same_row(tmp_path, capsys):
    style = load_style(tiny_style(tmp_path))
    style.thumbnails = [Image.new("RGB", (64, 64), color) for color in ("red", "green", "blue")]
    pictures = [np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8) for i in range(4)]
    names = [f"source/person/{letter}.jpg" for letter in "abcd"]
    photos = quality.Photos(names, pictures, [np.diag([1 / 64, 1 / 64, 1.0])] * 4, DrawnJudges)
    size, results = style.model.size, tmp_path / "another"
    results.mkdir()
    for name in ("d--nobody.png", "e--0.png", "a.png"):  # no exemplar, no photo, neither
        Image.new("RGB", (8, 8)).save(results / name)
    with pytest.raises(SystemExit, match=r"0 pictures of the first list in tiny, such as a--0\.png"):
        quality.measure_style(style, photos, tmp_path / "runs", 2, results)

    first, *_ = style.bank.names
    crops = from_tensor(photos.at(size).images)
    for photo, exemplar in (("a", "1"), ("b", "2"), ("c", Path(first).stem), ("d", "1"), ("a", "2")):
        Image.fromarray(crops["abcd".index(photo)]).save(results / f"{photo}--{exemplar}.png")
    result = quality.measure_style(style, photos, tmp_path / "runs", 2, results)
    assert "3 pictures are of no photo here or no exemplar, such as a.png" in capsys.readouterr().out
    assert result.facts["pairs"] == 5
    theirs, photo = result.columns["another"], result.columns[quality.PHOTO]  # they handed in the photos
    assert theirs == pytest.approx(photo, rel=0.02, abs=0.01) and theirs["identity_first"] == 1
    assert theirs.keys() <= result.columns[quality.OURS].keys()


def test_few_shot_adaptation_is_a_g_of_the_same_base_that_was_tuned_to_keep_pictures_apart(tmp_path):
    style = load_style(tiny_style(tmp_path))
    assert quality.adapted_of(style, tmp_path) is None
    run, g = RunFolder(tmp_path / "tiny-adapted").create(), style.model.generator
    run.save_snapshot("finetune", 2, {"generator": g.state_dict()})
    for weight, base in ((0, style.header["base"]["sha256"]), (1000, "another's")):
        run.begin("finetune", {"finetune": {"correspondence": weight}, "base": base})
        with pytest.raises(SystemExit, match="own base, fine-tuned with finetune"):
            quality.adapted_of(style, tmp_path)
    run.begin("finetune", {"finetune": {"correspondence": 1000}, "base": style.header["base"]["sha256"]})

    style.thumbnails = [Image.new("RGB", (64, 64))] * 3
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    drawer = quality.StyleOnPhotos(style, quality.Photos(["a"], [picture], [np.diag([1 / 64, 1 / 64, 1.0])], None))
    drawn = drawer.adapt(quality.adapted_of(style, tmp_path))  # here g itself, which draws the photo again
    expected = g(drawer.codes * drawer.truncation, space="w+").clamp(-1, 1)
    torch.testing.assert_close(drawn, expected.detach(), atol=1e-6, rtol=0)


def test_a_whole_style_is_measured_and_drawn(tmp_path):
    style = load_style(tiny_style(tmp_path))
    style.thumbnails = [Image.new("RGB", (64, 64), color) for color in ("red", "green", "blue")]
    pictures = [np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8) for i in range(4)]
    photos = quality.Photos(list("abcd"), pictures, [np.diag([1 / 64, 1 / 64, 1.0])] * 4, DrawnJudges)
    result = quality.measure_style(style, photos, tmp_path / "runs", each=2)
    assert set(result.columns) == {quality.OURS, *quality.MUST_FAIL}  # no g' here: no baselines
    for name in ("tiny", "tiny-adapted"):
        run = RunFolder(tmp_path / "runs" / name).create()
        run.begin("finetune", {"finetune": {"correspondence": 1000}, "base": style.header["base"]["sha256"]})
        run.save_snapshot("finetune", 2, {"generator": style.model.generator.state_dict()})
    result = quality.measure_style(style, photos, tmp_path / "runs", each=2)
    baselines = {quality.SWAP, quality.MIXING, quality.ADAPTATION}
    assert set(result.columns) == {quality.OURS, *quality.MUST_FAIL, *baselines}
    assert set(result.columns[quality.OURS]) >= {goal.key for goal in result.goals}
    assert all(np.isfinite(list(figures.values())).all() for figures in result.columns.values())
    quality.write_style_sheets(tmp_path / "sheets", result)
    drawn = {path.stem for path in (tmp_path / "sheets").iterdir()}
    assert drawn == {f"tiny-{what}" for what in ("photos", "structure", "blends", "columns")}
    kept = quality.as_json(result.goals, result.header, result.columns, quality.OURS, **result.facts)
    assert set(kept["missed_by_others"]) == {*quality.MUST_FAIL, *baselines}
    quality.report_style(result)
