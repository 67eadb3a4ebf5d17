"""The gate bank: the latest activations of every training image, kept as training goes.

A pass over the training set before each clustering would multiply the cost of a training (by about
2.5 for Cityscapes, 49 for COCO). The bank costs one copy to the CPU a step. Its entries are of
different ages, and of training mode: batch statistics in the norms, augmented images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

FIRST_BLOCK = 1024
"""Rows that a bank starts with; it doubles when it is full."""

MAX_IMAGES = 200_000
"""Default bound: 158 MB in the 198-dimensional detection space; COCO has 118,287 images."""

SEPARATOR = "\0"
"""Between names in a state dict; no file name can hold it."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The activations of N images, in the order of their names.

    Attributes:
        names: N names, each once.
        activations: (N, A) float32.
        stamps: (N,) int64, the iteration at which each row was computed.
    """

    names: tuple[str, ...]
    activations: np.ndarray
    stamps: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def mean_age(self, iteration: int) -> float:
        """Iterations that have passed since a row was computed, averaged; 0 without rows."""
        return float(iteration - self.stamps.mean()) if len(self) else 0.0


Gather = Callable[[Snapshot], list[Snapshot]]
"""Gives every process what each one passed in, in the order of ranks."""


class GateBank:
    """Maps the name of an image to its latest activations.

    Args:
        activation_dim: A.
        max_images: how many images it takes at most; it uses 4 * A bytes for each.

    Raises:
        ValueError: a bound below 1.
    """

    def __init__(self, activation_dim: int, *, max_images: int = MAX_IMAGES) -> None:
        if max_images < 1:
            raise ValueError(f"max_images must be at least 1, got {max_images}")
        self.max_images = max_images
        self._rows: dict[str, int] = {}
        self._activations = np.empty((0, activation_dim), dtype=np.float32)
        self._stamps = np.empty(0, dtype=np.int64)
        self._changed: dict[str, None] = {}  # since the last synchronise, in order

    def __len__(self) -> int:
        return len(self._rows)

    def record(self, names: Sequence[str], activations: np.ndarray, iteration: int) -> None:
        """Keep the activations of N images unless newer ones are there.

        Args:
            names: N names, none empty; of a name that comes twice the last one counts.
            activations: (N, A).
            iteration: at which they were computed.

        Raises:
            ValueError: other shapes, an image without a name, more images than allowed.
        """
        wanted = (len(names), self._activations.shape[1])
        if activations.shape != wanted:
            raise ValueError(
                f"the gate bank expects activations of shape {wanted}, got {activations.shape}"
            )
        for name, row in zip(names, activations):
            if not name:
                raise ValueError("the gate bank needs a file_name (or image_id) for every image")
            if self._put(name, row, iteration):
                self._changed[name] = None

    def _put(self, name: str, row: np.ndarray, stamp: int) -> bool:
        """Write one row; False if a newer one is there."""
        index = self._rows.get(name)
        if index is None:
            index = self._new_row(name)
        elif self._stamps[index] > stamp:
            return False
        self._activations[index] = row
        self._stamps[index] = stamp
        return True

    def _new_row(self, name: str) -> int:
        """The index of a row for a new image."""
        index = len(self._rows)
        if index >= self.max_images:
            raise ValueError(
                f"the gate bank is full with {self.max_images} images: raise "
                "MODEL.DYNAMIC_ROUTING.DIVDR.MAX_IMAGES or take SOURCE subset"
            )
        if index == len(self._stamps):
            self._grow(min(max(FIRST_BLOCK, 2 * index), self.max_images))
        self._rows[name] = index
        return index

    def _grow(self, capacity: int) -> None:
        """Make room for ``capacity`` rows."""
        more = capacity - len(self._stamps)
        width = self._activations.shape[1]
        blank = np.zeros((more, width), dtype=np.float32)
        self._activations = np.concatenate([self._activations, blank])
        self._stamps = np.concatenate([self._stamps, np.zeros(more, dtype=np.int64)])

    def snapshot(self) -> Snapshot:
        """Everything, sorted by name: it depends neither on the order nor on the processes."""
        return self._select(sorted(self._rows))

    def _select(self, names: Sequence[str]) -> Snapshot:
        rows = np.array([self._rows[name] for name in names], dtype=np.int64)
        return Snapshot(tuple(names), self._activations[rows], self._stamps[rows])

    def synchronise(self, gather: Gather) -> None:
        """Make the banks of all processes equal; every process has to call this.

        Only what changed since the last call travels. The newest row of an image wins, of equally
        new ones that of the lowest rank.

        Args:
            gather: ``detectron2.utils.comm.all_gather`` or alike.
        """
        mine, self._changed = self._changed, {}
        newest: dict[str, tuple[int, np.ndarray]] = {}
        for part in gather(self._select(list(mine))):
            for name, row, stamp in zip(part.names, part.activations, part.stamps.tolist()):
                if name not in newest or stamp > newest[name][0]:
                    newest[name] = (stamp, row)
        for name, (stamp, row) in newest.items():
            self._put(name, row, stamp)

    def state_dict(self) -> dict[str, Any]:
        """Tensors only: names as UTF-8 bytes, activations (N, A), stamps (N,)."""
        kept = self.snapshot()
        names = SEPARATOR.join(kept.names).encode("utf-8", "surrogateescape")
        return {
            "names": torch.from_numpy(np.frombuffer(names, dtype=np.uint8).copy()),
            "activations": torch.from_numpy(kept.activations),
            "stamps": torch.from_numpy(kept.stamps),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Forget everything and continue from :meth:`state_dict`.

        Raises:
            ValueError: the parts do not fit together or to this bank.
        """
        text = state_dict["names"].numpy().tobytes().decode("utf-8", "surrogateescape")
        names = text.split(SEPARATOR) if text else []
        activations, stamps = state_dict["activations"].numpy(), state_dict["stamps"].numpy()
        wanted = (len(names), self._activations.shape[1])
        if activations.shape != wanted or stamps.shape != wanted[:1]:
            raise ValueError(
                f"the stored gate bank has {len(names)} names, activations of shape "
                f"{activations.shape} and {len(stamps)} stamps; expected A = {wanted[1]}"
            )
        if len(names) > self.max_images:
            raise ValueError(
                f"the stored gate bank has {len(names)} images, "
                f"MODEL.DYNAMIC_ROUTING.DIVDR.MAX_IMAGES is {self.max_images}"
            )
        self._rows = {name: index for index, name in enumerate(names)}
        self._activations = activations.astype(np.float32)
        self._stamps = stamps.astype(np.int64)
        self._changed = {}
