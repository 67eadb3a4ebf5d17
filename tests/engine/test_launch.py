"""Several processes: started, joined, watched; a dead one ends the others and is named."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm

from dynamic_routing.engine import watch
from dynamic_routing.engine.launch import Machines, Place, launch, place_in_job
from dynamic_routing.engine.watch import RankError
from tests.engine.processes import in_processes, keep_result

TORCHRUN = {
    "MASTER_ADDR": "10.0.0.1",
    "RANK": "3",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
}
SLURM = {
    "MASTER_ADDR": "node1",
    "SLURM_PROCID": "3",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS_PER_NODE": "2",
}
END_WITHIN = 60
"""Seconds in which a dead rank has to end the others, as the README promises."""

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # fork, 3.12


def who_am_i():
    total = torch.tensor([comm.get_rank() + 1.0])
    dist.all_reduce(total)
    return comm.get_rank(), comm.get_local_rank(), comm.get_local_size(), float(total)


def fail(rank, how):
    """One process fails, the others wait for it in a collective."""
    if comm.get_rank() != rank:
        dist.barrier()
        time.sleep(10 * END_WITHIN)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(7)
    raise {"user": ValueError, "bug": RuntimeError}[how]("what went wrong\nsecond line")


def die_and_leave_a_child(file):
    """The child holds all that its parent had open: connections, and what says that it is there."""
    if comm.get_rank() == 0:
        child = os.fork()
        if child == 0:
            time.sleep(END_WITHIN)
            os._exit(0)
        file.write_text(str(child))
        os._exit(7)
    time.sleep(10 * END_WITHIN)


def test_processes_know_their_places_and_reduce(tmp_path):
    found = in_processes(2, who_am_i, folder=tmp_path)
    assert found == [(0, 0, 2, 3.0), (1, 1, 2, 3.0)]


def test_what_a_dead_process_leaves_behind_does_not_hide_its_death(tmp_path):
    file = tmp_path / "child"
    start = time.monotonic()
    with pytest.raises(RankError, match="rank 0 ended with exit status 7"):
        in_processes(2, die_and_leave_a_child, file, folder=tmp_path)
    seconds = time.monotonic() - start
    os.kill(int(file.read_text()), signal.SIGKILL)
    assert seconds < END_WITHIN / 2


def test_one_process_runs_without_a_group(tmp_path):
    assert in_processes(1, comm.get_world_size, folder=tmp_path) == [1]
    assert not dist.is_initialized()


@pytest.mark.parametrize("environment", [TORCHRUN, SLURM], ids=["torchrun", "slurm"])
def test_place_is_read_from_the_environment(environment):
    assert place_in_job(environment) == Place(rank=3, world_size=8, local_rank=1, local_size=2)


def test_variables_without_an_address_mean_nothing():
    """In a batch script of SLURM they are there although nothing was started."""
    assert place_in_job({k: v for k, v in SLURM.items() if k != "MASTER_ADDR"}) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"RANK": ""}, "none of RANK, SLURM_PROCID"),
        ({"RANK": "two"}, "RANK must be a number, got 'two'"),
        ({"RANK": "8"}, "rank 8 of 8 processes does not exist"),
    ],
)
def test_broken_variables_are_one_line(change, message):
    with pytest.raises(ValueError, match=message):
        place_in_job(TORCHRUN | change)


def test_processes_are_not_started_twice(monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="leave out --num-gpus"):
        launch(who_am_i, processes=2, device="cpu")


@pytest.mark.parametrize(
    ("machines", "message"),
    [
        (Machines(count=2), "needs --dist-url"),
        (Machines(count=2, rank=2, url="tcp://a:1"), "--machine-rank 2 of --num-machines 2"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(machines, message):
    with pytest.raises(ValueError, match=message):
        launch(who_am_i, processes=1, device="cpu", machines=machines)


@pytest.mark.parametrize(
    ("rank", "how", "message", "user"),
    [
        (1, "kill", r"rank 1 was ended by SIGKILL \(out of memory\?\); the others", False),
        (0, "kill", r"rank 0 was ended by SIGKILL", False),
        (1, "user", "^rank 1: what went wrong\nsecond line$", True),
        (0, "bug", "^rank 0: RuntimeError: what went wrong$", False),
        (1, "exit", "^rank 1 ended with exit status 7; the others were ended too$", False),
    ],
)
def test_dead_rank_ends_the_others_and_is_named(tmp_path, rank, how, message, user):
    start = time.monotonic()
    with pytest.raises(RankError, match=message) as info:
        in_processes(2, fail, rank, how, folder=tmp_path)
    assert time.monotonic() - start < END_WITHIN
    assert info.value.user == user


class EndsBetweenTwoLooks:
    """A process that runs when it is first asked, and has failed when it is asked again."""

    def __init__(self, sentinel):
        self.sentinel = sentinel
        self._codes = iter((None, 7))

    @property
    def exitcode(self):
        return next(self._codes, 7)

    def is_alive(self):
        return False

    def join(self, timeout):
        pass


def test_process_that_ends_between_two_looks_has_not_ended_well(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "SETTLE_SECONDS", 0.0)
    readable, other_end = os.pipe()
    os.close(other_end)  # what says that a process ended
    try:
        with pytest.raises(RankError, match="rank 0 ended with exit status 7"):
            watch.watch([EndsBetweenTwoLooks(readable)], tmp_path)
    finally:
        os.close(readable)


def started_by_slurm(rank, port, folder):
    """One process of two, as ``srun`` would start it; nobody says how many a machine has."""
    for name, value in {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "SLURM_PROCID": str(rank),
        "SLURM_NTASKS": "2",
        "SLURM_LOCALID": str(rank),
        "GLOO_SOCKET_IFNAME": "lo",
    }.items():
        os.environ[name] = value
    launch(keep_result, who_am_i, (), folder, processes=1, device="cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="names the loopback as Linux does")
def test_processes_of_slurm_find_each_other_and_count_their_machine(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(
        started_by_slurm, args=(port, tmp_path), nprocs=2, start_method="fork"
    )
    found = [torch.load(tmp_path / f"result_{rank}.pt", weights_only=False) for rank in (0, 1)]
    assert found == [(0, 0, 2, 3.0), (1, 1, 2, 3.0)]
