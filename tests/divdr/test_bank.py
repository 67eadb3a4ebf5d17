"""The gate bank: latest rows, one content for all processes, a state that can be stored."""

from __future__ import annotations

import io
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from dynamic_routing.divdr import bank as bank_module
from dynamic_routing.divdr.bank import GateBank

DIM = 3


def row(value):
    return np.full((1, DIM), value, dtype=np.float32)


def contents(bank):
    """name -> (first number, stamp)."""
    kept = bank.snapshot()
    return {
        name: (float(a[0]), int(s)) for name, a, s in zip(kept.names, kept.activations, kept.stamps)
    }


class Meeting:
    """An all_gather between threads that stand for processes."""

    def __init__(self, count):
        self.parts, self.barrier, self.sent = [None] * count, threading.Barrier(count), []

    def gather(self, rank):
        def call(part):
            self.parts[rank] = part
            self.sent.append(len(part))
            self.barrier.wait(10)
            found = list(self.parts)
            self.barrier.wait(10)
            return found

        return call


def synchronise(banks):
    """Let every bank synchronise at once; how many rows each one sent."""
    meeting = Meeting(len(banks))
    with ThreadPoolExecutor(len(banks)) as pool:
        list(pool.map(lambda i: banks[i].synchronise(meeting.gather(i)), range(len(banks))))
    return sorted(meeting.sent)


def test_bank_keeps_the_latest_row_of_each_image_sorted_by_name():
    bank = GateBank(DIM)
    bank.record(["b", "a"], np.concatenate([row(1), row(2)]), 10)
    bank.record(["b", "c", "c"], np.concatenate([row(3), row(4), row(5)]), 12)
    bank.record(["a"], row(9), 5)  # older than what is there
    kept = bank.snapshot()
    assert kept.names == ("a", "b", "c") and kept.stamps.tolist() == [10, 12, 12]
    assert kept.activations[:, 0].tolist() == [2, 3, 5] and kept.activations.dtype == np.float32
    assert kept.mean_age(14) == pytest.approx((4 + 2 + 2) / 3)
    assert GateBank(DIM).snapshot().mean_age(3) == 0


def test_bank_keeps_copies_and_gives_copies():
    bank, mine = GateBank(DIM), row(1)
    bank.record(["a"], mine, 0)
    mine[:] = 7
    kept = bank.snapshot()
    kept.activations[:] = 8
    assert contents(bank) == {"a": (1, 0)}


def test_bank_grows_in_blocks_up_to_its_bound(monkeypatch):
    monkeypatch.setattr(bank_module, "FIRST_BLOCK", 2)
    bank = GateBank(DIM, max_images=7)
    for i in range(7):
        bank.record([f"{i}"], row(i), i)
    assert contents(bank) == {f"{i}": (i, i) for i in range(7)}
    bank.record(["3"], row(30), 30)
    with pytest.raises(ValueError, match="full with 7 images: raise .*MAX_IMAGES or take SOURCE"):
        bank.record(["8"], row(8), 31)
    assert len(bank) == 7 and contents(bank)["3"] == (30, 30)


def test_what_does_not_belong_into_the_bank_is_refused():
    bank = GateBank(DIM)
    with pytest.raises(ValueError, match=r"expects activations of shape \(2, 3\), got \(1, 3\)"):
        bank.record(["a", "b"], row(1), 0)
    with pytest.raises(ValueError, match="needs a file_name"):
        bank.record([""], row(1), 0)
    with pytest.raises(ValueError, match="max_images must be at least 1, got 0"):
        GateBank(DIM, max_images=0)


def test_processes_agree_on_the_newest_row_of_each_image():
    chance, banks, newest = random.Random(0), [GateBank(DIM) for _ in range(3)], {}
    for iteration in range(40):
        for rank, bank in enumerate(banks):
            name = f"{chance.randrange(9)}"
            bank.record([name], row(100 * iteration + rank), iteration)
            # Of equally new ones the lowest rank's counts.
            if newest.get(name, (0, -1))[1] < iteration:
                newest[name] = (100 * iteration + rank, iteration)
        if iteration % 7 == 6:
            synchronise(banks)
            assert [contents(bank) for bank in banks] == [newest] * 3
    names = {bank.snapshot().names for bank in banks}
    assert len(names) == 1 and names.pop() == tuple(sorted(newest))


def test_only_what_changed_travels():
    banks = [GateBank(DIM), GateBank(DIM)]
    for i in range(5):
        banks[0].record([f"{i}"], row(i), 0)
    assert synchronise(banks) == [0, 5]
    banks[1].record(["2"], row(9), 1)
    assert synchronise(banks) == [0, 1] and synchronise(banks) == [0, 0]
    assert contents(banks[0]) == contents(banks[1]) and contents(banks[0])["2"] == (9, 1)


NAMES = ["plain.png", "with space.png", "zweizeilig\n.png", "grün.png", "bad\udcff.png"]


@pytest.mark.parametrize("names", [NAMES, []], ids=["names", "empty"])
def test_stored_bank_continues_bit_by_bit(names):
    bank, twin, file = GateBank(DIM), GateBank(DIM), io.BytesIO()
    twin.record(["gone"], row(0), 3)
    rows = np.random.default_rng(0).random((len(names), DIM), dtype=np.float32)
    bank.record(names, rows, 4)
    torch.save(bank.state_dict(), file)
    file.seek(0)
    twin.load_state_dict(torch.load(file, weights_only=True))
    twin.synchronise(lambda part: [part])  # nothing of before the load is left to send
    for b in (bank, twin):
        b.record(["new", *names[:1]], np.concatenate([row(1)] * (1 + len(names[:1]))), 5)
    first, second = bank.snapshot(), twin.snapshot()
    assert first.names == second.names == tuple(sorted([*names, "new"]))
    assert np.array_equal(first.activations, second.activations)
    assert np.array_equal(first.stamps, second.stamps)


def test_stored_bank_that_does_not_fit_is_refused():
    bank = GateBank(DIM)
    bank.record(["a", "b"], np.concatenate([row(1), row(2)]), 4)
    state = bank.state_dict()
    with pytest.raises(ValueError, match="expected A = 4"):
        GateBank(4).load_state_dict(state)
    with pytest.raises(ValueError, match="has 2 images, .*MAX_IMAGES is 1"):
        GateBank(DIM, max_images=1).load_state_dict(state)
    with pytest.raises(ValueError, match="1 stamps"):
        bank.load_state_dict({**state, "stamps": state["stamps"][:1]})
