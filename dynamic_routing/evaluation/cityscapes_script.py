"""Calling the official Cityscapes scripts as functions: their arguments, errors and classes."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from detectron2.utils.file_io import PathManager


def ground_truths(gt_dir: str, suffix: str) -> list[str]:
    """Every ``<city>/*_gtFine_<suffix>`` of a split, sorted.

    Raises:
        ValueError: there is none.
    """
    folder = PathManager.get_local_path(gt_dir)
    truths = sorted(glob.glob(os.path.join(folder, "*", f"*_gtFine_{suffix}")))
    if not truths:
        raise ValueError(f"no ground truth <city>/*_gtFine_{suffix} under {folder}")
    return truths


@contextmanager
def script_arguments(
    script: ModuleType, predictions: str, extra: Mapping[str, object] | None = None
) -> Iterator[None]:
    """Point a script's module-wide arguments at a folder, and turn its exit into an error.

    Args:
        script: one of :data:`~dynamic_routing.compat.CITYSCAPES_EVALUATION_MODULES`, imported.
        predictions: folder of the predictions.
        extra: further arguments of that script.

    Raises:
        ValueError: inside the ``with``, where the script would have left the program.
    """
    wanted = {
        "predictionPath": os.path.abspath(predictions),
        "predictionWalk": None,
        "JSONOutput": False,
        "colorized": False,
        "quiet": True,
        **(extra or {}),
    }
    before = dict(vars(script.args))
    vars(script.args).update(wanted)
    print_error = script.printError

    def give_up(message: str) -> None:
        raise ValueError(f"the official Cityscapes script gave up: {message}")

    script.printError = give_up  # type: ignore[attr-defined]
    try:
        yield
    finally:
        script.printError = print_error  # type: ignore[attr-defined]
        vars(script.args).clear()
        vars(script.args).update(before)


def is_ignored(class_name: str) -> bool:
    """Whether Cityscapes leaves a class out of its scores (all but 19 of its labels)."""
    labels = import_module("cityscapesscripts.helpers.labels")
    return bool(labels.name2label[class_name].ignoreInEval)
