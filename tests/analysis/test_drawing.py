"""Pictures: what is drawn follows the gates; files are small and complete."""

import os

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image

from dynamic_routing.analysis.drawing import draw_route, node_states
from dynamic_routing.analysis.panel import DPI, MAX_BYTES, Palette, encode_png, route_panel
from dynamic_routing.routing import Routes, RoutingSpace

GRID = RoutingSpace.grid(16)
SPACES = {
    "16 layers": GRID,
    "33 layers": RoutingSpace.grid(33),
    "17 layers, 5 scales": RoutingSpace.grid(17, num_output_scales=5),
    "one cell": RoutingSpace.grid(1, num_scales=1),
    "sub-graph": GRID.subspace([e for e in GRID.edges if e.kind != "up"]),
}
PALETTE = Palette(("road", "sky", "car"), ((128, 64, 128), (70, 130, 180), (0, 0, 142)))


def open_gates(space):
    gates = torch.rand(len(space.edges))
    return torch.where(torch.rand_like(gates) < 0.6, gates, 0.0)


def collections(space, gates, **options):
    """The three groups of lines: closed, open, handed on."""
    axes = Figure().subplots()
    draw_route(axes, space, gates, **options)
    return axes, [c for c in axes.collections if isinstance(c, LineCollection)]


@pytest.mark.parametrize("name", SPACES)
def test_every_edge_is_drawn_once(name):
    space = SPACES[name]
    gates = open_gates(space)
    axes, (closed, drawn, _) = collections(space, gates)
    found = {}
    for group in (closed, drawn):
        for segment in group.get_segments():
            assert tuple(map(tuple, segment)) not in found
            found[tuple(map(tuple, segment))] = group is drawn
    assert len(found) == len(space.edges)
    for edge, gate in zip(space.edges, gates.tolist()):
        ends = ((edge.source.layer, edge.source.scale), (edge.target.layer, edge.target.scale))
        assert found[ends] == (gate > 0)
    bottom, top = axes.get_ylim()
    left, right = axes.get_xlim()
    ends = np.array([point for ends in found for point in ends])
    assert bottom > ends[:, 1].max() and top < 0  # scale 1/4 at the top
    assert left < -1 and right > ends[:, 0].max()


def test_strength_shows_in_width_and_darkness():
    gates = torch.linspace(0.05, 1.0, len(GRID.edges))
    _, (_, drawn, _) = collections(GRID, gates)
    widths = np.array(drawn.get_linewidths())
    luminance = drawn.get_colors()[:, :3] @ [0.299, 0.587, 0.114]
    assert (np.diff(widths) > 0).all() and (np.diff(luminance) < 1e-3).all()


def test_nodes_show_what_they_did():
    space = RoutingSpace.grid(3, num_scales=2)
    gates = torch.zeros(len(space.edges))
    gates[0] = 1.0  # the initial cell keeps; layer 0, 1/4 hands its input on from there
    states = node_states(Routes(space, gates[None], "absent", (8, 8)))
    by_place = {(n.layer, n.scale): state for n, state in states.items()}
    assert by_place[-1, 0] == "running" and by_place[0, 0] == "passed through"
    assert by_place[2, 0] == "passed through" and by_place[1, 1] == "absent"
    _, (_, _, handed_on) = collections(space, gates)
    segments = {tuple(map(tuple, segment)) for segment in handed_on.get_segments()}
    assert segments == {((layer, 0), (layer + 1, 0)) for layer in range(3)}


def test_bad_gates_are_refused():
    axes = Figure().subplots()
    count = len(GRID.edges)
    with pytest.raises(ValueError, match=rf"\({count},\), got \(1, {count}\)"):
        draw_route(axes, GRID, torch.zeros(1, count))
    with pytest.raises(ValueError, match=r"\[0, 1\], got 0 to 2"):
        draw_route(axes, GRID, 2.0 * (torch.arange(count) == 3))
    with pytest.raises(ValueError, match="nan"):
        draw_route(axes, GRID, torch.full((count,), float("nan")))


def panel(folder, size=(96, 192), **changes):
    generator = np.random.default_rng(0)
    fields = {
        "image": generator.integers(0, 256, (*size, 3)).astype(np.uint8),
        "prediction": generator.integers(0, 3, size),
        "truth": np.full(size, 255),
        "routes": Routes(GRID, open_gates(GRID)[None], "absent", size),
        "palette": PALETTE,
        "title": "a hard image",
        "path": folder / "panel.png",
    }
    return route_panel(**{**fields, **changes})


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1024, 2048), (400, 150)])
def test_panel_of_pure_noise_stays_small(tmp_path, size):
    path = panel(tmp_path, size)
    assert os.listdir(tmp_path) == ["panel.png"] and path.stat().st_size <= MAX_BYTES
    with Image.open(path) as picture:
        assert picture.info["dpi"] == pytest.approx((DPI, DPI), abs=0.1)
        assert picture.size[0] == 12 * DPI


def test_panel_refuses_other_shapes(tmp_path):
    with pytest.raises(ValueError, match=r"truth must have shape \(96, 192\), got \(9, 9\)"):
        panel(tmp_path, truth=np.zeros((9, 9)))
    with pytest.raises(ValueError, match=r"image must be .* got \(4, 4\) float64"):
        panel(tmp_path, image=np.zeros((4, 4)))
    two = Routes(GRID, open_gates(GRID).expand(2, -1), "absent", (96, 192))
    with pytest.raises(ValueError, match="one image, got 2"):
        panel(tmp_path, routes=two)


def test_palette_paints_and_names_what_occurs():
    labels = np.array([[0, 2], [255, 2]])
    assert PALETTE.paint(labels).tolist() == [
        [[128, 64, 128], [0, 0, 142]],
        [[0, 0, 0], [0, 0, 142]],
    ]
    assert [p.get_label() for p in PALETTE.legend([labels])] == ["road", "car", "ignored"]
    assert [p.get_label() for p in PALETTE.legend([labels[:1]])] == ["road", "car"]
    with pytest.raises(ValueError, match="1 class names, but 0 colours"):
        Palette(("a",), ())


def test_nothing_is_left_in_pyplot():
    import matplotlib.pyplot as plt

    figure = Figure(figsize=(4, 2))
    draw_route(figure.subplots(), GRID, open_gates(GRID))
    encode_png(figure)
    assert plt.get_fignums() == []
