"""Reading and writing files of weights: tensors and plain Python, never code.

``.pth`` is read with ``weights_only=True``; ``.safetensors`` cannot hold code at all. A pickle runs
whatever its author wanted as soon as it is read, so one that holds more than tensors is refused
unless the caller says that he trusts it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynamic_routing.files import atomic_file

SAFETENSORS = ".safetensors"
SUFFIXES = (".pth", SAFETENSORS)
"""Files of weights that are read and written."""

PICKLES = (".pkl", ".pickle", ".pt", ".bin", ".ckpt", ".pyth")
"""What else weights are called; read only by a caller who trusts them."""

CONVERT = "tools/convert_weights.py IN OUT --trust"
"""The command that turns a pickle into a file without code, running what it holds."""

_ROUTING = "routing"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used here; its message is one line."""


def read_weights(path: str | Path, *, trust: bool = False) -> dict[str, Any]:
    """Read a file of weights onto the CPU.

    Args:
        path: a ``.pth`` or ``.safetensors`` file; with ``trust`` any pickle.
        trust: run the code that a pickle may hold. Only for files of a known source.

    Returns:
        A dict with "model" (name -> tensor) and whatever else the file holds.

    Raises:
        CheckpointError: missing, damaged, of another kind, or holding code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    if path.suffix == SAFETENSORS:
        return _read_safetensors(path)
    if path.suffix not in SUFFIXES and not trust:
        pickled = f"; a pickle could run code, convert it knowingly: {CONVERT}"
        raise CheckpointError(
            f"{path}: only .pth and .safetensors checkpoints are read"
            + (pickled if path.suffix in PICKLES else "")
        )
    return _with_model(_load(path, trust=trust), path)


def _load(path: Path, *, trust: bool) -> Any:
    """torch.load, with one line for whatever it raises."""
    try:
        return torch.load(path, map_location="cpu", weights_only=not trust)
    except Exception as error:  # torch raises many kinds for damaged or unsafe files
        reason = str(error).split("\n", 1)[0]
        hint = "" if trust else f" (a pickle of a source you trust: {CONVERT})"
        raise CheckpointError(f"checkpoint {path} cannot be read: {reason}{hint}") from None


def _with_model(loaded: Any, path: Path) -> dict[str, Any]:
    """A dict with "model", whatever wrapper the file has."""
    if not isinstance(loaded, dict):
        raise CheckpointError(f"checkpoint {path} holds {type(loaded).__name__}, not a dict")
    content = loaded if "model" in loaded else {"model": loaded}
    if not isinstance(content["model"], Mapping):
        kind = type(content["model"]).__name__
        raise CheckpointError(f'checkpoint {path}: "model" holds {kind}, not tensors by name')
    for name, value in content["model"].items():
        if not isinstance(name, str) or not isinstance(value, Tensor | np.ndarray):
            kind = type(value).__name__
            raise CheckpointError(f"checkpoint {path}: {name!r} is {kind}, not a tensor")
    return _with_rules(content, path)


def _with_rules(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """The content, if its description of routing networks is one or missing."""
    rules = content.get(_ROUTING, {})
    if not isinstance(rules, dict) or not all(isinstance(r, dict) for r in rules.values()):
        raise CheckpointError(f'checkpoint {path}: "{_ROUTING}" is no description of networks')
    return content


def _read_safetensors(path: Path) -> dict[str, Any]:
    """Tensors, and the description of routing networks that :func:`write_weights` stores."""
    safe_open = _safetensors().safe_open
    try:
        with safe_open(path, framework="pt") as file:
            described = (file.metadata() or {}).get(_ROUTING, "{}")
            content: dict[str, Any] = {"model": {k: file.get_tensor(k) for k in file.keys()}}  # noqa: SIM118
        routing = json.loads(described)
    except Exception as error:  # its own error type for damaged files, JSON's for the description
        reason = str(error).split("\n", 1)[0]
        raise CheckpointError(f"checkpoint {path} cannot be read: {reason}") from None
    return _with_rules({**content, _ROUTING: routing} if routing else content, path)


def write_weights(
    path: str | Path, state: Mapping[str, Tensor], *, routing: Mapping[str, Any] | None = None
) -> Path:
    """Write weights in one step, as the suffix of ``path`` says.

    Args:
        path: ends in ``.pth`` or ``.safetensors``.
        state: name -> tensor.
        routing: what decides the results of each routing network without being a tensor.

    Raises:
        CheckpointError: another suffix.
        OSError: the folder cannot be written.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"weights are written as {' or '.join(SUFFIXES)}, got {path}")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    if path.suffix == SAFETENSORS:
        text = json.dumps(routing or {})
        content = _safetensors().torch.save(
            {name: tensor.clone() for name, tensor in state.items()}, {_ROUTING: text}
        )
        with atomic_file(path) as file:
            file.write(content)
        return path
    described = {_ROUTING: dict(routing)} if routing else {}
    with atomic_file(path) as file:
        torch.save({"model": state, **described}, file)
    return path


def _safetensors() -> Any:
    """The library, imported where it is needed."""
    try:
        import safetensors
        import safetensors.torch
    except ImportError:
        raise CheckpointError(
            "safetensors files need the package of this name: pip install safetensors"
        ) from None
    return safetensors
