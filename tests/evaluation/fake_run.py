"""A run's folder as a training leaves it, with names that try to be HTML."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dynamic_routing.analysis.statistics import route_statistics
from dynamic_routing.evaluation.gates_file import GatesFile, RouteClusters, save_gates
from dynamic_routing.evaluation.image_scores import ImageScores, save_scores
from dynamic_routing.evaluation.routing_evaluator import summarise
from dynamic_routing.routing import RoutingSpace
from tests.analysis.page import EVIL
from tests.modeling.builders import small_config

SPACE = RoutingSpace.grid(4, num_scales=3)
DATASET = "val"
CLASSES = ("road", EVIL)


def fake_gates(folder: Path, *, images: int = 24, clusters: int = 3, space=SPACE, seed: int = 0):
    """Random routes of images below ``folder``; the images themselves are not made."""
    generator = np.random.default_rng(seed)
    gates = generator.random((images, len(space.edges)), dtype=np.float32)
    gates[gates < 0.4] = 0
    kept = GatesFile(
        space=space,
        gates=torch.from_numpy(gates),
        rule="absent",
        file_names=tuple(str(folder / f"{i:04d} <b>.png") for i in range(images)),
        image_sizes=np.full((images, 2), 64),
        milliseconds=generator.uniform(1, 9, images),
        image_ids=tuple(range(images)),
        costs={"paper_gflops": generator.random(images), "gmacs": generator.random(images) + 1},
    )
    if not clusters:
        return kept
    activations = kept.routes.activations().numpy()
    labels = np.arange(images) % clusters
    centres = np.stack([activations[labels == k].mean(axis=0) for k in range(clusters)])
    distances = np.linalg.norm(activations - centres[labels], axis=1).astype(np.float32)
    found = RouteClusters(labels, distances, centres.astype(np.float32))
    return GatesFile(**{**vars(kept), "clusters": found})


def fake_scores(gates: GatesFile, seed: int = 1) -> ImageScores:
    """Random IoU of each image, unknown for the first one, and a confusion matrix."""
    generator = np.random.default_rng(seed)
    iou = generator.random(len(gates))
    iou[0] = np.nan
    accuracy = generator.random(len(gates))
    metrics = {"iou": iou, "pixel_accuracy": accuracy}
    return ImageScores(gates.file_names, metrics, CLASSES, np.array([[30, 10], [5, 15]]))


def fake_run(
    folder: Path, *, clusters: int = 3, images: int = 24, photos: bool = True, config: bool = True
) -> Path:
    """Write a whole run; returns its folder."""
    pictures = folder / "photos"
    pictures.mkdir(parents=True)
    gates = fake_gates(pictures, clusters=clusters, images=images)
    if photos:
        for i, name in enumerate(gates.file_names):
            Image.new("RGB", (64, 48), (10 * i % 256, 90, 120)).save(name)
    save_gates(folder / "inference" / f"gates_{DATASET}.npz", gates)
    save_scores(folder / "inference" / f"scores_{DATASET}.json", fake_scores(gates))
    results = {
        "sem_seg": {"mIoU": 41.25, "pACC": 80.5, "IoU-road": 61.5, f"IoU-{EVIL}": 21.0,
                    "ACC-road": 75.0, "IoU-none": float("nan")},
        "routing": summarise(route_statistics(gates.routes), gates),
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))
    rows = [
        {"iteration": i, "total_loss": 2 - i / 100, f"loss_{EVIL}": 0.5, "lr": 0.01,
         "routing/expected_gmacs": 1.0, "routing/executed_gmacs": 1.5, "divdr/inter": 2.0}
        for i in (19, 39)
    ]  # fmt: skip
    rows.append({"iteration": 39, **{f"sem_seg/{k}": v for k, v in results["sem_seg"].items()}})
    rows.append({"iteration": 39, **{f"routing/{k}": v for k, v in results["routing"].items()}})
    (folder / "metrics.json").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    if config:
        cfg = small_config("DATASETS.TEST", f"('{DATASET}',)")
        (folder / "config.yaml").write_text(cfg.dump())
    return folder
