"""The training loader: the same batches whatever the workers, the processes and the start."""

from __future__ import annotations

import random
from itertools import islice
from unittest import mock

import numpy as np
import pytest
import torch
from detectron2.utils import comm

from dynamic_routing.data.order import SampleOrder
from dynamic_routing.engine.train_loader import SAMPLERS, TrainLoader, build_order
from tests.modeling.builders import small_config

RECORDS = [{"file_name": f"{i}.png", "width": 4 + i % 2, "height": 4} for i in range(5)]


def draw(record):
    """A mapper that draws from every generator an augmentation may use."""
    drawn = (random.random(), float(np.random.random()), float(torch.rand(())))
    return {"file_name": record["file_name"], "drawn": drawn}


def batches(count=6, *, start=0, workers=0, batch_size=4, seed=1, order=None):
    loader = TrainLoader(
        RECORDS,
        mapper=draw,
        order=order or SampleOrder(len(RECORDS), groups=[r["width"] % 2 for r in RECORDS]),
        batch_size=batch_size,
        num_workers=workers,
        seed=seed,
    )
    loader.start = start
    return list(islice(loader, count))


def as_process(rank, world_size):
    """Make Detectron2 believe in several processes."""
    return mock.patch.multiple(comm, get_rank=lambda: rank, get_world_size=lambda: world_size)


def test_augmentations_do_not_depend_on_the_workers():
    assert batches(4, workers=2) == batches(4)


def test_started_later_it_gives_the_same_images_augmented_the_same_way():
    assert batches(3, start=3) == batches(6)[3:]


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_batches_of_one(world_size):
    parts = []
    for rank in range(world_size):
        with as_process(rank, world_size):
            parts.append(batches(4))
    together = [[x for part in step for x in part] for step in zip(*parts)]
    assert together == batches(4)


def test_an_image_is_augmented_anew_each_time_and_by_the_seed():
    drawn = [x["drawn"] for batch in batches(10) for x in batch]
    assert len(set(drawn)) == len(drawn)
    assert batches(2, seed=2) != batches(2)


def test_loading_leaves_the_generators_alone():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    batches(2)
    after = (random.random(), np.random.random(), float(torch.rand(())))
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert after == (random.random(), np.random.random(), float(torch.rand(())))


def test_batch_that_cannot_be_split_is_refused():
    with (
        as_process(0, 3),
        pytest.raises(ValueError, match="4 cannot be split over 3"),
    ):
        batches(1)


def order_of(name, *overrides, records=None):
    cfg = small_config("DATALOADER.SAMPLER_TRAIN", name, *overrides)
    return build_order(cfg, RECORDS if records is None else records)


def test_aspect_ratios_are_grouped_as_configured():
    assert order_of("TrainingSampler").groups == [1, 0, 1, 0, 1]
    assert order_of("TrainingSampler", "DATALOADER.ASPECT_RATIO_GROUPING", "False").groups is None
    assert order_of("TrainingSampler", records=RECORDS[::2]).groups is None


def test_repeat_factors_are_those_of_the_rarest_class():
    """max(1, sqrt(t / f)): class 0 is in all four images, class 1 in one of them."""
    records = [{"annotations": [{"category_id": 0}]} for _ in range(4)]
    records[0]["annotations"].append({"category_id": 1})
    name = "RepeatFactorTrainingSampler"
    order = order_of(name, "DATALOADER.REPEAT_THRESHOLD", "0.5", records=records)
    assert order.repeat_factors == pytest.approx([2**0.5, 1, 1, 1])


def test_unknown_sampler_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="'Sampler' is unknown; allowed: TrainingSampler") as error:
        order_of("Sampler")
    assert all(name in str(error.value) for name in SAMPLERS)
