"""The visual study's picture and report: every cluster is named by what is really in it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from dynamic_routing.routing import RoutingSpace
from dynamic_routing.studies import visual_picture, visual_plan, visual_report
from dynamic_routing.studies.visual_data import SUBSETS, generate_scenes
from dynamic_routing.studies.visual_network import SCALES
from dynamic_routing.studies.visual_picture import draw_gates
from dynamic_routing.studies.visual_plan import Item
from dynamic_routing.studies.visual_report import PICTURE_FILE, SUMMARY_FILE, run_visual
from dynamic_routing.studies.visual_settings import VisualSetting
from dynamic_routing.studies.visual_training import HELD_OUT_STREAM, train

TINY = VisualSetting("divdr", layers=2, iterations=6, start=2, period=2)
SEED = 3
SIZES = {"training": 24, "held_out": 12}


def gates_by_subset(subsets: Tensor) -> Tensor:
    """(N, E): every subset opens edges of its own."""
    edges = len(RoutingSpace.grid(TINY.layers, num_scales=SCALES).edges)
    return (torch.arange(edges) % len(SUBSETS) == subsets[:, None]).float()


def test_clusters_are_named_by_the_subsets_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))
    )
    scenes = generate_scenes(12, seed=HELD_OUT_STREAM + SEED, labels=TINY.labels)
    counts = torch.bincount(scenes.subsets).tolist()
    draw_gates(gates_by_subset(scenes.subsets), TINY, SEED, tmp_path / "new" / "study.png")
    with Image.open(tmp_path / "new" / "study.png") as picture:
        assert picture.size == (1200, 608)
    titles = [ax.get_title() for part in figures[0].subfigs for ax in part.axes]
    found = [re.fullmatch(r"cluster \d: (\d+) scenes \((.*)\)", title) for title in titles]
    clusters = [(int(match[1]), match[2]) for match in found if match]
    expected = [
        (count, ", ".join(f"{count if i == k else 0} {name}" for i, name in enumerate(SUBSETS)))
        for k, count in enumerate(counts)
    ]
    assert clusters == expected
    assert [titles.count(name) for name in SUBSETS] == [visual_picture.EXAMPLES] * len(SUBSETS)


@pytest.mark.slow
def test_study_runs_what_is_missing_and_keeps_its_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(setting: VisualSetting, seeds: list[int], **sizes: int) -> object:
        return train(setting, seeds, **{**sizes, **SIZES})

    for module in (visual_picture, visual_plan):
        monkeypatch.setattr(module, "train", small)
    plan = [Item("main", m, replace(TINY, method=m.lower())) for m in ("DR", "DivDR")]
    monkeypatch.setattr(visual_report, "QUESTIONS", [])
    monkeypatch.setattr(visual_report, "PICTURED", plan[1])
    said: list[str] = []
    text = run_visual(tmp_path, [1, 2], plan=plan, say=said.append)
    assert "- DivDR minus DR: recovery" in text and "2 seeds" in text
    assert (tmp_path / SUMMARY_FILE).is_file() and "drawing the picture" in said
    drawn = (tmp_path / PICTURE_FILE).stat().st_mtime_ns
    said.clear()
    assert run_visual(tmp_path, [1, 2], plan=plan, say=said.append) == text
    assert (tmp_path / PICTURE_FILE).stat().st_mtime_ns == drawn
    assert "drawing the picture" not in said
