#!/usr/bin/env python3
"""Train every combination of some config values with several seeds: one table, one picture.

Examples:
    python tools/sweep.py --config-file configs/quick/divdr_a_cityscapes.yaml \\
        --output output/sweep MODEL.DYNAMIC_ROUTING.DIVDR.MARGIN=0,1,2 \\
        MODEL.DYNAMIC_ROUTING.DIVDR.WEIGHT=0.05,0.1,0.5 --seeds 1 2
    python tools/sweep.py ... --one-at-a-time       each key alone, the others as in the config

A key with one value holds for every run, as if it stood in the config. Each run has its own folder
in --output, named by its settings: a finished one is not trained again and a killed one is
continued, so the same call, or one with other values or seeds of the same config and data, goes on
where the last one stopped. After each run it writes points.csv (every run), table.csv and table.md
(mean and sample standard deviation over seeds) and plot.png. Exit status 1 if a run failed or a
metric is missing, 2 for input that cannot be used.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from contextlib import closing
from pathlib import Path

from dynamic_routing.analysis.run_folder import flat_settings
from dynamic_routing.analysis.sweep import (
    duration,
    fixed_overrides,
    parse_axes,
    plan,
    remaining_seconds,
)
from dynamic_routing.analysis.sweep_folder import claim, outcome_of, write_table
from dynamic_routing.analysis.sweep_table import Outcome, SweepTable
from dynamic_routing.engine.child_trainings import CONSOLE, ChildTrainings
from dynamic_routing.modeling.config import did_you_mean, get_config

TRAIN_NET = Path(__file__).resolve().parent.parent / "train_net.py"
DATA = "DETECTRON2_DATASETS"
AXIS = re.compile(r"[A-Z][A-Z0-9_]*(\.\w+)*=")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("axes", nargs="*", metavar="KEY=VALUE,VALUE,...")
    parser.add_argument("--config-file", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument(
        "--one-at-a-time",
        action="store_true",
        help="not the full grid, but the config's own values and departures of one key",
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, on the same devices")
    parser.add_argument("--metrics", nargs="+", default=[], metavar="GROUP/NAME")
    words = sys.argv[1:] if argv is None else argv
    # First, since options with several values would take those that stand behind them.
    axes = [word for word in words if AXIS.match(word)]
    args = parser.parse_intermixed_args([word for word in words if not AXIS.match(word)])
    args.axes = axes + args.axes
    return args


def train_all(
    table: SweepTable, output: Path, runs: ChildTrainings, fixed: list[str]
) -> SweepTable:
    """Train what is not finished, say how it goes, and keep the files up to date."""
    waiting = {o.point.name: o.point for o in table.outcomes if o.problem}
    before, total = len(table.outcomes) - len(waiting), len(table.outcomes)
    print(f"{total} runs in {output}, {before} of them finished before", flush=True)
    write_table(output, table)
    overrides = {name: [*fixed, *point.overrides] for name, point in waiting.items()}
    seconds: list[float] = []
    with closing(runs.run(overrides)) as endings:
        for ended in endings:
            seconds.append(ended.seconds)
            outcome = outcome_of(waiting[ended.name], output)
            if ended.problem:
                outcome = Outcome(outcome.point, {}, ended.problem)
            table = table.updated(outcome)
            write_table(output, table)
            left = remaining_seconds(seconds, len(waiting) - len(seconds), runs.jobs)
            print(f"[{before + len(seconds)}/{total}] {ended.name}: {table.told(outcome)}")
            print(f"    {duration(ended.seconds)}, {duration(left)} left", flush=True)
    return table


def main(argv: list[str] | None = None) -> int:
    """Sweep; the exit status."""
    args = parse_args(argv)
    output = args.output.resolve()
    runs = ChildTrainings(TRAIN_NET, args.config_file.resolve(), folders=output, jobs=args.jobs)
    axes = parse_axes(args.axes)
    fixed = fixed_overrides(axes)
    base = flat_settings(get_config(args.config_file, fixed))
    points = plan(axes, args.seeds, around=base if args.one_at_a_time else None)
    for point in points:
        if point.seed == args.seeds[0]:
            get_config(args.config_file, [*fixed, *point.overrides])  # an error now, not in hours
    data = Path(os.environ.get(DATA, "datasets")).resolve()
    claim(output, {**base, DATA: str(data)})
    swept = tuple(axis for axis in axes if axis.swept)
    outcomes = tuple(outcome_of(point, output) for point in points)
    table = SweepTable(outcomes, swept, tuple(args.metrics))
    table = train_all(table, output, runs, fixed)
    print(f"\n{table.to_markdown()}")
    failed = [outcome for outcome in table.outcomes if outcome.problem]
    for outcome in failed:
        log = output / outcome.point.name / CONSOLE
        print(f"sweep.py: failed: {outcome.problem} (log: {log})", file=sys.stderr)
    absent = [] if len(failed) == len(outcomes) else table.absent()
    for name in absent:
        hint = did_you_mean(name, table.occurring)
        print(f"sweep.py: no run has the metric {name}{hint}", file=sys.stderr)
    return 1 if failed or absent else 0


def interrupt(*_: object) -> None:
    """Take SIGTERM as Ctrl-C, so that trainings end with the sweep."""
    raise KeyboardInterrupt


def cli() -> None:
    """Run as a program: errors of the user and interruptions in one line."""
    signal.signal(signal.SIGTERM, interrupt)
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        print(f"sweep.py: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("sweep.py: interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    cli()
