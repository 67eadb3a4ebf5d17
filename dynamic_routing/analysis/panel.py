"""One image's page: image, prediction and truth side by side above the route that was taken."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image
from torch import Tensor

from dynamic_routing.analysis.drawing import draw_route
from dynamic_routing.analysis.plain_text import plain_legend
from dynamic_routing.files import write_atomically
from dynamic_routing.routing.routes import Routes
from dynamic_routing.routing.space import RoutingSpace

DPI = 150
MAX_BYTES = 400_000
"""Largest size of a picture; it goes into reports as it is."""

IMAGE_WIDTHS = (1024, 512, 320, 192, 96)
"""Widths in pixels to which photographs are reduced, one after the other, until the size fits."""

IGNORED_COLOUR = (0, 0, 0)
LEGEND_COLUMNS = 8
TITLE_HEIGHT = 0.4
"""Inches."""

COMPACT_WIDTH = 5.8
LEGEND_WIDTH = 8.5
"""Inches of the narrowest route on a page, and of one with its legend in one row."""


@dataclass(frozen=True)
class Palette:
    """Names and colours of the classes 0 to K - 1.

    Attributes:
        names: K class names.
        colours: K triples of 0 to 255.
        ignore_label: the label of pixels without truth.

    Raises:
        ValueError: not as many colours as names.
    """

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    ignore_label: int = 255

    def __post_init__(self) -> None:
        if len(self.names) != len(self.colours):
            raise ValueError(f"{len(self.names)} class names, but {len(self.colours)} colours")

    def paint(self, labels: np.ndarray) -> np.ndarray:
        """(H, W) labels as (H, W, 3) uint8; whatever is not a class is black."""
        table = np.array([*self.colours, IGNORED_COLOUR], dtype=np.uint8)
        count = len(self.names)
        known = (labels >= 0) & (labels < count)
        return table[np.where(known, labels, count)]

    def entries(self, labels: Sequence[np.ndarray]) -> tuple[tuple[str, tuple[int, int, int]], ...]:
        """Name and colour of every class that occurs in ``labels``, and of ignored pixels."""
        present = np.unique(np.concatenate([np.unique(image) for image in labels]))
        classes = [c for c in present.tolist() if 0 <= c < len(self.names)]
        entries = [(self.names[c], self.colours[c]) for c in classes]
        if len(classes) < len(present):
            entries.append(("ignored", IGNORED_COLOUR))
        return tuple(entries)

    def legend(self, labels: Sequence[np.ndarray]) -> list[Patch]:
        """:meth:`entries` for a figure."""
        return [
            Patch(facecolor=_unit(colour), edgecolor="#222222", linewidth=0.5, label=name)
            for name, colour in self.entries(labels)
        ]


def route_panel(
    *,
    image: np.ndarray,
    prediction: np.ndarray,
    truth: np.ndarray,
    routes: Routes,
    palette: Palette,
    title: str,
    path: str | Path,
) -> Path:
    """Draw image | prediction | truth above the route, as a PNG of at most :data:`MAX_BYTES`.

    Args:
        image: (H, W, 3) uint8, RGB.
        prediction: (H, W) predicted class indices.
        truth: (H, W) class indices, ``palette.ignore_label`` where there is no truth.
        routes: this image's route (N = 1).
        palette: names and colours of the classes; the legend shows those that occur.
        title: one line above the picture.
        path: the file to write.

    Returns:
        ``path``.

    Raises:
        ValueError: pictures of different or wrong shapes, or the routes of several images.
    """
    _check_tiles(image, prediction=prediction, truth=truth)
    tiles = {
        "image": image,
        "prediction": palette.paint(prediction),
        "truth": palette.paint(truth),
    }
    legend = palette.legend([prediction, truth])
    return tiles_panel(tiles, routes=routes, title=title, path=path, legend=legend)


def tiles_panel(
    tiles: Mapping[str, np.ndarray],
    *,
    routes: Routes,
    title: str,
    path: str | Path,
    legend: Sequence[Patch] = (),
) -> Path:
    """Draw pictures side by side above the route, as a PNG of at most :data:`MAX_BYTES`.

    Args:
        tiles: name -> (H, W, 3) uint8, RGB, all of one shape. Those named "image" are reduced
            smoothly, the others keep their exact colours; without a legend all are photographs.
        routes: this image's route (N = 1).
        title: one line above the picture.
        path: the file to write.
        legend: what the colours mean.

    Returns:
        ``path``.

    Raises:
        ValueError: the routes of several images.
    """
    if len(routes) != 1:
        raise ValueError(f"a panel shows the route of one image, got {len(routes)}")
    for width in IMAGE_WIDTHS:
        reduced = {
            name: _reduced(tile, width, smooth=not legend or name == "image")
            for name, tile in tiles.items()
        }
        content = encode_png(_panel_figure(reduced, legend, routes, title))
        if len(content) <= MAX_BYTES:
            break
    return write_atomically(path, content)


def _check_tiles(image: np.ndarray, **label_images: np.ndarray) -> None:
    """ValueError unless the picture is RGB and the labels are as large."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
    for name, labels in label_images.items():
        if labels.shape != image.shape[:2]:
            raise ValueError(f"{name} must have shape {image.shape[:2]}, got {labels.shape}")


