"""Every work-around cures its symptom and leaves nothing behind."""

import json
import logging
from importlib import import_module

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage
from PIL import Image
from torch.nn.parallel import DistributedDataParallel

from dynamic_routing.compat import (
    CITYSCAPES_EVALUATION_MODULES,
    KEPT_VALUES,
    OneLineErrors,
    bound_history,
    cityscapes_numpy_proxy,
    load_label_image,
    unsynchronised_buffers,
)


def test_label_image_is_exact_and_writable(tmp_path):
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(labels).save(tmp_path / "labels.png")
    for dtype in (None, int, np.int64, "uint8"):
        loaded = load_label_image(str(tmp_path / "labels.png"), dtype=dtype)
        assert np.array_equal(loaded, labels)
        loaded[loaded == 255] = 7
    assert load_label_image(str(tmp_path / "labels.png"), dtype=int).dtype == int


def test_palette_image_gives_indices(tmp_path):
    labels = np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8)
    image = Image.fromarray(labels)
    image.putpalette([200, 10, 10, 10, 200, 10, 10, 10, 200])
    assert image.mode == "P"
    image.save(tmp_path / "palette.png")
    assert np.array_equal(load_label_image(str(tmp_path / "palette.png"), dtype=int), labels)


def test_sixteen_bit_labels_survive(tmp_path):
    labels = np.array([[26001, 33], [24999, 0]], dtype=np.uint16)
    Image.fromarray(labels).save(tmp_path / "instances.png")
    assert np.array_equal(load_label_image(str(tmp_path / "instances.png"), dtype=int), labels)


def test_colours_are_no_labels(tmp_path):
    Image.new("RGB", (4, 3)).save(tmp_path / "colours.png")
    with pytest.raises(ValueError, match=r"colours.png must hold one class index"):
        load_label_image(str(tmp_path / "colours.png"))


@pytest.fixture
def scripts():
    pytest.importorskip("cityscapesscripts")
    return [import_module(name) for name in CITYSCAPES_EVALUATION_MODULES]


def test_proxy_offers_what_the_scripts_call(scripts):
    values = np.array([[1, 2], [3, 2]])
    with cityscapes_numpy_proxy():
        for script in scripts:
            assert script.np.in1d(values, [2, 9]).tolist() == [False, True, False, True]
            inverted = script.np.in1d(values, [2], invert=True)
            assert inverted.tolist() == [True, False, True, False]
            count = script.np.count_nonzero(values == 2)
            assert type(count) is int and json.dumps(count) == "2"
            assert script.np.unique is np.unique


def test_proxy_gives_an_empty_sum_a_last_element(scripts):
    with cityscapes_numpy_proxy():
        for script in scripts:
            assert script.np.cumsum(np.array([])).tolist() == [0.0]
            assert script.np.cumsum(np.array([1, 2])).tolist() == [1, 3]


def test_proxy_writes_no_file(scripts, tmp_path):
    with cityscapes_numpy_proxy():
        scripts[1].writeDict2JSON({"a": 1}, str(tmp_path / "matches.json"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fails", [False, True])
def test_proxy_is_taken_away(scripts, fails):
    before = [(script.np, script.writeDict2JSON) for script in scripts]
    try:
        with cityscapes_numpy_proxy():
            assert all(script.np is not np for script in scripts)
            if fails:
                raise RuntimeError("inside")
    except RuntimeError:
        assert fails
    after = [(script.np, script.writeDict2JSON) for script in scripts]
    assert all(x[0] is y[0] is np and x[1] is y[1] for x, y in zip(before, after))


@pytest.mark.parametrize(
    ("error", "pages"),
    [
        (ValueError("x"), False),
        (KeyError("x"), True),
        (RuntimeError("[pair.cc:545] Read error: Connection reset by peer. This is"), False),
        (RuntimeError("x"), True),
    ],
)
def test_errors_of_the_user_and_lost_peers_come_without_a_traceback(error, pages):
    record = logging.LogRecord("d2", logging.ERROR, "f", 1, "m", (), (type(error), error, None))
    assert OneLineErrors().filter(record)
    assert bool(record.exc_info) == pages


def test_bounded_history_gives_what_the_writers_ask_for():
    bounded, unbounded = EventStorage(), EventStorage()
    bound_history(bounded)
    for storage in (bounded, unbounded):
        for i in range(KEPT_VALUES + 500):
            storage.iter = i
            storage.put_scalar("loss", float(i % 7))
    histories = [storage.history("loss") for storage in (bounded, unbounded)]
    assert [len(h.values()) for h in histories] == [KEPT_VALUES, KEPT_VALUES + 500]
    found = [(h.median(20), h.avg(20), h.global_avg(), h.latest()) for h in histories]
    assert found[0] == found[1]
    smoothed = [storage.latest_with_smoothing_hint(20) for storage in (bounded, unbounded)]
    assert smoothed[0] == smoothed[1]


def test_buffers_are_left_alone_without_a_deprecated_argument():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(torch.nn.Linear(1, 1), **unsynchronised_buffers())
        # The older name is still an attribute of newer versions.
        assert not wrapped.broadcast_buffers
    finally:
        torch.distributed.destroy_process_group()


def test_torch_before_2_13_gets_the_name_that_it_knows(monkeypatch):
    def old(self, module, broadcast_buffers=True):
        """What torch 2.11 takes."""

    monkeypatch.setattr(DistributedDataParallel, "__init__", old)
    assert unsynchronised_buffers() == {"broadcast_buffers": False}
