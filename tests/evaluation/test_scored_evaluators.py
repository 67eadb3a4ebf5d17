"""Scores of several evaluators and of several processes are those of one."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from PIL import Image

from dynamic_routing.evaluation.image_scores import ImageScores, load_scores
from dynamic_routing.evaluation.scored_evaluators import ScoredEvaluators
from tests.evaluation.scored import score
from tests.evaluation.tiny_coco import coco_dataset, noisy_predictions, registered


class Judge:
    """An evaluator with scores of its own."""

    def __init__(self, scores):
        self.image_scores = scores

    def evaluate(self):
        return None


def test_scores_of_all_evaluators_are_in_one_file(tmp_path):
    first = ImageScores(("a",), {"iou": np.array([0.5])})
    second = ImageScores(("b",), {"box_f1": np.array([1.0])})
    path = tmp_path / "scores.json"
    ScoredEvaluators([Judge(first), Judge(None)], path).evaluate()
    assert load_scores(path).file_names == ("a",)
    ScoredEvaluators([Judge(first), Judge(second)], path).evaluate()
    assert set(load_scores(path).metrics) == {"iou", "box_f1"}
    ScoredEvaluators([Judge(None)], path).evaluate()
    assert not path.exists()


def joined(rank, folder):
    """Become one of two processes."""
    torch.set_num_threads(1)  # before any operation: a forked child must not start OpenMP threads
    store = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    comm.create_local_process_group(2)


def _half(rank, name, pairs, folder):
    joined(rank, folder)
    score(name, pairs[rank::2], folder)
    torch.distributed.destroy_process_group()


def in_two(name, pairs, folder):
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: fork beside threads
        workers = torch.multiprocessing.start_processes(
            _half, args=(name, pairs, folder), nprocs=2, join=False, start_method="fork"
        )
    assert any(workers.join(timeout=60) for _ in range(2))
    return folder / f"scores_{name}.json"


def test_two_processes_score_detections_as_one(tmp_path):
    dataset = coco_dataset(images=5)
    pairs = noisy_predictions(dataset)
    with registered(dataset, tmp_path) as name:
        one = score(name, pairs, tmp_path / "one")
        two = in_two(name, pairs, tmp_path / "two")
        assert len(load_scores(one)) == 5 and one.read_bytes() == two.read_bytes()


def test_two_processes_score_label_maps_as_one(tmp_path):
    generator = np.random.default_rng(0)
    pairs = []
    for i in range(5):
        path = tmp_path / f"{i}.png"
        Image.fromarray(generator.integers(0, 3, (8, 12), dtype=np.uint8)).save(path)
        scores = torch.from_numpy(generator.random((3, 8, 12), dtype=np.float32))
        record = {"file_name": f"{i}.jpg", "sem_seg_file_name": str(path)}
        pairs.append((record, {"sem_seg": scores}))
    name = f"maps_{tmp_path.name}"
    DatasetCatalog.register(name, lambda: [record for record, _ in pairs])
    MetadataCatalog.get(name).set(
        evaluator_type="sem_seg", stuff_classes=["a", "b", "c"], ignore_label=255
    )
    try:
        one = score(name, pairs, tmp_path / "one")
        two = in_two(name, pairs, tmp_path / "two")
        assert load_scores(one).confusion.sum() == 5 * 8 * 12
        assert one.read_bytes() == two.read_bytes()
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
