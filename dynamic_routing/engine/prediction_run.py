"""Running a predictor over many images, with progress and a summary."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import islice
from typing import Any

import numpy as np
import torch

from dynamic_routing.engine.inputs import Frame
from dynamic_routing.engine.prediction_files import PredictionWriter

SILENCE = 5.0
"""Seconds between two lines of progress; shorter runs show none."""


class Progress:
    """Says from time to time how far a run is, and when it will end.

    Args:
        total: images to come, roughly; None if unknown.
        say: takes each line.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        total: int | None,
        *,
        say: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total
        self._say = say or (lambda line: print(line, file=sys.stderr, flush=True))
        self._clock = clock
        self._done = 0
        self._start = self._last = clock()

    def step(self) -> None:
        """One more image is done."""
        self._done += 1
        now = self._clock()
        if now - self._last >= SILENCE:
            self._last = now
            self._say(self._line(self._done / (now - self._start)))

    def _line(self, rate: float) -> str:
        """How far, how fast, and how much longer."""
        pace = f"{rate:.3g} images/s"
        if self._total is None or self._done > self._total:
            return f"{self._done} images done, {pace}"
        left = timedelta(seconds=round((self._total - self._done) / rate))
        return f"{self._done} of {self._total} images done, {pace}, ETA {left}"


Predict = Callable[[Sequence[np.ndarray]], list[dict[str, Any]]]
"""A :class:`~dynamic_routing.engine.predictor.Predictor` or what does the same."""


def predict_all(
    predictor: Predict,
    frames: Iterable[Frame],
    writer: PredictionWriter,
    *,
    batch_size: int,
    progress: Progress,
) -> None:
    """Predict on every frame and write the results.

    Args:
        predictor: the model.
        frames: read one batch ahead, never all at once.
        writer: inside its ``with``.
        batch_size: images a forward.
        progress: told of every image.

    Raises:
        ValueError: the GPU has too little memory for a batch.
    """
    for batch in _batches(frames, batch_size):
        try:
            outputs = predictor([frame.image for frame in batch])
        except torch.OutOfMemoryError:
            raise ValueError(
                f"the GPU has too little memory for {len(batch)} images; lower --batch-size or "
                "INPUT.MIN_SIZE_TEST"
            ) from None
        for frame, output in zip(batch, outputs, strict=True):
            writer.write(frame, output)
            progress.step()


def _batches(frames: Iterable[Frame], size: int) -> Iterator[list[Frame]]:
    """Lists of ``size`` frames; the last one may be shorter."""
    stream = iter(frames)
    while batch := list(islice(stream, size)):
        yield batch
