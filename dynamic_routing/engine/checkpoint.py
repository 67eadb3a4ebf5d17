"""Checkpoints that are written whole, hold plain data, and are checked when loaded."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from dynamic_routing.files import atomic_file, write_atomically
from dynamic_routing.routing import RoutingNetwork

SHOWN = 10
"""How many tensor names an error lists."""

REINITIALISED = ("predictor", "cls_score", "bbox_pred", "routing_losses")
"""What follows the classes of the data or the number of clusters: another shape starts it anew."""


GATE_RULES = ("activation", "small gate")
"""Rules of a network that may change between pre-training and training."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used here; its message is one line."""


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

    def save(self, name: str, *, tag: bool = True, **kwargs: Any) -> None:
        """Write ``name``.pth and, with ``tag``, make it the one that a resumed run takes."""
        if not self.save_dir or not self.save_to_disk:
            return
        data: dict[str, Any] = {"model": self.model.state_dict(), "routing": self._routing()}
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
        write_atomically(
            Path(self.save_dir) / "last_checkpoint", last_filename_basename.encode("utf-8")
        )

    def get_checkpoint_file(self) -> str:
        """The newest checkpoint of this run, or an empty string.

        Raises:
            CheckpointError: ``last_checkpoint`` names something outside the run's folder.
        """
        tag = Path(self.save_dir) / "last_checkpoint"
        if not tag.is_file():
            return ""
        name = tag.read_text(encoding="utf-8").strip()
        if not name or name != os.path.basename(name):
            raise CheckpointError(f"{tag} must hold a bare file name, it holds {name!r}")
        return str(Path(self.save_dir) / name)

    def _routing(self) -> dict[str, dict[str, Any]]:
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
        for name, present in self._routing().items():
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
        if Path(filename).suffix != ".pth":
            raise CheckpointError(
                f"{filename}: only .pth checkpoints are read (a pickle could run code)"
            )
        try:
            loaded = torch.load(filename, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for damaged or unsafe files
            reason = str(error).split("\n", 1)[0]
            raise CheckpointError(f"checkpoint {filename} cannot be read: {reason}") from None
        if not isinstance(loaded, dict):
            raise CheckpointError(
                f"checkpoint {filename} holds {type(loaded).__name__}, not a dict"
            )
        return loaded if "model" in loaded else {"model": loaded}

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        """Load the weights and check that they fit."""
        self._check_routing(checkpoint.get("routing", {}))
        incompatible = super()._load_model(checkpoint)
        refuse_misfits(incompatible, strict=self.strict)
        return incompatible


def refuse_misfits(incompatible: Any, *, strict: bool) -> None:
    """Raise unless the tensors found their places.

    For evaluation (``strict``) every tensor has to. For training those of the backbone have to,
    but gates may be missing and fixed strengths left over, since weights trained without gates
    start a gated network, and layers that follow the classes start anew.

    Raises:
        CheckpointError: lists the first names that are missing, left over or of another shape.
    """

    def matters(name: str) -> bool:
        """Whether a misfit of this tensor counts."""
        return strict or ("backbone" in name and ".gate." not in name)

    shapes = [
        f"{name} {tuple(found)} for {tuple(wanted)}"
        for name, found, wanted in incompatible.incorrect_shapes
        if strict or not any(part in name for part in REINITIALISED)
    ]
    wrong = {
        "of another shape": shapes,
        "missing": [k for k in incompatible.missing_keys if matters(k)],
        "left over": [k for k in incompatible.unexpected_keys if matters(k)],
    }
    reasons = [
        f"{len(names)} {what}: {', '.join(names[:SHOWN])}{' ...' if len(names) > SHOWN else ''}"
        for what, names in wrong.items()
        if names
    ]
    if reasons:
        raise CheckpointError(
            "the checkpoint is of another network than the config describes; " + "; ".join(reasons)
        )


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
