"""The toy data are what they are said to be, and every seed's network is its own."""

from __future__ import annotations

import pytest
import torch

from dynamic_routing.studies.toy import (
    CENTRE_NORM,
    GATES,
    INPUT_DIM,
    LAYERS,
    SUBSET_DIM,
    SUBSETS,
    Samples,
    ToyNetwork,
    ToyProblem,
    open_gates,
    oracle_gates,
    stack,
)


@pytest.fixture
def problem():
    return ToyProblem.random(torch.Generator().manual_seed(3))


@pytest.fixture
def samples(problem):
    return problem.draw(6000, torch.Generator().manual_seed(4))


def test_rotation_and_rules_are_orthonormal(problem):
    torch.testing.assert_close(problem.rotation @ problem.rotation.T, torch.eye(INPUT_DIM))
    torch.testing.assert_close(problem.rules @ problem.rules.T, torch.eye(SUBSETS))
    gram = problem.centres @ problem.centres.T
    torch.testing.assert_close(gram, CENTRE_NORM**2 * torch.eye(SUBSETS))


def test_labels_of_subsets_conflict(problem, samples):
    """The rule of one subset says nothing about another: it is right for half of its samples."""
    free = (samples.inputs @ problem.rotation)[:, SUBSET_DIM:]
    for rule in range(SUBSETS):
        right = ((free @ problem.rules[rule] > 0) == (samples.labels > 0)).float()
        for subset in range(SUBSETS):
            share = right[samples.subsets == subset].mean()
            assert share == pytest.approx(1.0 if rule == subset else 0.5, abs=0.04)
    assert samples.labels.mean() == pytest.approx(0.5, abs=0.03)


def test_subsets_are_separable(problem, samples):
    """The nearest centre, in the dimensions that the rotation hides, names the subset."""
    shown = (samples.inputs @ problem.rotation)[:, :SUBSET_DIM]
    nearest = torch.cdist(shown, problem.centres).argmin(dim=1)
    assert torch.equal(nearest, samples.subsets)
    assert torch.bincount(samples.subsets).min() > len(samples.subsets) / 4


def test_noise_is_as_stated(problem, samples):
    plain = samples.inputs @ problem.rotation
    noise = plain[:, :SUBSET_DIM] - problem.centres[samples.subsets]
    assert noise.std() == pytest.approx(0.3, rel=0.03)
    assert plain[:, SUBSET_DIM:].std() == pytest.approx(1.0, rel=0.03)


def test_samples_depend_on_the_generator_alone(problem):
    first, again, other = (problem.draw(50, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first.inputs, again.inputs) and torch.equal(first.labels, again.labels)
    assert not torch.equal(first.inputs, other.inputs)


def stacked(problem, seeds, count=20):
    return stack([problem.draw(count, torch.Generator().manual_seed(s)) for s in seeds])


def test_each_seed_takes_its_own_rows(problem):
    both = stacked(problem, [5, 6])
    index = torch.tensor([[0, 3], [7, 1]])
    taken = both.take(index)
    torch.testing.assert_close(taken.inputs[1, 0], both.inputs[1, 7])
    assert taken.subsets[0].tolist() == both.subsets[0, [0, 3]].tolist()
    assert taken.labels.shape == (2, 2)


def test_network_equals_plain_matrices(problem):
    """One seed of the batch against the same network written with torch.nn.functional."""
    network = ToyNetwork([8, 9])
    inputs = stacked(problem, [5, 6]).inputs
    output = network(inputs)
    hidden = inputs[1] @ network.stem[1]
    expected = []
    for layer in range(LAYERS):
        gates = (hidden @ network.gates[layer][1] + network.biases[layer][1]).tanh().clamp(min=0)
        experts = network.experts[layer][1].split(hidden.shape[1], dim=1)
        hidden = hidden + sum(g[:, None] * (hidden @ e) for g, e in zip(gates.T, experts))
        expected.append(gates)
    torch.testing.assert_close(output.gates[1], torch.cat(expected, dim=1))
    torch.testing.assert_close(output.logits[1], (hidden @ network.head[1])[:, 0])


def test_network_does_not_depend_on_the_other_seeds():
    for one, two in zip(ToyNetwork([8]).parameters(), ToyNetwork([9, 8]).parameters()):
        assert torch.equal(one[0], two[1])


def test_static_network_is_linear(problem):
    """With all gates open one linear map is left: conflicting rules are out of reach."""
    network = ToyNetwork([1])
    inputs = stacked(problem, [5]).inputs
    ones = torch.ones(*inputs.shape[:2], GATES)
    both = network(inputs[:, :1] + inputs[:, 1:2], ones[:, :1]).logits
    single = network(inputs[:, :2], ones[:, :2]).logits
    torch.testing.assert_close(both[0, 0], single.sum())


def test_oracle_opens_a_third_of_the_gates_by_subset():
    samples = Samples(torch.zeros(1, 3, INPUT_DIM), torch.tensor([[0, 2, 1]]), torch.zeros(1, 3))
    gates = oracle_gates(samples)
    assert gates.shape == (1, 3, GATES) and gates.mean() == pytest.approx(1 / SUBSETS)
    assert gates[0, 1].reshape(LAYERS, SUBSETS).argmax(dim=1).tolist() == [2] * LAYERS
    assert open_gates(samples).eq(1).all() and open_gates(samples).shape == gates.shape
