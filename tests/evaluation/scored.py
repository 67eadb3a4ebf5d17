"""Predictions through a data set's evaluators, into the file of their scores."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dynamic_routing.evaluation.build import build_evaluator


def score(name: str, pairs: Iterable[tuple[dict[str, Any], Any]], folder: Path) -> Path:
    """Evaluate (input, output) pairs one by one; where the scores of each image are."""
    evaluator = build_evaluator(name, folder, routed=False)
    evaluator.reset()
    for one_input, output in pairs:
        evaluator.process([one_input], [output])
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.evaluate()
    return folder / f"scores_{name}.json"
