"""Figures show the numbers that they are given, and read no text as a formula."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from dynamic_routing.analysis.curves import TrainingLog
from dynamic_routing.analysis.run_figures import (
    MAX_CLASSES,
    confusion_figure,
    confusion_rows,
    curves_figure,
    encode_figure,
    histogram_figure,
    scatter_figure,
    shown,
)
from tests.analysis.page import EVIL

LOG = TrainingLog({i: {"lr": 0.1 * i, EVIL: 1.0} for i in range(1, 5)} | {9: {"x": 2.0}})


def test_curves_have_the_values_of_the_log():
    (axes,) = curves_figure(LOG, {"lr": "lr", "none": "none", "x": EVIL}, "y").axes
    assert [line.get_label() for line in axes.lines] == ["lr", EVIL]
    np.testing.assert_allclose(axes.lines[0].get_xdata(), [1, 2, 3, 4])
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.1, 0.2, 0.3, 0.4])


def test_no_loss_of_a_detector_is_left_out_and_all_can_be_told_apart():
    losses = {f"loss_{i}": float(i) for i in range(9)}  # Mask R-CNN's, budget, clusters
    (axes,) = curves_figure(TrainingLog({1: losses, 2: losses}), {n: n for n in losses}, "y").axes
    assert [line.get_label() for line in axes.lines] == list(losses)
    assert len({(line.get_color(), str(line._unscaled_dash_pattern)) for line in axes.lines}) == 9


def test_curve_without_values_names_them():
    with pytest.raises(ValueError, match="metrics.json has no a and no b"):
        curves_figure(LOG, {"a": "A", "b": "B"}, "y")


def test_histogram_counts_every_image():
    values = np.array([1.0, 1.0, 2.0, 5.0])
    (axes,) = histogram_figure(values, EVIL).axes
    assert sum(bar.get_height() for bar in axes.patches) == 4
    assert axes.lines[0].get_xdata()[0] == pytest.approx(2.25)


def test_scatter_leaves_out_images_without_a_time():
    (axes,) = scatter_figure(np.arange(3.0), np.array([1.0, np.nan, 3.0]), "GMACs").axes
    assert axes.collections[0].get_offsets().tolist() == [[0.0, 1.0], [2.0, 3.0]]
    with pytest.raises(ValueError, match="no image was timed"):
        scatter_figure(np.arange(2.0), np.full(2, np.nan), "GMACs")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_costs_that_are_no_numbers_are_refused(bad):
    for draw in (histogram_figure, lambda v, n: scatter_figure(v, np.ones(2), n)):
        with pytest.raises(ValueError, match="GMACs of 1 images is no number"):
            draw(np.array([1.0, bad]), "GMACs")


def test_confusion_shows_shares_of_the_truth():
    counts = np.array([[6, 2, 0], [0, 0, 0], [0, 0, 0]])
    axes = confusion_figure(counts, [EVIL, "b", "c"]).axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.75, 0.25], [0, 0]])
    assert [t.get_text() for t in axes.texts] == ["75", "25"]
    with pytest.raises(ValueError, match="empty"):
        confusion_figure(np.zeros((2, 2), dtype=int), ["a", "b"])


def test_of_many_classes_the_most_frequent_are_drawn():
    counts = np.diag(np.arange(100, 0, -1))[::-1, ::-1]
    rows = confusion_rows(counts)
    assert rows.tolist() == list(range(100 - MAX_CLASSES, 100))
    counts = counts.copy()
    counts[99, 0] = 100  # to a class that is not drawn: still part of the row
    figure = confusion_figure(counts, [f"class {i}" for i in range(100)])
    assert figure.axes[0].images[0].get_array()[-1, -1] == pytest.approx(0.5)
    assert not figure.axes[0].texts


def test_texts_of_strangers_are_no_formulas_and_need_no_glyph():
    figure = confusion_figure(np.eye(2, dtype=int), ["$\\frac$", "\u8def" * 50])
    Image.open(io.BytesIO(encode_figure(figure))).verify()
    encode_figure(histogram_figure(np.ones(2), EVIL))
    encode_figure(curves_figure(LOG, {EVIL: EVIL}, EVIL))


def test_figure_that_is_too_large_gets_coarser():
    figure = histogram_figure(np.arange(50.0), "GMACs")
    full = encode_figure(figure)
    small = encode_figure(figure, max_bytes=len(full) - 1)
    assert len(small) < len(full)
    sizes = [Image.open(io.BytesIO(content)).width for content in (full, small)]
    assert sizes[1] == pytest.approx(0.75 * sizes[0], abs=1)


def test_narrow_figures_take_half_of_the_page():
    assert 'class="half"' in shown(histogram_figure(np.ones(3), "a"), "a")
    wide = confusion_figure(np.eye(30, dtype=int), [str(i) for i in range(30)])
    assert f'class="wide" style="--w:{round(96 * wide.get_figwidth())}px"' in shown(wide, "a")
