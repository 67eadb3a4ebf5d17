"""A page of one training sample: image and labels side by side, with what the colours mean."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from dynamic_routing.analysis.plain_text import plain_legend

DPI = 110
TILE_WIDTH = 6.0
"""Inches."""

TITLE_HEIGHT = 0.75
TITLE_LETTERS = 66
"""Letters of the title above one tile, at most."""

LEGEND_HEIGHT = 0.25
LEGEND_COLUMNS = 4
"""Legend entries in a row, for each tile."""


@dataclass(frozen=True, eq=False)
class Sample:
    """What is shown of one image.

    Attributes:
        tiles: name -> (H, W, 3) uint8, RGB, of about one size.
        title: one line.
        legend: what the colours mean.
    """

    tiles: Mapping[str, np.ndarray]
    title: str
    legend: Sequence[Patch] = ()


def sample_figure(sample: Sample) -> Figure:
    """Draw a sample.

    Raises:
        ValueError: it has no tile.
    """
    if not sample.tiles:
        raise ValueError("a sample needs at least one picture, got none")
    count = len(sample.tiles)
    columns = LEGEND_COLUMNS * count
    rows = -(-len(sample.legend) // columns)
    heights = [TILE_WIDTH * len(tile) / tile.shape[1] for tile in sample.tiles.values()]
    lines = textwrap.wrap(sample.title, TITLE_LETTERS * count) or [""]
    height = max(heights) + TITLE_HEIGHT + LEGEND_HEIGHT * (rows + len(lines) - 1)
    figure = Figure((TILE_WIDTH * count, height), layout="constrained")
    figure.suptitle("\n".join(lines), fontsize=11, parse_math=False)
    grid = figure.subplots(1, count, squeeze=False)[0]
    for axes, (name, tile) in zip(grid, sample.tiles.items()):
        axes.imshow(tile, interpolation="nearest")
        axes.set_title(name, fontsize=10)
        axes.set_axis_off()
    if sample.legend:
        legend = figure.legend(
            handles=list(sample.legend),
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            fontsize=9,
        )
        plain_legend(legend)
    return figure


def sample_png(sample: Sample, *, dpi: int = DPI) -> bytes:
    """The page as PNG bytes in true colour, so that similar classes keep their colours.

    Raises:
        ValueError: the sample has no tile.
    """
    figure = sample_figure(sample)
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(dpi)
    canvas.draw()
    content = io.BytesIO()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3])
    picture.save(content, format="PNG")
    return content.getvalue()
