"""One training step: forward, backward, clip, update; in full or mixed precision."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from dynamic_routing.engine.unread import fill_missing_gradients, tie


class TrainStep(SimpleTrainer):
    """Detectron2's SimpleTrainer plus clipping, autocast on any device and accumulation.

    Args:
        model: maps a batch to a dict of losses, each a mean over the images.
        data_loader: batches, of all images that this process contributes to a step.
        optimizer: what updates the model.
        clip_norm: bound of the norm of all gradients together, None for none.
        autocast: data type of mixed precision, None for full precision. float16 scales the loss.
        accumulation: parts of a batch that pass the model one after the other, with one update
            for all: as much memory as a part needs.

    Raises:
        ValueError: fewer parts than one.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        *,
        clip_norm: float | None = None,
        autocast: torch.dtype | None = None,
        accumulation: int = 1,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        if accumulation < 1:
            raise ValueError(f"a batch has at least 1 part, got {accumulation}")
        self.clip_norm = clip_norm
        self.autocast = autocast
        self.accumulation = accumulation
        device = next(model.parameters()).device.type
        self.device_type = device
        self.scaler = torch.amp.GradScaler(device, enabled=autocast == torch.float16)
        self._learning = [p for p in model.parameters() if p.requires_grad]

    def run_step(self) -> None:
        """Take one batch and update the model once."""
        assert self.model.training, "the model was left in evaluation mode"
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self.optimizer.zero_grad()
        losses: dict[str, Tensor] = {}
        parts = split(batch, self.accumulation)
        for i, part in enumerate(parts):
            with self._without_exchange(last=i == len(parts) - 1):
                found = self._backward(part, share=len(part) / len(batch))
            losses = {name: losses.get(name, 0) + value for name, value in found.items()}
        fill_missing_gradients(self._learning)
        self.after_backward()
        self._write_metrics(losses, data_time)
        self._update()

    def _backward(self, part: Sequence[Any], *, share: float) -> dict[str, Tensor]:
        """Add the gradients of a part of the batch; its losses, weighted by its share."""
        with torch.autocast(
            self.device_type, dtype=self.autocast, enabled=self.autocast is not None
        ):
            losses = self.model(part)
        if share != 1:
            losses = {name: share * loss for name, loss in losses.items()}
        total = tie(sum(losses.values()), self._learning)
        self.scaler.scale(total).backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def _without_exchange(self, *, last: bool) -> AbstractContextManager[None]:
        """Processes exchange gradients once a step, with the last part."""
        parallel = isinstance(self.model, nn.parallel.DistributedDataParallel)
        return self.model.no_sync() if parallel and not last else nullcontext()

    def _update(self) -> None:
        """Clip and step."""
        if self.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            norm = nn.utils.clip_grad_norm_(parameters, self.clip_norm)
            get_event_storage().put_scalar("grad_norm", float(norm), smoothing_hint=False)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """Iteration, optimiser and, for float16, the loss scale."""
        state = super().state_dict()
        state["scaler"] = self.scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        super().load_state_dict(state_dict)
        if state_dict.get("scaler"):
            self.scaler.load_state_dict(state_dict["scaler"])


def split(batch: Sequence[Any], parts: int) -> list[Sequence[Any]]:
    """A batch in ``parts`` consecutive parts whose sizes differ by at most 1.

    Raises:
        ValueError: fewer images than parts.
    """
    if len(batch) < parts:
        raise ValueError(
            f"SOLVER.ACCUMULATION_STEPS {parts} needs at least as many images in the batch of "
            f"each process, got {len(batch)}"
        )
    if parts == 1:
        return [batch]
    bounds = [len(batch) * i // parts for i in range(parts + 1)]
    return [batch[a:b] for a, b in zip(bounds, bounds[1:])]
