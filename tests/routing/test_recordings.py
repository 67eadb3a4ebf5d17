"""What is recorded, kept and dropped, and how a capture is entered and left."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from dynamic_routing.routing.recordings import Recordings, cuda_recorder


class Counting:
    """A recorder that notes what it recorded."""

    def __init__(self):
        self.recorded = []

    def __call__(self, work):
        self.recorded.append(work)
        return work


def test_work_is_recorded_when_it_is_met_again():
    recorder, done = Counting(), []
    recordings = Recordings(recorder)
    for n in range(4):
        recordings.run("a", lambda: done.append("a"))
        assert len(recorder.recorded) == min(n, 1)
    assert done == ["a"] * 4 and len(recordings) == 1


def test_what_never_comes_back_displaces_no_recording():
    recorder = Counting()
    recordings = Recordings(recorder, limit=3)
    for _ in range(2):
        recordings.run("kept", lambda: None)
    for n in range(20):
        recordings.run(n, lambda: None)
    recordings.run("kept", lambda: None)
    assert len(recorder.recorded) == len(recordings) == 1


def test_the_least_recently_used_recording_goes_first():
    recorder = Counting()
    recordings = Recordings(recorder, limit=2)
    for key in "aabbacc":  # b is the one that was not used for longest
        recordings.run(key, lambda: None)
    assert list(recordings._kept) == ["a", "c"] and len(recordings._seen) <= 2


class MakeBelieveGpu:
    """torch.cuda as far as a recorder uses it: streams, devices and captures.

    As in PyTorch, a capture that fails to end leaves its stream entered.
    """

    def __init__(self, monkeypatch, *, fails=False):
        self.device, self.stream, self.fails = 0, "default", fails
        self.log = []
        for name in ("device", "stream", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, f"_{name}"))
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self._make("default"))
        replay = SimpleNamespace(replay=lambda: self.log.append("replay"))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: replay)

    def _make(self, name):
        waits = lambda other: self.log.append(f"{name} waits for {other.name}")  # noqa: E731
        return SimpleNamespace(name=name, device=3, wait_stream=waits)

    @contextmanager
    def _device(self, device):
        before, self.device = self.device, device
        yield
        self.device = before

    @contextmanager
    def _stream(self, stream):
        before, self.stream = self.stream, stream.name
        try:
            yield
        finally:
            self.stream = before

    @contextmanager
    def _graph(self, graph, *, pool, stream, capture_error_mode):
        self.stream = stream.name
        self.log.append(f"capture, {capture_error_mode}")
        yield
        if self.fails:
            raise RuntimeError("operation failed due to a previous error during capture")
        self.log.append("captured")


def test_a_capture_is_made_on_the_device_of_the_stream_after_a_warm_up(monkeypatch):
    gpu = MakeBelieveGpu(monkeypatch)
    record = cuda_recorder(gpu._make("side"))
    replay = record(lambda: gpu.log.append(f"work on {gpu.device}, {gpu.stream}"))
    replay()
    assert gpu.log == [
        "side waits for default",
        "work on 3, side",
        "capture, thread_local",
        "work on 3, side",
        "captured",
        "default waits for side",
        "replay",
    ]


def test_a_failed_capture_leaves_the_stream_as_it_was(monkeypatch):
    gpu = MakeBelieveGpu(monkeypatch, fails=True)
    with pytest.raises(RuntimeError, match="during capture"):
        cuda_recorder(gpu._make("side"))(lambda: None)
    assert gpu.stream == "default" and gpu.log[-1] == "default waits for side"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_replay_repeats_the_kernels_on_a_gpu():
    device = torch.device("cuda", torch.cuda.current_device())
    x, y = torch.ones(3, device=device), torch.zeros(3, device=device)
    replay = cuda_recorder(torch.cuda.Stream(device))(lambda: y.copy_(x * 2))
    x.fill_(5)
    replay()
    assert y.tolist() == [10, 10, 10]
    before = torch.cuda.current_stream()
    with pytest.raises(RuntimeError):
        cuda_recorder(torch.cuda.Stream(device))(lambda: print(y.sum().item()))
    assert torch.cuda.current_stream() == before and y.sum().item() == 30
