"""Running a program with every warning as an error, but for those that pyproject.toml names.

    python -m tests.strict_warnings train_net.py --config-file F ...

``python -W`` cannot do it: it takes neither patterns nor commas.
"""

from __future__ import annotations

import builtins
import os
import re
import runpy
import sys
import warnings
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
IGNORED_CATEGORIES = "IGNORED_WARNINGS"
"""Environment variable with categories that pass too; `./test.sh --versions oldest` sets it."""

IGNORED = re.compile(r'^    "ignore:(?P<message>.+?)(?::(?P<category>\w+))?",$', re.MULTILINE)


def forbid_warnings() -> int:
    """From here on a warning of our own is an error; how many kinds of others are not."""
    warnings.simplefilter("error")
    found = list(IGNORED.finditer((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")))
    for entry in found:
        category = getattr(builtins, entry["category"] or "Warning")
        warnings.filterwarnings("ignore", message=entry["message"], category=category)
    for name in filter(None, os.environ.get(IGNORED_CATEGORIES, "").split(",")):
        warnings.simplefilter("ignore", getattr(builtins, name))
    return len(found)


if __name__ == "__main__":
    forbid_warnings()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
