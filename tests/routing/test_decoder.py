"""The decoder against an image-by-image reference that knows nothing of masks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dynamic_routing.routing import SegmentationDecoder
from dynamic_routing.routing.decoder import PYRAMID_BINS, PyramidPooling
from tests.routing.builders import randomise, relative_error

CHANNELS = [4, 8, 16, 32]


def decoder(*, pyramid=False, classes=3, seed=0):
    model = SegmentationDecoder(CHANNELS, classes, norm=nn.BatchNorm2d, pyramid_pooling=pyramid)
    randomise(model, seed=seed)
    nn.init.normal_(model.predictor.bias)
    return model.double().eval()


def features(count=4, height=16, width=24, seed=0):
    """Scale -> (N, C, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    return {
        s: torch.randn(count, c, height >> s, width >> s, generator=generator).double()
        for s, c in enumerate(CHANNELS)
    }


def reference(model, maps, first):
    """Scores of one image whose coarsest existing scale is ``first``, None for none."""
    state = model.state_dict()

    def up(x, factor):
        return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)

    p = None
    for scale in range(3 if first is None else first, -1, -1):
        x = maps[scale] if p is None else maps[scale] + up(p, 2)
        name = f"levels.{scale}"
        y = F.conv2d(x, state[f"{name}.conv.weight"])
        statistics = [state[f"{name}.norm.{k}"] for k in ("running_mean", "running_var")]
        affine = [state[f"{name}.norm.{k}"] for k in ("weight", "bias")]
        p = F.relu(F.batch_norm(y, *statistics, *affine))
    if first is None:
        p = torch.zeros_like(p)
    return up(F.conv2d(p, state["predictor.weight"], state["predictor.bias"], padding=1), 4)


@torch.no_grad()
def test_decoder_equals_its_equations():
    model, maps = decoder(), features()
    scores = model(maps)
    assert scores.shape == (4, 3, 64, 96)
    assert relative_error(scores, reference(model, maps, 3)) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("others", [0, 1, 2, 3, None])
@pytest.mark.parametrize("first", [0, 1, 2, 3, None])
def test_what_is_absent_passes_nothing_on_whatever_the_other_images(first, others):
    model, maps = decoder(), features()
    exists = {
        s: torch.tensor([f is not None and s <= f for f in (first, others, first, others)])
        for s in range(4)
    }
    for scale, here in exists.items():
        maps[scale] *= here[:, None, None, None]  # a network delivers zeros
    scores = model(maps, exists)
    for n, start in enumerate((first, others, first, others)):
        single = {s: x[n : n + 1] for s, x in maps.items()}
        assert relative_error(scores[n : n + 1], reference(model, single, start)) < 1e-12


@torch.no_grad()
def test_gap_below_an_existing_scale_is_filled_from_above():
    model, maps = decoder(), features(count=1)
    maps[1].zero_()
    exists = {s: torch.tensor([s != 1]) for s in range(4)}
    assert relative_error(model(maps, exists), reference(model, maps, 3)) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("pyramid", [False, True])
def test_scores_are_the_bias_where_nothing_exists(pyramid):
    model, maps = decoder(pyramid=pyramid), features(count=2)
    scores = model(maps, {s: torch.zeros(2, dtype=torch.bool) for s in range(4)})
    bias = model.predictor.bias[None, :, None, None].expand_as(scores)
    assert torch.allclose(scores, bias, atol=1e-12, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("pyramid", [False, True])
def test_everything_reached_equals_no_mask(pyramid):
    model, maps = decoder(pyramid=pyramid), features()
    reached = {s: torch.ones(4, dtype=torch.bool) for s in range(4)}
    assert torch.equal(model(maps, reached), model(maps))


def test_parameters_are_those_of_the_paper():
    with torch.device("meta"):
        model = SegmentationDecoder([64, 128, 256, 512], 19, norm=nn.BatchNorm2d)
    assert sum(p.numel() for p in model.parameters()) == 188_115
    assert [level.conv.out_channels for level in model.levels] == [64, 64, 128, 256]


@torch.no_grad()
def test_pyramid_pooling_equals_its_definition():
    torch.manual_seed(1)
    module = PyramidPooling(8, nn.BatchNorm2d).double().eval()
    x = torch.randn(2, 8, 6, 12, dtype=torch.float64)
    parts = [x]
    for bins, branch in zip(PYRAMID_BINS, module.branches, strict=True):
        pooled = torch.stack(
            [
                torch.stack(
                    [
                        x[
                            :,
                            :,
                            i * 6 // bins : -(-(i + 1) * 6 // bins),
                            j * 12 // bins : -(-(j + 1) * 12 // bins),
                        ].mean((2, 3))
                        for j in range(bins)
                    ],
                    dim=-1,
                )
                for i in range(bins)
            ],
            dim=-2,
        )
        y = F.relu(branch[1].norm(F.conv2d(pooled, branch[1].conv.weight)))
        parts.append(F.interpolate(y, size=(6, 12), mode="bilinear", align_corners=False))
    fused = F.conv2d(torch.cat(parts, 1), module.fuse.conv.weight, padding=1)
    assert relative_error(module(x), F.relu(module.fuse.norm(fused))) < 1e-12


@pytest.mark.parametrize(
    ("channels", "classes", "message"),
    [
        ([4, 8], 0, "at least 1 class, got 0"),
        ([], 2, r"must double .* got \[\]"),
        ([4, 8, 24], 2, r"must double .* got \[4, 8, 24\]"),
    ],
)
def test_arguments_out_of_bounds_are_refused(channels, classes, message):
    with pytest.raises(ValueError, match=message):
        SegmentationDecoder(channels, classes, norm=nn.BatchNorm2d)
