"""Signals end a run in an orderly way: its processes, their workers, and what waits for a peer."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch.distributed as dist
from detectron2.utils import comm

from dynamic_routing.engine import stopping
from dynamic_routing.engine.stopping import Stopped, deaf_children, stoppable
from tests.engine.processes import in_processes, is_running
from tests.modeling.builders import REPOSITORY

FORK = multiprocessing.get_context("fork")
END_WITHIN = 20
"""Seconds; measured below one where the machine is not busy."""

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # fork, 3.12


@pytest.fixture(autouse=True)
def _listening():
    """Handlers of a program in the foreground: nohup and the background of a script ignore some."""
    usual = dict.fromkeys(stopping.SIGNALS, signal.SIG_DFL)
    usual[signal.SIGINT] = signal.default_int_handler
    if hasattr(signal, "SIGCHLD"):  # a stop resets it
        usual[signal.SIGCHLD] = signal.getsignal(signal.SIGCHLD)
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler if handler is not None else usual[number])


def strike(number):
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # a bytecode at which the handler runs


def say_and_sleep(file):
    file.touch()
    time.sleep(600)


def wait_for(*files):
    deadline = time.monotonic() + 3 * END_WITHIN
    while not all(file.exists() for file in files) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert all(file.exists() for file in files)


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_signal_raises_and_says_the_exit_status(name, status):
    number = signal.Signals[name]
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=f"^interrupted by {name}$") as info, stoppable():
        strike(number)
    assert info.value.status == status
    assert signal.getsignal(number) is before


def test_ignored_signal_stays_ignored():
    """As under nohup, or in the background of a script."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable() as signals:
            strike(signal.SIGHUP)
        assert signals.stopped is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_error_that_follows_from_a_signal_leaves_as_the_signal():
    with pytest.raises(Stopped) as info, stoppable():
        try:
            strike(signal.SIGTERM)
        finally:
            raise RuntimeError("DataLoader worker (pid 7) was killed by signal: Terminated")
    assert isinstance(info.value.__cause__, RuntimeError)


def test_error_without_a_signal_is_itself():
    with pytest.raises(RuntimeError, match="^bug$"), stoppable():
        raise RuntimeError("bug")


@pytest.mark.parametrize(("seconds", "disturbed"), [(60.0, False), (0.0, True)])
def test_further_signal_disturbs_the_ending_only_after_a_while(monkeypatch, seconds, disturbed):
    monkeypatch.setattr(stopping, "REPEAT_SECONDS", seconds)
    ended = []
    with pytest.raises(Stopped), stoppable():
        try:
            strike(signal.SIGINT)
        finally:
            strike(signal.SIGTERM)
            ended.append(True)
    assert ended == ([] if disturbed else [True])


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_forked_worker_leaves_the_terminal_to_its_parent(name, tmp_path):
    with stoppable() as signals:
        worker = FORK.Process(target=say_and_sleep, args=(tmp_path / "ready",), daemon=True)
        worker.start()
        wait_for(tmp_path / "ready")
        os.kill(worker.pid, signal.Signals[name])
        worker.join(0.1)
        assert worker.is_alive()
        worker.terminate()
        worker.join(END_WITHIN)
    assert worker.exitcode == -signal.SIGTERM and signals.stopped is None


LOADS = """
import sys, time
from torch.utils.data import DataLoader
from dynamic_routing.engine.stopping import Stopped, stoppable

class Numbers:
    def __len__(self): return 10**6
    def __getitem__(self, index): time.sleep(0.3); return index

def load():  # numbers, since for tensors a worker's thread waits to hand over a file
    batches = iter(
        DataLoader(Numbers(), batch_size=None, num_workers=2, multiprocessing_context="fork")
    )
    print(*(worker.pid for worker in batches._workers), flush=True)
    for batch in batches:
        pass

try:
    with stoppable():
        load()
except Stopped as stop:
    sys.exit(str(stop))
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize(("workers_first", "delay"), [(True, 0.0), (True, 0.1), (False, 0.05)])
def test_signal_for_the_workers_too_is_no_error_of_the_loader(name, workers_first, delay):
    """Whoever of them gets it first."""
    command = [sys.executable, "-c", LOADS]
    program = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with program:
        workers = [int(word) for word in program.stdout.readline().split()]
        time.sleep(0.2)
        groups = (workers, [program.pid])
        for group in groups if workers_first else reversed(groups):
            for pid in group:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.Signals[name])
            time.sleep(delay)
        error = program.communicate(timeout=END_WITHIN)[1]
    assert (program.returncode, error) == (1, f"interrupted by {name}\n")
    assert len(workers) == 2 and not any(map(is_running, workers))


def exit_with_handlers_of_ours():
    usual = (signal.SIG_DFL, signal.SIG_IGN)
    ours = [number for number in stopping.SIGNALS if signal.getsignal(number) not in usual]
    held = signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(stopping.SIGNALS)
    os._exit(len(ours) + len(held))


def test_forked_process_has_the_handlers_of_the_system():
    """Ours could come too late for one that waits for a lock, such as the worker of a pool."""
    with stoppable():
        worker = FORK.Process(target=exit_with_handlers_of_ours)
        worker.start()
        worker.join(END_WITHIN)
        assert isinstance(signal.getsignal(signal.SIGTERM), stopping._Catcher)
    assert worker.exitcode == 0


COMES_WHILE_IT_FORKS = """
import os, signal, sys, threading, time

