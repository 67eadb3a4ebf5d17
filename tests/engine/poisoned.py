"""A training whose last image is no image, in one process or in several."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm

from dynamic_routing.engine.bad_numbers import BadNumbersError
from tests.engine.divdr_training import FixedBatches, ShortTrainer, short_config


class Poisoned(ShortTrainer):
    """Image 7, in the second batch, is NaN."""

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> FixedBatches:
        loader = super().build_train_loader(cfg)
        loader.images[7]["image"].fill_(math.nan)
        return loader


def poisoned_training(folder: Any, *overrides: str) -> str:
    """What the training says when it stops; empty if it does not."""
    trainer = Poisoned(short_config(folder, *overrides))
    trainer.resume_or_load(False)
    try:
        trainer.train()
    except BadNumbersError as error:
        return str(error)
    return ""


def stop_together(folder: str) -> None:
    """One process of several: writes what it said into RANK.txt."""
    torch.set_num_threads(1)
    said = poisoned_training(folder)
    (Path(folder) / f"{comm.get_rank()}.txt").write_text(said)
