"""The evaluator's numbers, its file, and that neither depends on how images were processed."""

import logging
import warnings

import numpy as np
import pytest
import torch
from detectron2.utils import comm

from dynamic_routing.evaluation.gates_file import load_gates
from dynamic_routing.evaluation.routing_evaluator import RoutingEvaluator
from dynamic_routing.routing import INITIAL, Routes, RoutingSpace

SPACE = RoutingSpace.grid(4, num_scales=3)


def image(i, *, gates=None, **output):
    """Input and output of one image; the gates depend on i alone."""
    if gates is None:
        generator = torch.Generator().manual_seed(i)
        gates = (torch.rand(1, len(SPACE.edges), generator=generator) - 0.4).clamp(min=0)
    routes = Routes(SPACE, gates, "absent", (32, 32 * (1 + i)))
    inputs = {"file_name": f"images/{i:02d}.png", "image_id": i}
    return inputs, {"routes": routes, "sem_seg": None, **output}


def feed(evaluator, images, batch=2):
    evaluator.reset()
    for start in range(0, len(images), batch):
        inputs, outputs = zip(*images[start : start + batch])
        evaluator.process(list(inputs), list(outputs))
    return evaluator.evaluate()


def areas(routes):
    """A stand-in for a cost that depends on the size of the image."""
    return {"area": routes.gates.sum(dim=1) * routes.image_size[1]}


def test_results_equal_counting_by_hand(tmp_path):
    images = [image(i, milliseconds=10.0 + i) for i in range(5)]
    results = feed(RoutingEvaluator("toy", tmp_path, cost=areas), images)["routing"]
    gates = torch.cat([output["routes"].gates for _, output in images])
    grid = [i for i, edge in enumerate(SPACE.edges) if edge.source != INITIAL]
    counts = [sum(float(row[i]) > 0 for i in grid) for row in gates]
    sizes = [32 * (1 + i) for i in range(5)]
    costs = [float(row.sum()) * size for row, size in zip(gates, sizes)]
    assert results["images"] == results["distinct_routes"] == 5
    assert results["open_edges_avg"] == pytest.approx(sum(counts) / 5)
    assert (results["open_edges_min"], results["open_edges_max"]) == (min(counts), max(counts))
    assert results["ms_avg"] == pytest.approx(12) and results["collapsed"] == 0
    assert results["area_avg"] == pytest.approx(sum(costs) / 5)
    assert results["area_max"] == pytest.approx(max(costs))
    assert results["area_min"] == pytest.approx(min(costs))
    assert all(type(value) is float for value in results.values())
    stored = load_gates(tmp_path / "gates_toy.npz")
    assert torch.equal(stored.gates, gates) and stored.image_ids == (0, 1, 2, 3, 4)
    assert stored.costs["area"] == pytest.approx(costs)
    assert stored.image_sizes.tolist() == [[32, size] for size in sizes]


def test_order_batches_and_duplicates_do_not_matter(tmp_path):
    images = [image(i) for i in range(6)]
    shuffled = [images[i] for i in (3, 0, 5, 3, 2, 4, 1, 0)]
    first = feed(RoutingEvaluator("a", tmp_path), images, batch=1)
    assert feed(RoutingEvaluator("b", tmp_path), shuffled, batch=3) == first
    contents = [(tmp_path / f"gates_{name}.npz").read_bytes() for name in "ab"]
    assert contents[0] == contents[1]


def _one_of_two(rank, folder):
    """Each process sees every other image; both see the first one."""
    torch.set_num_threads(1)  # before any operation: a forked child must not start OpenMP threads
    store = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    comm.create_local_process_group(2)
    images = [image(i) for i in range(5)]
    results = feed(RoutingEvaluator("two", folder), images[rank::2] + images[:1])
    assert (results is None) == (rank > 0)
    torch.distributed.destroy_process_group()


def test_two_processes_give_what_one_gives(tmp_path):
    feed(RoutingEvaluator("one", tmp_path), [image(i) for i in range(5)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: fork beside threads
        workers = torch.multiprocessing.start_processes(
            _one_of_two, args=(tmp_path,), nprocs=2, join=False, start_method="fork"
        )
    assert any(workers.join(timeout=60) for _ in range(2))
    assert (tmp_path / "gates_two.npz").read_bytes() == (tmp_path / "gates_one.npz").read_bytes()


def test_no_folder_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    feed(RoutingEvaluator("toy"), [image(0), image(1)])
    assert not list(tmp_path.iterdir())


def test_collapse_is_reported(caplog, tmp_path):
    same = image(0)[1]["routes"].gates
    with caplog.at_level(logging.INFO, logger="dynamic_routing.evaluation"):
        results = feed(RoutingEvaluator("toy"), [image(i, gates=same) for i in range(3)])
    assert results["routing"]["collapsed"] == 1
    assert "routes have collapsed: all 3 images open the same" in caplog.text
    caplog.clear()
    weaker = torch.where(same > 0, same / 2, same)
    with caplog.at_level(logging.INFO, logger="dynamic_routing.evaluation"):
        results = feed(RoutingEvaluator("toy"), [image(0, gates=same), image(1, gates=weaker)])
    assert results["routing"]["collapsed"] == 0
    assert "collapsed:" not in caplog.text and "routes share one pattern" in caplog.text


def test_log_holds_the_tables(caplog):
    with caplog.at_level(logging.INFO, logger="dynamic_routing.evaluation"):
        feed(RoutingEvaluator("toy"), [image(i) for i in range(3)])
    assert "distinct_routes" in caplog.text and "| 1/16" in caplog.text


def test_times_may_be_missing():
    images = [image(0), image(1, milliseconds=8.0)]
    assert feed(RoutingEvaluator("toy"), images)["routing"]["ms_avg"] == 8.0
    assert "ms_avg" not in feed(RoutingEvaluator("toy"), [image(0)])["routing"]


def test_records_own_their_memory():
    evaluator = RoutingEvaluator("toy")
    gates = torch.rand(4, len(SPACE.edges))
    routes = Routes(SPACE, gates, "absent", (32, 32))
    evaluator.process([{"file_name": "a"}], [{"routes": routes[1]}])
    expected = gates[1].clone().numpy()
    gates.zero_()
    assert np.array_equal(evaluator._records[0].gates, expected)


def test_errors_say_what_to_do():
    evaluator = RoutingEvaluator("toy")
    with pytest.raises(ValueError, match="a.png has no 'routes'.*DynamicRoutingSemanticSegmentor"):
        evaluator.process([{"file_name": "a.png"}], [{"sem_seg": 0}])
    with pytest.raises(ValueError, match="file_name, got keys .'image'"):
        evaluator.process([{"image": 0}], [image(0)[1]])
    with pytest.raises(ValueError, match="routes of 2 images"):
        evaluator.process(
            [{"file_name": "a"}], [image(0, gates=torch.rand(2, len(SPACE.edges)))[1]]
        )
    with pytest.raises(ValueError, match="data set toy: no image was routed"):
        evaluator.evaluate()
    other = RoutingSpace.grid(2)
    routes = Routes(other, torch.ones(1, len(other.edges)), "absent", (32, 32))
    evaluator.process([{"file_name": "a"}, {"file_name": "b"}], [image(0)[1], {"routes": routes}])
    with pytest.raises(ValueError, match="different spaces"):
        evaluator.evaluate()
