"""Values that a config must have, checked before anything is built."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from detectron2.config import CfgNode
from detectron2.layers import get_norm
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY

from dynamic_routing.modeling.neck import NECKS

TRIAL_CHANNELS = 32


def config_problems(cfg: CfgNode) -> Iterator[str]:
    """One line for each key whose value cannot work: what was given and what is allowed."""
    yield from _names(cfg)
    yield from _numbers(cfg)
    yield from _lengths(cfg)


def _names(cfg: CfgNode) -> Iterator[str]:
    model = cfg.MODEL
    for key, name, registry in (
        ("MODEL.META_ARCHITECTURE", model.META_ARCHITECTURE, META_ARCH_REGISTRY),
        ("MODEL.BACKBONE.NAME", model.BACKBONE.NAME, BACKBONE_REGISTRY),
        ("MODEL.SEM_SEG_HEAD.NAME", model.SEM_SEG_HEAD.NAME, SEM_SEG_HEADS_REGISTRY),
    ):
        if name not in registry:
            yield f"{key} {name!r} is not registered; known: {', '.join(sorted(dict(registry)))}"
    neck = model.DYNAMIC_ROUTING.NECK
    if neck not in NECKS:
        yield f"MODEL.DYNAMIC_ROUTING.NECK {neck!r} is unknown; allowed: {', '.join(NECKS)}"
    for key, norm in (
        ("MODEL.DYNAMIC_ROUTING.NORM", model.DYNAMIC_ROUTING.NORM),
        ("MODEL.SEM_SEG_HEAD.NORM", model.SEM_SEG_HEAD.NORM),
    ):
        try:
            get_norm(norm, TRIAL_CHANNELS)
        except KeyError:
            yield f"{key} {norm!r} is unknown; allowed: BN, SyncBN, naiveSyncBN, GN, FrozenBN, LN"
    try:
        torch.device(model.DEVICE)
    except RuntimeError:
        yield f"MODEL.DEVICE {model.DEVICE!r} is unknown; allowed: auto, cpu, cuda, cuda:0, ..."


def _numbers(cfg: CfgNode) -> Iterator[str]:
    budget = cfg.MODEL.DYNAMIC_ROUTING.BUDGET
    for key, value in (
        ("SOLVER.MAX_ITER", cfg.SOLVER.MAX_ITER),
        ("SOLVER.IMS_PER_BATCH", cfg.SOLVER.IMS_PER_BATCH),
        ("MODEL.DYNAMIC_ROUTING.BUDGET.PROBE_PERIOD", budget.PROBE_PERIOD),
        ("MODEL.DYNAMIC_ROUTING.BUDGET.PROBE_IMAGES", budget.PROBE_IMAGES),
    ):
        if value < 1:
            yield f"{key} must be at least 1, got {value}"
    for name in ("LAMBDA", "TARGET_GMACS"):
        if budget[name] < 0:
            yield f"MODEL.DYNAMIC_ROUTING.BUDGET.{name} must be at least 0, got {budget[name]}"
    for name in ("MU", "START", "RAMP", "ARRIVE"):
        if not 0 <= budget[name] <= 1:
            yield f"MODEL.DYNAMIC_ROUTING.BUDGET.{name} must be in [0, 1], got {budget[name]}"
    if budget.TARGET_GMACS > 0 and not budget.START < budget.ARRIVE:
        yield f"BUDGET.START {budget.START} must lie before BUDGET.ARRIVE {budget.ARRIVE}"


def _lengths(cfg: CfgNode) -> Iterator[str]:
    for key, value in (
        ("INPUT.SCALE_RANGE", cfg.INPUT.SCALE_RANGE),
        ("INPUT.SEM_SEG_CROP", cfg.INPUT.SEM_SEG_CROP),
        (
            "MODEL.DYNAMIC_ROUTING.BUDGET.TARGET_SIZE",
            cfg.MODEL.DYNAMIC_ROUTING.BUDGET.TARGET_SIZE,
        ),
    ):
        if len(value) != 2 or min(value) <= 0:
            yield f"{key} must be two positive numbers, got {list(value)}"
    mean, std = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    channels = 1 if cfg.INPUT.FORMAT == "L" else 3
    if not len(mean) == len(std) == channels:
        yield (
            f"MODEL.PIXEL_MEAN and PIXEL_STD need {channels} values for INPUT.FORMAT "
            f"{cfg.INPUT.FORMAT}, got {len(mean)} and {len(std)}"
        )
