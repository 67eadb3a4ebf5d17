#!/usr/bin/env python3
"""The controlled study: are known subsets recovered, and what do DivDR's choices do?

Examples:
    python tools/controlled_study.py --part toy                     # every question
    python tools/controlled_study.py --part toy --question fresh    # the headline alone
    python tools/controlled_study.py --part visual --seeds 201 202 --output output/study

Rows are added to <output>/toy_runs.csv or visual_rows.csv as they are finished, and a finished row
is not run again; <output>/toy_<question>.csv and visual_summary.csv are the tables.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("toy", "visual")


def visual(args: argparse.Namespace) -> None:
    """Run the visual study's methods and print its tables."""
    import torch

    from dynamic_routing.studies.visual_plan import EVALUATION_SEEDS
    from dynamic_routing.studies.visual_report import run_visual

    torch.set_num_threads(1)  # the networks are too small to share
    print(run_visual(args.output, args.seeds or EVALUATION_SEEDS, say=_progress))


def toy(args: argparse.Namespace) -> None:
    """Answer the toy study's questions."""
    import torch

    from dynamic_routing.studies.questions import QUESTIONS
    from dynamic_routing.studies.rows import write_rows
    from dynamic_routing.studies.runner import answer
    from dynamic_routing.studies.summary import to_markdown

    torch.set_num_threads(1)  # the matrices are too small to share
    for name in args.question or QUESTIONS:
        if name not in QUESTIONS:
            raise ValueError(f"--question must be one of {', '.join(QUESTIONS)}, got {name!r}")
        question = QUESTIONS[name]
        print(f"{name}: {question.title}", flush=True)
        lines = answer(question, args.output / "toy_runs.csv", seeds=args.seeds, report=_progress)
        write_rows(args.output / f"toy_{name}.csv", lines, list(lines[0]))
        print(to_markdown(lines), f"\nreference: {question.reference}\n", sep="\n", flush=True)


def _progress(line: str) -> None:
    """Progress goes to standard error, tables to standard output."""
    print(line, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, default="toy")
    parser.add_argument("--question", nargs="+", help="of the toy; default: all")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of the study's own")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "study")
    args = parser.parse_args(argv)
    {"toy": toy, "visual": visual}[args.part](args)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        print(f"controlled_study.py: error: {error}", file=sys.stderr)
        sys.exit(2)
