"""Maps of A-space: an orthogonal projection, the same every time, and no more points than said."""

from __future__ import annotations

import numpy as np
import pytest

from dynamic_routing.analysis.panel import encode_png
from dynamic_routing.analysis.space_map import (
    MAP_ROWS,
    NAMED_CLUSTERS,
    pca_figure,
    space_map,
    tsne_figure,
)
from tests.analysis.test_clusters import clustered


def mapped(clusters, **options):
    return space_map(
        clusters.routes.activations().numpy(),
        labels=clusters.labels,
        centres=clusters.centres,
        **options,
    )


def test_plane_is_that_of_the_largest_variance():
    rows = np.random.default_rng(0).normal(size=(40, 6)) * [9, 1, 5, 1, 1, 1]
    found = space_map(rows, centres=rows[:3])
    values = np.linalg.eigvalsh(np.cov(rows.T))[::-1]
    np.testing.assert_allclose(found.shares, values[:2] / values.sum())
    np.testing.assert_allclose(found.pca.var(axis=0, ddof=1), values[:2])
    np.testing.assert_allclose(found.centres, found.pca[:3], atol=1e-9)


def test_map_keeps_every_cluster_and_is_the_same_every_time():
    first, second = (mapped(clustered()) for _ in range(2))
    assert first.sample == "all 30 images" and first.rows.tolist() == list(range(30))
    np.testing.assert_array_equal(first.tsne, second.tsne)
    for draw, marks in ((pca_figure, 6), (tsne_figure, 3)):
        assert encode_png(draw(first)) == encode_png(draw(second))
        (axes,) = draw(first).axes
        assert len(axes.collections) == marks
        assert sum(len(c.get_offsets()) for c in axes.collections[:3]) == 30


def test_network_without_clusters_is_coloured_by_cost_or_plain():
    found = space_map(clustered().routes.activations().numpy())
    costs = np.arange(30) / 10
    coloured, plain = pca_figure(found, costs, "GMACs"), pca_figure(found)
    np.testing.assert_array_equal(coloured.axes[0].collections[0].get_array(), costs)
    assert coloured.axes[1].get_ylabel() == "GMACs" and len(plain.axes) == 1
    assert len(pca_figure(found, costs * np.nan, "GMACs").axes) == 1


@pytest.mark.parametrize("clusters", [clustered(3), clustered(9), clustered(30, same=True)])
def test_few_or_equal_routes_have_no_tsne(clusters):
    found = mapped(clusters)
    assert found.tsne is None
    with pytest.raises(ValueError, match="at least 10 distinct routes"):
        tsne_figure(found)
    encode_png(pca_figure(found))


def test_large_sets_are_sampled_with_a_seed_and_said_so(monkeypatch):
    monkeypatch.setattr("dynamic_routing.analysis.space_map.MAP_ROWS", 12)
    found = mapped(clustered(), seed=3)
    assert len(found.rows) == 12 < MAP_ROWS and len(found.tsne) == 12
    assert found.sample == "12 of 30 images, sampled with seed 3"
    assert found.rows.tolist() == mapped(clustered(), seed=3).rows.tolist()
    assert found.rows.tolist() != mapped(clustered(), seed=4).rows.tolist()
    np.testing.assert_array_equal(found.labels, found.rows % 3)


def test_legend_of_many_clusters_names_the_largest():
    rows = np.random.default_rng(0).normal(size=(260, 4))
    labels = np.arange(260) % 100  # clusters 0 to 59 have three images, the others two
    figure = pca_figure(space_map(rows[:90], labels=labels[:90], centres=rows[:100]))
    found = space_map(rows, labels=labels[::-1].copy(), centres=rows[:100])
    for drawn in (figure, pca_figure(found)):
        (legend,) = drawn.legends
        assert len(legend.get_texts()) == NAMED_CLUSTERS
        assert legend.get_title().get_text().endswith(f"the {NAMED_CLUSTERS} largest of 100")
    assert all(text.get_text().endswith("(3)") for text in legend.get_texts())
    encode_png(figure, dpi=20)  # a figure without room is a warning, and so an error
