"""Values that a config must have, checked before anything is built."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from detectron2.config import CfgNode
from detectron2.layers import get_norm
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    GeneralizedRCNN,
    RetinaNet,
)

from dynamic_routing.divdr.loss import NORM_POWERS
from dynamic_routing.divdr.sources import SOURCES
from dynamic_routing.modeling.features import feature_name
from dynamic_routing.modeling.neck import NECKS

FPN_BACKBONE = "build_dynamic_routing_fpn_backbone"
TRIAL_CHANNELS = 32
EVALUATED = ("model", "ema", "both")
"""Values of MODEL.EMA.EVALUATE."""

MAX_SEED = 2**32 - 1
"""The largest seed that scikit-learn and NumPy take."""


def config_problems(cfg: CfgNode) -> Iterator[str]:
    """One line for each key whose value cannot work: what was given and what is allowed."""
    yield from _names(cfg)
    yield from _features(cfg)
    yield from _numbers(cfg)
    yield from _classifier(cfg)
    yield from _divdr(cfg)
    yield from _lengths(cfg)
    yield from _average(cfg)
    yield from _precision(cfg)
    yield from _run(cfg)


def _names(cfg: CfgNode) -> Iterator[str]:
    model = cfg.MODEL
    for key, name, registry in (
        ("MODEL.META_ARCHITECTURE", model.META_ARCHITECTURE, META_ARCH_REGISTRY),
        ("MODEL.BACKBONE.NAME", model.BACKBONE.NAME, BACKBONE_REGISTRY),
        ("MODEL.SEM_SEG_HEAD.NAME", model.SEM_SEG_HEAD.NAME, SEM_SEG_HEADS_REGISTRY),
        ("MODEL.ROI_HEADS.NAME", model.ROI_HEADS.NAME, ROI_HEADS_REGISTRY),
        (
            "MODEL.PROPOSAL_GENERATOR.NAME",
            model.PROPOSAL_GENERATOR.NAME,
            PROPOSAL_GENERATOR_REGISTRY,
        ),
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


def _features(cfg: CfgNode) -> Iterator[str]:
    """Whether the heads of a detector ask for what the routed backbone delivers."""
    model = cfg.MODEL
    if model.META_ARCHITECTURE not in META_ARCH_REGISTRY:
        return
    kind = META_ARCH_REGISTRY.get(model.META_ARCHITECTURE)
    heads = {}
    if issubclass(kind, GeneralizedRCNN):
        heads = {"RPN": model.RPN.IN_FEATURES, "ROI_HEADS": model.ROI_HEADS.IN_FEATURES}
    elif issubclass(kind, RetinaNet):
        heads = {"RETINANET": model.RETINANET.IN_FEATURES}
    if heads and model.BACKBONE.NAME == "build_dynamic_routing_backbone":
        yield (
            f"MODEL.BACKBONE.NAME {model.BACKBONE.NAME} has another width at every level; "
            f"{model.META_ARCHITECTURE} needs build_dynamic_routing_fpn_backbone"
        )
    if model.BACKBONE.NAME != FPN_BACKBONE or model.DYNAMIC_ROUTING.SPACE.EDGES:
        return
    space = model.DYNAMIC_ROUTING.SPACE
    delivered = [feature_name(s) for s in range(space.NUM_OUTPUT_SCALES or space.NUM_SCALES)]
    for head, wanted in heads.items():
        missing = [name for name in wanted if name not in delivered]
        if missing:
            yield (
                f"MODEL.{head}.IN_FEATURES asks for {', '.join(missing)}; the backbone delivers "
                f"{', '.join(delivered)} (SPACE.NUM_OUTPUT_SCALES {space.NUM_OUTPUT_SCALES})"
            )
    levels = len(next(iter(heads.values()), ()))
    for key in ("SIZES", "ASPECT_RATIOS"):
        given = len(model.ANCHOR_GENERATOR[key])
        if heads and given not in (1, levels):
            yield (
                f"MODEL.ANCHOR_GENERATOR.{key} has {given} entries; 1 or {levels}, one a level of "
                f"MODEL.{next(iter(heads))}.IN_FEATURES, are needed"
            )


def _numbers(cfg: CfgNode) -> Iterator[str]:
    budget = cfg.MODEL.DYNAMIC_ROUTING.BUDGET
    for key, value in (
        ("SOLVER.MAX_ITER", cfg.SOLVER.MAX_ITER),
        ("SOLVER.IMS_PER_BATCH", cfg.SOLVER.IMS_PER_BATCH),
        ("SOLVER.ACCUMULATION_STEPS", cfg.SOLVER.ACCUMULATION_STEPS),
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


def _classifier(cfg: CfgNode) -> Iterator[str]:
    """MODEL.CLASSIFIER and INPUT.CLASSIFICATION."""
    model, data = cfg.MODEL.CLASSIFIER, cfg.INPUT.CLASSIFICATION
    for key, value, least in (
        ("MODEL.CLASSIFIER.NUM_CLASSES", model.NUM_CLASSES, 2),
        ("INPUT.CLASSIFICATION.SIZE", data.SIZE, 1),
        ("INPUT.CLASSIFICATION.TEST_RESIZE", data.TEST_RESIZE, 1),
    ):
        if value < least:
            yield f"{key} must be at least {least}, got {value}"
    if not 0 <= model.LABEL_SMOOTHING < 1:
        yield f"MODEL.CLASSIFIER.LABEL_SMOOTHING must be in [0, 1), got {model.LABEL_SMOOTHING}"
    scales = list(data.SCALE_RANGE)
    numbers = all(isinstance(value, int | float) for value in scales)
    if not numbers or len(scales) != 2 or not 0 < scales[0] <= scales[1] <= 1:
        yield f"INPUT.CLASSIFICATION.SCALE_RANGE must be two ordered shares, got {scales}"


def _divdr(cfg: CfgNode) -> Iterator[str]:
    divdr, prefix = cfg.MODEL.DYNAMIC_ROUTING.DIVDR, "MODEL.DYNAMIC_ROUTING.DIVDR."
    clusters = divdr.NUM_CLUSTERS
    if clusters < 0 or clusters == 1:
        yield (
            f"{prefix}NUM_CLUSTERS must be 0 (off) or at least 2, got {clusters} (one cluster is "
            "the trivial solution: no other centre to keep away from)"
        )
    for name, least in (
        ("WEIGHT", 0),
        ("MARGIN", 0),
        ("PERIOD", 1),
        ("START_ITER", 0),
        ("SUBSET_SIZE", max(clusters, 1)),
        ("MAX_IMAGES", max(clusters, 1)),
    ):
        if divdr[name] < least:
            yield f"{prefix}{name} must be at least {least}, got {divdr[name]}"
        if not math.isfinite(divdr[name]):
            yield f"{prefix}{name} must be finite, got {divdr[name]}"
    if not 0 <= divdr.SEED <= MAX_SEED:
        yield f"{prefix}SEED must be in [0, {MAX_SEED}], got {divdr.SEED}"
    if divdr.NORM_POWER not in NORM_POWERS:
        yield f"{prefix}NORM_POWER must be one of {NORM_POWERS}, got {divdr.NORM_POWER}"
    if divdr.SOURCE not in SOURCES:
        yield f"{prefix}SOURCE {divdr.SOURCE!r} is unknown; allowed: {', '.join(SOURCES)}"
    if divdr.PERIOD_FINAL and divdr.PERIOD_FINAL < divdr.PERIOD:
        yield f"{prefix}PERIOD_FINAL must be 0 or at least PERIOD, got {divdr.PERIOD_FINAL}"
    if clusters and divdr.START_ITER >= cfg.SOLVER.MAX_ITER:
        yield (
            f"{prefix}START_ITER {divdr.START_ITER} must lie before SOLVER.MAX_ITER "
            f"{cfg.SOLVER.MAX_ITER}"
        )


def _average(cfg: CfgNode) -> Iterator[str]:
    """MODEL.EMA."""
    average = cfg.MODEL.EMA
    if not 0 <= average.DECAY < 1:
        yield f"MODEL.EMA.DECAY must be in [0, 1), got {average.DECAY}"
    if average.EVALUATE not in EVALUATED:
        allowed = ", ".join(EVALUATED)
        yield f"MODEL.EMA.EVALUATE {average.EVALUATE!r} is unknown; allowed: {allowed}"


def _precision(cfg: CfgNode) -> Iterator[str]:
    """SOLVER.AMP."""
    name, allowed = cfg.SOLVER.AMP.DTYPE, ("auto", "bfloat16", "float16")
    if name not in allowed:
        yield f"SOLVER.AMP.DTYPE {name!r} is unknown; allowed: {', '.join(allowed)}"
    if cfg.SOLVER.AMP.ENABLED and name == "float16" and cfg.MODEL.DEVICE == "cpu":
        yield "SOLVER.AMP.DTYPE float16 needs a GPU; on the CPU there is bfloat16"


def _run(cfg: CfgNode) -> Iterator[str]:
    """What a run needs besides its model."""
    for key, value in (
        ("SOLVER.CHECKPOINT_PERIOD", cfg.SOLVER.CHECKPOINT_PERIOD),
        ("DATALOADER.NUM_WORKERS", cfg.DATALOADER.NUM_WORKERS),
    ):
        if value < 0:
            yield f"{key} must be at least 0, got {value}"
    if cfg.SEED > MAX_SEED:
        yield f"SEED must be at most {MAX_SEED}, got {cfg.SEED}"
    if not cfg.OUTPUT_DIR:  # Detectron2 would train and write no checkpoint at all
        yield "OUTPUT_DIR is empty: it must name a folder, else a run could keep nothing"


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
