"""The order of training samples: complete, seeded, splittable, and the same from any start."""

from __future__ import annotations

import time
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamic_routing.data.order import Sample, SampleOrder, aspect_groups, part_of

SIZE = 7
SIZES = st.integers(1, 9)


def take(order, count, *, seed=3, batch_size=2, start=0):
    return list(islice(order.batches(seed, batch_size=batch_size, start=start), count))


@st.composite
def orders(draw):
    """Every kind of order."""
    size = draw(SIZES)
    factors = draw(st.none() | st.lists(st.floats(0.5, 3), min_size=size, max_size=size))
    groups = draw(st.none() | st.lists(st.integers(0, 1), min_size=size, max_size=size))
    return SampleOrder(
        size,
        repeat_factors=None if factors is None else np.array(factors),
        groups=groups,
    )


@given(orders(), st.integers(0, 2**62), st.integers(1, 4), st.integers(0, 12))
def test_started_later_it_goes_on_as_if_it_had_run(order, seed, batch_size, start):
    whole = take(order, start + 5, seed=seed, batch_size=batch_size)
    assert take(order, 5, seed=seed, batch_size=batch_size, start=start) == whole[start:]


@given(orders(), st.integers(1, 3), st.sampled_from([1, 2, 3, 4]))
def test_processes_together_see_what_one_sees(order, share, world_size):
    for batch in take(order, 4, batch_size=share * world_size):
        parts = [part_of(batch, rank=r, world_size=world_size) for r in range(world_size)]
        assert [s for part in parts for s in part] == batch
        assert {len(part) for part in parts} == {share}


@given(st.integers(1, 20), st.integers(0, 1000))
def test_every_epoch_shows_each_image_once(size, seed):
    samples = list(islice(SampleOrder(size).samples(seed), 3 * size))
    assert [s.number for s in samples] == list(range(3 * size))
    for epoch in range(3):
        images = [s.image for s in samples[epoch * size : (epoch + 1) * size]]
        assert sorted(images) == list(range(size))


def test_epochs_and_seeds_are_shuffled_differently():
    order = SampleOrder(50)
    found = [order.epoch(seed, number).tolist() for seed in (1, 2) for number in (0, 1)]
    assert len({tuple(x) for x in found}) == 4


def test_repeat_factors_hold_on_average():
    factors = np.array([0.5, 1.0, 1.7, 3.0])
    order = SampleOrder(4, repeat_factors=factors)
    epochs = 2000
    seen = Counter(i for number in range(epochs) for i in order.epoch(1, number).tolist())
    found = np.array([seen[i] / epochs for i in range(4)])
    # Standard error of a share of 2,000: at most 0.011.
    assert found == pytest.approx(factors, abs=0.05)
    assert seen[1] == epochs and seen[3] == 3 * epochs


@given(st.lists(st.booleans(), min_size=2, max_size=9), st.integers(1, 3))
def test_batches_hold_images_of_one_group_and_lose_none(wide, batch_size):
    groups = [0 if w else 1 for w in wide]
    batches = take(SampleOrder(len(wide), groups=groups), 12, batch_size=batch_size)
    numbers = sorted(s.number for batch in batches for s in batch)
    assert all(len({groups[s.image] for s in batch}) == 1 for batch in batches)
    assert len(set(numbers)) == len(numbers)
    # What is left out so far waits in a batch that is not full.
    missing = set(range(numbers[-1] + 1)) - set(numbers)
    assert len(missing) <= 2 * (batch_size - 1)


def test_groups_follow_the_sides():
    records = [{"width": 4, "height": 3}, {"width": 3, "height": 4}, {"width": 3, "height": 3}, {}]
    assert aspect_groups(records) == [0, 1, 1, 1]


def test_far_start_costs_no_images_and_little_time():
    start = time.process_time()
    batch = take(SampleOrder(118000), 1, batch_size=16, start=10**7)
    assert batch[0][0].number == 16 * 10**7
    groups = [i % 3 // 2 for i in range(5000)]
    (grouped,) = take(SampleOrder(5000, groups=groups), 1, batch_size=16, start=6000)
    assert len(grouped) == 16
    assert time.process_time() - start < 5  # 0.1 s on an idle core


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "at least one image, got 0"),
        ({"size": 2, "groups": [0]}, "groups has 1 entries for 2"),
        ({"size": 2, "repeat_factors": np.ones(3)}, "repeat_factors has 3 entries for 2"),
        ({"size": 2, "repeat_factors": np.zeros(2)}, "repeat factor 0"),
    ],
)
def test_impossible_orders_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SampleOrder(**arguments)


def test_batch_that_cannot_be_split_is_refused():
    with pytest.raises(ValueError, match="batch of 3 images cannot be split over 2"):
        part_of([Sample(0, 0)] * 3, rank=0, world_size=2)
