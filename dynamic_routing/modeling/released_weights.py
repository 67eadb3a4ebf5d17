"""Tensor names of the released Dynamic Routing code, and ours, translated both ways.

The translation needs nothing but the names and tensors themselves. What it does not know it
refuses, so every tensor is accounted for. A gate's outputs stand in another order there: keep, up,
down instead of our up, keep, down.

Read off the public code: stem, cells, gates, decoder, the separable convolutions stacked twice
and three times, dilated, basic, Bottleneck and MBConv operations. A single separable convolution
is not among its operations; it is named as the dilated one. Pools and skips have no tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

SHOWN = 10
"""How many names an error lists."""

MARKS = ("backbone.stem.stem_1.", "backbone.all_cell_list.")
"""How tensors begin that every checkpoint of the released code has, and none of ours."""

OUR_MARKS = ("backbone.network.stem.first.", "backbone.network.cells.")

_BLOCKS = {  # a convolution with its norm: released name -> ours
    "backbone.stem.stem_1": "backbone.network.stem.first",
    "backbone.stem.stem_2.0": "backbone.network.stem.second.0",
    "backbone.stem.stem_2.1": "backbone.network.stem.second.1",
    "backbone.stem.stem_3.0": "backbone.network.stem.third.0",
    "backbone.stem.stem_3.1": "backbone.network.stem.third.1",
}
_CELL_BLOCKS = {
    "res_up.1": "transitions.up.project",
    "res_down.1": "transitions.down.project",
    "gate_conv_beta.0": "gate.squeeze",
}
_TENSORS = {"weight": "conv.weight"}  # released tensor of a block -> ours; norms keep theirs
_GATE_TENSORS = {  # rows of these are in order of the gate's outputs
    "gate_conv_beta.2.weight": "gate.predict.weight",
    "gate_conv_beta.2.bias": "gate.predict.bias",
    "gate_weights_beta": "gate.strength",
}
_RELEASED_EDGES = ("res_up.1.weight", "res_down.1.weight")  # a cell has them with these edges
_OUR_EDGES = ("transitions.up.project.conv.weight", "transitions.down.project.conv.weight")
_PREDICTOR = ("sem_seg_head.predictor.", "sem_seg_head.decoder.predictor.")
_LEVELS = ("sem_seg_head.layer_decoder_list.", "sem_seg_head.decoder.levels.")
_WRAPPER = "module."


class ReleasedWeightsError(ValueError):
    """Weights that cannot be translated; its message is one line."""


def is_released(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict uses the released code's names, DataParallel's prefix or not."""
    return _marked(state, MARKS)


