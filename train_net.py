#!/usr/bin/env python3
"""Train or evaluate a dynamic-routing network with Detectron2's usual flags.

Examples:
    python train_net.py --config-file configs/Cityscapes-SemanticSegmentation/dr_raw_l16_186k.yaml
    python train_net.py --config-file F --resume
    python train_net.py --config-file F --eval-only MODEL.WEIGHTS output/model_final.pth
    python train_net.py --config-file F --num-gpus 8
    python train_net.py --config-file F --num-processes 2 MODEL.DEVICE cpu
    torchrun --nnodes 2 --nproc-per-node 8 ... train_net.py --config-file F
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.utils import comm

from dynamic_routing.compat import OneLineErrors
from dynamic_routing.engine.checkpoint import RoutingCheckpointer
from dynamic_routing.engine.job import (
    add_process_flag,
    fit_to_processes,
    processes_to_start,
)
from dynamic_routing.engine.launch import Machines, launch
from dynamic_routing.engine.loaders import prepare_datasets, worker_message
from dynamic_routing.engine.run_files import RESULTS
from dynamic_routing.engine.run_setup import lock_folder, set_up_process
from dynamic_routing.engine.solver import scale_learning_rate
from dynamic_routing.engine.stopping import Stopped, stoppable
from dynamic_routing.engine.trainer import Trainer, evaluate_checkpoint
from dynamic_routing.engine.watch import RankError
from dynamic_routing.files import write_json
from dynamic_routing.modeling import get_config

logger = logging.getLogger("dynamic_routing.train_net")

DEBUG_VARIABLE = "DYNAMIC_ROUTING_DEBUG"
"""Environment variable: if set, user errors come with their traceback."""


def setup(args: argparse.Namespace) -> CfgNode:
    """Read and check the config, prepare the log, the seed and the kernels.

    Raises:
        ValueError: anything that the user has to mend, in one line.
    """
    cfg = get_config(args.config_file, args.opts)
    prepare_datasets(cfg)
    if not (args.eval_only or cfg.DATASETS.TRAIN):
        raise ValueError("DATASETS.TRAIN is empty: nothing to train on")
    folder = Path(cfg.OUTPUT_DIR)
    # An evaluation keeps its log and config apart from those of the training.
    set_up_process(cfg, args, folder=folder / "inference" if args.eval_only else folder)
    if args.eval_only and args.resume:
        newest = RoutingCheckpointer(torch.nn.Module(), cfg.OUTPUT_DIR).newest_readable()
        cfg.MODEL.WEIGHTS = newest or cfg.MODEL.WEIGHTS
    scale_learning_rate(cfg)
    fit_to_processes(cfg, comm.get_world_size(), training=not args.eval_only)
    cfg.freeze()
    return cfg


def run(args: argparse.Namespace) -> None:
    """One process of the job; a training has its folder for itself."""
    with ExitStack() as stack:
        if not args.eval_only:
            folder = get_config(args.config_file, args.opts).OUTPUT_DIR
            lock = lock_folder(folder)
            if lock is not None:
                stack.enter_context(lock)
        train_or_evaluate(args)


def train_or_evaluate(args: argparse.Namespace) -> None:
    """What the command line asks for; writes ``results.json``."""
    if not os.environ.get(DEBUG_VARIABLE):
        logging.getLogger("detectron2.engine.train_loop").addFilter(OneLineErrors())
        logging.raiseExceptions = False  # a full disk: no traceback for each line of the log
    cfg = setup(args)
    if args.eval_only:
        results = evaluate_checkpoint(cfg)
    else:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        results = trainer.train() or getattr(trainer, "_last_eval_results", None)
    if comm.is_main_process() and results:
        write_json(Path(cfg.OUTPUT_DIR) / RESULTS, results)


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and start the processes."""
    parser = default_argument_parser()
    add_process_flag(parser)
    parser.set_defaults(dist_url="auto")
    args = parser.parse_args(argv)
    try:
        if not args.config_file:
            raise ValueError("--config-file is missing; see configs/")
        # Here, so that a mistake is told once and not by every process.
        cfg = get_config(args.config_file, args.opts)
        processes = processes_to_start(args, cfg)
        if processes > 1:
            prepare_datasets(cfg)
            world_size = processes * args.num_machines
            fit_to_processes(cfg, world_size, training=not args.eval_only)
        with stoppable():
            launch(
                run,
                args,
                processes=processes,
                device=cfg.MODEL.DEVICE,
                machines=Machines(args.num_machines, args.machine_rank, args.dist_url),
            )
    except (ValueError, OSError, RankError) as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        print(f"train_net.py: error: {worker_message(error)}", file=sys.stderr)
        return 1 if isinstance(error, RankError) and not error.user else 2
    except Stopped as stop:
        more = "" if args.eval_only else "; --resume goes on from the last checkpoint"
        with suppress(OSError):  # of a terminal that is gone
            print(f"train_net.py: {stop}{more}", file=sys.stderr)
        return stop.status
    return 0


if __name__ == "__main__":
    sys.exit(main())
