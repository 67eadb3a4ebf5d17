"""Recorded work: CUDA graphs, and a bounded cache of them."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar

import torch

Value = TypeVar("Value")

logger = logging.getLogger(__name__)

Work = Callable[[], None]
"""Kernels on tensors that stay where they are. Carried out twice it leaves the same."""

Recorder = Callable[[Work], Work]
"""From work to a replay of it. What recording itself carries out does not count."""

MAX_RECORDINGS = 512
"""Of one input size: 17 a route if no two routes share a layer's pattern."""


def cuda_recorder(stream: torch.cuda.Stream) -> Recorder:
    """Records CUDA graphs that share one pool of memory, since no two run at a time.

    Args:
        stream: where recordings are made, one for all of a network: libraries keep a workspace
            for every stream.
    """
    device = stream.device
    pool = torch.cuda.graph_pool_handle()

    def record(work: Work) -> Work:
        """A graph of ``work``, which is carried out once on the way."""
        graph = torch.cuda.CUDAGraph()
        here = torch.cuda.current_stream(device)
        stream.wait_stream(here)
        try:
            # This outer stream context also ends what a failed capture leaves entered.
            with torch.cuda.device(device), torch.cuda.stream(stream):
                work()  # libraries set up handles and workspaces, which a capture forbids
                # Only this thread is held to what a capture allows: others may load data.
                with torch.cuda.graph(
                    graph, pool=pool, stream=stream, capture_error_mode="thread_local"
                ):
                    work()
        finally:
            here.wait_stream(stream)
        return graph.replay

    return record


def no_recorder(work: Work) -> Work:
    """For devices without graphs: the work itself."""
    return work


class Recordings:
    """A bounded cache of recorded work.

    Work that was met once is remembered apart, so that what never comes back displaces nothing.

    Args:
        recorder: makes a recording.
        limit: how many are kept.

    Attributes:
        failed: whether the device could not make one; then all work runs eagerly.
    """

    def __init__(self, recorder: Recorder, *, limit: int = MAX_RECORDINGS) -> None:
        self._recorder = recorder
        self._limit = limit
        self._seen: OrderedDict[Hashable, None] = OrderedDict()
        self._kept: OrderedDict[Hashable, Work] = OrderedDict()
        self.failed = False

    def __len__(self) -> int:
        return len(self._kept)

    def run(self, key: Hashable, work: Work) -> None:
        """Carry out ``work``, which does the same whenever ``key`` is the same."""
        replay = self._kept.get(key)
        if replay is None and key in self._seen and not self.failed:
            replay = self._recorded(work)
        if replay is None:
            work()
            keep_latest(self._seen, key, None, limit=self._limit)
        else:
            replay()
            keep_latest(self._kept, key, replay, limit=self._limit)

    def _recorded(self, work: Work) -> Work | None:
        """A recording; None, from now on always, if the device cannot make it."""
        try:
            return self._recorder(work)
        except RuntimeError as error:
            self.failed = True
            logger.warning("no CUDA graphs, running eagerly: %s", str(error).splitlines()[0])
            return None


def keep_latest(
    cache: OrderedDict[Hashable, Value], key: Hashable, value: Value, *, limit: int
) -> Value | None:
    """Put an entry last; returns the least recently used one if that had to go."""
    cache[key] = value
    cache.move_to_end(key)
    return cache.popitem(last=False)[1] if len(cache) > limit else None
