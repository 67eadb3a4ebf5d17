"""A newest checkpoint that cannot be read: the one before it is taken, by name and aloud."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dynamic_routing.engine.bad_numbers import BadNumbersError
from dynamic_routing.engine.checkpoint import CheckpointError, RoutingCheckpointer
from dynamic_routing.engine.checkpoint_history import HISTORY, TAG
from dynamic_routing.engine.hooks import BEST, BestCheckpoint

NAMES = [f"model_000000{n}" for n in range(3)]


class Part:
    """Something with a state."""

    def __init__(self):
        self.value = None

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def checkpointer(folder):
    part = Part()
    found = RoutingCheckpointer(nn.Linear(2, 2), str(folder), trainer=part)
    return found, part


@pytest.fixture
def run(tmp_path):
    """A folder with three checkpoints."""
    writer, part = checkpointer(tmp_path)
    for number, name in enumerate(NAMES):
        part.value = number
        nn.init.constant_(writer.model.weight, float(number))
        writer.save(name)
    return tmp_path


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def resumed(folder):
    """Which checkpoint a resumed run continues: its part's value, once the weights agree."""
    reader, part = checkpointer(folder)
    reader.resume_or_load("", resume=True)
    assert torch.equal(reader.model.weight, torch.full((2, 2), float(part.value)))
    return part.value


def test_newest_is_taken_where_it_can_be_read(run, caplog):
    assert resumed(run) == 2
    assert "instead" not in caplog.text


@pytest.mark.parametrize("damage", ["cut", "empty", "missing"])
def test_one_before_is_taken_and_said(run, caplog, damage):
    newest = run / f"{NAMES[2]}.pth"
    {"cut": cut, "empty": lambda p: p.write_bytes(b""), "missing": lambda p: p.unlink()}[damage](
        newest
    )
    assert resumed(run) == 1
    (line,) = [r.getMessage() for r in caplog.records if "instead" in r.getMessage()]
    assert str(newest) in line and line.endswith(f"; taking {NAMES[1]}.pth instead")


def test_several_can_be_damaged(run):
    for name in NAMES[1:]:
        cut(run / f"{name}.pth")
    assert resumed(run) == 0


def test_nothing_readable_is_one_line_with_all_names(run):
    for name in NAMES:
        cut(run / f"{name}.pth")
    with pytest.raises(CheckpointError) as info:
        resumed(run)
    assert "\n" not in str(info.value) and all(name in str(info.value) for name in NAMES)


def test_checkpoints_of_an_earlier_run_are_no_way_back(run):
    """Another run starts in the same folder; its own first checkpoint is damaged."""
    writer, _ = checkpointer(run)
    writer.save("model_0000009")
    cut(run / "model_0000009.pth")
    with pytest.raises(CheckpointError, match="nothing to resume from"):
        resumed(run)


def test_history_follows_a_run_over_resumes(run):
    cut(run / f"{NAMES[2]}.pth")
    writer, part = checkpointer(run)
    writer.resume_or_load("", resume=True)
    assert part.value == 1
    writer.save("model_0000005")
    assert json.loads((run / HISTORY).read_text()) == [
        *(f"{n}.pth" for n in NAMES[:2]),
        "model_0000005.pth",
    ]


def test_killed_between_tag_and_history_the_tag_counts(run):
    content = (run / HISTORY).read_text()
    writer, _ = checkpointer(run)
    writer.resume_or_load("", resume=True)
    writer.save("model_0000009")
    (run / HISTORY).write_text(content)
    assert RoutingCheckpointer(nn.Linear(2, 2), str(run)).newest_readable().endswith("9.pth")
    cut(run / "model_0000009.pth")
    assert resumed(run) == 2


@pytest.mark.parametrize("content", ["", "{}", "[1, null]", "[" * 100_000, '["none.pth"]'])
def test_broken_history_leaves_the_newest_checkpoint(run, content):
    (run / HISTORY).write_text(content)
    assert resumed(run) == 2
    cut(run / f"{NAMES[2]}.pth")
    with pytest.raises(CheckpointError, match="nothing to resume from"):
        resumed(run)


@pytest.mark.parametrize("name", ["../model.pth", "/etc/passwd", "a/b.pth", ""])
def test_history_names_files_of_the_folder_only(run, name):
    (run / HISTORY).write_text(json.dumps([name, f"{NAMES[2]}.pth"]))
    with pytest.raises(CheckpointError, match="must hold a bare file name"):
        resumed(run)


def test_without_a_tag_there_is_nothing_to_resume(run):
    (run / TAG).unlink()
    assert checkpointer(run)[0].newest_readable() == ""


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_bad_weights_are_not_saved(run, number):
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    writer, _ = checkpointer(run)
    with torch.no_grad():
        writer.model.bias[1] = number
    with pytest.raises(BadNumbersError, match="no checkpoint model_bad: .* in bias"):
        writer.save("model_bad")
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before


def test_unreadable_best_checkpoint_is_replaced_by_the_next(run, caplog):
    writer, _ = checkpointer(run)
    (run / f"{BEST}.pth").write_bytes(b"half")
    hook = BestCheckpoint(writer, metric="a/b", period=1)
    hook.load_state_dict({"best": 3.0})
    assert f"{BEST}.pth cannot be read" in caplog.text
    hook.trainer = SimpleNamespace(
        iter=4, max_iter=9, storage=SimpleNamespace(latest=lambda: {"a/b": (3.5, 4)})
    )
    hook.after_step()
    assert writer.stored_metric(BEST) == 3.5


def test_weights_alone_are_no_run_to_resume(run):
    path = run / f"{NAMES[2]}.pth"
    torch.save({"model": torch.load(path)["model"]}, path)
    with pytest.raises(CheckpointError, match="weights.*MODEL.WEIGHTS .*, without --resume"):
        resumed(run)


@pytest.mark.parametrize("state", [7, {}, None])
def test_state_that_no_part_can_take_up_is_one_line(run, state):
    path = run / f"{NAMES[2]}.pth"
    torch.save(torch.load(path) | {"trainer": state}, path)
    with pytest.raises(
        CheckpointError, match=f"{NAMES[2]}.pth .* no training: (Key|Type)Error"
    ) as e:
        resumed(run)
    assert "\n" not in str(e.value)
