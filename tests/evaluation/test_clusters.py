"""Clusters at evaluation: in the model's outputs, the results, the gates file, the selection."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from dynamic_routing.data.catalog import register_datasets
from dynamic_routing.data.cityscapes import generate_cityscapes
from dynamic_routing.divdr.metrics import cluster_metrics
from dynamic_routing.engine.checkpoint import CheckpointError
from dynamic_routing.engine.trainer import evaluate_checkpoint
from dynamic_routing.evaluation.gates_file import (
    GatesFile,
    RouteClusters,
    load_gates,
    save_gates,
)
from dynamic_routing.evaluation.routing_evaluator import RoutingEvaluator
from dynamic_routing.evaluation.selection import chosen_rows
from dynamic_routing.modeling.meta_arch import cluster_centres
from dynamic_routing.routing import Routes, RoutingSpace
from tests.modeling.builders import batch, small_config, small_model

SPACE = RoutingSpace.grid(4, num_scales=3)
DIM = SPACE.activation_dim
DIVDR = "MODEL.DYNAMIC_ROUTING.DIVDR."
CLUSTERS = (f"{DIVDR}NUM_CLUSTERS", "2")
COUNT = 6


def clustered_model(*overrides, inputs):
    """A model whose centres are the routes of the first two images, and the routes of all."""
    model = small_model(*CLUSTERS, *overrides, seed=6, bias=0.3).eval()
    rows = activations(model, inputs)
    model.routing_losses[0].set_clusters(rows[:2], 0.5)
    return model, rows


@torch.no_grad()
def activations(model, inputs):
    return torch.cat([o["routes"].activations() for o in model.eval()(inputs)])


def test_outputs_say_which_cluster_their_image_belongs_to():
    inputs = batch(*[(64, 64)] * 4, labels=False)
    model, rows = clustered_model(inputs=inputs)
    with torch.no_grad():
        outputs = model(inputs)
    distances = torch.cdist(rows.double(), rows[:2].double())
    for output, expected in zip(outputs, distances):
        routes = output["routes"]
        assert routes.cluster.shape == routes.cluster_distance.shape == (1,)
        assert routes.cluster.item() == expected.argmin()
        assert routes.cluster_distance.item() == pytest.approx(float(expected.min()), abs=1e-6)
    assert outputs[0]["routes"].cluster == 0 and outputs[1]["routes"].cluster == 1
    assert outputs[0]["routes"].cluster_distance == 0


def test_network_without_clusters_delivers_none():
    inputs = batch((64, 64), labels=False)
    for model in (small_model(), small_model(*CLUSTERS)):
        with torch.no_grad():
            routes = model.eval()(inputs)[0]["routes"]
        assert routes.cluster is None and routes.cluster_distance is None
        assert cluster_centres(model) is None


def test_parts_of_clustered_routes_keep_their_clusters():
    gates = torch.rand(3, len(SPACE.edges))
    routes = Routes(SPACE, gates, "absent", (32, 32))
    routes = replace(
        routes, cluster=torch.tensor([2, 0, 1]), cluster_distance=torch.tensor([0.1, 0.2, 0.3])
    )
    assert routes[1].cluster.tolist() == [0] and routes[1:].cluster.tolist() == [0, 1]
    assert routes.detach()[-1].cluster_distance.tolist() == pytest.approx([0.3])


def feed(evaluator, rows):
    evaluator.reset()
    for i, gates in enumerate(rows):
        routes = Routes(SPACE, gates[None], "absent", (32, 32))
        evaluator.process([{"file_name": f"{i:02d}.png"}], [{"routes": routes}])
    return evaluator.evaluate()["routing"]


def test_evaluator_reports_and_stores_the_clusters(tmp_path):
    rows = torch.rand(9, len(SPACE.edges))
    centres = Routes(SPACE, rows[:3], "absent", (32, 32)).activations().numpy()
    results = feed(RoutingEvaluator("with", tmp_path, centres=centres), rows)
    stored = load_gates(tmp_path / "gates_with.npz")
    vectors = stored.routes.activations().numpy()
    distances = np.linalg.norm(vectors[:, None] - centres, axis=2)
    assert np.array_equal(stored.clusters.labels, distances.argmin(axis=1))
    assert stored.clusters.distances == pytest.approx(distances.min(axis=1), rel=1e-5)
    assert np.array_equal(stored.clusters.centres, centres)
    expected = cluster_metrics(vectors, centres)
    assert results["divdr_inter"] == expected.inter
    assert results["divdr_intra_pair"] == expected.intra_pair
    assert results["divdr_intra_center"] == expected.intra_center
    assert results["divdr_silhouette"] == expected.silhouette
    shares = np.bincount(stored.clusters.labels, minlength=3) / 9
    assert [results[f"divdr_share_{k}"] for k in range(3)] == shares.tolist()
    without = feed(RoutingEvaluator("without", tmp_path), rows)
    assert without == {k: v for k, v in results.items() if not k.startswith("divdr_")}
    assert load_gates(tmp_path / "gates_without.npz").clusters is None


def gates_file(clusters=None):
    return GatesFile(
        space=SPACE,
        gates=torch.rand(4, len(SPACE.edges)),
        rule="absent",
        file_names=tuple(f"folder/{i}.png" for i in range(4)),
        image_sizes=np.full((4, 2), 32),
        milliseconds=np.ones(4),
        image_ids=(None,) * 4,
        clusters=clusters,
    )


def route_clusters(labels=(0, 2, 2, 0), dim=DIM):
    distances = np.ones(len(labels), dtype=np.float32)
    return RouteClusters(np.array(labels), distances, np.ones((3, dim), dtype=np.float32))


def test_file_with_clusters_is_read_by_a_reader_that_does_not_know_them(tmp_path):
    save_gates(tmp_path / "with.npz", gates_file(route_clusters()))
    with np.load(tmp_path / "with.npz") as stored:
        entries = {k: stored[k] for k in stored if k not in ("clusters", "distances", "centres")}
        assert int(stored["version"]) == 1
    np.savez_compressed(tmp_path / "older.npz", **entries)
    assert load_gates(tmp_path / "older.npz").clusters is None
    assert load_gates(tmp_path / "with.npz").clusters.labels.tolist() == [0, 2, 2, 0]


def test_clusters_that_do_not_fit_the_images_are_refused():
    with pytest.raises(ValueError, match=r"clusters of 4 images must have shape \(4,\), got \(2,"):
        gates_file(route_clusters((0, 1)))
    with pytest.raises(ValueError, match="centres of 4 images must have shape"):
        gates_file(route_clusters(dim=DIM + 1))
    with pytest.raises(ValueError, match="cluster 3 does not exist, there are 3"):
        route_clusters((0, 3, 1, 1))


def test_rows_are_chosen_by_name_by_cluster_or_all():
    stored = gates_file(route_clusters())
    assert chosen_rows(stored) == [0, 1, 2, 3]
    assert chosen_rows(stored, ["1.png", "folder/3.png"]) == [1, 3]
    assert chosen_rows(stored, cluster=2) == [1, 2]
    with pytest.raises(ValueError, match=r"no image is in cluster 1; images by cluster: \[2, 0, 2"):
        chosen_rows(stored, cluster=1)
    with pytest.raises(ValueError, match="no image x.png in the gates file; it has 0.png"):
        chosen_rows(stored, ["x.png"])
    with pytest.raises(ValueError, match="no clusters: its network was not trained with DIVDR"):
        chosen_rows(gates_file(), cluster=0)


# The whole way ------------------------------------------------------------------------------------


@pytest.fixture
def street(tmp_path):
    """Generated street scenes, registered while a test runs."""
    generate_cityscapes(tmp_path, counts={"train": 1, "val": COUNT}, size=(64, 128), seed=1)
    saved = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    register_datasets(tmp_path)
    yield tmp_path
    DatasetCatalog.data, MetadataCatalog.data = saved


def test_evaluating_a_checkpoint_reports_its_clusters(street):
    options = "MODEL.SEM_SEG_HEAD.NUM_CLASSES 19 INPUT.MIN_SIZE_TEST 64 INPUT.MAX_SIZE_TEST 128 "
    options += f"DATALOADER.NUM_WORKERS 0 OUTPUT_DIR {street}/out MODEL.WEIGHTS {street}/model.pth"
    inputs = batch(*[(64, 128)] * 4, labels=False)
    model, _ = clustered_model("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "19", inputs=inputs)
    torch.save({"model": model.state_dict()}, street / "model.pth")
    results = evaluate_checkpoint(small_config(*CLUSTERS, *options.split()))["routing"]
    (path,) = (street / "out" / "inference").glob("gates_*.npz")
    stored = load_gates(path)
    assert np.array_equal(stored.clusters.centres, cluster_centres(model))
    assert results["divdr_inter"] == pytest.approx(
        float(np.linalg.norm(np.subtract(*stored.clusters.centres)))
    )
    assert results["divdr_share_0"] + results["divdr_share_1"] == pytest.approx(1)
    for other in ((f"{DIVDR}NUM_CLUSTERS", "3"), ()):  # strict: nothing is left out silently
        with pytest.raises(CheckpointError, match="routing_losses.0"):
            evaluate_checkpoint(small_config(*options.split(), *other))
