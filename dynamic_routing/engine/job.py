"""What a config and the flags of train_net.py say about the processes of a job."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator

import torch
from detectron2.config import CfgNode

SYNC_NORM, GLOO_SYNC_NORM = "SyncBN", "naiveSyncBN"
"""PyTorch's synchronised batch norm needs GPUs; Detectron2's own does not."""

logger = logging.getLogger(__name__)


def add_process_flag(parser: argparse.ArgumentParser) -> None:
    """``--num-processes``, which Detectron2's parser does not have."""
    parser.add_argument(
        "--num-processes",
        type=int,
        default=1,
        help="number of processes on this machine with MODEL.DEVICE cpu",
    )


def processes_to_start(args: argparse.Namespace, cfg: CfgNode) -> int:
    """How many processes the flags ask for on this machine.

    Raises:
        ValueError: more GPUs than there are, or a flag that does not go with MODEL.DEVICE.
    """
    available, device = torch.cuda.device_count(), cfg.MODEL.DEVICE
    if args.num_gpus > max(available, 1):
        raise ValueError(f"--num-gpus {args.num_gpus}: this machine has {available}")
    if device.startswith("cuda") and not available:
        raise ValueError(f"MODEL.DEVICE {device}: no GPU here; use auto or cpu")
    for flag, value in (("--num-gpus", args.num_gpus), ("--num-processes", args.num_processes)):
        if value < 1:
            raise ValueError(f"{flag} must be at least 1, got {value}")
    if args.num_processes > 1 and device != "cpu":
        raise ValueError(
            f"--num-processes {args.num_processes} goes with MODEL.DEVICE cpu; MODEL.DEVICE "
            f"{device} takes --num-gpus"
        )
    if args.num_gpus > 1 and device != "cuda":
        raise ValueError(
            f"--num-gpus {args.num_gpus} needs MODEL.DEVICE cuda, it is {device}; on the CPU there "
            "is --num-processes"
        )
    return max(args.num_gpus, args.num_processes)


def fit_to_processes(cfg: CfgNode, world_size: int, *, training: bool = True) -> None:
    """Check the batch against the number of processes and replace norms that need GPUs, in place.

    Args:
        cfg: not frozen.
        world_size: processes of the job.
        training: an evaluation has no use for the batch, which may then be any.

    Raises:
        ValueError: a batch that cannot be shared evenly.
    """
    if training:
        _check_batch(cfg, world_size)
    if world_size == 1 or cfg.MODEL.DEVICE != "cpu":
        return
    replaced = [key for key, node in _norms(cfg.MODEL, "MODEL.") if node.NORM == SYNC_NORM]
    for _, node in _norms(cfg.MODEL, "MODEL."):
        node.NORM = GLOO_SYNC_NORM if node.NORM == SYNC_NORM else node.NORM
    if replaced:
        logger.info(
            "%s: %s needs GPUs; %d processes on the CPU take %s, which is synchronised by gloo",
            ", ".join(replaced),
            SYNC_NORM,
            world_size,
            GLOO_SYNC_NORM,
        )


def _check_batch(cfg: CfgNode, world_size: int) -> None:
    """Whether each process gets the same number of images, and at least one a part."""
    images, steps = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATION_STEPS
    if images % world_size:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {images} must be a multiple of the {world_size} processes"
        )
    if images // world_size < steps:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {images} gives each of {world_size} processes "
            f"{images // world_size} images, too few for SOLVER.ACCUMULATION_STEPS {steps}"
        )


def _norms(node: CfgNode, prefix: str) -> Iterator[tuple[str, CfgNode]]:
    """Every key NORM, and the group that holds it."""
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from _norms(value, f"{prefix}{name}.")
        elif name == "NORM":
            yield prefix + name, node
