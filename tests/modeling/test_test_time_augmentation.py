"""Test-time augmentation against averaging by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dynamic_routing.modeling.test_time_augmentation import SemanticSegmentorWithTTA
from tests.modeling.builders import CLASSES, batch, small_model


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return small_model(seed=3).eval()


@torch.no_grad()
def probabilities(model, image, **size):
    return model([{"image": image, **size}])[0]["sem_seg"].softmax(dim=0)


def test_one_plain_view_gives_the_softmax_of_the_model(model):
    inputs = batch((64, 96), (70, 50), labels=False)
    outputs = SemanticSegmentorWithTTA(model, scales=[1.0], flip=False)(inputs)
    for entry, output in zip(inputs, outputs, strict=True):
        expected = probabilities(model, entry["image"])
        assert torch.allclose(output["sem_seg"], expected, atol=1e-6)
        assert torch.equal(output["sem_seg"].argmax(0), expected.argmax(0))


@torch.no_grad()
def test_views_are_averaged_as_probabilities_and_turned_back(model):
    (entry,) = batch((64, 96), labels=False)
    entry.update(height=32, width=40)
    image, size = entry["image"], {"height": 32, "width": 40}
    views = []
    for scale in (0.5, 1.0, 1.5):
        shape = (round(64 * scale), round(96 * scale))
        scaled = F.interpolate(image[None], size=shape, mode="bilinear", align_corners=False)[0]
        views.append(probabilities(model, scaled, **size))
        views.append(probabilities(model, scaled.flip(-1), **size).flip(-1))
    (output,) = SemanticSegmentorWithTTA(model, scales=[0.5, 1.0, 1.5], flip=True)([entry])
    assert output["sem_seg"].shape == (CLASSES, 32, 40)
    assert torch.allclose(output["sem_seg"], torch.stack(views).mean(0), atol=1e-6)


def test_mirroring_makes_the_result_symmetric(model):
    (entry,) = batch((64, 64), labels=False)
    mirrored = {"image": entry["image"].flip(-1)}
    tta = SemanticSegmentorWithTTA(model, scales=[1.0], flip=True)
    a, b = tta([entry])[0]["sem_seg"], tta([mirrored])[0]["sem_seg"]
    assert torch.allclose(a, b.flip(-1), atol=1e-6)
    plain = probabilities(model, entry["image"])
    assert not torch.allclose(a, plain, atol=1e-3)


def test_routes_are_those_of_the_unscaled_view_and_times_add_up(model):
    (entry,) = batch((64, 64), labels=False)
    seen = []
    handle = model.register_forward_hook(lambda m, i, o: seen.append(o[0]["milliseconds"]))
    (output,) = SemanticSegmentorWithTTA(model, scales=[0.5, 1.0, 2.0], flip=True)([entry])
    handle.remove()
    assert output["routes"].image_size == (64, 64) and len(output["routes"]) == 1
    with torch.no_grad():
        expected = model([entry])[0]["routes"]
    assert torch.equal(output["routes"].gates, expected.gates)
    assert len(seen) == 6 and output["milliseconds"] == pytest.approx(sum(seen))


def test_model_without_routes_is_tested_too():
    class Constant(nn.Module):
        def forward(self, inputs):
            return [{"sem_seg": torch.zeros(2, 4, 4)} for _ in inputs]

    (output,) = SemanticSegmentorWithTTA(Constant(), scales=[1.0], flip=True)(
        [{"image": torch.zeros(3, 4, 4)}]
    )
    assert list(output) == ["sem_seg"] and torch.equal(
        output["sem_seg"], torch.full((2, 4, 4), 0.5)
    )


@pytest.mark.parametrize("scales", [[], [0.0], [1.0, -1.0]])
def test_scales_must_be_positive(scales):
    with pytest.raises(ValueError, match="TEST.AUG.SCALES must be positive"):
        SemanticSegmentorWithTTA(nn.Identity(), scales=scales, flip=False)
