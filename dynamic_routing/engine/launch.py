"""Starting the processes of a job, or joining those that torchrun or SLURM started.

Detectron2's ``launch`` insists on GPUs and leaves the other processes waiting, for up to half an
hour, when one of them dies. Here processes of one machine are started by torch.multiprocessing and
watched; on more machines torchrun or SLURM start them, and their variables are taken as they are.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

from dynamic_routing.engine.stopping import (
    deaf_children,
    die_of,
    end,
    end_with_parent,
    end_workers,
    stoppable,
)
from dynamic_routing.engine.watch import report, watch

LOCALHOST = "127.0.0.1"
DEFAULT_PORT = "29500"
"""MASTER_PORT where only MASTER_ADDR is set; torchrun's own default."""

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others, Detectron2's. A dead one is noticed at once."""

VARIABLES = {
    "rank": ("RANK", "SLURM_PROCID"),
    "world_size": ("WORLD_SIZE", "SLURM_NTASKS"),
    "local_rank": ("LOCAL_RANK", "SLURM_LOCALID"),
    "local_size": ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE"),
}
"""What torchrun and ``srun`` set; they count only together with MASTER_ADDR."""


@dataclass(frozen=True)
class Place:
    """Where a process stands in its job.

    Attributes:
        rank: number of the process among all.
        world_size: processes of the job.
        local_rank: number of the process on its machine, which is also that of its GPU.
        local_size: processes of its machine; 0 if nobody said, then they are counted.
    """

    rank: int
    world_size: int
    local_rank: int
    local_size: int = 0


@dataclass(frozen=True)
class Machines:
    """Detectron2's flags for a job over several machines, each started by hand.

    Attributes:
        count: ``--num-machines``.
        rank: ``--machine-rank``, the number of this one.
        url: ``--dist-url``; ``auto`` is a free port of 127.0.0.1.
    """

    count: int = 1
    rank: int = 0
    url: str = "auto"

    def check(self) -> None:
        """Raise ValueError where the flags contradict each other."""
        if self.count < 1 or not 0 <= self.rank < self.count:
            raise ValueError(f"--machine-rank {self.rank} of --num-machines {self.count}")
        if self.count > 1 and self.url == "auto":
            raise ValueError(
                f"--num-machines {self.count} needs --dist-url tcp://ADDRESS:PORT of the first "
                "machine; torchrun finds it by itself"
            )


@dataclass(frozen=True)
class _Start:
    """What a started process has to know.

    Attributes:
        machines: see there.
        processes: on this machine.
        device: where it computes.
        port: of the rendezvous on this machine, 0 if ``machines.url`` says where it is.
        reports: folder in which a process says why it failed.
    """

    machines: Machines
    processes: int
    device: str
    port: int
    reports: Path

    def place(self, local_rank: int) -> Place:
        """Of the process ``local_rank`` of this machine."""
        return Place(
            self.machines.rank * self.processes + local_rank,
            self.machines.count * self.processes,
            local_rank,
            self.processes,
        )


def place_in_job(environment: Mapping[str, str]) -> Place | None:
    """Where torchrun or SLURM put this process; None if neither started it.

    Raises:
        ValueError: MASTER_ADDR is there and the rest is not, or is no number.
    """
    if "MASTER_ADDR" not in environment:
        return None
    found: dict[str, int] = {}
    for field, names in VARIABLES.items():
        name = next((n for n in names if environment.get(n)), None)
        if name is None and field == "local_size":
            continue
        if name is None:
            raise ValueError(f"MASTER_ADDR is set, but none of {', '.join(names)}")
        if not re.fullmatch(r"\d+", environment[name]):
            raise ValueError(f"{name} must be a number, got {environment[name]!r}")
        found[field] = int(environment[name])
    place = Place(**found)
    if place.rank >= place.world_size:
        raise ValueError(f"rank {place.rank} of {place.world_size} processes does not exist")
    return place


