"""Trainings that are killed and resumed, each in a process of its own, forked from one.

    python -m tests.engine.kill_chain FOLDER PLANS.json

FOLDER gets a run for each plan; what is imported and generated is so once for all of them.
"""

from __future__ import annotations

import functools
import importlib
import io
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.engine import defaults
from PIL import Image

from dynamic_routing.engine import checkpoint as checkpoint_module
from dynamic_routing.engine import checkpoint_history
from dynamic_routing.engine.launch import launch
from dynamic_routing.engine.trainer import Trainer
from dynamic_routing.evaluation.routing_evaluator import RoutingEvaluator
from tests.modeling.builders import QUICK, REPOSITORY

ITERATIONS, CHECKPOINTS, EVALUATIONS = 9, 2, 3
IMAGES, TEST_IMAGES = 6, 3
SETTINGS = (
    "MODEL.DEVICE cpu MODEL.DYNAMIC_ROUTING.SPACE.NUM_LAYERS 2 MODEL.DYNAMIC_ROUTING.WIDTH 4 "
    "MODEL.DYNAMIC_ROUTING.NORM BN MODEL.DYNAMIC_ROUTING.DROP_PATH 0.4 "
    "MODEL.DYNAMIC_ROUTING.GATE.SMALL False "
    "MODEL.DYNAMIC_ROUTING.DIVDR.NUM_CLUSTERS 2 MODEL.DYNAMIC_ROUTING.DIVDR.PERIOD 2 "
    "MODEL.DYNAMIC_ROUTING.BUDGET.TARGET_SIZE [32,64] MODEL.DYNAMIC_ROUTING.BUDGET.START 0.1 "
    "MODEL.DYNAMIC_ROUTING.BUDGET.PROBE_PERIOD 3 MODEL.DYNAMIC_ROUTING.BUDGET.PROBE_IMAGES 1 "
    "MODEL.DYNAMIC_ROUTING.BUDGET.LAMBDA 0.0 MODEL.SEM_SEG_HEAD.NUM_CLASSES 3 SEED 5 "
    "MODEL.SEM_SEG_HEAD.IN_FEATURES ['p2','p3','p4'] "
    f"SOLVER.MAX_ITER {ITERATIONS} SOLVER.IMS_PER_BATCH 2 SOLVER.BASE_LR 0.05 "
    f"SOLVER.CHECKPOINT_PERIOD {CHECKPOINTS} TEST.EVAL_PERIOD {EVALUATIONS} "
    "TEST.PRECISE_BN.ENABLED True TEST.PRECISE_BN.NUM_ITER 1 "
    "INPUT.SEM_SEG_CROP [32,64] INPUT.MIN_SIZE_TEST 32 INPUT.MAX_SIZE_TEST 64"
).split()
TARGET = "MODEL.DYNAMIC_ROUTING.BUDGET.TARGET_GMACS"
NAMES = "['dark','grey','bright']"


