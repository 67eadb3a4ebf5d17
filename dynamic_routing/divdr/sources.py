"""Where the activations that k-means sees come from: one interface.

``bank`` is :class:`BankSource`; ``subset`` and ``full`` are fresh passes over images and need a
data loader: :class:`dynamic_routing.engine.activation_passes.PassSource`.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from dynamic_routing.divdr.bank import GateBank, Gather, Snapshot

SOURCES = ("bank", "subset", "full")
"""What the paper does not say: the latest activation of each training image, a pass over some
training images, a pass over all."""


class ActivationSource(Protocol):
    """Delivers the activations of training images.

    Attributes:
        bank: what the training steps have to fill, None if nothing.
    """

    bank: GateBank | None

    def collect(self, iteration: int) -> Snapshot:
        """All processes call this together; the main process gets the images of all.

        Args:
            iteration: the present one.

        Returns:
            Images in the order of their names; possibly fewer than are to come, even none.
        """
        ...


class BankSource:
    """The latest activations of each training image seen so far.

    Args:
        bank: filled by the training steps.
        gather: see :meth:`GateBank.synchronise`.
    """

    def __init__(self, bank: GateBank, *, gather: Gather) -> None:
        self.bank: GateBank | None = bank
        self._gather = gather

    def collect(self, iteration: int) -> Snapshot:
        """Merge the banks of all processes and take everything."""
        assert self.bank is not None, "a bank source without its bank"
        self.bank.synchronise(self._gather)
        return self.bank.snapshot()


def choose_subset(count: int, size: int, *, seed: int) -> list[int]:
    """``size`` of ``count`` positions, or all of them, in order; the same for the same seed.

    Raises:
        ValueError: a size below 1.
    """
    if size < 1:
        raise ValueError(f"a subset needs at least 1 image, got {size}")
    chosen = np.random.default_rng(seed).permutation(count)[:size]
    return sorted(chosen.tolist())
