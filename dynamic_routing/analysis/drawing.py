"""Pictures of routes: the grid of layers and scales with its open edges.

Only matplotlib's objects are used, never pyplot, so nothing outlives a call.
"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.lines import Line2D
from torch import Tensor

from dynamic_routing.routing.routes import Routes
from dynamic_routing.routing.space import INITIAL, STEM_STRIDE, Edge, Node, RoutingSpace

OPEN_WIDTHS = (1.0, 3.6)
"""Line widths in points of the weakest and of the strongest open edge."""

CLOSED_COLOUR = "#d0d0d0"
CLOSED_WIDTH = 0.7
INK = "#222222"
FAINT = "#b8b8b8"
HANDED_ON_STYLE = {"colors": INK, "linewidths": 1.0, "linestyles": (0, (2, 2))}
NODE_STYLES: dict[str, dict[str, object]] = {
    "running": {"facecolors": INK, "edgecolors": INK, "s": 30},
    "passed through": {"facecolors": "white", "edgecolors": INK, "s": 30},
    "absent": {"facecolors": CLOSED_COLOUR, "edgecolors": CLOSED_COLOUR, "s": 10},
}
"""How a node is drawn: its operations ran, it handed its input on, or it did not exist."""


def strength_colours() -> Colormap:
    """Viridis turned round, without its palest part: dark is strong; safe for the colour-blind."""
    return ListedColormap(colormaps["viridis_r"](np.linspace(0.12, 1.0, 256)), name="strength")


def draw_route(
    axes: Axes,
    space: RoutingSpace,
    gates: Tensor,
    *,
    rule: str = "absent",
    label: str = "gate strength",
    font_size: float = 9.0,
    legend_columns: int = 6,
) -> None:
    """Draw one route: layers left to right, scales from 1/4 at the top downwards.

    Open edges are coloured and widened by their gate, closed ones are faint; dashes show the input
    that a cell with closed gates hands on. The square is the initial cell, triangles are outputs.

    Args:
        axes: emptied and filled; aim for at least 0.25 inch a layer.
        space: of E edges; a sub-space is drawn at its place in the grid.
        gates: (E,) in [0, 1]: one image's gates, or open rates over a data set.
        rule: how nodes that no open edge reaches behaved, a key of ``UNREACHED_RULES``.
        label: of the colour bar.
        font_size: of all text, in points.
        legend_columns: entries side by side above the grid; 6 need 9 inches.

    Raises:
        ValueError: gates of another shape, not finite, or outside [0, 1].
    """
    strengths = _checked(space, gates)
    order = np.argsort(strengths)  # strong edges on top of weak ones
    is_open = strengths[order] > 0
    lines = [_segment(space.edges[i]) for i in order]
    axes.clear()
    closed = [line for line, drawn in zip(lines, is_open) if not drawn]
    axes.add_collection(
        LineCollection(closed, colors=CLOSED_COLOUR, linewidths=CLOSED_WIDTH, zorder=1)
    )
    values = strengths[order][is_open]
    thin, thick = OPEN_WIDTHS
    axes.add_collection(
        LineCollection(
            [line for line, drawn in zip(lines, is_open) if drawn],
            colors=strength_colours()(values),
            linewidths=thin + (thick - thin) * values,
            capstyle="round",
            zorder=2,
        )
    )
    routes = Routes(space, torch.from_numpy(strengths)[None].float(), rule, (0, 0))
    states = node_states(routes)
    handed_on = [Edge(node, "keep") for node, state in states.items() if state == "passed through"]
    _draw_handed_on(axes, [edge for edge in handed_on if edge in space.edge_index])
    _draw_nodes(axes, states)
    _draw_outputs(axes, routes)
    _draw_frame(axes, space, font_size=font_size)
    _draw_legends(axes, label=label, font_size=font_size, columns=legend_columns)


def _checked(space: RoutingSpace, gates: Tensor) -> np.ndarray:
    """The gates as (E,) float64, or ValueError."""
    if tuple(gates.shape) != (len(space.edges),):
        raise ValueError(f"gates must have shape ({len(space.edges)},), got {tuple(gates.shape)}")
    strengths = gates.detach().double().cpu().numpy()
    if not np.isfinite(strengths).all() or strengths.min() < 0 or strengths.max() > 1 + 1e-6:
        raise ValueError(
            f"gates must lie in [0, 1], got {strengths.min():.3g} to {strengths.max():.3g}"
        )
    return np.minimum(strengths, 1.0)


def _segment(edge: Edge) -> list[tuple[int, int]]:
    """The line of an edge: x is the layer, y the scale."""
    return [(node.layer, node.scale) for node in (edge.source, edge.target)]


def node_states(routes: Routes) -> dict[Node, str]:
    """A key of :data:`NODE_STYLES` for every node, for the first image of ``routes``."""
    running, reached = routes.running[0], routes.reached[0]
    return {
        node: "running" if running[i] else "passed through" if reached[i] else "absent"
        for i, node in enumerate(routes.space.nodes)
    }


def _draw_handed_on(axes: Axes, edges: list[Edge]) -> None:
    """Dashed: the input that a cell with closed gates hands on along its keep edge."""
    lines = [_segment(edge) for edge in edges]
    axes.add_collection(LineCollection(lines, zorder=2, **HANDED_ON_STYLE))  # type: ignore[arg-type]


def _draw_nodes(axes: Axes, states: dict[Node, str]) -> None:
    """Dots for the cells, a square for the initial cell."""
    for state, style in NODE_STYLES.items():
        nodes = [n for n, found in states.items() if found == state and n != INITIAL]
        x, y = [n.layer for n in nodes], [n.scale for n in nodes]
        axes.scatter(x, y, zorder=3, linewidths=1.0, **style)  # type: ignore[arg-type]
    axes.scatter([INITIAL.layer], [INITIAL.scale], marker="s", s=46, color=INK, zorder=3)


def _draw_outputs(axes: Axes, routes: Routes) -> None:
    """Triangles, hollow where nothing arrived."""
    for scale in routes.space.output_scales:
        arrived = bool(routes.output_reached(scale)[0])
        colours = {
            "facecolors": INK if arrived else "white",
            "edgecolors": INK if arrived else FAINT,
        }
        point = ([routes.space.num_layers], [scale])
        axes.scatter(*point, marker=">", s=56, zorder=3, **colours)  # type: ignore[arg-type]


def _draw_frame(axes: Axes, space: RoutingSpace, *, font_size: float) -> None:
    """Ticks, labels and limits."""
    last, scales = space.num_layers - 1, {n.scale for n in space.nodes}
    scales |= {edge.target.scale for edge in space.edges}
    step = 1 if space.num_layers <= 20 else 2
    layers = list(range(0, last + 1, step))
    axes.set_xticks([-1, *layers, last + 1])
    axes.set_xticklabels(["in", *map(str, layers), "out"], fontsize=font_size)
    axes.set_yticks(range(max(scales) + 1))
    strides = [f"1/{STEM_STRIDE << s}" for s in range(max(scales) + 1)]
    axes.set_yticklabels(strides, fontsize=font_size)
    axes.set_xlim(-1.5, last + 1.5)
    axes.set_ylim(max(scales) + 0.5, -0.5)
    axes.set_xlabel("layer", fontsize=font_size)
    axes.set_ylabel("scale", fontsize=font_size)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_legends(axes: Axes, *, label: str, font_size: float, columns: int) -> None:
    """A colour bar for the strength, and what dots and marks mean below the grid."""
    figure = axes.figure
    mappable = ScalarMappable(Normalize(0, 1), strength_colours())
    bar = figure.colorbar(mappable, ax=axes, fraction=0.025, pad=0.015, aspect=16, shrink=0.9)
    bar.set_label(label, fontsize=font_size)
    bar.set_ticks([0, 0.5, 1], labels=["0", "0.5", "1"])
    bar.ax.tick_params(labelsize=font_size, length=2)
    marks = [
        _mark("cell that runs", marker="o", face=INK),
        _mark("hands its input on", marker="o", face="white"),
        _mark("absent", marker="o", face=CLOSED_COLOUR, edge=CLOSED_COLOUR, size=3.5),
        _mark("initial cell", marker="s", face=INK),
        _mark("output", marker=">", face=INK),
        Line2D([], [], color=CLOSED_COLOUR, linewidth=1.5, label="closed edge"),
    ]
    axes.legend(
        handles=marks,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=columns,
        fontsize=font_size,
        frameon=False,
        handletextpad=0.4,
        columnspacing=1.4,
    )


def _mark(text: str, *, marker: str, face: str, edge: str = INK, size: float = 6) -> Line2D:
    """One entry of the legend."""
    style = {"markerfacecolor": face, "markeredgecolor": edge, "markersize": size}
    return Line2D([], [], linestyle="none", marker=marker, label=text, **style)  # type: ignore[arg-type]
