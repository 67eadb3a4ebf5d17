#!/usr/bin/env python3
"""What a network costs: parameters and cost by part, and over the images of a data set.

Examples:
    python tools/analyze_cost.py --config-file F --input-size 1024 2048
    python tools/analyze_cost.py --config-file F --weights W --dataset cityscapes_fine_sem_seg_val
    python tools/analyze_cost.py --config-file F --json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from dynamic_routing.analysis.cost_report import (
    ImageCosts,
    cost_report,
    format_report,
    image_costs,
)
from dynamic_routing.engine.checkpoint import RoutingCheckpointer
from dynamic_routing.engine.loaders import build_test_loader, prepare_datasets
from dynamic_routing.evaluation.gates_file import load_gates
from dynamic_routing.evaluation.routing_evaluator import RoutingEvaluator
from dynamic_routing.modeling import get_config
from dynamic_routing.modeling.cost import RouteCosts, backbone_cost, model_cost
from dynamic_routing.routing.cost import count_parameters
from dynamic_routing.routing.counting import CONVENTIONS

MIN_SIDE = 64
"""Smallest side in pixels that every space can route."""


def measure(cfg: CfgNode, model: nn.Module, costs: RouteCosts, dataset: str) -> ImageCosts:
    """Run the model over a data set and sum up what each image cost."""
    from detectron2.evaluation import inference_on_dataset

    with tempfile.TemporaryDirectory() as folder:
        evaluator = RoutingEvaluator(dataset, folder, cost=costs)
        inference_on_dataset(model, build_test_loader(cfg, dataset), evaluator)
        assert evaluator.gates_path is not None
        return image_costs(load_gates(evaluator.gates_path))


def analyse(args: argparse.Namespace) -> tuple[dict[str, Any], ImageCosts | None]:
    """The report and, with weights and a data set, the costs of its images.

    Raises:
        ValueError: anything that the user has to mend, in one line.
    """
    if bool(args.weights) != bool(args.dataset):
        raise ValueError("--weights and --dataset go together: both or neither")
    if min(args.input_size) < MIN_SIDE:
        raise ValueError(f"--input-size must be at least {MIN_SIDE}, got {args.input_size}")
    cfg = get_config(args.config_file, args.opts)
    model = build_model(cfg).eval()
    costs = RouteCosts(model)
    heads = {name: count_parameters(m) for name, m in model.named_children()}
    parameters = {name: count for name, count in heads.items() if count}
    size = (args.input_size[0], args.input_size[1])
    report = cost_report(
        {name: model_cost(model, convention=name) for name in CONVENTIONS},
        {name: backbone_cost(model, convention=name) for name in CONVENTIONS},
        parameters=parameters,
        size=size,
    )
    if not args.weights:
        return report, None
    cfg.DATASETS.TEST = (args.dataset,)
    cfg.DATASETS.TRAIN = ()
    prepare_datasets(cfg)
    RoutingCheckpointer(model, strict=True).load(args.weights)
    return report, measure(cfg, model, costs, args.dataset)


def main(argv: list[str] | None = None) -> int:
    """Parse, analyse, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--config-file", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--input-size", type=int, nargs=2, default=[1024, 2048], metavar=("HEIGHT", "WIDTH")
    )
    parser.add_argument("--weights", default="", help="a checkpoint")
    parser.add_argument("--dataset", default="", help="a registered data set")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("opts", nargs="*", help="config overrides: KEY VALUE ...")
    args = parser.parse_args(argv)
    try:
        report, images = analyse(args)
    except (ValueError, OSError) as error:
        print(f"analyze_cost.py: error: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps({**report, "images": asdict(images) if images else None}, indent=1))
    else:
        print(format_report(report, images))
    return 0


if __name__ == "__main__":
    sys.exit(main())