def strike():
    if struck:
        signal.pthread_kill(threading.get_ident(), struck.pop())

struck = []
os.register_at_fork(**{sys.argv[1]: strike})  # registered first: while ours holds signals back
from dynamic_routing.engine.stopping import Stopped, stoppable
try:
    with stoppable():
        struck.append(signal.SIGTERM)
        if os.fork() == 0:
            os._exit(0)
        os.wait()
        time.sleep(20)
except Stopped as stop:
    print(stop, *signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""


@pytest.mark.parametrize("moment", ["before", "after_in_parent"])
def test_signal_that_comes_while_a_process_forks_comes_afterwards(moment):
    """Python drops exceptions of what it calls at a fork."""
    command = [sys.executable, "-c", COMES_WHILE_IT_FORKS, moment]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=3 * END_WITHIN
    )
    assert done.stdout == "interrupted by SIGTERM\n" and "ignored" not in done.stderr, done.stderr


def test_process_that_is_ended_as_soon_as_it_is_forked_ends():
    """Between the fork and its first own step a process has our handlers still."""
    with stoppable() as signals:
        workers = [FORK.Process(target=time.sleep, args=(600,), daemon=True) for _ in range(50)]
        for worker in workers:
            worker.start()
            worker.terminate()
        deadline = time.monotonic() + END_WITHIN
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        left = [worker for worker in workers if worker.is_alive()]
        for worker in left:
            worker.kill()
    assert left == [] and signals.stopped is None


@pytest.mark.slow
def test_pools_end_inside_a_stoppable_run():
    """Detectron2 reads Cityscapes' instances in one and leaves its end to the collector."""
    with stoppable():
        for _ in range(100):
            pool = FORK.Pool(2)
            pool.map(abs, range(4))
            pool.terminate()
            pool.join()


def test_children_are_deaf_to_the_terminal_and_the_parent_is_not(tmp_path):
    with deaf_children():
        worker = FORK.Process(target=say_and_sleep, args=(tmp_path / "ready",), daemon=True)
        worker.start()
    wait_for(tmp_path / "ready")
    with pytest.raises(Stopped), stoppable():
        strike(signal.SIGINT)
    os.kill(worker.pid, signal.SIGINT)
    os.kill(worker.pid, signal.SIGHUP)
    time.sleep(0.1)
    assert worker.is_alive()
    worker.terminate()
    worker.join(END_WITHIN)
    assert worker.exitcode == -signal.SIGTERM


def sleep_on(folder):
    """Each process has a child, and does not listen."""
    start_a_worker(folder)
    while True:
        with suppress(Stopped):
            time.sleep(600)


def wait_with_a_worker(folder):
    """Rank 0 sleeps and tidies up, rank 1 waits for it in a collective; each with a child."""
    start_a_worker(folder)
    if comm.get_rank() == 0:
        try:
            time.sleep(600)
        finally:
            (folder / "tidy").touch()
    dist.barrier()


def start_a_worker(folder):
    """And say the ids of this process and of it."""
    worker = FORK.Process(target=time.sleep, args=(600,), daemon=True)
    worker.start()
    found = folder / f"pids_{comm.get_rank()}.tmp"
    found.write_text(f"{os.getpid()} {worker.pid}")
    found.rename(found.with_suffix(""))


def job(folder, work):
    """What train_net.py does around its processes."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status = 0
    try:
        with stoppable():
            in_processes(2, work, folder, folder=folder / "results")
    except Stopped as stop:
        status = stop.status
    os._exit(status)


IN_PROC = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")


@IN_PROC
@pytest.mark.parametrize(
    ("name", "whole_group", "status"),
    [
        ("SIGINT", True, 130),
        ("SIGINT", False, 130),
        ("SIGTERM", True, 143),
        ("SIGTERM", False, 143),
        ("SIGHUP", True, 129),
        ("SIGKILL", False, -9),
    ],
)
def test_signal_ends_every_process_of_the_job(tmp_path, name, whole_group, status):
    assert_all_end(tmp_path, wait_with_a_worker, name, whole_group, status)
    assert (tmp_path / "tidy").exists()


@IN_PROC
def test_process_that_does_not_listen_ends_with_its_parent_too(tmp_path, monkeypatch):
    monkeypatch.setattr(stopping, "END_SECONDS", 0.5)
    assert_all_end(tmp_path, sleep_on, "SIGKILL", False, -signal.SIGKILL)


def assert_all_end(tmp_path, work, name, whole_group, status):
    """Start a job, signal it, and look for its processes."""
    main = FORK.Process(target=job, args=(tmp_path, work))
    main.start()
    files = [tmp_path / f"pids_{rank}" for rank in (0, 1)]
    wait_for(*files)
    pids = [int(pid) for file in files for pid in file.read_text().split()]
    assert len(pids) == 4 and all(map(is_running, pids))
    try:
        (os.killpg if whole_group else os.kill)(main.pid, signal.Signals[name])
        deadline = time.monotonic() + END_WITHIN
        main.join(END_WITHIN)
        while any(map(is_running, pids)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert main.exitcode == status
        assert [pid for pid in pids if is_running(pid)] == []
    finally:
        with suppress(ProcessLookupError):
            os.killpg(main.pid, signal.SIGKILL)
