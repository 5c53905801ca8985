"""Faces are found, once each, wherever and however they are; their landmarks and identities mean what they should."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from dualstylegan.align import align_pictures
from dualstylegan.errors import DualStyleGANError, OfflineError, UsageError
from dualstylegan.faces import face_alignment as other_backend
from dualstylegan.faces import mtcnn_search
from dualstylegan.faces.crop import crop_face
from dualstylegan.faces.face import LEFT_EYE, RIGHT_EYE, Face, transform, without_duplicates
from dualstylegan.faces.find import TILTS, EmbeddedDetector, FaceEmbedder, make_detector
from dualstylegan.faces.mtcnn_search import MOST_AT_ONCE, search
from dualstylegan.networks.identity import CHIP_SIZE, SAME_PERSON_DISTANCE, chips_from_crops
from dualstylegan.stylize import stylize_files
from dualstylegan.stylizing.settings import StylizerSettings
from dualstylegan.weights import load_finish, load_identity, load_landmarks68, load_matte, load_mobilenet, load_mtcnn

PHOTOS = Path(__file__).parent / "data" / "photos"
NAMES = ("astronaut", "congress_A000371", "congress_C001101", "congress_G000535")
EYES = {  # (x, y) of the viewer's left and right pupil, read off the photos by eye, to about a pixel
    "astronaut": ((203, 101), (246, 103)),
    "congress_A000371": ((73, 128), (127, 127)),
    "congress_C001101": ((87, 104), (133, 98)),
    "congress_G000535": ((80, 116), (135, 109)),
}


@pytest.fixture(scope="module")
def detector() -> EmbeddedDetector:
    return EmbeddedDetector()


def photo(name: str) -> Image.Image:
    return Image.open(PHOTOS / f"{name}.jpg").convert("RGB")


def find(detector: EmbeddedDetector, *pictures: Image.Image) -> list[list[Face]]:
    return detector.find([np.asarray(picture) for picture in pictures])


def eyes_of(face: Face) -> np.ndarray:
    return np.stack([face.points[LEFT_EYE].mean(0), face.points[RIGHT_EYE].mean(0)])


def angle_of(face: Face) -> float:
    (x1, y1), (x2, y2) = eyes_of(face)
    return float(np.degrees(np.arctan2(y2 - y1, x2 - x1)))


# --- finding


@pytest.mark.parametrize("name", NAMES)
def test_the_one_face_of_a_portrait_is_found_with_its_eyes_in_place(detector, name):
    (face,) = find(detector, photo(name))[0]
    truth = np.array(EYES[name], dtype=float)
    distance = np.hypot(*(truth[1] - truth[0]))
    # 6 %: twice the mean error on photos with exact pupils, and a pixel for reading them off by eye
    assert np.hypot(*(eyes_of(face) - truth).T).mean() < 0.06 * distance
    assert face.points.shape == (68, 2) and face.points.dtype == np.float32
    assert face.score > 0.9
    assert (face.points.mean(0) > face.box[:2]).all() and (face.points.mean(0) < face.box[2:]).all()


@pytest.mark.parametrize("degrees", [-45, -30, 20, 45])
def test_turned_faces_are_found_and_levelled(detector, degrees):
    names = NAMES[:3]
    upright = find(detector, *map(photo, names))
    turned = find(detector, *(photo(name).rotate(degrees, Image.Resampling.BICUBIC, expand=True) for name in names))
    for (straight,), found in zip(upright, turned, strict=True):
        assert len(found) == 1
        assert angle_of(found[0]) == pytest.approx(angle_of(straight) - degrees, abs=5)


def test_a_picture_is_turned_for_another_look_only_as_far_as_told():
    lying = photo("congress_G000535").rotate(80, Image.Resampling.BICUBIC, expand=True)
    assert not find(EmbeddedDetector(tilts=()), lying)[0]
    assert len(find(EmbeddedDetector(), lying)[0]) == 1


def test_every_face_of_a_group_is_found_once(detector):
    wall = Image.new("RGB", (900, 620), (120, 130, 140))
    centers = []
    for number, name in enumerate(NAMES[1:] * 2):
        column, row = number % 3, number // 3
        size = (225, 275) if row else (158, 192)
        wall.paste(photo(name).resize(size), (40 + 290 * column, 30 + 290 * row))
        centers.append((40 + 290 * column + size[0] / 2, 30 + 290 * row + size[1] * 0.45))
    faces = find(detector, wall)[0]
    assert len(faces) == len(centers)
    for center in centers:
        inside = [face for face in faces if (face.box[:2] < center).all() and (face.box[2:] > center).all()]
        assert len(inside) == 1


def test_pictures_of_any_size_are_searched_together_and_stay_apart(detector):
    blank = Image.new("RGB", (301, 77), "white")
    found = find(detector, photo("astronaut"), blank, photo("congress_C001101"), Image.new("RGB", (1, 1)))
    assert [len(faces) for faces in found] == [1, 0, 1, 0]
    assert detector.find([]) == []


@pytest.mark.parametrize("size", [(4000, 50), (50, 3001), (300, 2000), (13, 3000), (500, 400), (5000, 3), (1, 1)])
def test_the_search_costs_what_the_picture_has_pixels_whatever_its_shape(size):
    nets = load_mtcnn()
    seen = []
    nets.pnet.register_forward_pre_hook(lambda net, given: seen.append(given[0].shape[-2] * given[0].shape[-1]))
    assert len(search(nets, Image.new("RGB", size, (90, 100, 110)), 16, tilts=TILTS)) == 0
    assert sum(seen) <= 1.2 * (1 + 4.5 * len(TILTS)) * size[0] * size[1] + 16**2
    assert max(seen, default=0) <= MOST_AT_ONCE


def test_a_long_strip_is_searched_in_little_memory():
    script = (
        "import resource, numpy as np\n"
        "from dualstylegan.faces.find import EmbeddedDetector\n"
        "detector = EmbeddedDetector(min_face=16)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "noise = np.random.default_rng(0).integers(0, 256, (50, 8000, 3), dtype=np.uint8)\n"
        "detector.find([noise[:, :600]])\n"
        "before = peak()\n"
        "assert not detector.find([noise])[0]\n"
        "print(peak() - before)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 200_000  # KiB; gigabytes when the whole strip was turned


def test_a_tilted_face_is_found_wherever_in_a_long_strip_it_is(detector):
    face = photo("congress_G000535").resize((126, 160))
    face = face.rotate(45, Image.Resampling.BICUBIC, expand=True, fillcolor=(120, 130, 140))
    for axis in (0, 1):
        for at in (0, 300, 390, 480, 1200 - face.width):
            size, place = [face.width + 6, face.height + 6], [3, 3]
            size[axis], place[axis] = 1200, at
            strip = Image.new("RGB", size, (120, 130, 140))
            strip.paste(face, tuple(place))
            (found,) = find(detector, strip)[0]
            assert np.abs(found.points.mean(0) - place - face.width / 2).max() < 30


def test_a_picture_proposed_in_parts_is_proposed_as_a_whole(monkeypatch):
    nets, wide, tall = load_mtcnn(), Image.new("RGB", (701, 233)), Image.new("RGB", (233, 700))
    for number, name in enumerate(NAMES[1:]):
        wide.paste(photo(name).resize((190, 232)), (3 + 230 * number, 0))
        tall.paste(photo(name).resize((190, 232)), (0, 3 + 230 * number))
    for picture in (wide, tall):
        whole = search(nets, picture, 20)
        with monkeypatch.context() as patch:
            patch.setattr(mtcnn_search, "MOST_AT_ONCE", 4000)
            parts = search(nets, picture, 20)
        assert len(whole) == 3
        assert np.allclose(parts.boxes, whole.boxes, atol=0.1)
        assert np.allclose(parts.scores, whole.scores, atol=1e-3)


def test_a_tiny_face_and_a_face_in_a_large_picture_are_found(detector):
    tiny = photo("congress_G000535").resize((64, 78), Image.Resampling.LANCZOS)
    large = photo("astronaut").resize((4096, 4096), Image.Resampling.BICUBIC)
    small_part = Image.new("RGB", (1280, 720), (60, 90, 60))
    small_part.paste(photo("congress_G000535").resize((68, 83), Image.Resampling.LANCZOS), (900, 400))
    for picture, width_px in ((tiny, 40), (large, 800), (small_part, 40)):
        (face,) = find(detector, picture)[0]
        assert face.width == pytest.approx(width_px, rel=0.35)


def test_a_face_cut_by_the_picture_edge_is_found(detector):
    picture = photo("astronaut")
    for box in (
        (175, 0, 512, 300),
        (0, 75, 400, 400),
        (0, 0, 265, 300),
    ):  # left, upper and right edge cut into the face
        (face,) = find(detector, picture.crop(box))[0]
        truth = np.array(EYES["astronaut"]) - box[:2]
        assert np.hypot(*(eyes_of(face) - truth).T).max() < 8  # px of 39 between the eyes


def test_min_face_passes_over_smaller_faces():
    pair = Image.new("RGB", (600, 300), (90, 90, 90))
    pair.paste(photo("congress_C001101"), (10, 10))
    pair.paste(photo("congress_G000535").resize((90, 110)), (400, 100))
    assert len(find(EmbeddedDetector(), pair)[0]) == 2
    (face,) = find(EmbeddedDetector(min_face=90), pair)[0]
    assert face.box[0] < 225
    with pytest.raises(UsageError, match="px wide"):
        EmbeddedDetector(min_face=0.2)


def test_read_only_and_strided_pictures_are_welcome(detector):
    pixels = np.asarray(photo("astronaut"))
    pixels.setflags(write=False)
    flipped = pixels[:, ::-1]
    (face,), (mirrored,) = (faces for faces in detector.find([pixels, flipped]))
    assert 511 - mirrored.points[:, 0].mean() == pytest.approx(face.points[:, 0].mean(), abs=2)


def test_the_surest_of_overlapping_faces_stays():
    points = find(EmbeddedDetector(), photo("astronaut"))[0][0].points
    faces = [Face.from_points(points + shift, score) for shift, score in ((0, 0.8), (4, 0.95), (400, 0.7))]
    kept = without_duplicates(faces)
    assert [face.score for face in kept] == [0.95, 0.7]


def test_finding_leaves_the_caller_its_threads(detector):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        find(detector, photo("astronaut"))
        assert torch.get_num_threads() == 2
        assert not torch.is_inference_mode_enabled()
    finally:
        torch.set_num_threads(before)


# --- choosing a detector


def test_an_unknown_detector_is_refused_with_the_nearest_name():
    with pytest.raises(UsageError, match="Did you mean 'embedded'"):
        make_detector("embeded")


def test_a_server_without_libgl_still_finds_faces(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    for name in other_backend.WEIGHTS:
        (tmp_path / "checkpoints" / f"{name}-0123456789.pth").touch()

    class NoLibGL:
        def find_spec(self, name, path=None, target=None):
            if name == "face_alignment":
                raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.delitem(sys.modules, "face_alignment", raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoLibGL(), *sys.meta_path])
    with pytest.raises(DualStyleGANError, match=r"libGL.*--detector embedded") as caught:
        make_detector("face-alignment")
    assert "\n" not in str(caught.value)
    found = make_detector("auto")
    assert found.name == "embedded" and "libGL" in found.note


def test_offline_without_weights_falls_back_and_says_so(monkeypatch, tmp_path):
    pytest.importorskip("face_alignment")
    monkeypatch.setenv("DSG_OFFLINE", "1")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(OfflineError, match=r"s3fd.*--detector embedded"):
        make_detector("face-alignment")
    assert make_detector("auto").name == "embedded"


def test_a_detector_that_is_not_to_be_had_is_refused_by_a_dry_run_too(monkeypatch, tmp_path):
    pytest.importorskip("face_alignment")
    monkeypatch.setenv("DSG_OFFLINE", "1")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    wanted = {"output": tmp_path / "out", "dry_run": True}
    with pytest.raises(OfflineError, match="s3fd"):
        list(align_pictures([tmp_path / "a.png"], detector="face-alignment", **wanted))
    with pytest.raises(OfflineError, match="s3fd"):
        settings = StylizerSettings(detector="face-alignment")
        list(stylize_files([tmp_path / "a.png"], ["painting:7"], settings, **wanted))


def test_auto_does_not_wait_for_a_server_out_of_reach(monkeypatch, tmp_path):
    pytest.importorskip("face_alignment")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(other_backend, "_answers", lambda host: False)
    assert "server is not reached" in make_detector("auto").note


def test_the_embedded_detector_never_imports_the_other_package():
    import subprocess

    code = (
        "import sys, numpy as np; from dualstylegan.faces.find import make_detector;"
        "make_detector('embedded').find([np.zeros((64, 64, 3), np.uint8)]);"
        "print([name for name in ('face_alignment', 'cv2', 'numba') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


# --- the networks


def test_embeddings_know_who_is_who(detector):
    embedder = FaceEmbedder()
    embeddings = []
    for name in NAMES:
        plain = photo(name)
        other = plain.resize((plain.width * 2 // 3, plain.height * 2 // 3)).rotate(8, Image.Resampling.BICUBIC)
        pair = []
        for picture in (plain, other):
            pixels = np.asarray(picture)
            faces = detector.find([pixels])[0]
            embedder.embed(pixels, faces)
            pair.append(faces[0].embedding)
        embeddings.append(pair)
    first, second = np.array(embeddings).transpose(1, 0, 2)
    distances = np.linalg.norm(first[:, None] - second[None], axis=-1)
    same = np.eye(len(NAMES), dtype=bool)
    assert first.shape == (4, 128) and first.dtype == np.float32
    assert distances[same].max() < 0.4  # the same photo, smaller and turned: well below the threshold
    assert distances[~same].min() > SAME_PERSON_DISTANCE


def test_the_chip_of_a_crop_gives_the_same_identity_at_any_resolution(detector):
    pixels = np.asarray(photo("astronaut"))
    (face,) = detector.find([pixels])[0]
    FaceEmbedder().embed(pixels, [face])
    net = load_identity()
    for size in (128, 256, 1024):
        crops = crop_face(pixels, face.crop_from_photo, size)[None]
        chips = chips_from_crops(crops)
        assert chips.shape == (1, 3, CHIP_SIZE, CHIP_SIZE)
        assert (net(chips)[0] - torch.from_numpy(face.embedding)).norm() < 0.25


def test_identity_and_features_are_differentiable():
    images = torch.rand(2, 3, 64, 64, requires_grad=True)
    for outcome in (load_identity()(chips_from_crops(images)), load_mobilenet()(images)["relu3_1"]):
        (gradient,) = torch.autograd.grad(outcome.pow(2).sum(), images)
        assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0


def test_mobilenet_features_have_the_strides_and_widths_their_table_states():
    net = load_mobilenet()
    features = net(torch.rand(2, 3, 64, 96) * 2 - 1)
    stated = {}
    for line in type(net).__doc__.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 4 and cells[1].startswith("relu"):
            stated[cells[1]] = (int(cells[2]), int(cells[3]))
    assert tuple(features) == net.names == tuple(stated)
    for name, (stride, width) in stated.items():
        assert features[name].shape == (2, width, 64 // stride, 96 // stride)
        assert features[name].min() >= 0 and features[name].max() <= 6


def test_only_the_layers_asked_for_are_computed():
    net = load_mobilenet()
    images = torch.rand(1, 3, 32, 32)
    deep = []
    net.last.register_forward_hook(lambda *_: deep.append(True))
    some = net(images, ["relu2_1", "relu1_1"])
    assert set(some) == {"relu1_1", "relu2_1"} and not deep
    assert torch.equal(some["relu2_1"], net(images)["relu2_1"])
    with pytest.raises(KeyError, match="relu9_9"):
        net(images, ["relu9_9"])


def test_features_tell_a_blurred_photo_from_a_slightly_brighter_one():
    pixels = torch.from_numpy(np.array(photo("astronaut"))).permute(2, 0, 1)[None] / 127.5 - 1
    blurred = interpolate(interpolate(pixels, scale_factor=0.1, mode="area"), size=(512, 512), mode="bilinear")
    brighter = (pixels + 0.03).clamp(-1, 1)
    net = load_mobilenet()

    def distance(a: torch.Tensor, b: torch.Tensor) -> float:
        x, y = net(a)["relu3_1"], net(b)["relu3_1"]
        return float((x - y).abs().mean() / x.abs().mean())

    assert distance(pixels, brighter) < 0.1 < 0.3 < distance(pixels, blurred)


def test_embedded_networks_are_frozen_and_small():
    folder = Path(load_mtcnn.__globals__["__file__"]).parent
    assert sum(file.stat().st_size for file in (folder / "faces").glob("*.safetensors")) < 10e6
    notice = (folder / "NOTICE").read_text(encoding="utf-8")
    for file in (folder / "faces").iterdir():
        assert f"faces/{file.name}" in notice
    for load in (load_mtcnn, load_landmarks68, load_identity, load_mobilenet, load_matte, load_finish):
        net = load()
        assert not net.training
        assert not any(parameter.requires_grad for parameter in net.parameters())


# --- the reference photos


@pytest.mark.slow
def test_pupils_and_detection_rate_on_the_reference_photos(shared, detector, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent / "bench")
    spec = importlib.util.spec_from_file_location("bench_faces", Path(__file__).parent / "bench" / "faces.py")
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    if not bench.PHOTOS.is_dir():
        pytest.skip("needs facedata/ in the reference data")
    measured = {what: float(value.rstrip("%")) for what, value, wanted in bench.pupils(detector, 1) if wanted}
    measured |= {what: float(value.rstrip("%")) for what, value, wanted in bench.detection_rate(detector, 1) if wanted}
    error, found, extra = measured.values()
    assert error <= 4 and found >= 99.5 and extra <= 1


def test_landmarks_follow_the_ibug_order(detector):
    (face,) = find(detector, photo("astronaut"))[0]
    x, y = transform(face.crop_from_photo, face.points.astype(np.float64)).T
    assert (np.diff(x[:17]) > 0).sum() >= 14  # the jaw runs from the viewer's left to right
    assert x[17:22].mean() < x[22:27].mean() and y[17:27].mean() < y[36:48].mean()  # brows above eyes
    assert y[27] < y[30] < y[33] < y[51] < y[57] < y[8]  # bridge, tip, base, upper lip, lower lip, chin
    assert x[48] < x[51] < x[54]
