"""Checkpoints that are written whole, hold plain data, and are checked when loaded."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer

from dynamic_routing.files import atomic_file, write_atomically

SHOWN = 10
"""How many tensor names an error lists."""

REINITIALISED = ("predictor", "cls_score", "bbox_pred")
"""Layers whose shape follows the classes of the data: another shape starts them anew."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used here; its message is one line."""


class RoutingCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, but safe.

    Files are written under a temporary name and renamed, hold tensors and plain Python only, and
    are read with ``weights_only=True``. ``last_checkpoint`` may name a file of the run's own
    folder only. A checkpoint of another routing space is refused with the names that differ.
    """

    def save(self, name: str, *, tag: bool = True, **kwargs: Any) -> None:
        """Write ``name``.pth and, with ``tag``, make it the one that a resumed run takes."""
        if not self.save_dir or not self.save_to_disk:
            return
        data: dict[str, Any] = {"model": self.model.state_dict()}
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
        incompatible = super()._load_model(checkpoint)
        refuse_other_backbone(incompatible)
        return incompatible


def refuse_other_backbone(incompatible: Any) -> None:
    """Raise unless every backbone tensor found its place.

    Gates may be missing and fixed strengths left over: weights trained without gates start a
    gated network.

    Raises:
        CheckpointError: lists the first names that are missing, left over or of another shape.
    """
    fixed_gates = {k for k in incompatible.unexpected_keys if k.endswith(".gate.strength")}
    shapes = [f"{k} {tuple(a)} for {tuple(b)}" for k, a, b in incompatible.incorrect_shapes]
    wrong = {
        "of another shape": [
            s for s in shapes if not any(part in s.split(" ")[0] for part in REINITIALISED)
        ],
        "missing": [k for k in incompatible.missing_keys if "backbone" in k and ".gate." not in k],
        "left over": [
            k for k in incompatible.unexpected_keys if "backbone" in k and k not in fixed_gates
        ],
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
