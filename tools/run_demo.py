#!/usr/bin/env python3
"""The main job: make data, train, evaluate, and show the route that each image took.

Example:
    python tools/run_demo.py --quick --output /tmp/demo

Leaves DIR/report.html, DIR/metrics.json, DIR/pictures, the generated data in DIR/data and the
training run in DIR/run. A run that was killed is continued; a complete one is done again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SHOWN = ("eta:", "Evaluation results", "mIoU,fwIoU", "routes have collapsed", "error:", "resume")
MARKER = ".demo"
"""File that tells a run of this demo, which it may delete, from a user's own."""


@dataclass(frozen=True)
class Job:
    """How large the demo is."""

    config: str
    train: int
    val: int
    size: tuple[int, int]


FULL = Job("configs/quick/dr_c_cityscapes.yaml", train=160, val=32, size=(128, 256))
QUICK = Job("configs/quick/dr_c_cityscapes_smoke.yaml", train=48, val=12, size=(96, 192))


def say(message: str) -> None:
    """Print at once."""
    print(f"  {message}", flush=True)


def train(job: Job, run: Path) -> None:
    """Run train_net.py as a user would and show its progress.

    Raises:
        RuntimeError: it failed; names the log.
    """
    if run.exists() and not (run / MARKER).exists():
        raise RuntimeError(f"{run} was not made by this demo; choose another --output")
    if (run / "results.json").exists():
        shutil.rmtree(run)
    resume = ["--resume"] if (run / "last_checkpoint").exists() else []
    command = [sys.executable, str(ROOT / "train_net.py"), "--config-file", str(ROOT / job.config)]
    command += [*resume, "OUTPUT_DIR", str(run)]
    run.mkdir(parents=True, exist_ok=True)
    (run / MARKER).touch()
    log = run / "console.txt"
    with log.open("a", encoding="utf-8") as file:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                file.write(line)
                if any(word in line for word in SHOWN):
                    say(line.strip()[:160])
    if process.returncode:
        raise RuntimeError(f"training failed (log: {log})")


def load_model(cfg: Any, weights: str) -> Any:
    """The config's model with weights, or as initialised from SEED."""
    from detectron2.modeling import build_model
    from detectron2.utils.env import seed_all_rng

    from dynamic_routing.engine.checkpoint import RoutingCheckpointer

    seed_all_rng(cfg.SEED)
    model = build_model(cfg)
    if weights:
        RoutingCheckpointer(model, strict=True).load(weights)
    return model.eval()


def evaluate_untrained(cfg: Any, folder: Path) -> dict[str, Any]:
    """Results of the network before training."""
    from dynamic_routing.engine.trainer import Trainer

    cfg = cfg.clone()
    cfg.OUTPUT_DIR = str(folder)
    return dict(Trainer.test(cfg, load_model(cfg, "")))


def draw_pictures(cfg: Any, run: Path, folder: Path) -> list[Any]:
    """The pages of an easy and a hard image."""
    from dynamic_routing.analysis.report import Picture
    from dynamic_routing.engine.loaders import build_mapper
    from dynamic_routing.evaluation.examples import draw_example, easy_and_hard
    from dynamic_routing.evaluation.gates_file import load_gates
    from dynamic_routing.modeling.prepared import prepare_model

    name = cfg.DATASETS.TEST[0]
    model = prepare_model(load_model(cfg, str(run / "model_final.pth")))
    mapper = build_mapper(cfg, name, train=False)
    pictures = []
    for example in easy_and_hard(load_gates(run / "inference" / f"gates_{name}.npz")):
        path = draw_example(example, model=model, mapper=mapper, dataset_name=name, folder=folder)
        pictures.append(Picture(path, example.caption))
    return pictures


def write_results(cfg: Any, output: Path, untrained: dict[str, Any], pictures: list[Any]) -> None:
    """metrics.json and report.html."""
    from dynamic_routing.analysis import run_folder
    from dynamic_routing.analysis.curves import read_training_log
    from dynamic_routing.analysis.report import ReportData, write_report
    from dynamic_routing.analysis.statistics import route_statistics
    from dynamic_routing.evaluation.gates_file import load_gates
    from dynamic_routing.files import write_atomically

    run = output / "run"
    trained = json.loads((run / "results.json").read_text(encoding="utf-8"))
    gates = load_gates(run / "inference" / f"gates_{cfg.DATASETS.TEST[0]}.npz")
    columns = {"trained": trained, "untrained": untrained}
    metrics = {name: run_folder.flatten(results) for name, results in columns.items()}
    content = json.dumps(metrics, indent=1, allow_nan=False)
    write_atomically(output / "metrics.json", content.encode("utf-8"))
    report = ReportData(
        title="dynamic_routing: demo on generated street scenes",
        summary=run_folder.summarise(trained),
        training=read_training_log(run / "metrics.json"),
        evaluation={k: run_folder.summarise(v) for k, v in columns.items()},  # type: ignore[misc]
        class_iou={k: run_folder.class_iou(v) for k, v in columns.items()},
        statistics=route_statistics(gates.routes),
        pictures=tuple(pictures),
        settings=run_folder.flat_settings(cfg),
        versions=run_folder.installed_versions(),
    )
    write_report(output / "report.html", report)


def main(argv: list[str] | None = None) -> int:
    """Run every step."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a smaller run, below 90 s")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "demo", metavar="DIR")
    args = parser.parse_args(argv)
    output = args.output.resolve()
    job = QUICK if args.quick else FULL
    os.environ["DETECTRON2_DATASETS"] = str(output / "data")

    from dynamic_routing.data.cityscapes import generate_cityscapes

    say(f"generating {job.train + job.val} street scenes in {output / 'data'}")
    counts = {"train": job.train, "val": job.val}
    generate_cityscapes(output / "data", counts=counts, size=job.size, seed=1, overwrite=True)
    say("training")
    train(job, output / "run")

    from dynamic_routing.engine.loaders import prepare_datasets
    from dynamic_routing.modeling import get_config

    cfg = get_config(ROOT / job.config)
    prepare_datasets(cfg)
    say("evaluating the untrained network")
    untrained = evaluate_untrained(cfg, output / "untrained")
    say("drawing routes")
    pictures = draw_pictures(cfg, output / "run", output / "pictures")
    write_results(cfg, output, untrained, pictures)
    trained = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    before, after = (trained[k]["sem_seg/mIoU"] for k in ("untrained", "trained"))
    say(f"mIoU {after:.1f} % (untrained {before:.1f} %), report: {output / 'report.html'}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, RuntimeError, OSError) as error:
        print(f"run_demo.py: error: {error}", file=sys.stderr)
        sys.exit(2)
