#!/usr/bin/env python3
"""Does pre-training help? Classification, then segmentation with its weights and from scratch.

Example:
    python tools/pretraining_study.py --output output/pretraining_study --seeds 1 2 3

Generates patches in ImageNet's layout and, from other seeds, street scenes in Cityscapes'; trains
configs/quick/dr_raw_imagenet.yaml once, then the quick segmentation config from scratch and from
the pre-trained weights, with equal iterations, learning rate and seeds. Writes results.csv; a
finished run is not done again.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from dynamic_routing.analysis.run_folder import results_of
from dynamic_routing.data.cityscapes import generate_cityscapes
from dynamic_routing.data.patches import generate_patches
from dynamic_routing.engine.child_trainings import train_once
from dynamic_routing.studies.rows import write_rows

ROOT = Path(__file__).resolve().parent.parent
PRETRAINING = ROOT / "configs" / "quick" / "dr_raw_imagenet.yaml"
SEGMENTATION = ROOT / "configs" / "quick" / "dr_c_cityscapes_smoke.yaml"
PATCHES = {"train": 1800, "val": 300}
SCENES = {"train": 48, "val": 24}
PATCH_SEED, SCENE_SEED = 77, 0  # other scenes, so that no picture is seen twice
TOPS, MIOU = ("classification/top1", "classification/top5"), "sem_seg/mIoU"
RAW = ("MODEL.DYNAMIC_ROUTING.BUDGET.LAMBDA", "0.0")  # only the weights differ


def train(config: Path, run: Path, overrides: list[str], *keys: str) -> list[float]:
    """These results of one run, trained unless they are there already.

    Raises:
        RuntimeError: training failed; names the log.
        ValueError: a result is missing or has no value.
    """
    train_once(ROOT / "train_net.py", config, run, ["OUTPUT_DIR", str(run), *overrides])
    return list(results_of(run, *keys).values())


def study(output: Path, seeds: list[int], iterations: int, weights: Path | None) -> list[dict]:
    """One row a seed: mIoU from scratch and from the pre-trained weights."""
    if weights is None:
        top1, top5 = train(PRETRAINING, output / "imagenet", [], *TOPS)
        print(f"pre-training: top-1 {top1:.2f} %, top-5 {top5:.2f} %")
        weights = output / "imagenet" / "model_final.pth"
    rows = []
    for seed in seeds:
        miou = {}
        for name, start in (("scratch", ""), ("pretrained", str(weights))):
            overrides = ["SEED", str(seed), "SOLVER.MAX_ITER", str(iterations), *RAW]
            run = output / f"{name}_{iterations}_{seed}"
            [found] = train(SEGMENTATION, run, [*overrides, "MODEL.WEIGHTS", start], MIOU)
            miou[name] = round(found, 2)
        rows.append({"seed": seed, "iterations": iterations, **miou,
                     "gain": round(miou["pretrained"] - miou["scratch"], 2)})  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def main(argv: list[str] | None = None) -> int:
    """Generate, train, print and write the table; exit status 1 if a seed did not gain."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "pretraining_study")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--iterations", type=int, default=60, help="of each segmentation run")
    parser.add_argument("--weights", type=Path, help="pre-trained already: this checkpoint")
    args = parser.parse_args(argv)
    output = args.output.absolute()
    weights = args.weights and args.weights.absolute()
    try:
        if weights is None:
            generate_patches(output / "datasets", counts=PATCHES, seed=PATCH_SEED)
        generate_cityscapes(output / "datasets", counts=SCENES, size=(128, 256), seed=SCENE_SEED)
        os.environ["DETECTRON2_DATASETS"] = str(output / "datasets")
        rows = study(output, args.seeds, args.iterations, weights)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"pretraining_study.py: error: {error}", file=sys.stderr)
        return 2
    write_rows(output / "results.csv", rows, list(rows[0]))
    gains = [row["gain"] for row in rows]
    print(f"gain of pre-training: {sum(gains) / len(gains):+.2f} mIoU on average of {len(gains)}")
    return int(min(gains) <= 0)


if __name__ == "__main__":
    sys.exit(main())
