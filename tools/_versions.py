"""Versions of libraries, with the standard library alone: what was tested and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS, SETUP = ROOT / "constraints.txt", ROOT / "setup.py"


def canonical(name: str) -> str:
    """The form of a distribution's name in which spellings compare equal."""
    return re.sub(r"[-_.]+", "-", name).lower()


def tested_versions(constraints: Path = CONSTRAINTS) -> dict[str, str]:
    """Canonical name to pinned version, for the first pin of each name; empty without the file."""
    return _found(constraints, r"^([\w.-]+)==([\w.+]+)")


def oldest_versions(setup: Path = SETUP) -> dict[str, str]:
    """Canonical name to lower bound in the requirements of setup.py; empty without the file."""
    return _found(setup, r"\"([\w.-]+)(?:\[\w+\])?>=([\w.]+)")


def _found(path: Path, pattern: str) -> dict[str, str]:
    """The first version of each name that a file gives."""
    if not path.is_file():
        return {}
    versions: dict[str, str] = {}
    for name, version in re.findall(pattern, path.read_text(encoding="utf-8"), re.MULTILINE):
        versions.setdefault(canonical(name), version)
    return versions


def is_older(version: str, bound: str) -> bool:
    """Whether a version lies below a bound; 1.26 and 1.26.0 are the same."""
    return _numbers(version) < _numbers(bound)


def _numbers(version: str) -> list[int]:
    """The numbers of a version without local label and trailing zeros."""
    numbers = [int(number) for number in re.findall(r"\d+", version.partition("+")[0])]
    while numbers and not numbers[-1]:
        numbers.pop()
    return numbers
