"""Randomness that is a pure function of what it is for, so that nothing has to be remembered.

Every iteration and every sample of the training data starts the generators of Python, NumPy and
PyTorch anew, from the run's seed and its own number. A resumed run therefore draws what the
uninterrupted one would have drawn, whatever ran in between (an evaluation, Precise BN, other
workers), and no state of a generator is in the checkpoint but the seed.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from dynamic_routing.randomness import kept_random_state

logger = logging.getLogger(__name__)

SEED_BITS = 31
"""Bits of a seed that is chosen here: what fits NumPy's generator and a YAML integer."""

CUBLAS_VARIABLE, CUBLAS_VALUE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
"""What cuBLAS needs to repeat its results; read once, when CUDA starts."""

STEPS, SAMPLES, ORDER, PRECISE_BN = range(4)
"""Purposes of randomness; streams of different purposes do not meet."""


def mixed_seed(seed: int, *numbers: int) -> int:
    """A seed of 63 bits for one purpose; other numbers give another one.

    Args:
        seed: of the run, at least 0.
        numbers: purpose, iteration, sample, rank or alike, each at least 0.
    """
    words = np.random.SeedSequence([seed, *numbers]).generate_state(2, dtype=np.uint32)
    return int(words[0]) << 31 ^ int(words[1])


def seed_generators(seed: int, *, cuda: bool = True) -> None:
    """Start the global generators of Python, NumPy and PyTorch.

    Args:
        seed: any number of :func:`mixed_seed`.
        cuda: whether those of the GPUs start anew as well.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if cuda:
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, the CPU's generators start from ``seed``; afterwards they are as they were."""
    with kept_random_state(cuda=False):
        seed_generators(seed, cuda=False)
        yield


def chosen_seed(wanted: int) -> int:
    """``wanted``, or with -1 a random seed that all processes agree on."""
    if wanted >= 0:
        return wanted
    return int(comm.all_gather(secrets.randbits(SEED_BITS))[0])


def make_deterministic(on_gpu: bool) -> None:
    """Take kernels that repeat their results, for the rest of this process.

    On a CPU an operation without such a kernel is an error. On a GPU some that detectors and
    segmentation need have none in PyTorch; they warn and run. Call it before CUDA starts.
    """
    os.environ.setdefault(CUBLAS_VARIABLE, CUBLAS_VALUE)
    torch.use_deterministic_algorithms(True, warn_only=on_gpu)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


class StepSeeds(HookBase):
    """Starts the generators anew at every iteration, from seed, iteration and rank.

    Drop path, dropout, the sampling of proposals and whatever other hooks draw before the step
    then depend on nothing that happened before. Has to be the first hook.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_step(self) -> None:
        """Seed."""
        seed_generators(mixed_seed(self.seed, STEPS, self.trainer.iter, comm.get_rank()))

    def state_dict(self) -> dict[str, int]:
        """The seed, since it may have been chosen at random, and the number of processes."""
        return {"seed": self.seed, "processes": comm.get_world_size()}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Take up the seed of the run that is resumed; say so if it had other processes."""
        self.seed = int(state_dict["seed"])
        before, now = state_dict.get("processes"), comm.get_world_size()
        if before not in (None, now):
            logger.warning(
                "the run had %s processes so far and goes on with %d: the same images, but sums in "
                "another order and other random numbers, so not bit by bit",
                before,
                now,
            )
