"""Weights under the released names give what the released network is by the book."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from dynamic_routing.modeling.released_weights import (
    ReleasedWeightsError,
    from_released,
    is_ours,
    is_released,
    to_released,
)
from dynamic_routing.routing import OPERATIONS, GateSpec, RoutingNetwork, RoutingSpace
from dynamic_routing.routing.decoder import SegmentationDecoder
from tests.modeling.released import Released, random_state, shapes_of
from tests.routing.builders import random_images, relative_error

PUBLISHED = ("sep_conv_3x3_x2", "identity")
WIDTH, CLASSES = 8, 5
TOLERANCE = 1e-9  # in float64; 1e-5 in float32


def ours(
    state: dict[str, torch.Tensor],
    layers: int,
    *,
    operations: Sequence[str] = PUBLISHED,
    gate: GateSpec | None = None,
) -> tuple[RoutingNetwork, SegmentationDecoder]:
    """Network and decoder with the translated weights; every tensor must find its place."""
    network = RoutingNetwork(
        RoutingSpace.grid(layers),
        width=WIDTH,
        operations=operations,
        gate=gate,
        unreached="released",
    )
    decoder = SegmentationDecoder(
        [network.channels(s) for s in range(4)], CLASSES, norm=torch.nn.BatchNorm2d
    )
    translated = from_released(state)
    parts = ("backbone.network.", "sem_seg_head.decoder.")
    for prefix, module in zip(parts, (network.double(), decoder.double())):
        own = {k.removeprefix(prefix): v for k, v in translated.items() if k.startswith(prefix)}
        missing = module.load_state_dict(own, strict=False)
        assert not missing.unexpected_keys
        assert all(key.endswith("gate.strength") for key in missing.missing_keys)
    assert all(key.startswith(parts) for key in translated)
    return network.eval(), decoder.eval()


def deviation(
    network: RoutingNetwork,
    decoder: SegmentationDecoder,
    reference: Released,
    images: torch.Tensor,
    *,
    dense: bool,
) -> float:
    """Largest relative error of features, gates and logits."""
    run = network.forward_dense if dense else network.forward_sparse
    output = run(images)
    reached = {s: output.routes.output_reached(s) for s in output.features}
    logits = decoder(output.features, reached)
    features = reference.features(images)
    errors = [relative_error(output.features[s], features[s][0]) for s in range(4)]
    gates = torch.stack([reference.gates[e] for e in network.space.to_edges()], dim=1)
    errors.append(relative_error(output.routes.gates, gates))
    for s in range(4):
        assert reached[s].tolist() == features[s][1]
    return max([*errors, relative_error(logits, reference.logits(features))])


def check(
    layers: int,
    *,
    seed: int = 0,
    bias: float = -0.3,
    height: int = 32,
    operations: Sequence[str] = PUBLISHED,
    gate: GateSpec | None = None,
    strengths: bool = False,
) -> None:
    """One image at a time, both ways to run, in evaluation."""
    gated = gate is None or gate.activation != "fixed"
    shapes = shapes_of(layers, width=WIDTH, operations=operations, gate=gated, strengths=strengths)
    state = random_state(shapes, seed=seed, bias=bias)
    network, decoder = ours(state, layers, operations=operations, gate=gate)
    small = gate is not None and gate.small
    reference = Released(state, layers, operations=operations, small=small)
    with torch.no_grad():
        for image in random_images(3, height=height, width=64, seed=seed).split(1):
            for dense in (False, True):
                error = deviation(network, decoder, reference, image, dense=dense)
                assert error < TOLERANCE


@pytest.mark.parametrize("seed", range(3))
def test_evaluation_follows_the_book(seed):
    check(5, seed=seed)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_has_its_names(operation):
    names = ("identity",) if operation == "identity" else (operation, "identity")
    check(3, operations=names, bias=0.5)


def test_several_operations_keep_their_numbers():
    check(3, operations=("avg_pool_3x3", "mb_conv_3x3", "identity", "conv_3x3"), bias=0.5)


@pytest.mark.parametrize("strengths", [False, True])
def test_fixed_networks_with_and_without_their_buffer(strengths):
    check(4, gate=GateSpec("fixed"), strengths=strengths)


def test_small_gate():
    check(4, gate=GateSpec(small=True), height=128)


@pytest.mark.slow
@pytest.mark.parametrize("layers", [16, 33])
def test_published_depths(layers):
    check(layers, bias=0.2)


def test_float32_agrees_to_one_in_hundred_thousand():
    state = random_state(shapes_of(5, width=WIDTH), bias=0.2)
    network, decoder = ours(state, 5)
    exact = Released(state, 5)
    image = random_images(1)
    network, decoder = network.float(), decoder.float()
    with torch.no_grad():
        output = network(image.float())
        logits = decoder(output.features)
        features = exact.features(image)
        assert relative_error(logits.double(), exact.logits(features)) < 1e-5
        for s in range(4):
            assert relative_error(output.features[s].double(), features[s][0]) < 1e-5


@pytest.mark.parametrize("seed", range(2))
def test_training_follows_the_book_with_batch_statistics_and_gradients(seed):
    layers = 5
    state = random_state(shapes_of(layers, width=WIDTH), seed=seed, bias=0.1)
    names = [n for n in state if n.endswith(("gate_conv_beta.2.bias", "gate_conv_beta.2.weight"))]
    network, decoder = ours(state, layers)
    network.train(), decoder.train()
    for name in names:
        state[name] = state[name].clone().requires_grad_()
    reference = Released(state, layers, batch_statistics=True)
    images = random_images(4, height=64, seed=seed)
    with torch.no_grad():
        assert deviation(network, decoder, reference, images, dense=True) < TOLERANCE

    target = torch.randn(4, CLASSES, 64, 64, dtype=torch.float64)
    output = network(images)
    reached = {s: output.routes.output_reached(s) for s in output.features}
    (decoder(output.features, reached) * target).sum().backward()
    (reference.logits(reference.features(images)) * target).sum().backward()
    gradients = {name: state[name].grad for name in names}
    assert any(g is not None and float(g.abs().max()) > 0 for g in gradients.values())
    keys = [name for name in state if name not in names] + names
    values = {name: state[name].detach() for name in keys}
    values |= {name: torch.zeros_like(values[name]) if g is None else g
               for name, g in gradients.items()}  # fmt: skip
    expected = from_released(values)
    for name, parameter in network.named_parameters():
        if ".gate.predict." in name:
            wanted = expected[f"backbone.network.{name}"]
            assert relative_error(parameter.grad, wanted) < 1e-8, name


# The translation --------------------------------------------------------------------------------

KINDS = {
    "gated": {},
    "fixed": {"gate": False},
    "fixed with buffer": {"gate": False, "strengths": True},
    "many operations": {"operations": tuple(OPERATIONS)},
}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        x.dtype == b[k].dtype and x.shape == b[k].shape and torch.equal(x, b[k])
        for k, x in a.items()
    )


@pytest.mark.parametrize("options", KINDS.values(), ids=list(KINDS))
@pytest.mark.parametrize("layers", [16, 33])
def test_there_and_back_is_the_identity(layers, options):
    state = random_state(shapes_of(layers, width=4, **options))
    translated = from_released(state)
    assert len(translated) == len(state) and is_ours(translated) and not is_released(translated)
    back = to_released(translated)
    assert same(back, state) and is_released(back) and not is_ours(back)
    assert same(from_released(back), translated)


def test_gates_are_reordered_to_up_keep_down():
    state = random_state(shapes_of(16, width=4))
    before = state["backbone.all_cell_list.5.1.gate_conv_beta.2.bias"]
    after = from_released(state)["backbone.network.cells.5_1.gate.predict.bias"]
    assert torch.equal(after, before[[1, 0, 2]])
    finest = "backbone.all_cell_list.5.0.gate_conv_beta.2.bias"
    assert torch.equal(
        from_released(state)["backbone.network.cells.5_0.gate.predict.bias"], state[finest]
    )


def test_prefix_and_half_precision_survive():
    state = {f"module.{k}": v.half() for k, v in random_state(shapes_of(3, width=4)).items()}
    assert is_released(state)
    translated = from_released(state)
    assert "backbone.network.stem.first.conv.weight" in translated
    assert translated["sem_seg_head.decoder.predictor.bias"].dtype == torch.float16


def test_unknown_names_are_refused_ten_of_them():
    state = random_state(shapes_of(3, width=4))
    state |= {f"backbone.extra.{i:02d}": torch.zeros(1) for i in range(12)}
    with pytest.raises(ReleasedWeightsError) as info:
        from_released(state)
    message = str(info.value)
    assert message.startswith("12 tensors") and "backbone.extra.09 ..." in message
    assert "backbone.extra.10" not in message and "\n" not in message


def test_what_the_released_code_lacks_is_refused():
    translated = from_released(random_state(shapes_of(3, width=4)))
    translated["sem_seg_head.decoder.context.fuse.conv.weight"] = torch.zeros(1)
    with pytest.raises(ReleasedWeightsError, match="decoder.context.fuse"):
        to_released(translated)


def test_gate_of_another_number_of_edges_is_refused():
    state = random_state(shapes_of(3, width=4))
    name = "backbone.all_cell_list.1.1.gate_conv_beta.2.bias"
    state[name] = state[name][:2]
    with pytest.raises(ReleasedWeightsError, match=r"shape \(2,\), but its cell has 3 edges"):
        from_released(state)
