"""Writing a generated data set so that it is there completely or not at all."""

from __future__ import annotations

import fcntl
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .profiles import PROFILES, SMALLEST_SIDE

MANIFEST = "generated.json"
"""File in a generated tree that says how it was made; a real data set has none."""

DRAWING = 1
"""Version of what is drawn: raise it when the same seed gives other pictures."""

Progress = Callable[[int, int], None]  # images written so far, images in all


def check_request(
    counts: Mapping[str, int],
    *,
    splits: Sequence[str],
    size: tuple[int, int],
    seed: int,
    profiles: Sequence[str],
) -> None:
    """Refuse a data set that cannot be generated.

    Args:
        counts: images of each split.
        splits: names that a split may have.
        size: (height, width) in pixels.
        seed: non-negative.
        profiles: profiles to take turns with.

    Raises:
        ValueError: for a wrong split, count, size, seed or profile, naming it.
    """
    for split, count in counts.items():
        if split not in splits:
            raise ValueError(f"split must be one of {tuple(splits)}, got {split!r}")
        if count < 0:
            raise ValueError(f"number of {split} images must not be negative, got {count}")
    if not any(counts.values()):
        raise ValueError(f"at least one image must be asked for, got counts {dict(counts)}")
    if min(size) < SMALLEST_SIDE:
        raise ValueError(f"height and width must be at least {SMALLEST_SIDE} pixels, got {size}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    unknown = [profile for profile in profiles if profile not in PROFILES]
    if unknown or not profiles:
        raise ValueError(f"profiles must be some of {PROFILES}, got {tuple(profiles)}")


def image_generator(seed: int, split: str, index: int) -> np.random.Generator:
    """The randomness of one image, which does not depend on how many others there are."""
    return np.random.default_rng([seed, zlib.crc32(split.encode()), index])


def manifest_parameters(
    kind: str,
    counts: Mapping[str, int],
    *,
    size: tuple[int, int],
    seed: int,
    profiles: Sequence[str],
) -> dict[str, Any]:
    """What the bytes of a tree depend on, as JSON types; ``kind`` is its format."""
    return {
        "format": kind,
        "drawing": DRAWING,
        "counts": {split: int(count) for split, count in counts.items() if count},
        "size": [int(side) for side in size],
        "seed": int(seed),
        "profiles": list(profiles),
    }


def write_tree(
    target: Path,
    *,
    parameters: Mapping[str, Any],
    write: Callable[[Path], None],
    overwrite: bool = False,
) -> bool:
    """Write a folder beside its final place, then move it there.

    A run that is killed leaves the final place untouched; what it had written in a hidden folder is
    removed by the next run. Two runs at once wait for each other.

    Args:
        target: the folder to make.
        parameters: what it depends on (JSON types); kept in its manifest.
        write: fills the empty folder that it is given.
        overwrite: replace a generated folder that has other parameters.

    Returns:
        False if the folder was already there with the same parameters, else True.

    Raises:
        ValueError: if the folder exists and was not generated, or with other parameters and
            ``overwrite`` is off.
    """
    manifest = json.dumps(dict(parameters), indent=1, sort_keys=True) + "\n"
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.parent / f".{target.name}.lock"):
        prefix = f".{target.name}-partial-"
        for stale in target.parent.glob(f"{prefix}*"):  # nobody else holds the lock
            shutil.rmtree(stale, ignore_errors=True)
        if _same_tree(target, manifest, overwrite=overwrite):
            return False
        partial = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
        try:
            partial.chmod(0o755)  # mkdtemp keeps others out
            write(partial)
            (partial / MANIFEST).write_text(manifest)
            if target.exists():
                target.rename(Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent)) / "old")
            partial.rename(target)
        finally:
            for leftover in target.parent.glob(f"{prefix}*"):
                shutil.rmtree(leftover, ignore_errors=True)
    return True


def _same_tree(target: Path, manifest: str, *, overwrite: bool) -> bool:
    """Whether the tree is there as asked for; raises if it must not be replaced."""
    if not target.exists():
        return False
    if not (target / MANIFEST).is_file():
        if target.is_dir() and not any(target.iterdir()):
            return False
        raise ValueError(f"{target} exists and was not generated (no {MANIFEST}): not touched")
    present = (target / MANIFEST).read_text()
    if present == manifest:
        return True
    if not overwrite:
        raise ValueError(
            f"{target} was generated with other parameters ({_difference(present, manifest)}); "
            "pass --overwrite (overwrite=True), or choose another root"
        )
    return False


def _difference(present: str, wanted: str) -> str:
    """Which parameters differ between two manifests."""
    try:
        old, new = json.loads(present), json.loads(wanted)
    except json.JSONDecodeError:
        return "its manifest is damaged"
    keys = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    return ", ".join(f"{key}: {old.get(key)} there, {new.get(key)} asked for" for key in keys)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock, which the system releases if the process is killed."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
