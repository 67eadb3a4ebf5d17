"""Optimiser, precision and schedule of the papers' recipe (Li et al. 2020, Sec. 4.1)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler
from detectron2.solver.build import (
    get_default_optimizer_params,
    maybe_add_gradient_clipping,
)
from detectron2.solver.lr_scheduler import WarmupParamScheduler
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler
from torch import nn

logger = logging.getLogger(__name__)

FULL_MODEL = "full_model"
"""``SOLVER.CLIP_GRADIENTS.CLIP_TYPE`` that clips the norm of all gradients together."""

POLY = "WarmupPolyLR"
"""``SOLVER.LR_SCHEDULER_NAME`` of the polynomial schedule."""

BUILT_WITH = {
    "initial_lr": "SOLVER.BASE_LR",
    "weight_decay": "SOLVER.WEIGHT_DECAY",
    "momentum": "SOLVER.MOMENTUM",
}
"""What a checkpoint's optimiser brings back with it, and the keys that asked for it."""


def gate_parameter_names(model: nn.Module) -> set[str]:
    """Names of all parameters inside gates."""
    from dynamic_routing.routing.gates import Gate

    gates = [name for name, module in model.named_modules() if isinstance(module, Gate)]
    prefixes = tuple(f"{name}." for name in gates)
    return {name for name, _ in model.named_parameters() if prefixes and name.startswith(prefixes)}


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum; gates learn faster, norms do not decay.

    Reads SOLVER.BASE_LR, MOMENTUM, NESTEROV, WEIGHT_DECAY, WEIGHT_DECAY_NORM, BIAS_LR_FACTOR,
    WEIGHT_DECAY_BIAS, GATE_LR_FACTOR and CLIP_GRADIENTS. Clipping by the norm of the full model
    happens in the training step, every other kind in the optimiser, as Detectron2 does it.
    """
    solver = cfg.SOLVER
    in_gate = gate_parameter_names(model)
    parameters = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        lr_factor_func=lambda name: solver.GATE_LR_FACTOR if name in in_gate else 1.0,
    )
    sgd: type[torch.optim.Optimizer] = torch.optim.SGD
    if solver.CLIP_GRADIENTS.CLIP_TYPE != FULL_MODEL:
        sgd = maybe_add_gradient_clipping(cfg, sgd)
    return sgd(  # type: ignore[call-arg]
        parameters,
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        weight_decay=solver.WEIGHT_DECAY,
    )


def full_model_clip_norm(cfg: CfgNode) -> float | None:
    """The norm to which all gradients together are clipped, or None."""
    clip = cfg.SOLVER.CLIP_GRADIENTS
    return clip.CLIP_VALUE if clip.ENABLED and clip.CLIP_TYPE == FULL_MODEL else None


def build_lr_scheduler(
    cfg: CfgNode, optimizer: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LRScheduler:
    """Detectron2's schedulers, and ``WarmupPolyLR``: (1 - t) ** power after a warm-up."""
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME != POLY:
        return build_detectron2_lr_scheduler(cfg, optimizer)
    schedule = WarmupParamScheduler(
        PolynomialDecayParamScheduler(1.0, solver.POLY_LR_POWER),
        solver.WARMUP_FACTOR,
        min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0),
        solver.WARMUP_METHOD,
        solver.RESCALE_INTERVAL,
    )
    return LRMultiplier(optimizer, multiplier=schedule, max_iter=solver.MAX_ITER)


def scale_learning_rate(cfg: CfgNode) -> None:
    """Multiply BASE_LR by IMS_PER_BATCH / REFERENCE_IMS_PER_BATCH, in place, and say so."""
    solver = cfg.SOLVER
    reference = solver.REFERENCE_IMS_PER_BATCH
    if not reference or reference == solver.IMS_PER_BATCH:
        return
    before, solver.BASE_LR = solver.BASE_LR, solver.BASE_LR * solver.IMS_PER_BATCH / reference
    solver.REFERENCE_IMS_PER_BATCH = solver.IMS_PER_BATCH
    logger.info(
        "learning rate scaled from %g to %g: batch of %d images, recipe written for %d",
        before,
        solver.BASE_LR,
        solver.IMS_PER_BATCH,
        reference,
    )


def autocast_dtype(cfg: CfgNode, on_gpu: bool) -> torch.dtype | None:
    """Mixed precision that SOLVER.AMP asks for, or None. float16 comes with a scaled loss."""
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    chosen = {"bfloat16": torch.bfloat16, "float16": torch.float16}
    return chosen.get(cfg.SOLVER.AMP.DTYPE, torch.float16 if on_gpu else torch.bfloat16)


@contextmanager
def kept_settings_named(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Inside, a checkpoint may be loaded: names the keys of the config that then do not count."""
    wanted = _built_with(optimizer)
    yield
    found = _built_with(optimizer)
    kept = [key for key in wanted if wanted[key] != found[key]]
    if kept:
        logger.warning(
            "the run goes on with what its optimiser was built with, not with the config's %s: to "
            "change that, start from the checkpoint with MODEL.WEIGHTS, without --resume",
            ", ".join(kept),
        )


def _built_with(optimizer: torch.optim.Optimizer) -> dict[str, list[float]]:
    """The numbers of :data:`BUILT_WITH`, by key, one for each group of parameters."""
    groups = optimizer.param_groups
    return {key: [g[name] for g in groups if name in g] for name, key in BUILT_WITH.items()}
