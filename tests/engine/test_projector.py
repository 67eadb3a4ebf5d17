"""The embedding for TensorBoard: the points are A(x), each with its image."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from tensorboard.plugins.projector import projector_config_pb2

from dynamic_routing.engine import projector
from dynamic_routing.evaluation.gates_file import GatesFile, RouteClusters, save_gates
from dynamic_routing.routing import RoutingSpace

SPACE = RoutingSpace.grid(3)


def stored(folder, count=5, *, clusters=True):
    """A gates file of ``count`` images, each of one colour; the last one is not there."""
    generator = np.random.default_rng(0)
    names = [str(folder / f"image {i}.png") for i in range(count)]
    for i, name in enumerate(names[:-1]):
        Image.new("RGB", (40, 20), (50 * i, 0, 200)).save(name)
    dim = SPACE.activation_dim
    found = RouteClusters(
        np.arange(count) % 2, np.zeros(count, np.float32), np.zeros((2, dim), np.float32)
    )
    gates = GatesFile(
        space=SPACE,
        gates=torch.from_numpy(generator.random((count, len(SPACE.edges))).astype(np.float32)),
        rule="absent",
        file_names=tuple(names),
        image_sizes=np.full((count, 2), 64, np.int64),
        milliseconds=np.arange(count, dtype=np.float64),
        image_ids=(None,) * count,
        costs={"gmacs": np.arange(count) / 2},
        clusters=found if clusters else None,
    )
    return gates, save_gates(folder / "gates.npz", gates)


def written(folder):
    config = projector_config_pb2.ProjectorConfig()
    from google.protobuf import text_format

    text_format.Parse((folder / "projector_config.pbtxt").read_text(), config)
    (entry,) = config.embeddings
    points = np.loadtxt(folder / entry.tensor_path, delimiter="\t", ndmin=2)
    lines = (folder / entry.metadata_path).read_text().splitlines()
    with Image.open(folder / entry.sprite.image_path) as sprite:
        return points, [line.split("\t") for line in lines], np.asarray(sprite.convert("RGB"))


def test_points_facts_and_thumbnails_belong_together(tmp_path):
    gates, path = stored(tmp_path)
    for _ in range(2):  # the second one replaces the first
        projector.write_embedding(tmp_path / "projector", {"street/val": path})
    points, (header, *facts), sprite = written(tmp_path / "projector")
    assert np.allclose(points, gates.routes.activations().numpy(), atol=1e-6)
    assert header == ["image", "cluster", "gmacs", "milliseconds"]
    assert facts[3] == ["image 3.png", "1", "1.5", "3"] and len(facts) == 5
    side = projector.THUMBNAIL
    assert sprite.shape == (3 * side, 3 * side, 3)  # five pictures in rows of three
    middle = sprite[side // 2, side // 2 :: side]
    assert [tuple(pixel) for pixel in middle.tolist()] == [(50 * i, 0, 200) for i in range(3)]
    grey = sprite[side + side // 2, side + side // 2]
    assert len(set(grey.tolist())) == 1 and grey[0] > 0  # the image that is not there


def test_many_images_are_sampled_by_the_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(projector, "MAX_POINTS", 3)
    gates, path = stored(tmp_path, clusters=False)
    names = []
    for seed in (0, 0, 1):
        projector.write_embedding(tmp_path / "projector", {"a": path}, seed=seed)
        points, (header, *facts), _ = written(tmp_path / "projector")
        assert "cluster" not in header and len(points) == 3
        rows = [int(fact[0].split()[1].split(".")[0]) for fact in facts]
        assert np.allclose(points, gates.routes.activations().numpy()[rows], atol=1e-6)
        names.append(rows)
    assert names[0] == names[1] != names[2]
