"""Code that may draw random numbers without changing those of the rest."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def kept_random_state(*, cuda: bool = True) -> Iterator[None]:
    """Behind the ``with``, Python, NumPy and PyTorch go on as before it.

    Args:
        cuda: whether the present GPU's generator is kept too, for which the device is waited for.
    """
    python, numbers = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if cuda and torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