def is_ours(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict uses our names."""
    return _marked(state, OUR_MARKS)


def _marked(state: Mapping[str, Tensor], marks: tuple[str, ...]) -> bool:
    """Whether a name begins so; any, as the first one may be what a broken file lacks."""
    return any(name.removeprefix(_WRAPPER).startswith(marks) for name in state)


def from_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A released state dict under our names.

    Args:
        state: name -> tensor, of any floating type, perhaps with DataParallel's ``module.``.

    Returns:
        The same tensors; gate outputs reordered.

    Raises:
        ReleasedWeightsError: names that the released code does not use, the first ten of them.
    """
    bare = _bare(state)
    return _translated(bare, {name: _our_name(name) for name in bare}, to_ours=True)


def to_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One of our state dicts under the released code's names; undoes :func:`from_released`.

    Raises:
        ReleasedWeightsError: tensors without a counterpart there, such as pyramid pooling.
    """
    bare = _bare(state)
    return _translated(bare, {name: _released_name(name) for name in bare}, to_ours=False)


def _bare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefix that DataParallel puts before every name."""
    wrapped = bool(state) and all(name.startswith(_WRAPPER) for name in state)
    return {name.removeprefix(_WRAPPER) if wrapped else name: x for name, x in state.items()}


def _translated(
    state: Mapping[str, Tensor], names: Mapping[str, str | None], *, to_ours: bool
) -> dict[str, Tensor]:
    """The tensors under their new names, rows of gates reordered."""
    unknown = [name for name, new in names.items() if new is None]
    if unknown:
        whose = "the released code does not" if to_ours else "only ours does, not the released code"
        raise ReleasedWeightsError(
            f"{len(unknown)} tensors have a name that {whose} use: {listed(unknown)}"
        )
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        new = names[name]
        assert new is not None, "refused above"
        if new in result:
            raise ReleasedWeightsError(f"{name} and another tensor both are our {new}")
        result[new] = _gate_rows(state, name, tensor, to_ours=to_ours)
    return result


def listed(names: list[str]) -> str:
    """The first ten names."""
    return ", ".join(names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")


# Names ------------------------------------------------------------------------------------------


def _our_name(name: str) -> str | None:
    """Our name of a released tensor, None if there is none."""
    for released, ours in (_PREDICTOR, _LEVELS):
        if name.startswith(released):
            rest = name.removeprefix(released)
            return ours + (rest if released == _PREDICTOR[0] else _block_tensor(rest))
    in_stem = _name_in_block(name, _BLOCKS)
    if in_stem is not None:
        return in_stem
    cell = re.fullmatch(r"backbone\.(?:init_layer|all_cell_list\.(\d+)\.(\d+))\.(.+)", name)
    if not cell:
        return None
    layer, scale, rest = cell.groups()
    ours_in_cell = _our_name_in_cell(rest)
    where = "initial" if layer is None else f"{layer}_{scale}"
    return None if ours_in_cell is None else f"backbone.network.cells.{where}.{ours_in_cell}"


def _our_name_in_cell(name: str) -> str | None:
    if name in _GATE_TENSORS:
        return _GATE_TENSORS[name]
    in_block = _name_in_block(name, _CELL_BLOCKS)
    if in_block is not None:
        return in_block
    operation = re.fullmatch(r"cell_ops\._ops\.(\d+)\.op\.(?:(\d+)\.)?(weight|norm\..+)", name)
    if not operation:
        return None
    index, step, tensor = operation.groups()
    step = "" if step is None else f"{step}."
    return f"operations.{index}.{step}{_TENSORS.get(tensor, tensor)}"


def _name_in_block(name: str, blocks: Mapping[str, str]) -> str | None:
    """Our name of a tensor of one of the blocks (released name -> ours), None if it is of none."""
    for released, ours in blocks.items():
        if name.startswith(f"{released}."):
            tensor = name.removeprefix(f"{released}.")
            return f"{ours}.{_TENSORS.get(tensor, tensor)}"
    return None


def _block_tensor(rest: str) -> str:
    """``2.weight`` -> ``2.conv.weight``; norms keep their names."""
    index, _, tensor = rest.partition(".")
    return f"{index}.{_TENSORS.get(tensor, tensor)}"


def _released_name(name: str) -> str | None:
    """The released name of one of our tensors: the one that translates back to it."""
    return next((c for c in _candidates(name) if _our_name(c) == name), None)


def _candidates(name: str) -> Iterator[str]:
    """Released names that could stand for ours; the way back decides."""
    plain = name.replace(".conv.weight", ".weight")
    for released, ours in (_PREDICTOR, _LEVELS):
        if plain.startswith(ours):
            yield released + plain.removeprefix(ours)
    for released, ours in _BLOCKS.items():
        yield plain.replace(f"{ours}.", f"{released}.")
    cell = re.fullmatch(r"backbone\.network\.cells\.(?:initial|(\d+)_(\d+))\.(.+)", plain)
    if not cell:
        return
    layer, scale, rest = cell.groups()
    where = "init_layer" if layer is None else f"all_cell_list.{layer}.{scale}"
    for released, ours in {**_CELL_BLOCKS, **_GATE_TENSORS}.items():
        if rest == ours or rest.startswith(f"{ours}."):
            yield f"backbone.{where}.{released}{rest.removeprefix(ours)}"
    operation = re.sub(r"^operations\.(\d+)\.", r"cell_ops._ops.\1.op.", rest)
    yield f"backbone.{where}.{operation}"


# Rows of gates ----------------------------------------------------------------------------------


def _gate_rows(state: Mapping[str, Tensor], name: str, tensor: Tensor, *, to_ours: bool) -> Tensor:
    """A gate's last tensors with their rows in the other order; every other tensor as it is."""
    suffixes = _GATE_TENSORS if to_ours else _GATE_TENSORS.values()
    suffix = next((s for s in suffixes if name.endswith(f".{s}")), None)
    if suffix is None:
        return tensor
    cell = name.removesuffix(suffix)
    up, down = (f"{cell}{edge}" in state for edge in (_RELEASED_EDGES if to_ours else _OUR_EDGES))
    order = _row_order(up=up, down=down, to_ours=to_ours)
    strengths = suffix in ("gate_weights_beta", "gate.strength")
    if strengths and to_ours:
        tensor = tensor.reshape(-1)  # (1, k, 1, 1) there, (k,) here
    rows = tensor.shape[0] if tensor.ndim else 0
    if rows > len(order):
        order = list(range(rows))  # transitions are missing, which holding the names up will tell
    if rows < len(order):
        raise ReleasedWeightsError(
            f"{name} has shape {tuple(tensor.shape)}, but its cell has {len(order)} edges"
        )
    tensor = tensor[order]
    return tensor.reshape(1, -1, 1, 1) if strengths and not to_ours else tensor


def _row_order(*, up: bool, down: bool, to_ours: bool) -> list[int]:
    """For each wanted row the present one, for a cell with these edges besides keep."""
    released = ["keep", *["up"] * up, *["down"] * down]
    ours = [*["up"] * up, "keep", *["down"] * down]
    present, wanted = (released, ours) if to_ours else (ours, released)
    return [present.index(kind) for kind in wanted]
