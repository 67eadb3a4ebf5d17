#!/usr/bin/env python3
"""The controlled study: are known subsets recovered?

Examples:
    python tools/controlled_study.py --part visual
    python tools/controlled_study.py --part visual --seeds 201 202 --output output/study

Rows are added to <output>/visual_rows.csv as they are finished, and a finished row is not run
again; <output>/visual_summary.csv sums them up.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("visual",)


def visual(args: argparse.Namespace) -> None:
    """Run the visual study's methods and print its tables."""
    import torch

    from dynamic_routing.studies.visual_plan import EVALUATION_SEEDS
    from dynamic_routing.studies.visual_report import run_visual

    torch.set_num_threads(1)  # the networks are too small to share
    print(run_visual(args.output, args.seeds or EVALUATION_SEEDS, say=_progress))


def _progress(line: str) -> None:
    """Progress goes to standard error, tables to standard output."""
    print(line, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, default="visual")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of the study's own")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "study")
    visual(parser.parse_args(argv))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        print(f"controlled_study.py: error: {error}", file=sys.stderr)
        sys.exit(2)
