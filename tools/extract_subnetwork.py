#!/usr/bin/env python3
"""Cut a static network out of a trained dynamic one, with its weights.

Examples:
    # the common network: paths that at least 95 % of the images take
    python tools/extract_subnetwork.py --config-file output/config.yaml \\
        --weights output/model_final.pth --gates output/inference/gates_NAME.npz --output common
    # one image's route, or that of a group of images
    python tools/extract_subnetwork.py ... --images frankfurt_000000_000294_leftImg8bit.png
    # the expert of a DivDR cluster, numbered from 0
    python tools/extract_subnetwork.py ... --cluster 2

Writes config.yaml, model.pth and edges.json: a normal config and checkpoint that train further
and evaluate with train_net.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor

from dynamic_routing.engine.checkpoint import RoutingCheckpointer
from dynamic_routing.evaluation.gates_file import load_gates
from dynamic_routing.evaluation.selection import chosen_rows
from dynamic_routing.files import atomic_file, write_atomically
from dynamic_routing.modeling import get_config
from dynamic_routing.modeling.cost import routed_network
from dynamic_routing.routing import Routes
from dynamic_routing.routing.subnetworks import (
    COMMON_SHARE,
    Subgraph,
    common_subgraph,
    copy_weights,
)

COPIED = "backbone.network."
"""Prefix of the tensors that ``copy_weights`` takes care of."""


def static_config(cfg: CfgNode, subgraph: Subgraph, weights: Path) -> CfgNode:
    """The config of the static network."""
    cfg = cfg.clone()
    cfg.defrost()
    node = cfg.MODEL.DYNAMIC_ROUTING
    node.SPACE.EDGES = [list(edge) for edge in subgraph.space.to_edges()]
    node.SPACE.SUBGRAPH = ""
    node.GATE.ACTIVATION = "fixed"
    node.BUDGET.LAMBDA = 0.0
    node.BUDGET.TARGET_GMACS = 0.0
    node.DIVDR.NUM_CLUSTERS = 0
    cfg.MODEL.WEIGHTS = str(weights)
    cfg.MODEL.DEVICE = "auto"
    cfg.OUTPUT_DIR = str(weights.parent / "run")
    return cfg


def static_weights(cfg: CfgNode, weights: str, subgraph: Subgraph) -> dict[str, Tensor]:
    """State dict of the static model, filled from the dynamic one's checkpoint."""
    dynamic = build_model(cfg)
    RoutingCheckpointer(dynamic, strict=True).load(weights)
    description = static_config(cfg, subgraph, Path(weights))
    description.MODEL.DEVICE = cfg.MODEL.DEVICE
    static = build_model(description)
    copy_weights(routed_network(dynamic.backbone), routed_network(static.backbone), subgraph)
    others = {k: v for k, v in dynamic.state_dict().items() if not k.startswith(COPIED)}
    lost = [k for k in static.load_state_dict(others, strict=False).missing_keys
            if not k.startswith(COPIED)]  # fmt: skip
    assert not lost, lost
    return static.state_dict()


def extract(args: argparse.Namespace) -> str:
    """Write the static network and say what it is.

    Raises:
        ValueError: anything that the user has to mend, in one line.
    """
    cfg = get_config(args.config_file)
    if not args.gates.is_file():
        raise ValueError(f"gates file {args.gates} does not exist; evaluate the network first")
    gates = load_gates(args.gates)
    rows, every = chosen_rows(gates, args.images, args.cluster), gates.routes
    routes = Routes(every.space, every.gates[rows], every.rule, every.image_size)
    subgraph = common_subgraph(routes, share=args.share)
    args.output.mkdir(parents=True, exist_ok=True)
    weights = args.output / "model.pth"
    with atomic_file(weights) as file:
        torch.save({"model": static_weights(cfg, args.weights, subgraph)}, file)
    config = static_config(cfg, subgraph, weights.resolve()).dump()
    write_atomically(args.output / "config.yaml", config.encode("utf-8"))
    edges = json.dumps({"edges": subgraph.space.to_edges()})
    write_atomically(args.output / "edges.json", edges.encode("utf-8"))
    space, whole = subgraph.space, routes.space
    return (
        f"{len(space.grid_nodes)} of {len(whole.grid_nodes)} cells and {len(space.edges)} of "
        f"{len(whole.edges)} edges, from {len(routes)} images, are in {args.output}"
    )


def main(argv: list[str] | None = None) -> int:
    """Parse and extract."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--config-file", type=Path, required=True, metavar="FILE")
    parser.add_argument("--weights", required=True, help="checkpoint of the dynamic network")
    parser.add_argument("--gates", type=Path, required=True, help="gates file of an evaluation")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--images", nargs="*", default=[], help="file names; default: all images")
    which.add_argument("--cluster", type=int, metavar="K", help="the images of a DivDR cluster")
    parser.add_argument("--share", type=float, default=COMMON_SHARE, help="of images, in (0, 1]")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    args = parser.parse_args(argv)
    try:
        print(extract(args))
    except (ValueError, OSError) as error:
        print(f"extract_subnetwork.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
