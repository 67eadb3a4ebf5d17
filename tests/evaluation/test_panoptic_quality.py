"""Panoptic quality against masks compared pair by pair, and cases computed by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamic_routing.evaluation.panoptic_quality import (
    Counts,
    Segment,
    add_counts,
    class_quality,
    match_segments,
    mean_quality,
)

PERSON, SKY = 1, 92


def brute_force(truth, truth_segments, prediction, predicted_segments):
    """panopticapi's rules with one boolean mask a segment: category -> [iou, tp, fp, fn]."""
    result = {}

    def entry(category):
        return result.setdefault(category, [0.0, 0, 0, 0])

    void, matched = truth == 0, set()
    for p in predicted_segments:
        mask = prediction == p.id
        for t in truth_segments:
            other = truth == t.id
            if t.crowd or t.category != p.category or not (mask & other).any():
                continue
            iou = (mask & other).sum() / ((mask | other) & ~(mask & void)).sum()
            if iou > 0.5:
                matched |= {("t", t.id), ("p", p.id)}
                entry(p.category)[0] += iou
                entry(p.category)[1] += 1
        ignored = void.copy()
        for t in truth_segments:
            if t.crowd and t.category == p.category:
                ignored |= truth == t.id
        if ("p", p.id) not in matched and not (mask & ignored).sum() > 0.5 * mask.sum():
            entry(p.category)[2] += 1
    for t in truth_segments:
        if ("t", t.id) not in matched and not t.crowd:
            entry(t.category)[3] += 1
    return result


def random_case(seed):
    """Two maps that agree in most places, some void, some crowds."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 7, size=(5, 6))
    truth = np.repeat(np.repeat(blocks, 4, axis=0), 4, axis=1)
    prediction = np.roll(truth, generator.integers(-2, 3, size=2), axis=(0, 1))
    noise = generator.random(truth.shape) < 0.2
    prediction = np.where(noise, generator.integers(0, 7, size=truth.shape), prediction)
    scale = 40000  # ids that need all three colours
    categories = generator.integers(1, 4, size=7)
    truths = [
        Segment(scale * i, int(categories[i]), bool(generator.random() < 0.2))
        for i in range(1, 7)
        if i in truth
    ]
    predictions = [
        Segment(i, int(categories[i] if generator.random() < 0.8 else 1))
        for i in range(1, 7)
        if i in prediction
    ]
    return scale * truth, truths, prediction, predictions


@settings(max_examples=60)
@given(st.integers(0, 10**6))
def test_counts_equal_comparing_masks_pair_by_pair(seed):
    case = random_case(seed)
    expected = brute_force(*case)
    found = match_segments(*case)
    assert found.keys() == expected.keys()
    for category, (iou, tp, fp, fn) in expected.items():
        assert (found[category].tp, found[category].fp, found[category].fn) == (tp, fp, fn)
        assert found[category].iou == pytest.approx(iou, abs=1e-12)


def rows(*lines):
    return np.array([[int(character) for character in line] for line in lines])


def test_hand_computed_qualities():
    truth = rows("1111", "1111", "2222", "2222")
    prediction = rows("1111", "1100", "2222", "3333")
    segments = [Segment(1, PERSON), Segment(2, SKY)]
    found = match_segments(truth, segments, prediction, [*segments, Segment(3, SKY)])
    # Person: 6 of 8 pixels. Sky: two halves, IoU 4/8 each, which is not above 0.5.
    assert found == {PERSON: Counts(iou=0.75, tp=1), SKY: Counts(fp=2, fn=1)}
    person, sky = class_quality(found[PERSON]), class_quality(found[SKY])
    assert (person.pq, person.sq, person.rq) == (0.75, 0.75, 1.0)
    assert (sky.pq, sky.sq, sky.rq) == (0.0, 0.0, 0.0)
    mean = mean_quality([person, sky, class_quality(Counts())])
    assert (mean.pq, mean.sq, mean.rq, mean.classes) == (0.375, 0.375, 0.5, 2)
    half = class_quality(add_counts([found, {PERSON: Counts(fp=1, fn=1)}])[PERSON])
    assert (half.pq, half.sq, half.rq) == (0.375, 0.75, 0.5)


def test_class_that_never_occurs_has_no_quality():
    absent = mean_quality([class_quality(Counts())])
    assert math.isnan(absent.pq) and absent.classes == 0


def test_void_counts_in_no_union():
    truth, prediction = rows("1100"), rows("1111")
    found = match_segments(truth, [Segment(1, SKY)], prediction, [Segment(1, SKY)])
    assert found == {SKY: Counts(iou=1.0, tp=1)}


@pytest.mark.parametrize(("line", "counted"), [("10", True), ("100", False)])
def test_prediction_more_than_half_on_void_is_no_false_positive(line, counted):
    prediction = np.ones((1, len(line)), dtype=int)
    found = match_segments(rows(line), [Segment(1, SKY)], prediction, [Segment(1, PERSON)])
    assert found == {SKY: Counts(fn=1)} | ({PERSON: Counts(fp=1)} if counted else {})


def test_crowd_excuses_its_class_alone_and_is_never_missed():
    crowd, prediction = [Segment(1, PERSON, crowd=True)], rows("1111")
    assert match_segments(rows("1111"), crowd, prediction, [Segment(1, PERSON)]) == {}
    found = match_segments(rows("1111"), crowd, prediction, [Segment(1, SKY)])
    assert found == {SKY: Counts(fp=1)}
    assert match_segments(rows("1111"), crowd, rows("0000"), []) == {}


@pytest.mark.parametrize(
    ("prediction", "segments", "said"),
    [
        (rows("12"), [Segment(1, SKY)], "predicted ids without a segment: \\[2\\]"),
        (rows("11"), [Segment(1, SKY), Segment(2, SKY)], "segments without pixels: \\[2\\]"),
        (rows("111"), [Segment(1, SKY)], "ground truth is \\(1, 2\\), prediction \\(1, 3\\)"),
        (rows("11") - 2, [], "predicted ids must be in 0..16777215, got -1..-1"),
        (rows("01"), [Segment(0, SKY), Segment(1, SKY)], "0 is void"),
    ],
)
def test_prediction_that_does_not_fit_is_refused(prediction, segments, said):
    with pytest.raises(ValueError, match=said):
        match_segments(rows("11"), [Segment(1, SKY)], prediction, segments)
