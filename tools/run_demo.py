#!/usr/bin/env python3
"""The main job: make data, train, evaluate, and show the route that each image took.

Example:
    python tools/run_demo.py --quick --output /tmp/demo

Two networks, both trained with DivDR: semantic segmentation of street scenes, and Mask R-CNN on
pictures in COCO's format.
Leaves DIR/report.html with its numbers in DIR/report_data, DIR/metrics.json, the generated data in
DIR/data, the segmentation run in DIR/run with DIR/pictures, and the other one in DIR/instances. A
run that was killed is continued; a complete one is done again.
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
    """One network of the demo.

    Attributes:
        title: its heading in the report.
        folder: where it goes below the demo's output.
        data: "cityscapes" or "coco".
        config: its YAML.
        train: number of generated training images.
        val: number of generated validation images.
        size: their (height, width) in pixels.
        metric: the figure that is said at the end.
    """

    title: str
    folder: str
    data: str
    config: str
    train: int
    val: int
    size: tuple[int, int]
    metric: str


FULL = (
    Job("Semantic segmentation", "", "cityscapes", "configs/quick/divdr_a_cityscapes.yaml",
        160, 32, (128, 256), "sem_seg/mIoU"),
    Job("Mask R-CNN", "instances", "coco", "configs/quick/divdr_a_mask_rcnn_coco_short.yaml",
        320, 48, (128, 192), "segm/AP50"),
)  # fmt: skip
QUICK = (
    Job("Semantic segmentation", "", "cityscapes", "configs/quick/divdr_a_cityscapes_smoke.yaml",
        48, 12, (96, 192), "sem_seg/mIoU"),
    Job("Mask R-CNN", "instances", "coco", "configs/quick/divdr_a_mask_rcnn_coco_smoke.yaml",
        96, 16, (96, 128), "segm/AP50"),
)  # fmt: skip


def say(message: str) -> None:
    """Print at once."""
    print(f"  {message}", flush=True)


def generate(job: Job, root: Path) -> None:
    """Make the job's data, unless they are there."""
    from dynamic_routing.data.cityscapes import generate_cityscapes
    from dynamic_routing.data.coco import generate_coco

    say(f"generating {job.train + job.val} images in {root / job.data}")
    make = generate_cityscapes if job.data == "cityscapes" else generate_coco
    counts = {"train": job.train, "val": job.val}
    make(root, counts=counts, size=job.size, seed=1, overwrite=True)


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


def draw_pictures(cfg: Any, model: Any, run: Path, folder: Path) -> None:
    """The pages of an easy and a hard image, as files of their own."""
    from dynamic_routing.engine.loaders import build_mapper
    from dynamic_routing.evaluation.examples import draw_example, easy_and_hard
    from dynamic_routing.evaluation.gates_file import load_gates

    name = cfg.DATASETS.TEST[0]
    mapper = build_mapper(cfg, name, train=False)
    for example in easy_and_hard(load_gates(run / "inference" / f"gates_{name}.npz")):
        draw_example(example, model=model, mapper=mapper, dataset_name=name, folder=folder)


def report_on(job: Job, cfg: Any, run: Path, untrained: dict[str, Any], pictures: Path) -> Any:
    """The run's part of the report; draws its pictures with the same network."""
    from dynamic_routing.engine.run_predictions import PredictedImages
    from dynamic_routing.evaluation.run_files import read_run
    from dynamic_routing.evaluation.run_report import run_report
    from dynamic_routing.modeling.prepared import prepare_model

    model = prepare_model(load_model(cfg, str(run / "model_final.pth")))
    draw_pictures(cfg, model, run, pictures)
    files = read_run(run, title=job.title, others={"untrained": untrained})
    images = PredictedImages(cfg, model, files.dataset)
    return run_report(files, images, count=1)


@dataclass(frozen=True)
class Done:
    """What a job left: results of both networks and its part of the report."""

    results: dict[str, dict[str, Any]]
    report: Any

    def metrics(self) -> dict[str, dict[str, float]]:
        """Finite numbers of both networks, flat."""
        from dynamic_routing.analysis.run_folder import flatten

        return {name: flatten(found) for name, found in self.results.items()}


def carry_out(job: Job, output: Path) -> Done:
    """Generate, train, evaluate and draw."""
    say(f"-- {job.title} --")
    folder = output / job.folder
    generate(job, output / "data")
    say("training")
    train(job, folder / "run")

    from dynamic_routing.analysis.report import NotAvailable
    from dynamic_routing.analysis.run_folder import read_results
    from dynamic_routing.engine.loaders import prepare_datasets
    from dynamic_routing.modeling import get_config

    cfg = get_config(ROOT / job.config)
    prepare_datasets(cfg)
    say("evaluating the untrained network")
    untrained = evaluate_untrained(cfg, folder / "untrained")
    say("drawing routes")
    trained = read_results(folder / "run")
    if isinstance(trained, NotAvailable):
        raise RuntimeError(trained.reason)
    report = report_on(job, cfg, folder / "run", untrained, folder / "pictures")
    return Done({"trained": trained, "untrained": untrained}, report)


def write_results(output: Path, done: dict[str, Done]) -> dict[str, Any]:
    """metrics.json and report.html; returns the metrics by the jobs' folders."""
    from dynamic_routing.analysis.report import ReportData, write_report
    from dynamic_routing.analysis.run_folder import installed_versions
    from dynamic_routing.files import write_atomically

    metrics = {folder: job.metrics() for folder, job in done.items()}
    shown = {**metrics[""], **{k: v for k, v in metrics.items() if k}}
    content = json.dumps(shown, indent=1, allow_nan=False)
    write_atomically(output / "metrics.json", content.encode("utf-8"))
    report = ReportData(
        title="dynamic_routing: demo on generated data",
        runs=tuple(job.report for job in done.values()),
        versions=installed_versions(),
    )
    write_report(output / "report.html", report)
    return metrics


def main(argv: list[str] | None = None) -> int:
    """Run every step."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a smaller run, below 90 s")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "demo", metavar="DIR")
    args = parser.parse_args(argv)
    output = args.output.resolve()
    jobs = QUICK if args.quick else FULL
    os.environ["DETECTRON2_DATASETS"] = str(output / "data")
    metrics = write_results(output, {job.folder: carry_out(job, output) for job in jobs})
    for job in jobs:
        found = [metrics[job.folder][k].get(job.metric, 0.0) for k in ("trained", "untrained")]
        say(f"{job.title}: {job.metric} {found[0]:.1f} % (untrained {found[1]:.1f} %)")
    say(f"report: {output / 'report.html'}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, RuntimeError, OSError) as error:
        print(f"run_demo.py: error: {error}", file=sys.stderr)
        sys.exit(2)
