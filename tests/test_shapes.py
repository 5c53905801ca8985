"""Landmarks of aligned faces as a judge of shape, and stage III's term of it."""

from __future__ import annotations

import pytest
import torch
from conftest import ROOT

from dualstylegan.faces.crop import crop_face
from dualstylegan.faces.face import transform
from dualstylegan.faces.find import make_detector
from dualstylegan.faces.landmarks import MIRRORED
from dualstylegan.media.images import read_picture
from dualstylegan.training.shapes import ShapeJudge, moves, shape_loss
from dualstylegan.weights import load_landmarks68


@pytest.fixture(scope="module")
def judge() -> ShapeJudge:
    return ShapeJudge(load_landmarks68())


def test_landmarks_of_a_crop_are_those_of_the_photo(judge):
    photo = read_picture(ROOT / "tests/data/photos/congress_A000371.jpg").pixels
    (face,) = make_detector("embedded").find([photo])[0]
    known = torch.from_numpy(transform(face.crop_from_photo, face.points)).float()
    found = judge(crop_face(photo, face.crop_from_photo, 128)[None])[0]
    assert (found - known).abs().mean() < 0.006  # two looks agree to about this


def test_no_side_counts_more_and_gradients_reach_the_picture(judge):
    crop = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    crop.requires_grad_()
    points, mirrored = judge(crop), judge(crop.flip(3))
    edges = (round(0.16 * 64) + round(0.844 * 64)) / 64  # the square lies a little left or right in whole pixels
    expected = mirrored[:, MIRRORED] * torch.tensor([-1, 1.0]) + torch.tensor([edges, 0])
    torch.testing.assert_close(points, expected, atol=0.02, rtol=0)
    shape_loss(points, mirrored.detach()).sum().backward()
    assert crop.grad is not None and crop.grad.abs().sum() > 0


def test_an_exemplar_moves_faces_half_as_its_artist_did_and_half_as_all_did():
    faces = torch.rand(3, 68, 2)
    each = torch.tensor([0.0, 1.0, 2.0])[:, None, None].expand(3, 68, 2)
    assert moves(faces + each, faces)[:, 0, 0].tolist() == pytest.approx([0.5, 1.0, 1.5])
