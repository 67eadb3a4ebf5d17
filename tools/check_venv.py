#!/usr/bin/env python3
"""Drop the records of half-installed distributions, so that pip installs those again.

pip takes a distribution for installed once its metadata folder exists. An installation that was
cut off can leave such a folder without all files; pip would then never complete it. This removes
the metadata folder (not the files, which pip overwrites) of every distribution in the running
virtual environment whose RECORD is missing or names a file that is not there.

Example:
    .venv/bin/python tools/check_venv.py
"""

from __future__ import annotations

import csv
import shutil
import sys
import sysconfig
from pathlib import Path

__all__ = ["drop_incomplete", "is_complete", "main"]


def is_complete(info: Path) -> bool:
    """Whether all files of a distribution are there.

    Args:
        info: its `*.dist-info` folder.

    Returns:
        False if RECORD (which pip writes last) is missing or empty, or names a missing file;
        byte code does not count.
    """
    record = info / "RECORD"
    if not record.is_file() or not record.stat().st_size:
        return False
    with record.open(newline="", encoding="utf-8") as stream:
        names = [row[0] for row in csv.reader(stream) if row]
    return all(name.endswith(".pyc") or (info.parent / name).exists() for name in names)


def drop_incomplete(site_packages: Path) -> list[str]:
    """Remove the metadata folder of every incomplete distribution.

    Args:
        site_packages: the folder that holds the `*.dist-info` folders.

    Returns:
        The names of the removed folders, sorted.
    """
    dropped = []
    for info in sorted(site_packages.glob("*.dist-info")):
        if not is_complete(info):
            shutil.rmtree(info)
            dropped.append(info.name)
    return dropped


def main() -> int:
    """Check the running virtual environment; 2 if this Python is not in one, else 0."""
    if sys.prefix == sys.base_prefix:
        print("FAILED: check_venv.py changes virtual environments only")
        return 2
    for name in drop_incomplete(Path(sysconfig.get_path("purelib"))):
        print(f"incomplete, will be installed again: {name.removesuffix('.dist-info')}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
