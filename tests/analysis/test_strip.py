"""Routes over a sequence and below a picture: every edge and frame in its place."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from dynamic_routing import analysis
from dynamic_routing.analysis.panel import encode_png
from dynamic_routing.analysis.strip import MAX_COLUMNS, grid_picture, route_strip, with_route
from dynamic_routing.routing import Routes, RoutingSpace
from tests.modeling.builders import REPOSITORY

SPACE = RoutingSpace.grid(3)
EDGES = len(SPACE.edges)


def gates(frames, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(frames, EDGES, generator=generator).sub(0.4).clamp(min=0)


def heat_map(figure):
    return figure.axes[0].images[0].get_array()


def test_every_gate_is_at_its_edge_and_frame():
    strengths = gates(6)
    figure = route_strip(SPACE, strengths, np.arange(6.0))
    shown = heat_map(figure)
    assert isinstance(figure, Figure) and shown.shape == (EDGES, 6)
    assert np.allclose(shown.filled(0.0), strengths.numpy().T)
    assert np.array_equal(shown.mask, strengths.numpy().T == 0)
    curve = figure.axes[1].lines[0]
    assert np.array_equal(curve.get_xdata(), np.arange(6))
    assert np.array_equal(curve.get_ydata(), np.arange(6.0))
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()


def test_changes_of_the_open_edges_are_counted():
    strengths = torch.full((4, EDGES), 0.5)
    strengths[2, 3] = 0  # closes, and opens again
    title = route_strip(SPACE, strengths, np.ones(4)).axes[0].get_title()
    assert "Frames: 4" in title and title.endswith(": 2")


@pytest.mark.parametrize("frames", [MAX_COLUMNS, MAX_COLUMNS + 1, 2 * MAX_COLUMNS + 3])
def test_long_sequence_is_averaged_over_neighbouring_frames(frames):
    strengths = gates(frames)
    figure = route_strip(SPACE, strengths, np.ones(frames))
    shown = heat_map(figure)
    together = -(-frames // MAX_COLUMNS)
    assert shown.shape[1] <= MAX_COLUMNS
    assert np.allclose(shown.filled(0.0)[:, 0], strengths[:together].mean(dim=0))
    assert figure.axes[0].get_xlim() == (-0.5, frames - 0.5)


@pytest.mark.parametrize("frames", [1, 5])
def test_strip_becomes_a_picture(frames):
    content = encode_png(route_strip(SPACE, gates(frames), np.full(frames, 0.25)), dpi=60)
    assert content.startswith(b"\x89PNG")


@pytest.mark.parametrize(("rows", "costs"), [(0, 0), (2, 3)])
def test_wrong_shapes_are_refused(rows, costs):
    with pytest.raises(ValueError, match="frames need gates of shape"):
        route_strip(SPACE, gates(rows), np.ones(costs))


@pytest.mark.slow
@pytest.mark.parametrize("width", [300, 1200, 1501])
def test_route_stands_below_the_picture(width):
    picture = np.random.default_rng(0).integers(0, 255, (200, width, 3), dtype=np.uint8)
    route = Routes(SPACE, gates(1), "absent", (64, 64))
    page = with_route(picture, route, caption="executed 1 GMACs")
    left = (page.shape[1] - width) // 2
    assert page.dtype == np.uint8 and page.shape[1] == max(width, 1200)
    assert np.array_equal(page[:200, left : left + width], picture)
    assert page.shape[0] > 400 and len(np.unique(page[200:].reshape(-1, 3), axis=0)) > 20


def test_route_of_several_images_is_refused():
    with pytest.raises(ValueError, match="of one image, got 2"):
        with_route(
            np.zeros((4, 4, 3), np.uint8), Routes(SPACE, gates(2), "absent", (4, 4)), caption=""
        )


def test_library_names_are_those_of_their_modules_and_cost_nothing_before_use():
    assert analysis.with_route is with_route and analysis.route_strip is route_strip
    assert all(callable(getattr(analysis, name)) for name in analysis.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = analysis.nonsense
    code = "import sys, dynamic_routing.analysis; print('matplotlib' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_grid_picture_has_the_asked_width_and_shows_its_gates():
    few, many = (
        grid_picture(SPACE, torch.full((EDGES,), value), caption="x", label="share", width=700)
        for value in (0.05, 1.0)
    )
    assert few.shape == many.shape and few.shape[1] == 700 and few.dtype == np.uint8
    assert (few != many).any(axis=-1).mean() > 0.005
