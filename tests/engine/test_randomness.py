"""Seeds: one stream for each purpose, nothing left over, the same for all processes."""

from __future__ import annotations

import random
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from detectron2.utils import comm
from hypothesis import given
from hypothesis import strategies as st

from dynamic_routing.engine import randomness
from dynamic_routing.engine.randomness import (
    StepSeeds,
    chosen_seed,
    make_deterministic,
    mixed_seed,
    seeded,
)


def drawn():
    return random.random(), float(np.random.random()), float(torch.rand(()))


@given(st.integers(0, 2**62), st.lists(st.integers(0, 2**40), max_size=3))
def test_mixed_seeds_fit_every_generator(seed, numbers):
    found = mixed_seed(seed, *numbers)
    assert 0 <= found < 2**63 and found == mixed_seed(seed, *numbers)
    with seeded(found):
        drawn()


def test_mixed_seeds_do_not_meet():
    found = {mixed_seed(s, p, n) for s in range(5) for p in range(4) for n in range(250)}
    assert len(found) == 5 * 4 * 250


def test_seeded_repeats_inside_and_restores_outside():
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    with seeded(7):
        first = drawn()
    outside = drawn()
    with seeded(7):
        assert drawn() == first
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    assert drawn() == outside != first


def steps(hook, iterations, *, rank=0):
    """What is drawn in each iteration, whatever was drawn before."""
    found = []
    for iteration in iterations:
        hook.trainer = SimpleNamespace(iter=iteration)
        with mock.patch.object(comm, "get_rank", lambda: rank):
            hook.before_step()
        found.append(drawn())
        torch.rand(iteration)  # an evaluation, perhaps
    return found


def test_steps_draw_by_iteration_and_rank_only():
    whole = steps(StepSeeds(3), range(6))
    assert steps(StepSeeds(3), range(4, 6)) == whole[4:] and len(set(whole)) == 6
    assert set(steps(StepSeeds(3), range(6), rank=1)).isdisjoint(whole)


def test_resumed_run_takes_up_the_seed():
    hook = StepSeeds(9)
    hook.load_state_dict(StepSeeds(3).state_dict())
    assert hook.seed == 3


def test_other_number_of_processes_is_said(monkeypatch, caplog):
    state = StepSeeds(3).state_dict()
    StepSeeds(9).load_state_dict(state)
    StepSeeds(9).load_state_dict({"seed": 3})  # of a checkpoint that does not know
    assert not caplog.records
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    StepSeeds(9).load_state_dict(state)
    assert "had 1 processes so far and goes on with 2" in caplog.text


def test_seed_of_minus_one_is_chosen_by_the_main_process(monkeypatch):
    assert chosen_seed(5) == 5
    monkeypatch.setattr(comm, "all_gather", lambda mine: [123, mine])
    assert chosen_seed(-1) == 123
    monkeypatch.undo()
    assert chosen_seed(-1) != chosen_seed(-1)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_deterministic_switch_sets_kernels_and_variable(monkeypatch, on_gpu):
    monkeypatch.delenv(randomness.CUBLAS_VARIABLE, raising=False)
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        make_deterministic(on_gpu)
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled() == on_gpu
        assert randomness.os.environ[randomness.CUBLAS_VARIABLE] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
        randomness.os.environ.pop(randomness.CUBLAS_VARIABLE, None)
