"""Networks by LazyConfig, without letting a config call what it likes.

Detectron2's ``instantiate`` calls whatever ``_target_`` names, and its ``LazyConfig.load`` runs
Python files and YAML with Python tags. Here a config may only name what :data:`TARGETS` lists.

Example:
    >>> from detectron2.config import LazyCall as L
    >>> network = L(RoutingNetwork)(space=L(RoutingSpace.grid)(num_layers=16), width=64)
    >>> instantiate(network)
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import instantiate as detectron2_instantiate
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

TARGET = "_target_"
OWN = "dynamic_routing."

TARGETS = frozenset(
    {
        "dynamic_routing.modeling.backbone.DynamicRoutingBackbone",
        "dynamic_routing.modeling.meta_arch.DynamicRoutingSemanticSegmentor",
        "dynamic_routing.modeling.sem_seg_head.DynamicRoutingSemSegHead",
        "dynamic_routing.routing.decoder.SegmentationDecoder",
        "dynamic_routing.routing.gates.GateSpec",
        "dynamic_routing.routing.network.RoutingNetwork",
        "dynamic_routing.routing.network.StemSpec",
        "dynamic_routing.routing.space.RoutingSpace.from_edges",
        "dynamic_routing.routing.space.RoutingSpace.from_scales",
        "dynamic_routing.routing.space.RoutingSpace.grid",
    }
)
"""What a config may call: constructors that only compute."""


class TargetError(ValueError):
    """A config that asks for a call that it may not make; its message is one line."""


def instantiate(config: Any, *, allow: Collection[str] = ()) -> Any:
    """Build what a LazyConfig describes, if every ``_target_`` in it is allowed.

    Args:
        config: a LazyCall, an OmegaConf node, or plain dicts and lists.
        allow: further targets, by their full dotted name, that the caller vouches for.

    Raises:
        TargetError: another target, named, or a value that cannot be resolved; nothing has been
            called then.
    """
    for target in _found_targets(config):
        if target not in allow and _full_name(target) not in {*TARGETS, *allow}:
            raise TargetError(
                f"a config may not call {target}; allowed are the constructors of "
                "dynamic_routing.modeling.lazy.TARGETS and what the caller adds"
            )
    if not isinstance(config, DictConfig | ListConfig):
        config = OmegaConf.create(config, flags={"allow_objects": True})
    return detectron2_instantiate(config)


def _found_targets(config: Any) -> list[Any]:
    """Every ``_target_``; one line for interpolations that lead nowhere or round in circles."""
    try:
        return list(_targets(config))
    except (OmegaConfBaseException, RecursionError) as error:
        raise TargetError(f"a config cannot be resolved: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]


def load_lazy_yaml(path: str | Path) -> DictConfig:
    """A LazyConfig from YAML, read without Python tags; nothing is called.

    Raises:
        TargetError: a Python file (which would have to be run), a missing one, no YAML, or YAML
            that OmegaConf cannot hold.
    """
    path = Path(path)
    if path.suffix not in (".yaml", ".yml"):
        raise TargetError(f"{path}: only YAML is read; a Python config runs code, import it")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError, RecursionError) as error:
        raise TargetError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise TargetError(f"{path} must hold config keys, got {type(content).__name__}")
    try:
        return OmegaConf.create(content)
    except (OmegaConfBaseException, RecursionError) as error:
        raise TargetError(f"{path} cannot be read: {_first_line(error)}") from None


def _full_name(target: Any) -> str:
    """Module and name of a target, which LazyCall may have shortened to ``package.name``.

    Only this package is looked into: importing what a config names would run code already.
    """
    if isinstance(target, str) and target.startswith(OWN):
        try:
            target = get_object(target)
        except Exception:  # hydra's own kinds for what does not exist
            return target
    if isinstance(target, str):
        return target
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', target)}"


def _targets(config: Any) -> Iterator[Any]:
    """Every ``_target_`` at any depth, interpolations resolved."""
    if isinstance(config, Mapping | DictConfig):
        if TARGET in config:
            yield config[TARGET]
        for key in config:
            yield from _targets(config[key])
    elif isinstance(config, list | tuple | ListConfig):
        for item in config:
            yield from _targets(item)
