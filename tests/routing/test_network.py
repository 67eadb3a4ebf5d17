"""The network as a module: gradients, pass-through, state dict, outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dynamic_routing.routing import (
    OPERATIONS,
    UNREACHED_RULES,
    GateSpec,
    RoutingNetwork,
    RoutingSpace,
)
from tests.routing.builders import (
    DETECTION,
    SMALL_DETECTION,
    assert_same,
    close_everything,
    random_images,
    relative_error,
    set_gate_bias,
    small_network,
)

DETECTION_SPACES = [
    pytest.param(SMALL_DETECTION, id="5"),
    pytest.param(DETECTION, id="17", marks=pytest.mark.slow),
]
GATES = ["max_tanh", "sigmoid", "softmax", "fixed"]


class SignedStem(nn.Module):
    """Stands for the stem and delivers negative values too, which the real one cannot."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, width, H / 4, W / 4)."""
        pooled = nn.functional.avg_pool2d(images - images.mean(dim=(1, 2, 3), keepdim=True), 4)
        return pooled.mean(dim=1, keepdim=True).expand(-1, self.width, -1, -1)


def check_gradients(network: RoutingNetwork, images: Tensor, *, may_vanish: str = "") -> None:
    """Every parameter has a gradient; a non-zero one unless its name contains ``may_vanish``."""
    output = network.train()(images)
    generator = torch.Generator().manual_seed(0)
    loss = output.routes.gates.square().sum()
    for feature in output.features.values():
        weights = torch.randn(feature.shape, generator=generator, dtype=feature.dtype)
        loss = loss + (weights * feature).sum()
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        vanished = parameter.grad.abs().sum().item() == 0
        assert not vanished or (may_vanish and may_vanish in name), name


@pytest.mark.parametrize("activation", GATES)
@pytest.mark.parametrize("rule", UNREACHED_RULES)
def test_every_parameter_gets_a_gradient_with_every_gate(activation, rule):
    spec = GateSpec(activation)
    network = RoutingNetwork(RoutingSpace.grid(4), width=16, gate=spec, unreached=rule).double()
    # The softmax of a single edge is constant, and the last layer has single edges.
    may_vanish = ".gate." if activation == "softmax" else ""
    check_gradients(network, random_images(4, 64, 64), may_vanish=may_vanish)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_parameter_gets_a_gradient_with_every_operation(operation):
    network = RoutingNetwork(RoutingSpace.grid(3), width=16, operations=(operation, "identity"))
    check_gradients(network.double(), random_images(4, 64, 64))


@pytest.mark.parametrize("space", DETECTION_SPACES)
def test_every_parameter_gets_a_gradient_in_detection_spaces(space):
    network = RoutingNetwork(space, width=16, gate=GateSpec(small=True)).double()
    check_gradients(network, random_images(4, 128, 128))


def test_every_parameter_has_a_gradient_although_gates_are_closed():
    network = small_network(bias=-1.0).train()
    output = network(random_images(4))
    assert not output.routes.open.all()
    (sum(f.sum() for f in output.features.values()) + output.routes.gates.sum()).backward()
    missing = [n for n, p in network.named_parameters() if p.grad is None]
    assert missing == []  # distributed training refuses unused parameters


@pytest.mark.parametrize("run", ["forward_sparse", "forward_dense"])
@pytest.mark.parametrize("rule", UNREACHED_RULES)
def test_closed_cells_hand_their_input_on_without_relu(run, rule):
    network = small_network(unreached=rule)
    network.stem = SignedStem(8)
    close_everything(network)
    images = random_images(2)
    output = getattr(network, run)(images)
    assert (network.stem(images) < 0).any()
    assert torch.equal(output.features[0], network.stem(images))
    assert all((output.features[s] == 0).all() for s in (1, 2, 3))
    assert not output.routes.running.any()


@pytest.mark.parametrize("run", ["forward_sparse", "forward_dense"])
def test_open_cells_apply_relu_on_keep(run):
    network = small_network(RoutingSpace.grid(2), operations=("identity",))
    network.stem = SignedStem(8)
    close_everything(network)
    set_gate_bias(network, network.space.nodes[1], 20.0)
    images = random_images(2)
    stem = network.stem(images)
    output = getattr(network, run)(images)
    assert relative_error(output.features[0], stem.relu()) < 1e-12