def _panel_figure(
    tiles: Mapping[str, np.ndarray], legend: Sequence[Patch], route: Routes, title: str
) -> Figure:
    """The tiles side by side, the classes below them, then the route."""
    heights = [_tiles_height(next(iter(tiles.values())), legend), _route_height(route.space)]
    figure = Figure(figsize=(12, sum(heights) + TITLE_HEIGHT), layout="constrained")
    figure.suptitle(title, fontsize=12, parse_math=False)
    top, bottom = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, (name, tile) in zip(top.subplots(1, len(tiles), squeeze=False)[0], tiles.items()):
        _show(axes, tile, name)
    columns = min(LEGEND_COLUMNS, max(1, len(legend)))
    if legend:
        place, entries = "outside lower center", list(legend)
        plain_legend(
            top.legend(handles=entries, loc=place, ncols=columns, fontsize=9, frameon=False)
        )
    draw_route(bottom.subplots(), route.space, route.gates[0], rule=route.rule)
    return figure


def encode_png(figure: Figure, *, dpi: int = DPI) -> bytes:
    """A figure as PNG bytes of at most 256 colours, a third of the size of true colour."""
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(dpi)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    content = io.BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(
        content, format="PNG", optimize=True, dpi=(dpi, dpi)
    )
    return content.getvalue()


def route_figure_size(space: RoutingSpace) -> tuple[float, float]:
    """Width and height in inches at which a route of this space is easy to read."""
    return 12.0, _route_height(space)


def compact_route(
    space: RoutingSpace, gates: Tensor, *, rule: str = "absent", label: str = "gate strength"
) -> Figure:
    """A route for a page that may be narrow, 0.42 inch a layer.

    Args: see :func:`~dynamic_routing.analysis.drawing.draw_route`.
    """
    width = max(COMPACT_WIDTH, 1.5 + 0.42 * (space.num_layers + 2))
    columns = 6 if width >= LEGEND_WIDTH else 3
    height = _route_height(space) + (0 if columns == 6 else 0.2)
    figure = Figure(figsize=(width, height), layout="constrained")
    draw_route(figure.subplots(), space, gates, rule=rule, label=label, legend_columns=columns)
    return figure


def _route_height(space: RoutingSpace) -> float:
    """Inches for the grid: 0.6 a scale, and the marks and labels around it."""
    scales = {n.scale for n in space.nodes} | {e.target.scale for e in space.edges}
    return 1.0 + 0.6 * (max(scales) + 1)


def _tiles_height(image: np.ndarray, legend: Sequence[Patch]) -> float:
    """Inches for three tiles side by side with their names and the classes below."""
    height, width = image.shape[:2]
    legend_rows = -(-len(legend) // LEGEND_COLUMNS)
    return min(4.0, 3.9 * height / width) + 0.45 + 0.22 * legend_rows


def _reduced(tile: np.ndarray, width: int, *, smooth: bool) -> np.ndarray:
    """``tile`` at most ``width`` wide; label pictures keep their exact colours."""
    height, old = tile.shape[:2]
    if old <= width:
        return tile
    size = (width, max(1, round(height * width / old)))
    method = Image.Resampling.BOX if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(tile).resize(size, method))


def _unit(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    """A colour of 0 to 255 as matplotlib wants it, 0 to 1."""
    red, green, blue = colour
    return red / 255, green / 255, blue / 255


def _show(axes: Axes, tile: np.ndarray, name: str) -> None:
    """One picture with its name above it."""
    axes.imshow(tile, interpolation="nearest")
    axes.set_title(name, fontsize=10)
    axes.set_axis_off()
