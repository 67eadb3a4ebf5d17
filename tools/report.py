#!/usr/bin/env python3
"""One page on a finished run: what it learned, what its images cost, which routes they took.

Examples:
    python tools/report.py output/dr_a                                  # output/dr_a/report.html
    python tools/report.py output/divdr_a --compare output/dr_a --output both.html
    python tools/report.py output/dr_a --no-pictures                    # needs neither data nor GPU

Reads config.yaml, metrics.json, results.json and, in inference/, the gates and the scores of the
images; predictions of single images are made with the newest checkpoint, if the data set is there
(DETECTRON2_DATASETS). What is missing is named in the page. The numbers of every figure are in
REPORT_data beside REPORT.html. Exit status 2 for input that cannot be used.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from dynamic_routing.analysis.report import ReportData, write_report
from dynamic_routing.analysis.run_folder import installed_versions
from dynamic_routing.engine.run_predictions import run_images
from dynamic_routing.evaluation.run_files import RunFiles, read_run
from dynamic_routing.evaluation.run_report import comparison, run_report

COUNT = 2
"""Cheapest, dearest, best and worst images of a run; half of it when two are compared."""


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="OUTPUT_DIR of a training")
    parser.add_argument("--compare", type=Path, metavar="RUN2", help="another run, side by side")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default RUN_DIR/report.html")
    parser.add_argument("--no-pictures", action="store_true", help="no photographs, no predictions")
    parser.add_argument(
        "--dataset", default="", metavar="NAME", help="default the first of DATASETS.TEST"
    )
    return parser.parse_args(argv)


def read_runs(args: argparse.Namespace) -> list[RunFiles]:
    """The runs that are asked for, with titles that differ."""
    folders = [args.run] if args.compare is None else [args.run, args.compare]
    if len(folders) != len({folder.resolve() for folder in folders}):
        raise ValueError(f"--compare {args.compare} is the run itself; give another one")
    names = ["/".join(folder.resolve().parts[-2:]) for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return [
        read_run(folder, title=name, dataset=args.dataset) for folder, name in zip(folders, names)
    ]


def main(argv: list[str] | None = None) -> int:
    """Write the report."""
    args = parse_args(argv)
    output = args.output or args.run / "report.html"
    if output.is_dir():
        raise ValueError(f"--output {output} is a folder; give a file")
    runs = read_runs(args)
    count = COUNT if len(runs) == 1 else COUNT // 2
    parts = [comparison(runs)] if len(runs) > 1 else []
    for run in runs:
        images = None if args.no_pictures else run_images(run)
        parts.append(run_report(run, images, count=count))
    title = " beside ".join(run.title for run in runs)
    report = ReportData(f"dynamic_routing: {title}", tuple(parts), installed_versions())
    print(write_report(output, report))
    return 0


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # of Detectron2, on what it loads
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        print(f"report.py: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("report.py: interrupted, no page was written", file=sys.stderr)
        sys.exit(130)