@pytest.mark.parametrize("run", ["forward_sparse", "forward_dense"])
def test_gate_multiplies_after_the_transition(run):
    network = small_network(RoutingSpace.grid(1))
    outputs = []
    for bias in (0.5, 1.0):
        for node in network.space.nodes[1:]:
            set_gate_bias(network, node, bias)
        outputs.append(getattr(network, run)(random_images(2)).features)
    ratio = torch.tanh(torch.tensor([0.5, 1.0], dtype=torch.float64))
    for scale in (0, 1):
        assert outputs[0][scale].abs().max() > 0
        scaled = outputs[0][scale] * ratio[1] / ratio[0]
        assert relative_error(outputs[1][scale], scaled) < 1e-12


def test_fixed_gates_are_open_and_have_no_parameters():
    network = small_network(gate=GateSpec("fixed"))
    output = network(random_images(2))
    assert (output.routes.gates == 1).all() and output.routes.reached.all()
    assert not any(".gate." in name for name, _ in network.named_parameters())


@pytest.mark.parametrize(
    "space", [RoutingSpace.grid(5), SMALL_DETECTION], ids=["4 outputs", "5 outputs"]
)
@pytest.mark.parametrize("training", [False, True])
def test_features_have_the_size_and_channels_of_their_scale(space, training):
    network = small_network(space).train(training)
    output = network(random_images(2, 64, 128))
    assert tuple(output.features) == space.output_scales
    for scale, feature in output.features.items():
        assert feature.shape == (2, 8 * 2**scale, 16 // 2**scale, 32 // 2**scale)
    assert output.routes.image_size == (64, 128)
    assert output.routes.gates.shape == (2, len(space.edges))


@pytest.mark.parametrize("run", ["forward_sparse", "forward_dense"])
def test_scales_without_an_output_are_zeros(run):
    edges = [(-1, 0, "down"), (0, 1, "down"), (0, 1, "up"), (1, 0, "down"), (1, 2, "up")]
    space = RoutingSpace.from_edges([*edges, (2, 1, "keep")])
    network = small_network(space, gate=GateSpec("fixed"))
    output = getattr(network, run)(random_images(2, 32, 64))
    assert sorted(output.features) == [0, 1, 2]
    assert output.features[0].shape == (2, 8, 8, 16) and (output.features[0] == 0).all()
    assert output.features[2].shape == (2, 32, 2, 4) and (output.features[2] == 0).all()
    assert (output.features[1] > 0).any()
    assert output.routes.output_reached(1).all() and not output.routes.output_reached(0).any()


def test_forward_is_dense_in_training_and_sparse_in_evaluation(monkeypatch):
    network = small_network()
    called = []
    for name in ("forward_dense", "forward_sparse"):
        monkeypatch.setattr(network, name, lambda images, name=name: called.append(name))
    network.train()(random_images(1))
    network.eval()(random_images(1))
    assert called == ["forward_dense", "forward_sparse"]


def test_evaluation_changes_no_state():
    network = small_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network(random_images(2))
    network.forward_dense(random_images(2))
    assert all(torch.equal(before[n], v) for n, v in network.state_dict().items())


def test_state_survives_a_round_trip_through_a_file(tmp_path):
    network, other = small_network(seed=1), small_network(seed=2)
    images = random_images(2)
    assert not torch.equal(other(images).routes.gates, network(images).routes.gates)
    torch.save(network.state_dict(), tmp_path / "state.pth")
    state = torch.load(tmp_path / "state.pth", weights_only=True)
    assert all(isinstance(value, Tensor) for value in state.values())
    other.load_state_dict(state)
    assert_same(other(images), network(images), tolerance=1e-15)


def test_state_dict_does_not_hold_the_progress_of_training():
    network = small_network()
    network.set_progress(0.5)
    assert not any("progress" in name for name in network.state_dict())


def test_checkpoint_of_another_space_is_refused_with_names():
    small, large = small_network(RoutingSpace.grid(3)), small_network(RoutingSpace.grid(4))
    with pytest.raises(RuntimeError, match=r"Missing key.*cells\.3_0\.gate\.squeeze"):
        large.load_state_dict(small.state_dict())
    with pytest.raises(RuntimeError, match=r"Unexpected key.*cells\.3_3\.operations"):
        small.load_state_dict(large.state_dict())
    # Layer 2 is the last of one space, an inner layer of the other: its gates differ in size.
    with pytest.raises(RuntimeError, match=r"size mismatch for cells\.2_0\.gate\.predict"):
        large.load_state_dict(small.state_dict())
