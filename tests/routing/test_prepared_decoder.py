"""The prepared decoder scores what the decoder scores and skips what nothing reached."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dynamic_routing.routing import SegmentationDecoder
from dynamic_routing.routing.prepared_decoder import PreparedDecoder
from tests.routing.builders import randomise, relative_error

CHANNELS = (8, 16, 32, 64)
PATTERNS = list(product([False, True], repeat=4))


def decoder(*, pyramid_pooling: bool = False, norm=nn.BatchNorm2d) -> SegmentationDecoder:
    """A decoder with random weights and a bias."""
    made = SegmentationDecoder(CHANNELS, 5, norm=norm, pyramid_pooling=pyramid_pooling)
    randomise(made, seed=0)
    nn.init.normal_(made.predictor.bias)
    return made.double().eval()


def features(count: int, reached: dict[int, torch.Tensor]) -> dict[int, torch.Tensor]:
    """Random features, zeros where nothing arrived."""
    generator = torch.Generator().manual_seed(1)
    maps = {}
    for scale, channels in enumerate(CHANNELS):
        shape = (count, channels, 16 >> scale, 32 >> scale)
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        maps[scale] = x * reached[scale][:, None, None, None]
    return maps


@pytest.mark.parametrize("pyramid_pooling", [False, True])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, lambda c: nn.GroupNorm(2, c)])
def test_prepared_decoder_equals_decoder_on_every_pattern(pyramid_pooling, norm):
    made = decoder(pyramid_pooling=pyramid_pooling, norm=norm)
    prepared = PreparedDecoder(made)
    reached = {s: torch.tensor([p[s] for p in PATTERNS]) for s in range(4)}
    maps = features(len(PATTERNS), reached)
    before = {s: x.clone() for s, x in maps.items()}
    expected = made(maps, reached)
    assert relative_error(prepared(maps, reached), expected) < 1e-12
    assert relative_error(prepared(maps), made(maps)) < 1e-12
    assert all(torch.equal(before[s], x) for s, x in maps.items())
    groups = prepared._groups(reached, len(PATTERNS), one_by_one=False)
    assert sorted(n for rows, _ in groups for n in rows) == list(range(len(PATTERNS)))
    for rows, pattern in groups:
        assert relative_error(prepared._scores(maps, rows, pattern), expected[rows]) < 1e-12


def test_images_of_one_pattern_run_together_and_come_back_in_order(monkeypatch):
    made = decoder()
    prepared = PreparedDecoder(made)
    here = [True, False, True, False, True]
    reached = {s: torch.tensor(here if s else [True] * 5) for s in range(4)}
    maps = features(5, reached)
    groups = prepared._groups
    monkeypatch.setattr(
        prepared, "_groups", lambda *args, one_by_one: groups(*args, one_by_one=False)
    )
    assert len(prepared._groups(reached, 5, one_by_one=True)) == 2
    assert relative_error(prepared(maps, reached), made(maps, reached)) < 1e-12


def test_levels_that_nothing_reached_cost_nothing():
    prepared = PreparedDecoder(decoder())
    counts = []
    for pattern in ((False,) * 4, (True, False, False, False), (True,) * 4):
        reached = {s: torch.tensor([here]) for s, here in enumerate(pattern)}
        maps = features(1, reached)
        with FlopCounterMode(display=False) as counter:
            prepared(maps, reached)
        counts.append(counter.get_total_flops())
    assert counts[0] == 0 < counts[1] < counts[2]


def test_images_without_features_join_the_others_under_autocast():
    made = decoder().float()
    prepared = PreparedDecoder(made)
    for first in (False, True):
        reached = {s: torch.tensor([first, not first]) for s in range(4)}
        maps = {s: x.float() for s, x in features(2, reached).items()}
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            expected, found = made(maps, reached), prepared(maps, reached)
        assert relative_error(found.float(), expected.float()) < 0.05
