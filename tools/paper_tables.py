#!/usr/bin/env python3
"""Print every figure of the papers that needs no training, ours beside theirs.

Example:
    python tools/paper_tables.py            # a Markdown table
    python tools/paper_tables.py --json     # a list of {row, quantity, unit, ours, reference}
"""

from __future__ import annotations

import argparse
import json
import sys

from tabulate import tabulate

from dynamic_routing.analysis.paper_tables import TableRow, paper_tables

HEADERS = ("row", "quantity", "ours", "reference", "difference")


def markdown(rows: list[TableRow]) -> str:
    """The rows as a Markdown table."""
    lines = [
        (r.row, r.quantity, f"{r.ours:.8g} {r.unit}", f"{r.reference:g} {r.unit}",
         f"{r.difference:+.2f} %")
        for r in rows
    ]  # fmt: skip
    return tabulate(lines, headers=HEADERS, tablefmt="github", disable_numparse=True)


def main(argv: list[str] | None = None) -> int:
    """Compute and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args(argv)
    rows = paper_tables()
    print(json.dumps([row.to_dict() for row in rows], indent=1) if args.json else markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