def launch(
    main: Callable[..., None],
    *args: Any,
    processes: int,
    device: str,
    machines: Machines | None = None,
    start_method: str = "spawn",
) -> None:
    """Run ``main(*args)`` in every process of the job; returns when all are done.

    Args:
        main: a function at the top of a module.
        *args: what can be pickled.
        processes: to be started on this machine; 1 under torchrun or SLURM, which start them.
        device: MODEL.DEVICE. Processes on GPUs talk by NCCL, others by gloo.
        machines: for jobs over several machines.
        start_method: of torch.multiprocessing.

    Raises:
        ValueError: contradicting flags or variables.
        RankError: a process failed; names it. The others have been ended.
    """
    place = place_in_job(os.environ)
    machines = machines or Machines()
    if place is not None:
        if processes > 1 or machines.count > 1:
            raise ValueError(
                f"{place.world_size} processes were started from outside (MASTER_ADDR is set): "
                "leave out --num-gpus, --num-processes and --num-machines"
            )
        _run_in(place, main, args, device=device)
        return
    machines.check()
    if machines.count * processes == 1:
        main(*args)
        return
    _start_all(main, args, _Start(machines, processes, device, 0, Path()), start_method)


def _run_in(place: Place, main: Callable[..., None], args: tuple[Any, ...], device: str) -> None:
    """Be one process of a job that somebody else watches."""
    if place.world_size == 1:
        main(*args)
        return
    os.environ.setdefault("MASTER_PORT", DEFAULT_PORT)
    # The rendezvous reads these two from the environment; SLURM calls them otherwise.
    os.environ.update(RANK=str(place.rank), WORLD_SIZE=str(place.world_size))
    _join(place, device=device, init_method="env://")
    main(*args)
    _leave()


def _start_all(
    main: Callable[..., None], args: tuple[Any, ...], start: _Start, start_method: str
) -> None:
    """Start the processes of this machine and wait for them."""
    with tempfile.TemporaryDirectory(prefix="dynamic_routing_") as folder:
        store = None
        if start.machines.url == "auto":
            # Held by this process, so that nobody can take the port in between.
            store = dist.TCPStore(LOCALHOST, 0, is_master=True, wait_for_workers=False)
        port = 0 if store is None else store.port
        start = _Start(start.machines, start.processes, start.device, port, Path(folder))
        others = mp.active_children()
        try:
            with deaf_children():
                context = mp.start_processes(
                    _child,
                    args=(main, args, start),
                    nprocs=start.processes,
                    join=False,
                    start_method=start_method,
                )
            watch(context.processes, Path(folder), first_rank=start.place(0).rank)
        finally:
            # A signal may have come before all were started.
            end([process for process in mp.active_children() if process not in others])
            # Not kept by an error's traceback: a fork that frees a copy of it would crash.
            del store


def _child(
    local_rank: int, main: Callable[..., None], args: tuple[Any, ...], start: _Start
) -> None:
    """One started process."""
    rank = start.place(local_rank).rank
    with stoppable() as signals:
        try:
            end_with_parent()
            _meet(local_rank, start)
            main(*args)
            _leave()
        except BaseException as error:  # the parent has to hear of every kind
            if signals.stopped is None:
                report(start.reports, rank, error)
            end_workers()
            if signals.stopped is not None:
                sys.stdout.flush()
                die_of(signals.stopped.signal)
            # At once: an orderly exit may wait for processes that wait for this one.
            os._exit(1)


def _meet(local_rank: int, start: _Start) -> None:
    """Join the other processes that were started with this one."""
    place = start.place(local_rank)
    _share_cores(start)
    if start.port:
        _talk_on_loopback()
        store = dist.TCPStore(LOCALHOST, start.port, is_master=False)
        _join(place, device=start.device, store=store)
    else:
        _join(place, device=start.device, init_method=start.machines.url)


def _share_cores(start: _Start) -> None:
    """Processes on the CPU share its cores, unless the user said how many each may take."""
    if start.device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // start.processes))


def _talk_on_loopback() -> None:
    """Gloo else looks up the machine's name, which not every machine can resolve."""
    if sys.platform == "linux" and any(name == "lo" for _, name in socket.if_nameindex()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


def _join(place: Place, *, device: str, **rendezvous: Any) -> None:
    """Become a process of the job."""
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(place.local_rank)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        rank=place.rank,
        world_size=place.world_size,
        timeout=TIMEOUT,
        **rendezvous,
    )
    name = socket.gethostname()
    comm.create_local_process_group(place.local_size or comm.all_gather(name).count(name))
    comm.synchronize()


def _leave() -> None:
    """Wait for all others, whose messages may still pass through this process."""
    comm.synchronize()
    dist.destroy_process_group()
