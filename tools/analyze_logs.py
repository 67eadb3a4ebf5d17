#!/usr/bin/env python3
"""Draw quantities of several trainings over one another.

Example:
    python tools/analyze_logs.py output/dr output/divdr \\
        --keys total_loss sem_seg/mIoU routing/gmacs_avg --output curves.png

Reads each run's metrics.json. The numbers go to a .csv file beside the picture. --list prints what
the runs have.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dynamic_routing.analysis.compared_curves import (
    check_keys,
    curves_csv,
    curves_figure,
    read_logs,
)
from dynamic_routing.analysis.panel import encode_png
from dynamic_routing.files import write_atomically

DPI = 120
DEFAULT_KEYS = ("total_loss",)


def draw(args: argparse.Namespace) -> str:
    """Write picture and table; what to say about it.

    Raises:
        ValueError: anything that the user has to mend, in one line.
    """
    logs = read_logs(args.runs)
    if args.list:
        return "\n".join(dict.fromkeys(name for log in logs.values() for name in log.names))
    if args.output is None:
        raise ValueError("give --output FILE.png, or --list")
    if args.output.suffix.lower() != ".png":
        raise ValueError(f"--output must end in .png, got {args.output}")
    notes = check_keys(logs, args.keys)
    content = encode_png(curves_figure(logs, args.keys), dpi=DPI)
    write_atomically(args.output, content)
    table = args.output.with_suffix(".csv")
    write_atomically(table, curves_csv(logs, args.keys).encode("utf-8"))
    return "\n".join([*notes, f"{len(logs)} runs are in {args.output} and {table}"])


def main(argv: list[str] | None = None) -> int:
    """Parse and draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="OUTPUT_DIR of a training")
    parser.add_argument("--keys", nargs="+", default=list(DEFAULT_KEYS), metavar="KEY")
    parser.add_argument("--output", type=Path, metavar="FILE.png")
    parser.add_argument("--list", action="store_true", help="print the keys that there are")
    args = parser.parse_args(argv)
    try:
        print(draw(args))
    except (ValueError, OSError) as error:
        print(f"analyze_logs.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("analyze_logs.py: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
