#!/usr/bin/env python3
"""Does training land on a target in GMACs? Several targets and seeds, one table.

Example:
    python tools/budget_study.py --output output/budget_study --shares 0.4 0.6 0.8 --seeds 1 2 3

Generates its data, trains configs/quick/dr_target_cityscapes.yaml for every share of the full cost
and every seed, and writes results.csv. A finished run is not done again.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "quick" / "dr_target_cityscapes.yaml"
TOLERANCE = 0.05
COUNTS = {"train": 120, "val": 24}
KEYS = ("routing/gmacs_avg", "routing/gmacs_min", "routing/gmacs_max", "sem_seg/mIoU")


def full_cost(config: Path) -> float:
    """GMACs of the config's network with every gate open, at its target size."""
    from detectron2.modeling import build_model

    from dynamic_routing.modeling import get_config
    from dynamic_routing.modeling.cost import model_cost
    from dynamic_routing.routing.cost import GIGA

    cfg = get_config(config)
    size = cfg.MODEL.DYNAMIC_ROUTING.BUDGET.TARGET_SIZE
    return model_cost(build_model(cfg), convention="macs").open_cost(*size) / GIGA


def train(target: float, seed: int, run: Path) -> dict[str, float]:
    """Results of one run, trained unless they are there already.

    Raises:
        RuntimeError: training failed; names the log.
        ValueError: a result is missing or has no value.
    """
    from dynamic_routing.analysis.run_folder import results_of
    from dynamic_routing.engine.child_trainings import train_once

    options = ["--resume", "OUTPUT_DIR", str(run), "SEED", str(seed)]
    options += ["MODEL.DYNAMIC_ROUTING.BUDGET.TARGET_GMACS", str(target)]
    train_once(ROOT / "train_net.py", CONFIG, run, options)
    return results_of(run, *KEYS)


def row_of(share: float, seed: int, target: float, results: dict[str, float]) -> dict:
    """One line of the table."""
    reached = results["routing/gmacs_avg"]
    return {
        "share": share,
        "seed": seed,
        "target_gmacs": round(target, 5),
        "reached_gmacs": round(reached, 5),
        "deviation_percent": round(100 * (reached / target - 1), 2),
        "min_gmacs": round(results["routing/gmacs_min"], 5),
        "max_gmacs": round(results["routing/gmacs_max"], 5),
        "miou": round(results["sem_seg/mIoU"], 2),
    }


def main(argv: list[str] | None = None) -> int:
    """Train, print and write the table; exit status 1 if a run missed its target."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "budget_study")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.4, 0.6, 0.8])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    args = parser.parse_args(argv)
    output = args.output.resolve()
    os.environ["DETECTRON2_DATASETS"] = str(output / "data")

    from dynamic_routing.data.cityscapes import generate_cityscapes
    from dynamic_routing.studies.rows import write_rows

    generate_cityscapes(output / "data", counts=COUNTS, size=(96, 192), seed=1)
    ceiling = full_cost(CONFIG)
    rows = []
    for share in args.shares:
        for seed in args.seeds:
            target = share * ceiling
            results = train(target, seed, output / f"share{share:g}_seed{seed}")
            rows.append(row_of(share, seed, target, results))
            print(rows[-1], flush=True)
    write_rows(output / "results.csv", rows, list(rows[0]))
    missed = [r for r in rows if abs(r["deviation_percent"]) > 100 * TOLERANCE]
    print(f"{len(rows) - len(missed)} of {len(rows)} runs within {TOLERANCE:.0%} of their target")
    return 1 if missed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, RuntimeError, OSError) as error:
        print(f"budget_study.py: error: {error}", file=sys.stderr)
        sys.exit(2)
