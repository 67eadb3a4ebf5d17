"""Routes below a picture, and how they change over a sequence of pictures."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from dynamic_routing.analysis.drawing import INK, draw_route, strength_colours
from dynamic_routing.analysis.panel import route_figure_size
from dynamic_routing.routing.routes import Routes
from dynamic_routing.routing.space import INITIAL, RoutingSpace

CLOSED_GROUND = "#f4f4f4"
SEPARATOR = "#c4c4c4"
COST_COLOUR = "#0072b2"
MAX_COLUMNS = 1000
"""Of the heat map; of longer sequences neighbouring frames are averaged."""

MAX_LABELS = 20
"""Layers up to which each one is named."""

CAPTION_HEIGHT = 0.35
"""Inches above a route."""

MIN_ROUTE_WIDTH = 1200
"""Pixels; a narrower route cannot be read."""


def with_route(picture: np.ndarray, route: Routes, *, caption: str) -> np.ndarray:
    """A picture above the route that its image took, (H', W', 3) uint8 like the picture.

    Args:
        picture: RGB; enlarged to :data:`MIN_ROUTE_WIDTH` if it is narrower.
        route: of one image (N = 1).
        caption: one line between the two.

    Raises:
        ValueError: the routes of several images.
    """
    if len(route) != 1:
        raise ValueError(f"a picture shows the route of one image, got {len(route)}")
    height, width = picture.shape[:2]
    if width < MIN_ROUTE_WIDTH:
        margin = MIN_ROUTE_WIDTH - width
        sides = ((0, 0), (margin // 2, margin - margin // 2), (0, 0))
        picture = np.pad(picture, sides, constant_values=255)
    drawn = grid_picture(
        route.space, route.gates[0], rule=route.rule, caption=caption, width=picture.shape[1]
    )
    return np.concatenate([picture, drawn])


def grid_picture(
    space: RoutingSpace,
    gates: Tensor,
    *,
    caption: str,
    rule: str = "absent",
    label: str = "gate strength",
    width: int = MIN_ROUTE_WIDTH,
) -> np.ndarray:
    """A route, or how often each edge is open, as a picture (H, width, 3) uint8, RGB.

    Args:
        space: of E edges.
        gates: (E,) in [0, 1].
        caption: one line above the grid.
        rule: a key of ``UNREACHED_RULES``.
        label: of the colour bar.
        width: in pixels.
    """
    inches, height = route_figure_size(space)
    figure = Figure((inches, height + CAPTION_HEIGHT), dpi=width / inches, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(caption, fontsize=11, parse_math=False)
    draw_route(figure.subplots(), space, gates, rule=rule, label=label)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[:, :, :3]
    if drawn.shape[1] != width:
        drawn = cv2.resize(drawn, (width, drawn.shape[0]), interpolation=cv2.INTER_AREA)
    return drawn


def route_strip(space: RoutingSpace, gates: Tensor, gmacs: np.ndarray) -> Figure:
    """Draw the gates of F frames as a heat map over a curve of what they cost.

    Rows are the E edges, layer by layer and fine scales first; a closed edge is pale.

    Args:
        space: of E edges.
        gates: (F, E) in [0, 1], in the order of the frames.
        gmacs: (F,) executed cost of each frame, in 1e9 multiply-adds.

    Raises:
        ValueError: no frame, or shapes that do not belong together.
    """
    frames = len(gmacs)
    if not frames or tuple(gates.shape) != (frames, len(space.edges)):
        raise ValueError(
            f"{frames} frames need gates of shape ({frames}, {len(space.edges)}) and at least one "
            f"frame, got {tuple(gates.shape)}"
        )
    height = 2.2 + min(7.0, max(2.5, 0.045 * len(space.edges)))
    figure = Figure((12, height), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[height - 2.2, 1.5])
    _draw_gates(upper, gates)
    _mark_layers(upper, space)
    mappable = ScalarMappable(Normalize(0, 1), strength_colours())
    bar = figure.colorbar(mappable, ax=upper, fraction=0.02, pad=0.01)
    bar.set_label("gate strength")
    changes = int((gates[1:] > 0).ne(gates[:-1] > 0).any(dim=1).sum())
    upper.set_title(f"Frames: {frames}; changes of the open edges: {changes}")
    _draw_cost(lower, gmacs)
    return figure


def _draw_gates(axes: Axes, gates: Tensor) -> None:
    """One column a frame, or a few frames' mean; closed edges show the ground."""
    frames, edges = gates.shape
    together = -(-frames // MAX_COLUMNS)
    columns = [part.mean(dim=0) for part in gates.detach().double().cpu().split(together)]
    strengths = torch.stack(columns, dim=1)
    axes.set_facecolor(CLOSED_GROUND)
    axes.imshow(
        np.ma.masked_equal(strengths.numpy(), 0.0),
        cmap=strength_colours(),
        norm=Normalize(0, 1),
        aspect="auto",
        interpolation="nearest",
        extent=(-0.5, len(columns) * together - 0.5, edges - 0.5, -0.5),
    )
    axes.set_xlim(-0.5, frames - 0.5)


def _mark_layers(axes: Axes, space: RoutingSpace) -> None:
    """Lines between the layers, their numbers in the middle."""
    layers = [edge.source.layer for edge in space.edges]
    starts = [i for i, layer in enumerate(layers) if i == 0 or layers[i - 1] != layer]
    ends = [*starts[1:], len(layers)]
    step = 1 if len(starts) <= MAX_LABELS else 2
    ticks = {
        (start + end - 1) / 2: "in" if layers[start] == INITIAL.layer else str(layers[start])
        for start, end in list(zip(starts, ends))[::step]
    }
    axes.set_yticks(list(ticks), labels=list(ticks.values()), fontsize=8)
    for start in starts[1:]:
        axes.axhline(start - 0.5, color=SEPARATOR, linewidth=0.6)
    axes.set_ylabel("edges, by layer")
    axes.tick_params(length=0)


def _draw_cost(axes: Axes, gmacs: np.ndarray) -> None:
    """The executed cost over the frames."""
    marker = "o" if len(gmacs) == 1 else ""
    axes.plot(np.arange(len(gmacs)), gmacs, color=COST_COLOUR, linewidth=1.6, marker=marker)
    axes.axhline(float(np.mean(gmacs)), color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_ylabel("executed GMACs")
    axes.set_xlabel(f"frame (dashed: mean, {np.mean(gmacs):.4g} GMACs)")
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
