"""Which image is the n-th of a training: a pure function of seed and n, for any number of workers.

The stream of samples is one for the whole job. Batch i of the job is cut from it, and each process
takes its part of every batch, so that W processes with B / W images each see what one process with
B images sees. Nothing here loads an image, so a resumed run skips what it has seen in no time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import numpy as np


class Sample(NamedTuple):
    """One place in the stream.

    Attributes:
        number: of the place, from 0.
        image: index of the image in the data set.
    """

    number: int
    image: int


@dataclass(frozen=True)
class SampleOrder:
    """An endless stream of shuffled epochs.

    Attributes:
        size: images of the data set.
        repeat_factors: how often each image comes in an epoch, fractions by chance; None: once.
        groups: a group for each image; a batch holds images of one group. None: no groups.

    Raises:
        ValueError: no images, or parts that do not fit to ``size``.
    """

    size: int
    repeat_factors: np.ndarray | None = None
    groups: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"training needs at least one image, got {self.size}")
        for name in ("repeat_factors", "groups"):
            part = getattr(self, name)
            if part is not None and len(part) != self.size:
                raise ValueError(f"{name} has {len(part)} entries for {self.size} images")
        if self.repeat_factors is not None and not (self.repeat_factors > 0).any():
            raise ValueError("every image has repeat factor 0")

    def epoch(self, seed: int, number: int) -> np.ndarray:
        """The indices of one epoch in their order."""
        generator = np.random.default_rng([seed, number])
        indices = np.arange(self.size)
        if self.repeat_factors is not None:
            factors = np.asarray(self.repeat_factors, dtype=np.float64)
            times = np.floor(factors + generator.random(len(factors))).astype(np.int64)
            indices = np.repeat(indices, times)
        return generator.permutation(indices)

    def samples(self, seed: int, start: int = 0) -> Iterator[Sample]:
        """The stream from place ``start`` on."""
        # Epochs of one length can be skipped as such.
        first = 0 if self.repeat_factors is not None else start // self.size
        number = first * self.size
        for epoch in count(first):
            indices = self.epoch(seed, epoch)
            skipped = min(max(start - number, 0), len(indices))
            for place, index in enumerate(indices[skipped:].tolist(), number + skipped):
                yield Sample(place, index)
            number += len(indices)

    def batches(self, seed: int, *, batch_size: int, start: int = 0) -> Iterator[list[Sample]]:
        """The batches of the whole job from number ``start`` on.

        Args:
            seed: of the order.
            batch_size: images of all processes together.
            start: number of the first batch.
        """
        if self.groups is None:
            stream = self.samples(seed, start * batch_size)
            while True:
                yield [next(stream) for _ in range(batch_size)]
        for number, batch in enumerate(self._grouped(seed, batch_size)):
            if number >= start:
                yield batch

    def _grouped(self, seed: int, batch_size: int) -> Iterator[list[Sample]]:
        """All batches; which group is complete next depends on everything before."""
        assert self.groups is not None, "no groups"
        waiting: dict[int, list[Sample]] = {}
        for sample in self.samples(seed):
            group = waiting.setdefault(self.groups[sample.image], [])
            group.append(sample)
            if len(group) == batch_size:
                yield waiting.pop(self.groups[sample.image])


def part_of(batch: list[Sample], *, rank: int, world_size: int) -> list[Sample]:
    """What process ``rank`` takes of a batch of the whole job.

    Raises:
        ValueError: the batch cannot be divided.
    """
    if len(batch) % world_size:
        raise ValueError(f"a batch of {len(batch)} images cannot be split over {world_size}")
    size = len(batch) // world_size
    return batch[rank * size : (rank + 1) * size]


def aspect_groups(records: Sequence[dict[str, Any]]) -> list[int]:
    """Group 0 for images wider than high, else 1; 1 as well where the size is not known."""
    return [0 if r.get("width", 0) > r.get("height", 0) else 1 for r in records]
