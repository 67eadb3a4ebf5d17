"""A sweep over config keys: which runs it consists of, and what their folders are called.

Pure functions; ``tools/sweep.py`` trains, :mod:`.sweep_table` collects what came of it.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

SEED = "SEED"
OWN_KEYS = {SEED: "use --seeds", "OUTPUT_DIR": "use --output"}
"""Keys that the sweep itself sets, and what to do instead."""

SHORTENED = "MODEL.DYNAMIC_ROUTING."
"""Left out of folder names and headings."""

MAX_NAME = 120
"""Longest folder name; file systems take 255 bytes."""

UNSAFE = re.compile(r"[^A-Za-z0-9.,=+_-]")


@dataclass(frozen=True)
class Axis:
    """A config key and the values that it takes.

    Attributes:
        key: dotted, as behind ``train_net.py``.
        values: each once, in :func:`normal_form`. A single one holds for every run and becomes
            part of the config.
    """

    key: str
    values: tuple[str, ...]

    @property
    def swept(self) -> bool:
        """Whether there is more than one value."""
        return len(self.values) > 1


@dataclass(frozen=True)
class Point:
    """One run.

    Attributes:
        settings: key -> value, as text, of every swept key.
        seed: its SEED.
    """

    settings: Mapping[str, str]
    seed: int

    @property
    def overrides(self) -> list[str]:
        """Alternating keys and values, as ``train_net.py`` takes them."""
        pairs = {**self.settings, SEED: str(self.seed)}
        return [word for pair in pairs.items() for word in pair]

    @property
    def name(self) -> str:
        """A folder name that depends on the settings alone, not on their order or the sweep."""
        pairs = [f"{short_key(key)}={self.settings[key]}" for key in sorted(self.settings)]
        full = "_".join([*pairs, f"{SEED}={self.seed}"])
        safe = UNSAFE.sub("-", full)
        if safe == full and len(safe) <= MAX_NAME:
            return safe
        digest = hashlib.sha256(full.encode("utf-8")).hexdigest()[:8]
        return f"{safe[: MAX_NAME - 9]}-{digest}"


def short_key(key: str) -> str:
    """A key as it is shown."""
    return key.removeprefix(SHORTENED)


def parse_axes(words: Sequence[str]) -> tuple[Axis, ...]:
    """Read ``KEY=VALUE,VALUE,...``; commas inside brackets and quotes do not separate.

    Raises:
        ValueError: no ``=``, an empty or repeated value, a repeated key, or one of
            :data:`OWN_KEYS`.
    """
    axes: dict[str, Axis] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not key or not equals:
            raise ValueError(f"expected KEY=VALUE,VALUE,... got {word!r}")
        if key in OWN_KEYS:
            raise ValueError(f"{key} cannot be swept: {OWN_KEYS[key]}")
        if key in axes:
            raise ValueError(f"{key} is given twice")
        values = tuple(normal_form(value) for value in split_values(text))
        if "" in values:
            raise ValueError(f"{word!r} has an empty value")
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise ValueError(f"{key} has the value {twice} twice")
        axes[key] = Axis(key, values)
    return tuple(axes.values())


def split_values(text: str) -> list[str]:
    """Parts between commas that stand in no bracket and no quote."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        else:
            depth += (letter in "[(") - (letter in "])")
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def normal_form(value: str) -> str:
    """Equal numbers as equal text: 0.10, 1e-1 and 0.1 are one setting, and so are 1 and 1.0."""
    try:
        number = float(value)
    except ValueError:
        return value
    if re.fullmatch(r"[+-]?\d+", value):
        return str(int(value))
    return repr(number).removesuffix(".0")


def fixed_overrides(axes: Sequence[Axis]) -> list[str]:
    """Keys and values that hold for every run, alternating."""
    return [word for axis in axes if not axis.swept for word in (axis.key, axis.values[0])]


def plan(
    axes: Sequence[Axis], seeds: Sequence[int], *, around: Mapping[str, str] | None = None
) -> list[Point]:
    """Every run of a sweep; the first seed's come first, so that an early end leaves a picture.

    Args:
        axes: what to sweep; those with one value are no part of a point.
        seeds: each once, at least 0.
        around: None for the full grid; else the config's own settings, which are run first and
            from which one key at a time departs.

    Raises:
        ValueError: nothing to sweep, or no, negative or repeated seeds.
    """
    swept = [axis for axis in axes if axis.swept]
    if not swept:
        raise ValueError("nothing to sweep: give at least one KEY=VALUE,VALUE,...")
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds must be different numbers from 0 on, got {list(seeds)}")
    if around is None:
        grid = itertools.product(*(axis.values for axis in swept))
        settings = [dict(zip([axis.key for axis in swept], values)) for values in grid]
    else:
        start = {axis.key: normal_form(around.get(axis.key, "")) for axis in swept}
        departures = [{axis.key: value} for axis in swept for value in axis.values]
        settings = [start, *({**start, **departure} for departure in departures)]
    points = [Point(chosen, seed) for seed in seeds for chosen in settings]
    return list({point.name: point for point in points}.values())


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """``KEY old, now new`` for every setting that is not the same."""
    keys = sorted({*old, *new})
    return [
        f"{key} {old.get(key, '(not set)')}, now {new.get(key, '(not set)')}"
        for key in keys
        if old.get(key) != new.get(key)
    ]


def remaining_seconds(durations: Sequence[float], waiting: int, jobs: int) -> float:
    """An estimate of how long the rest takes; NaN before the first run is done.

    Args:
        durations: seconds of the runs that were trained.
        waiting: runs that are not done yet.
        jobs: how many run at a time.
    """
    if not durations:
        return math.nan
    return statistics.fmean(durations) * math.ceil(waiting / jobs)


def duration(seconds: float) -> str:
    """Seconds for people: ``1:02:03``."""
    return "?" if math.isnan(seconds) else str(timedelta(seconds=round(seconds)))
