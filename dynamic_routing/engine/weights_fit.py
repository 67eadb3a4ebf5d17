"""Whether the tensors of a file and those of a model fit each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from dynamic_routing.engine.weight_files import CheckpointError

SHOWN = 10
"""How many tensor names an error lists."""

REINITIALISED = ("predictor", "cls_score", "bbox_pred", "classifier.linear", "routing_losses")
"""What follows the classes of the data or the number of clusters: another shape starts it anew."""

_GATE, _STRENGTH = ".gate.", ".gate.strength"
"""What the names of gates' tensors, and of fixed gates' only ones, contain."""

_NECK = "backbone.neck."
"""Between the backbone and a detector's heads."""

COUNTER = "num_batches_tracked"
"""A norm's tensor that old checkpoints lack."""


def refuse_misfits(incompatible: Any, *, strict: bool, names: Sequence[str] = ()) -> None:
    """Raise unless the tensors found their places.

    For evaluation (``strict``) every tensor has to, but strengths of fixed gates, which are 1
    unless a file says otherwise, may be missing all together. For training those of the backbone
    have to, but all gates may be missing and fixed strengths left over, since weights trained
    without gates start a gated network, and a neck and layers that follow the classes start anew.

    Args:
        incompatible: fvcore's account of missing, left over and misshapen tensors.
        strict: whether the weights are for evaluation.
        names: every tensor of the model.

    Raises:
        CheckpointError: lists the first names that are missing, left over or of another shape.
    """
    free = _STRENGTH if strict else _GATE
    # torch fills in a missing counter by itself
    of_gates = {n for n in names if free in n and not n.endswith(COUNTER)}
    without_gates = of_gates <= set(incompatible.missing_keys)

    def matters(name: str) -> bool:
        """Whether a missing tensor counts."""
        if free in name and without_gates:
            return False
        return strict or _of_backbone(name)

    def too_much(name: str) -> bool:
        """Whether a tensor that is left over counts."""
        return strict or (_of_backbone(name) and _GATE not in name)

    shapes = [
        f"{name} {tuple(found)} for {tuple(wanted)}"
        for name, found, wanted in incompatible.incorrect_shapes
        if strict or not any(part in name for part in REINITIALISED)
    ]
    wrong = {
        "of another shape": shapes,
        "missing": [k for k in incompatible.missing_keys if matters(k)],
        "left over": [k for k in incompatible.unexpected_keys if too_much(k)],
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


def _of_backbone(name: str) -> bool:
    """Whether a tensor is of the backbone, less a detector's neck, which no other task has."""
    return "backbone" in name and _NECK not in name


def check_fit(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Hold the names and shapes of a state dict against a model, which may lie on "meta".

    Stricter than a training that starts from other weights: gates have to be there too.

    Returns:
        Tensors of the classifier that are of another shape and would start anew.

    Raises:
        CheckpointError: lists the first names that are missing, left over or of another shape.
    """
    own = model.state_dict()
    shapes = [
        (name, tuple(state[name].shape), tuple(tensor.shape))
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    anew = [s for s in shapes if any(part in s[0] for part in REINITIALISED)]
    found = SimpleNamespace(
        missing_keys=[n for n in own if n not in state and not n.endswith(COUNTER)],
        unexpected_keys=[n for n in state if n not in own],
        incorrect_shapes=[s for s in shapes if s not in anew],
    )
    refuse_misfits(found, strict=True, names=list(own))
    return [f"{name} {there} for {here}" for name, there, here in anew]
