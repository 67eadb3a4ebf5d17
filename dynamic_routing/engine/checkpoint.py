"""Checkpoints that are written whole, hold plain data, and are checked when loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn

from dynamic_routing.engine.bad_numbers import BadNumbersError, bad_tensors
from dynamic_routing.engine.checkpoint_history import CheckpointHistory
from dynamic_routing.engine.weight_files import CheckpointError, read_weights
from dynamic_routing.engine.weights_fit import SHOWN, refuse_misfits
from dynamic_routing.files import atomic_file
from dynamic_routing.modeling.released_weights import (
    ReleasedWeightsError,
    from_released,
    is_released,
)
from dynamic_routing.routing import RoutingNetwork

GATE_RULES = ("activation", "small gate")
"""Rules of a network that may change between pre-training and training."""

TRAINER = "trainer"
"""Where a checkpoint keeps iteration, optimiser, schedule and what the hooks remember."""


class RoutingCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, but safe.

    Files are written under a temporary name and renamed, hold tensors and plain Python only, and
    are read with ``weights_only=True``. ``last_checkpoint`` may name a file of the run's own
    folder only. A checkpoint of another routing space is refused with the names that differ, and
    so is one whose routing rules differ from the config's: no tensor would show it.

    Args:
        model: what is saved and loaded.
        save_dir: the run's folder.
        strict: refuse any tensor that is missing or of another shape, and other gates. For
            evaluation; a training may start from weights without gates or of other classes.
        **checkpointables: further parts with a state, such as the trainer.
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, strict: bool = False, **checkpointables: Any
    ) -> None:
        super().__init__(model, save_dir, **checkpointables)
        self.strict = strict
        self._history = CheckpointHistory(save_dir)  # a new run's own

    def save(self, name: str, *, tag: bool = True, **kwargs: Any) -> None:
        """Write ``name``.pth and, with ``tag``, make it the one that a resumed run takes.

        Raises:
            BadNumbersError: a weight is NaN or infinite; nothing is written.
            WriteError: the folder cannot be written or is full; nothing that was there is lost.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        bad = bad_tensors(self.model.state_dict())
        if bad:
            shown = ", ".join(bad[:SHOWN])
            raise BadNumbersError(f"no checkpoint {name}: NaN or infinite numbers in {shown}")
        data: dict[str, Any] = {"model": self.model.state_dict(), "routing": self.routing_rules()}
        for key, item in self.checkpointables.items():
            data[key] = item.state_dict()
        data.update(kwargs)
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", path)
        with atomic_file(path) as file:
            torch.save(plain(data), file)
        if tag:
            self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the checkpoint that a resumed run takes."""
        self._history.add(last_filename_basename)

    def get_checkpoint_file(self) -> str:
        """The newest checkpoint of this run, or an empty string.

        Raises:
            CheckpointError: ``last_checkpoint`` names something outside the run's folder.
        """
        newest = CheckpointHistory(self.save_dir).newest()
        return "" if newest is None else str(newest)

    def newest_readable(self) -> str:
        """The newest checkpoint of this run that can be read, or an empty string without any.

        One that cannot (cut short by a crash of the machine or a full disk) is named in the log,
        and the one before is taken.

        Raises:
            CheckpointError: there are checkpoints and none can be read.
        """
        history = CheckpointHistory(self.save_dir)
        reasons = []
        for path in history.newest_first():
            try:
                self._load_file(str(path))
            except CheckpointError as error:
                reasons.append(str(error))
                continue
            if reasons:
                self.logger.warning("%s; taking %s instead", "; ".join(reasons), path.name)
            history.go_on_from(path)
            self._history = history
            return str(path)
        if reasons:
            raise CheckpointError(f"nothing to resume from: {'; '.join(reasons)}")
        return ""

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Load the newest readable checkpoint of the run with all its parts, else ``path``.

        Args:
            path: weights of a run that starts anew.
            resume: whether to continue the run, if there is one.

        Raises:
            CheckpointError: what is to be resumed holds weights only, or a state of no training.
        """
        newest = self.newest_readable() if resume else ""
        if not newest:
            return self.load(path, checkpointables=[])
        if TRAINER in self.checkpointables and TRAINER not in self._load_file(newest):
            raise CheckpointError(
                f"{newest} holds weights and no state of a training: start from it with "
                f"MODEL.WEIGHTS {newest}, without --resume"
            )
        try:
            return self.load(newest)
        except (AttributeError, LookupError, TypeError) as error:
            kind = f"{type(error).__name__} {error}"
            raise CheckpointError(
                f"{newest} holds a state that is of no training: {kind}"
            ) from error

    def routing_rules(self) -> dict[str, dict[str, Any]]:
        """What decides the results of each routing network without being a tensor."""
        networks = self.model.named_modules()
        return {
            name.removeprefix("module."): module.description()
            for name, module in networks
            if isinstance(module, RoutingNetwork)
        }

    def _check_routing(self, stored: dict[str, dict[str, Any]]) -> None:
        """Refuse a checkpoint whose networks follow other rules.

        Raises:
            CheckpointError: names the rule, its stored and its present value.
        """
        for name, present in self.routing_rules().items():
            for rule, value in stored.get(name, {}).items():
                free = not self.strict and rule in GATE_RULES
                if present.get(rule) != value and not free:
                    raise CheckpointError(
                        f"the checkpoint was made with {rule} {value}, the config says "
                        f"{present.get(rule)}"
                    )

    def stored_metric(self, name: str) -> float:
        """The metric that :meth:`save` wrote into ``name``.pth; -inf without such a file."""
        path = Path(self.save_dir) / f"{name}.pth"
        if not path.is_file():
            return -math.inf
        return float(self._load_file(str(path)).get("metric", -math.inf))

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As Detectron2, with one line for a file that is missing or unreadable."""
        if path and "://" not in path and not Path(path).is_file():
            raise CheckpointError(f"checkpoint {path} does not exist; check MODEL.WEIGHTS")
        return super().load(path, *args, **kwargs)

    def _load_file(self, filename: str) -> dict[str, Any]:
        """Read tensors and plain Python, never code."""
        return read_weights(filename)

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        """Load the weights and check that they fit; released names are translated."""
        self._check_routing(checkpoint.get("routing", {}))
        if is_released(checkpoint["model"]):
            checkpoint["model"] = self._translated(checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        names = [name.removeprefix("module.") for name in self.model.state_dict()]
        refuse_misfits(incompatible, strict=self.strict, names=names)
        for name, found, wanted in incompatible.incorrect_shapes:
            self.logger.warning("%s starts anew: %s there, %s here", name, found, wanted)
        return incompatible

    def _translated(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of the released code under our names, and a word about it."""
        try:
            translated = from_released(state)
        except ReleasedWeightsError as error:
            raise CheckpointError(str(error)) from None
        self.logger.info(
            "these are weights of the released Dynamic Routing code: %d tensors renamed, gate "
            "outputs reordered",
            len(translated),
        )
        rules = {rules["unreached rule"] for rules in self.routing_rules().values()}
        if rules - {"released"}:
            self.logger.warning(
                "the released code's results need MODEL.DYNAMIC_ROUTING.UNREACHED released, the "
                "config says %s",
                ", ".join(sorted(rules)),
            )
        return translated


def plain(value: Any) -> Any:
    """Turn numpy numbers and arrays into Python numbers and tensors, at any depth."""
    if isinstance(value, dict):
        return {plain(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(v) for v in value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    return value
