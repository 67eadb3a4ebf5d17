"""A long training of a tiny network that watches itself; warnings are errors.

python -m tests.engine.long_run FOLDER ITERATIONS
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from detectron2.engine import HookBase

from dynamic_routing.engine.loaders import prepare_datasets
from dynamic_routing.engine.trainer import Trainer
from dynamic_routing.modeling import get_config
from tests.engine.kill_chain import SETTINGS, TARGET, make_data, target_of
from tests.modeling.builders import QUICK
from tests.strict_warnings import forbid_warnings

PERIOD = 50


class Watch(HookBase):
    """Resident memory in bytes and open files, every so often."""

    def __init__(self) -> None:
        self.seen: list[dict[str, int]] = []

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % PERIOD == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            files = len(os.listdir("/proc/self/fd"))
            memory = pages * os.sysconf("SC_PAGE_SIZE")
            entry = {"iteration": self.trainer.iter + 1, "memory": memory, "files": files}
            self.seen.append(entry)


def main(folder: Path, iterations: int) -> None:
    """Train and write ``watched.json``."""
    forbid_warnings()
    torch.set_num_threads(1)
    settings = [*SETTINGS, *make_data(folder / "data"), TARGET, target_of(SETTINGS)]
    settings += ["SOLVER.MAX_ITER", str(iterations), "SOLVER.CHECKPOINT_PERIOD", "200"]
    settings += ["TEST.EVAL_PERIOD", "400", "DATALOADER.NUM_WORKERS", "0"]
    settings += ["SOLVER.BASE_LR", "0.01", "MODEL.DYNAMIC_ROUTING.BUDGET.PROBE_PERIOD", "50"]
    settings += ["MODEL.DYNAMIC_ROUTING.DIVDR.PERIOD", "50", "OUTPUT_DIR", str(folder / "run")]
    cfg = get_config(QUICK, settings)
    prepare_datasets(cfg)
    cfg.freeze()
    trainer = Trainer(cfg)
    watch = Watch()
    trainer.register_hooks([watch])
    trainer.resume_or_load(False)
    trainer.train()
    (folder / "watched.json").write_text(json.dumps(watch.seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
