"""Recorded execution gives what eager execution gives, and keeps a bounded number of recordings."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dynamic_routing.analysis.sparsity import closed_paths
from dynamic_routing.routing import (
    UNREACHED_RULES,
    GateSpec,
    Routes,
    RoutingSpace,
    fixed_routes,
    prepare_for_inference,
    run_graphed,
)
from dynamic_routing.routing.replay import force_routes
from tests.routing.builders import (
    SMALL_DETECTION,
    assert_same,
    close_coarsest,
    close_everything,
    close_initial,
    random_images,
    small_network,
)


class Tape(TorchDispatchMode):
    """What a CUDA graph keeps: kernels and the addresses of their tensors, and no Python."""

    def __init__(self):
        super().__init__()
        self.kernels = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(func), "the host reads inside a recording"
        result = func(*args, **(kwargs or {}))
        self.kernels.append((func, args, kwargs or {}, result))
        return result

    def replay(self):
        """Run the same kernels on the same tensors."""
        with torch.no_grad():
            for func, args, kwargs, recorded in self.kernels:
                found = func(*args, **kwargs)
                for old, new in zip(tensors(recorded), tensors(found), strict=True):
                    if old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                        old.copy_(new)


def tensors(result):
    """The tensors that a kernel returned."""
    found = result if isinstance(result, list | tuple) else [result]
    return [x for x in found if isinstance(x, torch.Tensor)]


class TapeRecorder:
    """Records as a GPU would, and counts."""

    def __init__(self):
        self.made = 0
        self.replayed = 0

    def __call__(self, work):
        self.made += 1
        with Tape() as tape:
            work()

        def replay():
            self.replayed += 1
            tape.replay()

        return replay


@pytest.fixture
def recorder(monkeypatch):
    made = TapeRecorder()
    monkeypatch.setattr(run_graphed, "no_recorder", made)
    return made


def check(network, images, *, rounds=3):
    """Several rounds over the images, each against dense and eager execution."""
    with torch.no_grad():
        expected = [network.forward_dense(images[n : n + 1]) for n in range(len(images))]
    prepared = prepare_for_inference(network, graphs=True)
    for _ in range(rounds):
        for n, wanted in enumerate(expected):
            found = prepared(images[n : n + 1])
            assert_same(found, wanted, tolerance=1e-9)
            for scale in network.space.scales:
                reached = wanted.routes.output_reached(scale)
                assert torch.equal(found.output_reached(scale), reached)
    return prepared


@pytest.mark.parametrize("rule", UNREACHED_RULES)
@pytest.mark.parametrize("seed", range(4))
def test_replays_equal_dense_on_random_routes(recorder, rule, seed):
    bias = [0.4, -0.1, -0.7][seed % 3]
    network = small_network(unreached=rule, seed=seed, bias=bias, spread=1.5)
    check(network, random_images(3, 64, 96, seed))
    assert recorder.replayed > recorder.made > 0


@pytest.mark.parametrize("rule", UNREACHED_RULES)
@pytest.mark.parametrize("close", [close_coarsest, close_initial, close_everything])
def test_replays_equal_dense_on_extreme_routes(recorder, rule, close):
    network = small_network(unreached=rule, seed=1, bias=0.8)
    close(network)
    check(network, random_images())


@pytest.mark.parametrize("activation", ["sigmoid", "softmax", "fixed"])
def test_replays_equal_dense_with_every_gate(recorder, activation):
    gate = GateSpec(activation, small=activation == "sigmoid")
    check(small_network(gate=gate, seed=2, spread=3000.0), random_images(2, 32, 96))


def test_replays_equal_dense_in_other_spaces(recorder):
    for space in (RoutingSpace.grid(3), SMALL_DETECTION):
        check(small_network(space, seed=3, bias=0.2), random_images(2, 64, 128, 3))


def test_strength_may_change_under_one_recording(recorder):
    network = small_network(gate=GateSpec("sigmoid"), seed=1)
    images = random_images(6, 32, 32)
    gates = network.forward_dense(images).routes.gates
    assert gates.min() > 0 and gates.std(dim=0).max() > 1e-3
    check(network, images, rounds=1)
    layers = network.space.num_layers + 1
    assert recorder.made == layers + 1, "one recording for the stem and one for each layer"
    assert recorder.replayed == 5 * recorder.made


def test_results_are_not_overwritten_by_the_next_image(recorder):
    network = small_network(seed=1, bias=0.5)
    prepared = prepare_for_inference(network, graphs=True)
    images = random_images(4, 32, 32)
    first = prepared(images[:1])
    kept = {s: x.clone() for s, x in first.features.items()}
    for n in range(1, 4):
        prepared(images[n : n + 1])
    assert all(torch.equal(first.features[s], kept[s]) for s in kept)


def test_recordings_and_sizes_are_bounded(recorder):
    network = small_network(seed=4, bias=-0.1, spread=1.5)
    prepared = prepare_for_inference(network, graphs=True)
    prepared.graphed = run_graphed.GraphedRunner(limit=5)
    sizes = [(32, 32), (32, 64), (64, 32), (64, 64)]
    for height, width in sizes:
        images = random_images(8, height, width)
        with torch.no_grad():
            expected = network.forward_dense(images)
        for _ in range(2):
            rows = [prepared(images[n : n + 1]) for n in range(8)]
            gates = torch.cat([row.routes.gates for row in rows])
            torch.testing.assert_close(gates, expected.routes.gates, rtol=1e-9, atol=1e-9)
        assert prepared.graphed.recordings() <= 5 * run_graphed.MAX_SIZES
    assert len(prepared.graphed._sizes) == run_graphed.MAX_SIZES


def test_a_device_that_cannot_record_runs_eagerly(monkeypatch, caplog):
    def refuse(work):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(run_graphed, "no_recorder", refuse)
    prepared = check(small_network(seed=1, bias=0.5), random_images(2, 32, 32))
    assert prepared.graphed.recordings() == 0
    warnings = [r.message for r in caplog.records if "no CUDA graphs" in r.message]
    assert warnings == [
        "no CUDA graphs, running eagerly: operation not permitted when stream is capturing"
    ]


def test_batches_and_autocast_are_not_recorded(recorder):
    network = small_network(seed=1, bias=0.5).float()
    prepared = prepare_for_inference(network, graphs=True)
    images = random_images(2, 32, 32).float()
    prepared(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for _ in range(2):
            prepared(images[:1])
    assert recorder.made == 0
    for _ in range(2):
        prepared(images[:1])
    assert recorder.made > 0


def test_recordings_of_fixed_routes_end_with_them(recorder):
    network = small_network(seed=1, bias=0.5)
    prepared = prepare_for_inference(network, graphs=True)
    image = random_images(1, 32, 32)
    own = [prepared(image) for _ in range(3)][-1]
    for seed in range(3):
        gates = closed_paths(network.space, 0.3, generator=torch.Generator().manual_seed(seed))
        routes = Routes(network.space, gates[None].double(), network.unreached, (32, 32))
        made, replayed = recorder.made, recorder.replayed
        with fixed_routes(prepared, routes), torch.no_grad(), fixed_routes(network, routes):
            expected = network.forward_dense(image)
            for _ in range(3):
                assert_same(prepared(image), expected)
        assert recorder.made > made and recorder.replayed > replayed
        assert_same(prepared(image), own, tolerance=1e-12)


def test_routes_of_several_images_are_not_recorded(recorder):
    network = small_network(seed=1, bias=0.5)
    prepared = prepare_for_inference(network, graphs=True)
    closed = [
        closed_paths(network.space, 0.3, generator=torch.Generator().manual_seed(n)) for n in (0, 1)
    ]
    gates = torch.stack(closed).double()
    force_routes(prepared, Routes(network.space, gates, network.unreached, (32, 32)))
    for n in range(6):
        taken = prepared(random_images(1, 32, 32)).routes.gates[0]
        assert torch.equal(taken[taken > 0], gates[n % 2][taken > 0])
    assert recorder.made == 0


def test_inference_mode_and_no_grad_may_take_turns(recorder):
    network = small_network(seed=1, bias=0.5)
    prepared = prepare_for_inference(network, graphs=True)
    image = random_images(1, 32, 32)
    with torch.inference_mode():
        prepared(image)
    outputs = [prepared(image) for _ in range(3)]
    with torch.inference_mode():
        outputs.append(prepared(image))
    for output in outputs:
        assert_same(output, network.forward_dense(image))
    assert recorder.replayed > recorder.made > 0


def test_weights_that_move_are_recorded_anew(recorder):
    network = small_network(seed=1, bias=0.5)
    prepared = prepare_for_inference(network, graphs=True)
    image = random_images(1, 32, 32)
    for _ in range(3):
        prepared(image)
    assert prepared.graphed.recordings() > 0
    nn.ModuleList([prepared]).float().double()  # perhaps back to the same address
    assert prepared.graphed.recordings() == 0
    assert_same(prepared(image), network.forward_dense(image), tolerance=1e-4)


def test_threads_take_turns(recorder):
    network = small_network(seed=1, bias=0.3)
    prepared = prepare_for_inference(network, graphs=True)
    images = random_images(4, 32, 32)
    with torch.no_grad():
        expected = [network.forward_dense(images[n : n + 1]) for n in range(4)]
    inside, overlaps = [], []
    run = run_graphed._Size.run

    def watched(size, image):
        overlaps.append(len(inside))
        inside.append(1)
        found = run(size, image)
        inside.pop()
        return found

    def work(n):
        found[n] = [prepared(images[n : n + 1]) for _ in range(6)]

    found: dict[int, list] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_graphed._Size, "run", watched)
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert max(overlaps) == 0 and len(overlaps) == 24
    for n, wanted in enumerate(expected):
        for output in found[n]:
            assert_same(output, wanted)


def test_nothing_is_recorded_where_nothing_arrives(monkeypatch):
    def record(work):
        with Tape() as tape:
            work()
        assert tape.kernels, "an empty recording"
        return work

    monkeypatch.setattr(run_graphed, "no_recorder", record)
    whole = RoutingSpace.grid(3)
    kept = [e for e in whole.edges if not (e.kind == "keep" and e.source.layer == 1)]
    network = small_network(whole.subspace(kept), seed=1)
    close_everything(network)
    prepared = check(network, random_images(1, 32, 32))
    assert prepared.graphed.recordings() > 0


def test_a_device_that_cannot_record_is_not_asked_again(monkeypatch):
    asked = []

    def refuse(work):
        asked.append(work)
        raise RuntimeError("no")

    monkeypatch.setattr(run_graphed, "no_recorder", refuse)
    prepared = prepare_for_inference(small_network(seed=1, bias=0.5), graphs=True)
    for width in (32, 64, 96):
        for _ in range(3):
            prepared(random_images(1, 32, width))
    assert len(asked) == 1 and prepared.graphed.failed


def test_copies_and_pickles_record_anew(recorder):
    network = small_network(seed=1, bias=0.5)
    prepared = prepare_for_inference(network, graphs=True)
    image = random_images(1, 32, 32)
    expected = [prepared(image) for _ in range(2)][-1]
    for twin in (copy.deepcopy(prepared), pickle.loads(pickle.dumps(prepared))):
        assert twin.graphed.recordings() == 0
        assert_same(twin(image), expected, tolerance=1e-12)
