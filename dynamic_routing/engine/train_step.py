"""One training step: forward, backward, clip, update; in full or mixed precision."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn


class TrainStep(SimpleTrainer):
    """Detectron2's SimpleTrainer plus clipping by the global norm and autocast on any device.

    Args:
        model: maps a batch to a dict of losses.
        data_loader: batches.
        optimizer: what updates the model.
        clip_norm: bound of the norm of all gradients together, None for none.
        autocast: data type of mixed precision, None for full precision. float16 scales the loss.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        *,
        clip_norm: float | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.clip_norm = clip_norm
        self.autocast = autocast
        device = next(model.parameters()).device.type
        self.device_type = device
        self.scaler = torch.amp.GradScaler(device, enabled=autocast == torch.float16)

    def run_step(self) -> None:
        """Take one batch and update the model once."""
        assert self.model.training, "the model was left in evaluation mode"
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        with torch.autocast(
            self.device_type, dtype=self.autocast, enabled=self.autocast is not None
        ):
            losses = self.model(batch)
        self.optimizer.zero_grad()
        self.scaler.scale(sum(losses.values())).backward()
        self.after_backward()
        self._write(losses, data_time)
        self._update()

    def _write(self, losses: Mapping[str, Tensor], data_time: float) -> None:
        """Hand the losses to the event storage.

        Raises:
            ValueError: their sum is not finite.
        """
        try:
            self._write_metrics(losses, data_time)
        except FloatingPointError as error:
            found = ", ".join(f"{name} {float(loss.detach()):g}" for name, loss in losses.items())
            raise ValueError(
                f"the loss is not finite at iteration {self.iter}: {found}; a lower SOLVER.BASE_LR "
                "or lower weights of the losses on routes may help"
            ) from error

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
