#!/usr/bin/env python3
"""A table of runs: metric, GMACs an image, milliseconds, parameters, inter and intra.

Example:
    python tools/compare_runs.py output/dr output/divdr --output runs.md

Reads each run's results.json, config.yaml and model_final.pth. --output writes a .csv (in full
precision) or .md file as well. What a run does not have is "n/a", with the reason below.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dynamic_routing.analysis.run_table import as_csv, as_markdown, read_rows
from dynamic_routing.files import write_atomically

FORMS = {".md": as_markdown, ".csv": as_csv}


def main(argv: list[str] | None = None) -> int:
    """Parse, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="OUTPUT_DIR of a training")
    parser.add_argument("--output", type=Path, metavar="FILE.csv|md")
    args = parser.parse_args(argv)
    try:
        suffix = ".md" if args.output is None else args.output.suffix.lower()
        if suffix not in FORMS:
            raise ValueError(f"--output must end in .csv or .md, got {args.output}")
        rows = read_rows(args.runs)
        print(as_markdown(rows), end="")
        if args.output is not None:
            write_atomically(args.output, FORMS[suffix](rows).encode("utf-8"))
    except (ValueError, OSError) as error:
        print(f"compare_runs.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("compare_runs.py: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
