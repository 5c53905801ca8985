"""The judges of training: one interface, one scale, whichever nets there are."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate

from dualstylegan.errors import OfflineError
from dualstylegan.networks.arcface import ArcFace
from dualstylegan.networks.lpips import LPIPS
from dualstylegan.networks.vgg import VGG19Features
from dualstylegan.training.perception import ArcFaceJudge, Perception, VGGJudge, load_perception


@pytest.fixture(scope="module")
def embedded() -> Perception:
    return load_perception("mobilenet", "embedded")


@pytest.fixture
def faces() -> torch.Tensor:
    """Smooth pictures (3, 3, 64, 64) in [-1, 1]; no faces, but the nets do not mind."""
    coarse = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return interpolate(coarse, (64, 64), mode="bicubic").clamp(-1, 1)


def test_without_the_papers_weights_the_embedded_nets_are_taken():
    assert load_perception("auto", "auto").names == {"features": "mobilenetv2", "identity": "dlib-resnet"}


def test_named_weights_that_may_not_be_fetched_are_an_error(monkeypatch):
    monkeypatch.setenv("DSG_OFFLINE", "1")
    with pytest.raises(OfflineError, match="vgg19"):
        load_perception("vgg", "embedded")
    with pytest.raises(OfflineError, match="arcface"):
        load_perception("mobilenet", "arcface")


def test_features_have_the_papers_names_and_strides(embedded, faces):
    features = embedded.features(faces, ("relu1_1", "relu2_1", "relu3_1", "relu4_1"))
    assert [tuple(feature.shape[-2:]) for feature in features.values()] == [(64, 64), (32, 32), (16, 16), (8, 8)]


def test_large_pictures_are_judged_at_the_size_asked_for(embedded, faces):
    judge = load_perception("mobilenet", "embedded", pixels=32)
    small = torch.nn.functional.avg_pool2d(faces, 2)
    assert torch.equal(judge.features(faces)["relu1_1"], judge.features(small)["relu1_1"])
    torch.testing.assert_close(judge.lpips(faces, faces.flip(0)), embedded.lpips(small, small.flip(0)))


def test_a_picture_is_at_no_distance_from_itself_and_some_from_others(embedded, faces):
    assert embedded.lpips(faces, faces).tolist() == [0, 0, 0]
    assert (embedded.lpips(faces, faces.roll(1, 0)) > 0.1).all()
    torch.testing.assert_close(embedded.identity_distance(faces, faces), torch.zeros(3), atol=1e-6, rtol=0)


def test_a_fixed_target_may_be_computed_once(embedded, faces):
    target, who = embedded.lpips_features(faces.flip(0)), embedded.identity(faces.flip(0))
    assert torch.equal(embedded.lpips(faces, target), embedded.lpips(faces, faces.flip(0)))
    assert torch.equal(embedded.identity_distance(faces, who), embedded.identity_distance(faces, faces.flip(0)))


def test_gradients_reach_the_pictures_and_no_judge(embedded, faces):
    faces.requires_grad_(True)
    loss = embedded.lpips(faces, faces.detach().flip(0)).sum()
    loss = loss + embedded.identity_distance(faces, faces.detach().flip(0)).sum()
    (loss + embedded.features(faces)["relu3_1"].mean()).backward()
    assert faces.grad.abs().sum(dim=(1, 2, 3)).min() > 0
    assert not any(
        p.requires_grad for judge in (embedded.feature_net, embedded.identity_net) for p in judge.parameters()
    )


def test_the_papers_nets_answer_the_same_questions(faces):
    torch.manual_seed(0)
    layers = ("relu1_1", "relu2_1", "relu3_1")
    lpips = LPIPS()
    papers = Perception(VGGJudge(VGG19Features(layers), lpips), ArcFaceJudge(ArcFace().eval()))
    assert papers.names == {"features": "vgg19", "identity": "arcface"}
    assert tuple(papers.features(faces)) == layers
    torch.testing.assert_close(papers.lpips(faces, faces.flip(0)), lpips(faces, faces.flip(0)), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(papers.identity(faces).norm(dim=1), torch.ones(3))
