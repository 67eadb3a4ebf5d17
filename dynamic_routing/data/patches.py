"""Generated classification data: patches of street scenes, in ImageNet's layout.

A patch is a square window of a scene that one class fills or dominates, resized. The classes are
six of Cityscapes', so that pre-training on them is to segmentation of the scenes what ImageNet
is to Cityscapes: other pictures, other task, related content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .cityscapes import label_image
from .profiles import PROFILES
from .scenes import Scene, draw_scene
from .tree import Progress, check_request, image_generator, manifest_parameters, write_tree

SPLITS = ("train", "val")
DEFAULT_SIZE = (64, 64)
"""Size (height, width) in pixels of the patches."""

SCENE_SIZE = (192, 384)
"""Size (height, width) in pixels of the scenes that patches are cut from."""

SHARES: Mapping[str, float] = {
    "road": 0.9,
    "building": 0.85,
    "vegetation": 0.8,
    "sky": 0.9,
    "car": 0.65,
    "person": 0.5,
}
"""Class -> the least share of a window that its pixels take; half of it at least, so that the class
of a window is never in doubt."""

SIDES = (32, 96)
"""Smallest and largest side of a window in pixels."""

TRIALS = 400
"""Windows that are tried in a scene for each class."""

PER_SCENE = 2
"""Patches of one class that a scene gives at most."""


def generate_patches(
    root: str | Path,
    *,
    counts: Mapping[str, int] = {"train": 600, "val": 120},  # noqa: B006 (never changed)
    size: tuple[int, int] = DEFAULT_SIZE,
    seed: int = 0,
    profiles: Sequence[str] = PROFILES,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write ``root/imagenet`` with train/<class>/*.jpg and val/<class>/*.jpg.

    Args:
        root: what DETECTRON2_DATASETS is to point to.
        counts: number of images of "train" and "val", at least one a class.
        size: (height, width) of the images in pixels.
        seed: same seed, same patches. Take another than that of a generated segmentation set.
        profiles: some of "large", "small", "mixed".
        overwrite: replace a generated tree that has other parameters.
        progress: called with (images written, images in all) after each scene.

    Returns:
        The tree, ``root/imagenet``.

    Raises:
        ValueError: for wrong arguments, or if the tree exists with other parameters or was not
            generated.
    """
    check_request(counts, splits=SPLITS, size=size, seed=seed, profiles=profiles)
    for split, count in counts.items():
        if 0 < count < len(SHARES):
            raise ValueError(f"{split} needs at least {len(SHARES)} images, got {count}")
    parameters = manifest_parameters("imagenet", counts, size=size, seed=seed, profiles=profiles)

    def write(folder: Path) -> None:
        """Fill the tree."""
        for split, count in counts.items():
            _write_split(
                folder / split,
                split=split,
                count=count,
                size=size,
                seed=seed,
                profiles=profiles,
                progress=progress,
            )

    target = Path(root).expanduser() / "imagenet"
    write_tree(target, parameters=parameters, write=write, overwrite=overwrite)
    return target


def _write_split(
    folder: Path,
    *,
    split: str,
    count: int,
    size: tuple[int, int],
    seed: int,
    profiles: Sequence[str],
    progress: Progress | None,
) -> None:
    """Draw scenes until every class has its share of ``count`` patches."""
    wanted = {c: count // len(SHARES) + (i < count % len(SHARES)) for i, c in enumerate(SHARES)}
    written = dict.fromkeys(SHARES, 0)
    index = 0
    while any(written[c] < wanted[c] for c in SHARES):
        generator = image_generator(seed, f"patches-{split}", index)
        profile = profiles[index % len(profiles)]
        scene = draw_scene(generator, size=SCENE_SIZE, profile=profile)
        missing = {c: min(PER_SCENE, wanted[c] - written[c]) for c in SHARES}
        for name, window in _windows(scene, missing, generator):
            path = folder / name / f"{name}_{written[name]:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(scene.image[window])
            picture.resize((size[1], size[0]), Image.Resampling.BILINEAR).save(path, quality=92)
            written[name] += 1
        index += 1
        if progress is not None:
            progress(sum(written.values()), count)


Window = tuple[slice, slice]


def _windows(
    scene: Scene, wanted: Mapping[str, int], generator: np.random.Generator
) -> list[tuple[str, Window]]:
    """Windows of a scene that one class fills, at most ``wanted`` of each."""
    from cityscapesscripts.helpers.labels import name2label

    height, width = scene.image.shape[:2]
    labels = np.asarray(label_image(scene.objects, size=(height, width), encoding="trainIds"))
    low, high = SIDES
    sides = generator.integers(low, min(high, height) + 1, TRIALS)
    tops = (generator.random(TRIALS) * (height - sides + 1)).astype(int)
    lefts = (generator.random(TRIALS) * (width - sides + 1)).astype(int)
    found: list[tuple[str, Window]] = []
    for name, count in wanted.items():
        sums = np.zeros((height + 1, width + 1), np.int64)
        sums[1:, 1:] = (labels == name2label[name].trainId).cumsum(0).cumsum(1)
        bottoms, rights = tops + sides, lefts + sides
        inside = sums[bottoms, rights] - sums[tops, rights] - sums[bottoms, lefts]
        shares = (inside + sums[tops, lefts]) / sides**2
        for i in np.flatnonzero(shares >= SHARES[name])[:count]:
            window = (slice(tops[i], bottoms[i]), slice(lefts[i], rights[i]))
            found.append((name, window))
    return found
