"""The images of a generated data set, one after the other: their place, profile, randomness."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .tree import Progress, image_generator


@dataclass(frozen=True, eq=False)
class ImageRequest:
    """One image that is to be drawn.

    Attributes:
        split: "train", "val" or the like.
        index: its number in the split, from 0.
        profile: "large", "small" or "mixed".
        generator: all its randomness.
    """

    split: str
    index: int
    profile: str
    generator: np.random.Generator


def image_requests(
    counts: Mapping[str, int],
    *,
    seed: int,
    profiles: Sequence[str],
    progress: Progress | None = None,
) -> Iterator[ImageRequest]:
    """Ask for the images of all splits in turn; asking for the next one says that one is done.

    An image depends on seed, split, index and profile alone, not on the counts.

    Args:
        counts: number of images of each split.
        seed: of the data set.
        profiles: image i of a split has ``profiles[i % len(profiles)]``.
        progress: called with (images done, images in all) after each image.
    """
    total, done = sum(counts.values()), 0
    for split, count in counts.items():
        for index in range(count):
            profile = profiles[index % len(profiles)]
            yield ImageRequest(split, index, profile, image_generator(seed, split, index))
            done += 1
            if progress is not None:
                progress(done, total)
