"""What a process of a job does first: lock, log, seed, kernels; nothing that cannot be undone."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import defaults
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from dynamic_routing.engine.randomness import chosen_seed, make_deterministic
from dynamic_routing.engine.run_lock import FolderInUseError, RunLock
from dynamic_routing.files import remove_leftovers

logger = logging.getLogger(__name__)


def lock_folder(folder: str | Path) -> RunLock | None:
    """Take the run's folder and remove what killed runs left half written in it.

    The main process holds the lock; if it cannot, all processes stop.

    Returns:
        The lock in the main process, None in the others.

    Raises:
        FolderInUseError: another training writes into the folder.
        OSError: the folder cannot be written.
    """
    lock: RunLock | None = None
    problem: Exception | None = None
    if comm.is_main_process():
        try:
            lock = RunLock(folder)
            remove_leftovers(folder)
        except (FolderInUseError, OSError) as error:
            problem = error
    message = comm.all_gather(None if problem is None else str(problem))[0]
    if problem is not None:
        raise problem
    if message is not None:
        raise FolderInUseError(message)
    return lock


def set_up_process(cfg: CfgNode, args: argparse.Namespace, *, folder: str | Path) -> None:
    """Loggers, seed and kernels, as Detectron2's ``default_setup``.

    Unlike that it does not write ``config.yaml``, which a run that is refused later must leave
    alone; a SEED of -1 is replaced by the one that was chosen, in place.

    Args:
        cfg: not frozen.
        args: the command line, for the log.
        folder: where the log goes.
    """
    folder = str(folder)
    if comm.is_main_process():
        Path(folder).mkdir(parents=True, exist_ok=True)
    rank = comm.get_rank()
    setup_logger(folder, distributed_rank=rank, name="fvcore")
    setup_logger(folder, distributed_rank=rank)
    setup_logger(folder, rank, name="dynamic_routing")
    logger.info("process %d of %d; %s", rank, comm.get_world_size(), args)
    logger.info("environment:\n%s", defaults.collect_env_info())
    if cfg.SEED < 0:
        cfg.SEED = chosen_seed(cfg.SEED)
        logger.info("SEED -1: %d was chosen; a run that is resumed keeps its own", cfg.SEED)
    logger.info("config:\n%s", cfg.dump())
    seed_all_rng(cfg.SEED + rank)
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK and not args.eval_only
    if cfg.DETERMINISTIC:
        make_deterministic(cfg.MODEL.DEVICE.startswith("cuda"))
