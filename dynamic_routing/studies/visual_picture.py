"""The visual study's picture: example scenes of the subsets and each cluster's average route."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dynamic_routing.analysis.drawing import draw_route
from dynamic_routing.divdr.clustering import cluster
from dynamic_routing.studies.visual_data import CLASSES, SUBSETS, Scenes, generate_scenes
from dynamic_routing.studies.visual_settings import VisualSetting
from dynamic_routing.studies.visual_training import (
    HELD_OUT,
    HELD_OUT_STARTS,
    HELD_OUT_STREAM,
    train,
)

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
    trained = train(setting, [seed])
    scenes = generate_scenes(HELD_OUT, seed=HELD_OUT_STREAM + seed, labels=setting.labels)
    routes = trained.ensemble.base.routes(trained.gates[0])
    rows = routes.activations().numpy()
    found = cluster(rows, setting.clusters, seed=seed, n_init=HELD_OUT_STARTS)
    figure = Figure(figsize=(15, 7.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subfigures(1, 2, width_ratios=(1.0, 1.35))
    _draw_scenes(left, scenes)
    axes = right.subplots(setting.clusters, 1)
    for k, ax in enumerate(axes):
        mine = found.labels == k
        draw_route(ax, routes.space, trained.gates[0][mine].mean(dim=0), label="average gate")
        shares = np.bincount(scenes.subsets.numpy()[mine], minlength=len(SUBSETS))
        parts = ", ".join(f"{n} {name}" for n, name in zip(shares, SUBSETS))
        ax.set_title(f"cluster {k}: {mine.sum()} scenes ({parts})", fontsize=10, pad=22)
        if k:
            ax.get_legend().remove()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def _draw_scenes(figure: Figure, scenes: Scenes) -> None:
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
