"""Reading and writing files of weights: tensors and plain Python, never code.

``.pth`` is read with ``weights_only=True``; ``.safetensors`` cannot hold code at all. A pickle runs
whatever its author wanted as soon as it is read, so one that holds more than tensors is refused
unless the caller says that he trusts it.
"""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
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

CONVERT = "tools/convert_weights.py IN OUT --config-file F --trust"
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
    """Any pickle if it is trusted, else tensors and plain Python; one line for whatever fails."""
    try:
        if trust:
            return _load_trusted(path)
        _refuse_compressed(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error, if there is one, says it
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged or unsafe files
        refused = isinstance(error, pickle.UnpicklingError) and not trust
        hint = f" (a pickle of a source you trust: {CONVERT})" if refused else ""
        raise CheckpointError(f"checkpoint {path} cannot be read: {_reason(error)}{hint}") from None


def _refuse_compressed(path: Path) -> None:
    """A few megabytes can unpack to more than the machine has; torch.save never compresses.

    Raises:
        ValueError: names a part that is compressed.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            if part.compress_type != zipfile.ZIP_STORED or part.file_size != part.compress_size:
                raise ValueError(
                    f"{part.filename!r} in it is compressed, to {part.file_size} bytes"
                )


def _load_trusted(path: Path) -> Any:
    """What torch.save wrote, or a plain pickle such as those of Detectron2's model zoo."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            content = pickle.load(file, encoding="latin1")  # as Detectron2 reads its own
        if not isinstance(content, int):  # else the number that torch.save began with before 1.6
            return content
    return torch.load(path, map_location="cpu", weights_only=False)


def _reason(error: Exception) -> str:
    """Kind and first sentence of an error; some of torch's say nothing without their kind."""
    return f"{type(error).__name__} {error}".split("\n", 1)[0].split(". ", 1)[0].strip()


def _with_model(loaded: Any, path: Path) -> dict[str, Any]:
    """A dict with "model", whatever wrapper the file has."""
    if not isinstance(loaded, dict):
        raise CheckpointError(f"checkpoint {path} holds {type(loaded).__name__}, not a dict")
    content = loaded if "model" in loaded else {"model": loaded}
    if not isinstance(content["model"], Mapping):
        kind = type(content["model"]).__name__
        raise CheckpointError(f'checkpoint {path}: "model" holds {kind}, not tensors by name')
    try:
        state = {_name(name): _tensor(name, value) for name, value in content["model"].items()}
        return {**content, "model": state, **_rules(content)}
    except ValueError as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from None


def _name(name: Any) -> str:
    """A tensor's name."""
    if not isinstance(name, str) or not name.isprintable():
        raise ValueError(f"tensors need names, got {name!r}")
    return name


def _tensor(name: str, value: Any) -> Tensor:
    """A dense tensor of real numbers."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "fiub":
        value = torch.from_numpy(np.array(value))
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} is no tensor but {type(value).__name__}")
    if value.is_meta:
        raise ValueError(f"{name} has a shape but no numbers")
    if value.layout != torch.strided or value.is_complex() or value.is_quantized:
        raise ValueError(f"{name} is no dense tensor of real numbers: {value.dtype} {value.layout}")
    return value


def _rules(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The description of routing networks, if there is one."""
    rules = content.get(_ROUTING, {})
    if not isinstance(rules, dict) or not all(isinstance(v, dict) for v in rules.values()):
        raise ValueError(f'"{_ROUTING}" must hold rules by network')
    values = [value for network in rules.values() for value in network.values()]
    odd = [value for value in values if not _is_plain(value)]
    if odd:
        raise ValueError(f'"{_ROUTING}" must hold numbers and words, got {odd[0]!r}'.split("\n")[0])
    return {_ROUTING: rules} if rules else {}


def _is_plain(value: Any) -> bool:
    """Whether a rule's value can be compared and shown in one line."""
    if isinstance(value, list | tuple):
        return all(_is_plain(v) for v in value)
    printable = isinstance(value, str) and value.isprintable()
    return printable or value is None or isinstance(value, bool | int | float)


def _read_safetensors(path: Path) -> dict[str, Any]:
    """Tensors, and the description of routing networks that :func:`write_weights` stores."""
    safe_open = _safetensors().safe_open
    try:
        with safe_open(path, framework="pt") as file:
            described = (file.metadata() or {}).get(_ROUTING, "{}")
            content: dict[str, Any] = {"model": {k: file.get_tensor(k) for k in file.keys()}}  # noqa: SIM118
        content[_ROUTING] = json.loads(described)
    except Exception as error:  # its own error type for damaged files, JSON's for the description
        raise CheckpointError(f"checkpoint {path} cannot be read: {_reason(error)}") from None
    return _with_model(content, path)


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
