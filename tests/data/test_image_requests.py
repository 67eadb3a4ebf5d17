"""The images that a generated data set asks for: order, profiles, randomness, progress."""

from __future__ import annotations

from dynamic_routing.data.image_requests import image_requests
from dynamic_routing.data.tree import image_generator


def test_splits_come_in_turn_and_each_starts_with_the_first_profile() -> None:
    found = image_requests({"train": 3, "test": 0, "val": 1}, seed=0, profiles=["small", "mixed"])
    assert [(r.split, r.index, r.profile) for r in found] == [
        ("train", 0, "small"),
        ("train", 1, "mixed"),
        ("train", 2, "small"),
        ("val", 0, "small"),
    ]


def test_randomness_does_not_depend_on_the_counts() -> None:
    few, many = (
        {(r.split, r.index): r.generator.integers(1 << 60) for r in requests}
        for requests in (
            image_requests({"val": 2}, seed=5, profiles=["small"]),
            image_requests({"train": 4, "val": 3}, seed=5, profiles=["small"]),
        )
    )
    assert few.items() < many.items() and len(set(many.values())) == len(many)
    assert few["val", 1] == image_generator(5, "val", 1).integers(1 << 60)


def test_progress_follows_each_image_and_tells_of_all() -> None:
    events: list[object] = []
    requests = image_requests(
        {"train": 1, "val": 2},
        seed=0,
        profiles=["small"],
        progress=lambda done, total: events.append((done, total)),
    )
    for request in requests:
        events.append(request.split)
    assert events == ["train", (1, 3), "val", (2, 3), "val", (3, 3)]