def make_images(root: Path, *, widths: list[int]) -> str:
    """Small images with the brightness as label; where they are, as a custom data set has it."""
    generator = np.random.default_rng(len(widths))
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i, width in enumerate(widths):
        coarse = generator.integers(0, 256, (4, width // 8, 3), dtype=np.uint8)
        pixels = coarse.repeat(8, axis=0).repeat(8, axis=1)
        Image.fromarray(pixels).save(root / "images" / f"{i}.png")
        labels = (pixels.mean(axis=2) // 86).astype(np.uint8)
        Image.fromarray(labels).save(root / "labels" / f"{i}.png")
    return f"'type':'sem_seg','images':'{root}/images','labels':'{root}/labels','classes':{NAMES}"


def make_data(root: Path) -> list[str]:
    """Two data sets, high and wide images in the first; the overrides that name them."""
    train = make_images(root / "train", widths=[64 - 40 * (i % 2) for i in range(IMAGES)])
    val = make_images(root / "val", widths=[64] * TEST_IMAGES)
    custom = f"[{{'name':'kill_train',{train}}},{{'name':'kill_val',{val}}}]"
    sets = ["DATASETS.CUSTOM", custom, "DATASETS.TRAIN", "('kill_train',)"]
    return [*sets, "DATASETS.TEST", "('kill_val',)"]


def die() -> None:
    """End as if by the machine: no cleaning up."""
    os.kill(os.getpid(), signal.SIGKILL)


def prepare_kill(kill: dict[str, Any]) -> None:
    """Arrange for this process to die where ``kill`` says."""
    calls = {"n": 0}

    def counted(wanted: int) -> bool:
        calls["n"] += 1
        return calls["n"] > wanted

    if kill["kind"] == "iteration":
        run_step = Trainer.run_step

        def step(self: Trainer) -> None:
            if self.iter == kill["at"]:
                die()
            run_step(self)

        Trainer.run_step = step
    elif kill["kind"] == "checkpoint":
        save = torch.save

        def half(content: Any, file: Any) -> None:
            if not counted(kill["at"]):
                return save(content, file)
            whole = io.BytesIO()
            save(content, whole)
            file.write(whole.getvalue()[: int(kill["share"] * whole.tell())])
            file.flush()
            return die()

        checkpoint_module.torch.save = half
    elif kill["kind"] == "tag":
        write = checkpoint_history.write_atomically

        def without_tag(*arguments: Any) -> Any:
            return die() if counted(kill["at"]) else write(*arguments)

        checkpoint_history.write_atomically = without_tag
    elif kill["kind"] == "evaluation":
        process = RoutingEvaluator.process

        def evaluate(self: Any, inputs: Any, outputs: Any) -> None:
            if counted(kill["at"]):
                die()
            process(self, inputs, outputs)

        RoutingEvaluator.process = evaluate


def forked(arguments: list[str], log: Path, kill: dict[str, Any] | None) -> int:
    """Exit status of a training in a child of this process; minus the signal if it was killed."""
    child = os.fork()
    if child == 0:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        status = 70
        try:
            defaults.collect_env_info = str  # asks a dozen programs
            if kill:
                prepare_kill(kill)
            status = importlib.import_module("train_net").main(arguments)
        finally:
            os._exit(status)
    if kill and kill["kind"] == "time":
        time.sleep(kill["share"] * kill["of"])
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def target_of(arguments: list[str]) -> str:
    """A target between the costs of all gates closed and all open."""
    from detectron2.modeling import build_model

    from dynamic_routing.modeling import get_config
    from dynamic_routing.modeling.cost import model_cost

    cost = model_cost(build_model(get_config(QUICK, arguments)), convention="macs")
    return repr((cost.closed_cost(32, 64) + cost.open_cost(32, 64)) / 2e9)


def main(folder: Path, plans: list[dict[str, Any]]) -> None:
    """Carry out the plans; ``statuses.json`` holds the exit statuses of each one's processes.

    Args:
        folder: gets ``0``, ``1``, ... with the runs, and their output in ``0.log``, ...
        plans: each with the workers of its loader and the kills that its run survives; perhaps
            with its number of processes, which are forked, and further overrides.
    """
    sys.path.insert(0, str(REPOSITORY))
    for module in ("train_net", "torch.utils.tensorboard", "sklearn.cluster"):
        importlib.import_module(module)  # once for all children
    sys.modules["train_net"].launch = functools.partial(launch, start_method="fork")
    data = make_data(folder / "data")
    settings = [*SETTINGS, *data]
    settings += [TARGET, target_of(SETTINGS)]
    found = []
    duration = 0.0  # of an uninterrupted run
    for number, plan in enumerate(plans):
        for kill in plan["kills"]:
            kill["of"] = duration
        started = time.perf_counter()
        flags = ["--resume", "--num-processes", str(plan.get("processes", 1))]
        arguments = ["--config-file", str(QUICK), *flags, *settings, *plan.get("overrides", [])]
        arguments += ["DATALOADER.NUM_WORKERS", str(plan["workers"])]
        arguments += ["OUTPUT_DIR", str(folder / str(number))]
        found.append(
            [forked(arguments, folder / f"{number}.log", kill) for kill in [*plan["kills"], None]]
        )
        duration = duration or time.perf_counter() - started
    (folder / "statuses.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))
