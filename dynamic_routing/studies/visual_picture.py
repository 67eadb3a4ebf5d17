"""The visual study's picture: example scenes of the subsets and each cluster's average route."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from dynamic_routing.analysis.drawing import draw_route
from dynamic_routing.divdr.clustering import cluster
from dynamic_routing.routing.routes import Routes
from dynamic_routing.routing.space import RoutingSpace
from dynamic_routing.studies.recovery import contingency
from dynamic_routing.studies.visual_data import CLASSES, SIDE, SUBSETS, Scenes, generate_scenes
from dynamic_routing.studies.visual_measures import HELD_OUT_STARTS
from dynamic_routing.studies.visual_network import SCALES
from dynamic_routing.studies.visual_settings import VisualSetting
from dynamic_routing.studies.visual_training import HELD_OUT_STREAM, train

EXAMPLES = 3
"""Scenes of each subset."""
BRIGHTNESS = 0.4
"""Scenes have values about -1 to 1; shown are 0.5 + 0.4 times them."""


def draw_study(setting: VisualSetting, seed: int, path: Path) -> None:
    """Train one network and draw what it saw and how it routes.

    Args:
        setting: with gates that learn.
        seed: of the run.
        path: a PNG.
    """
    draw_gates(train(setting, [seed]).gates[0], setting, seed, path)


def draw_gates(gates: Tensor, setting: VisualSetting, seed: int, path: Path) -> None:
    """Draw what a network saw and how it routed, from its held-out gates.

    Args:
        gates: (N, E) of the held-out scenes.
        setting: of the run.
        seed: of the run.
        path: a PNG.
    """
    scenes = generate_scenes(len(gates), seed=HELD_OUT_STREAM + seed, labels=setting.labels)
    space = RoutingSpace.grid(setting.layers, num_scales=SCALES)
    routes = Routes(space, gates, "absent", (SIDE, SIDE))
    rows = routes.activations().numpy()
    found = cluster(rows, setting.clusters, seed=seed, n_init=HELD_OUT_STARTS)
    figure = Figure(figsize=(15, 7.6), layout="constrained")
    FigureCanvasAgg(figure)
    parts = figure.subfigures(1, 2, width_ratios=(1.0, 1.35))
    left, right = cast("Sequence[SubFigure]", parts)
    _draw_scenes(left, scenes)
    axes = np.ravel(right.subplots(setting.clusters, 1))
    counts = contingency(found.labels, scenes.subsets.numpy())
    for ax, k in zip(axes, np.argsort(counts.argmax(axis=1), kind="stable")):
        mine = found.labels == k
        draw_route(ax, space, gates[mine].mean(dim=0), label="average gate")
        members = ", ".join(f"{n} {name}" for n, name in zip(counts[k], SUBSETS))
        ax.set_title(f"cluster {k}: {mine.sum()} scenes ({members})", fontsize=10, pad=24)
        if ax is not axes[0]:
            ax.get_legend().remove()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def _draw_scenes(figure: SubFigure, scenes: Scenes) -> None:
    """Rows: images and targets of each subset in turn."""
    axes = figure.subplots(2 * len(SUBSETS), EXAMPLES)
    for k, name in enumerate(SUBSETS):
        chosen = (scenes.subsets == k).nonzero().flatten()[:EXAMPLES].tolist()
        for column, n in enumerate(chosen):
            image, target = axes[2 * k, column], axes[2 * k + 1, column]
            shown = 0.5 + BRIGHTNESS * scenes.images[n].permute(1, 2, 0).numpy()
            image.imshow(shown.clip(0, 1))
            target.imshow(scenes.targets[n], vmin=0, vmax=CLASSES - 1, interpolation="nearest")
            image.set_title(name, fontsize=10)
            for ax in (image, target):
                ax.set_axis_off()
