"""Times of networks beside their multiply-adds, measured in one interleaved run.

Interleaved: every repetition runs each candidate once, so that a busy machine slows them alike;
only ratios of medians within one run mean anything. Efficiency is the ratio of needed multiply-adds
over the ratio of times, both against the same candidate with every gate open: 1 where milliseconds
fall as multiply-adds fall.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from dynamic_routing.routing.cost import GIGA

PEAK_SIDE = 1024
"""Side of the matrices of one of the two kernels that measure the machine's peak."""

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""``cpu`` leaves out the time in which other programs had the core; for busy machines."""


@dataclass
class Candidate:
    """Something to time.

    Attributes:
        name: what runs.
        level: which sparsity, for example ``80 % of the paths closed``.
        batch: images a call.
        macs: multiply-adds that one call needs.
        run: one call.
        baseline: name of the level that efficiency compares with.
        seconds: what each repetition took.
        peak_bytes: memory of the tensors that a call makes, at its peak; None if not measured.
        stored_bytes: activations that a training step stores, None for inference.
    """

    name: str
    level: str
    batch: int
    macs: float
    run: Callable[[], object]
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    stored_bytes: int | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table: times in milliseconds a call, ``gmacs`` a call."""

    name: str
    level: str
    batch: int
    gmacs: float
    ms: float
    ms_p10: float
    ms_p90: float
    ms_per_gmac: float
    efficiency: float | None
    peak_share: float
    peak_mib: float | None
    stored_mib: float | None


def count_macs(run: Callable[[], object]) -> float:
    """Multiply-adds of convolutions and linear layers that one call runs."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2


def measure(
    candidates: Sequence[Candidate],
    *,
    repeats: int,
    clock: str = "wall",
    device: torch.device | None = None,
) -> float:
    """Fill in the candidates' times and memory; returns the peak in multiply-adds a second.

    Args:
        candidates: what to time, each called once more than ``repeats`` to warm up.
        repeats: rounds.
        clock: a key of :data:`CLOCKS`.
        device: a CUDA device to wait for, None on a CPU.

    Raises:
        ValueError: an unknown clock, or fewer than one round.
    """
    if clock not in CLOCKS or repeats < 1:
        raise ValueError(f"clock must be one of {', '.join(CLOCKS)} and repeats >= 1")
    now = CLOCKS[clock]
    for candidate in candidates:
        candidate.peak_bytes = peak_memory(candidate.run, device)
    kernels = peak_kernels(device or torch.device("cpu"))
    peak = 0.0
    for _ in range(repeats):
        for macs, kernel in kernels:
            peak = max(peak, macs / _timed(kernel, now, device))
        for candidate in candidates:
            candidate.seconds.append(_timed(candidate.run, now, device))
    return peak


def _timed(
    run: Callable[[], object], now: Callable[[], float], device: torch.device | None
) -> float:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    start = now()
    run()
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return now() - start


def peak_kernels(device: torch.device) -> list[tuple[float, Callable[[], object]]]:
    """(multiply-adds, call) of kernels that come near to the machine's float32 peak."""
    matrix = torch.randn(PEAK_SIDE, PEAK_SIDE, device=device)
    maps = torch.randn(1, 256, 64, 64, device=device).contiguous(memory_format=torch.channels_last)
    conv = nn.Conv2d(256, 256, 3, padding=1, bias=False).to(device)
    conv = conv.to(memory_format=torch.channels_last).requires_grad_(False)
    return [
        (float(PEAK_SIDE**3), lambda: matrix @ matrix),
        (float(conv.weight.numel() * 64 * 64), lambda: conv(maps)),
    ]


def summarise(candidates: Sequence[Candidate], *, peak: float, open_level: str) -> list[Row]:
    """The table's rows; efficiency against the same candidate and batch at ``open_level``."""
    medians = {(c.name, c.level, c.batch): statistics.median(c.seconds) for c in candidates}
    whole = {(c.name, c.batch): c for c in candidates if c.level == open_level}
    rows = []
    for c in candidates:
        seconds = medians[c.name, c.level, c.batch]
        reference = whole.get((c.name, c.batch))
        efficiency = None
        if reference is not None:
            slower = seconds / medians[reference.name, reference.level, reference.batch]
            efficiency = c.macs / reference.macs / slower
        ordered = sorted(c.seconds)
        rows.append(
            Row(
                name=c.name,
                level=c.level,
                batch=c.batch,
                gmacs=c.macs / GIGA,
                ms=1000 * seconds,
                ms_p10=1000 * ordered[int(0.1 * (len(ordered) - 1))],
                ms_p90=1000 * ordered[-1 - int(0.1 * (len(ordered) - 1))],
                ms_per_gmac=1000 * seconds / (c.macs / GIGA),
                efficiency=efficiency,
                peak_share=c.macs / seconds / peak,
                peak_mib=None if c.peak_bytes is None else c.peak_bytes / 2**20,
                stored_mib=None if c.stored_bytes is None else c.stored_bytes / 2**20,
            )
        )
    return rows


def format_rows(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    headers = (
        "network", "level", "batch", "GMACs", "ms", "p10", "p90", "ms/GMAC", "efficiency",
        "of peak", "peak MiB", "stored MiB",
    )  # fmt: skip
    body = [
        (
            row.name, row.level, row.batch, f"{row.gmacs:.2f}", f"{row.ms:.1f}",
            f"{row.ms_p10:.1f}", f"{row.ms_p90:.1f}", f"{row.ms_per_gmac:.1f}",
            "" if row.efficiency is None else f"{row.efficiency:.2f}", f"{row.peak_share:.0%}",
            "" if row.peak_mib is None else f"{row.peak_mib:.0f}",
            "" if row.stored_mib is None else f"{row.stored_mib:.0f}",
        )
        for row in rows
    ]  # fmt: skip
    return tabulate(body, headers=headers, tablefmt="github", disable_numparse=True)


def as_json(rows: Sequence[Row], **about: Any) -> str:
    """The rows and what they were measured on, as strict JSON.

    Raises:
        ValueError: a number that JSON does not have, such as an infinite one.
    """
    content = {**about, "rows": [asdict(row) for row in rows]}
    return json.dumps(content, indent=1, allow_nan=False)


def device_name(device: torch.device) -> str:
    """The processor's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that operators make and that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator and look at the storages of its arguments and results."""
        for tensor in _tensors((args, kwargs)):
            self._known.add(tensor.untyped_storage()._cdata)
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._known:
                self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _tensors(value: object) -> list[Tensor]:
    """Every tensor in nested containers."""
    return [x for x in torch.utils._pytree.tree_leaves(value) if isinstance(x, Tensor)]


def peak_memory(run: Callable[[], object], device: torch.device | None = None) -> int:
    """Most bytes of tensors alive at once that one call makes, weights not included."""
    if device is not None and device.type == "cuda":
        run()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with _LiveBytes() as mode:
        run()
    return mode.peak


def stored_activations(forward: Callable[[], object], module: nn.Module) -> int:
    """Bytes that autograd stores in one forward for the backward, parameters not included."""
    own = {p.untyped_storage()._cdata for p in module.parameters()}
    stored: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            stored[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    del result
    return sum(stored.values())
