"""Stopping a training whose numbers are no longer any, with what is needed to find out why."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from dynamic_routing.engine.checkpoint_history import TAG
from dynamic_routing.files import write_json
from dynamic_routing.routing import Routes, record_routes

POST_MORTEM = "post_mortem.json"
"""File in OUTPUT_DIR."""

SHOWN = 20
"""How many tensor names a post-mortem lists."""

logger = logging.getLogger(__name__)


class BadNumbersError(ValueError):
    """A NaN or infinite loss, gradient or weight; its message is one line."""


class BadNumbersGuard:
    """Looks at losses before the backward pass and at gradients before the update.

    What is bad on one process stops all of them, before the weights change. An infinite gradient
    under a loss scale (float16) never reaches the update, so it is no error.

    Args:
        folder: where ``post_mortem.json`` goes.
    """

    def __init__(self, folder: str | Path) -> None:
        self._path = Path(folder) / POST_MORTEM

    @contextmanager
    def watching(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, *, iteration: int
    ) -> Iterator[None]:
        """Inside, a forward of ``model`` and a step of ``optimizer`` are looked at.

        Raises:
            BadNumbersError: in all processes together, after the post-mortem is written.
        """
        with record_routes(model) as routes:
            step = _Step(self._path, model, optimizer, iteration=iteration, routes=routes)
            handles = [
                model.register_forward_pre_hook(step.look_at_batch),
                model.register_forward_hook(step.look_at_losses),
                optimizer.register_step_pre_hook(step.look_at_gradients),
            ]
            try:
                yield
            except FloatingPointError:  # Detectron2's RPN looks for itself
                step.stop(cause="prediction")
            finally:
                for handle in handles:
                    handle.remove()


class _Step:
    """One iteration: what has been seen of it."""

    def __init__(
        self,
        path: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        iteration: int,
        routes: list[Routes],
    ) -> None:
        self._path = path
        self._model = model
        self._optimizer = optimizer
        self._iteration = iteration
        self._routes = routes
        self._losses: dict[str, float | str] = {}
        self._names: list[str] = []

    def look_at_batch(self, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """A hook of the model before its forward."""
        self._names += _names(inputs[0]) if inputs else []

    def look_at_losses(self, _module: nn.Module, _inputs: tuple[Any, ...], losses: Any) -> None:
        """A forward hook of the model in training."""
        if not isinstance(losses, Mapping):
            return
        self._losses = {name: _readable(loss) for name, loss in losses.items()}
        # One number to wait for; it is bad if any loss is, or if together they are too large.
        total = sum(losses.values(), torch.zeros(()))
        self._stop_if(not is_finite(total), cause="loss")

    def look_at_gradients(self, *_arguments: Any) -> None:
        """A hook of the optimiser before its step."""
        self._stop_if(not finite_gradients(self._optimizer), cause="gradient")

    def stop(self, *, cause: str) -> NoReturn:
        """Write what all processes know and raise, in all of them at the same place.

        Raises:
            BadNumbersError: always.
        """
        anywhere(True, self._model)  # the others ask in look_at_losses
        self._raise(cause=cause)

    def _stop_if(self, bad: bool, *, cause: str) -> None:
        """Stop if it is bad in any process."""
        if anywhere(bad, self._model):
            self._raise(cause=cause)

    def _raise(self, *, cause: str) -> NoReturn:
        """Write the post-mortem and raise."""
        reports = comm.gather(self._report())
        if comm.is_main_process():
            about = {"iteration": self._iteration, "cause": cause, "processes": reports}
            write_json(self._path, about)
        kept = "There is no checkpoint yet"
        if (self._path.parent / TAG).is_file():
            kept = (
                "The last checkpoint is kept; --resume goes on from there, to the same end unless "
                "something is changed"
            )
        raise BadNumbersError(
            f"iteration {self._iteration}: a {cause} is NaN or infinite; {self._path} says more. "
            + kept
        )

    def _report(self) -> dict[str, Any]:
        """What this process knows."""
        gradients = {n: p.grad for n, p in self._model.named_parameters()}
        return {
            "losses": self._losses,
            "learning_rates": sorted({float(g["lr"]) for g in self._optimizer.param_groups}),
            "file_names": self._names,
            "gates": [gate_statistics(r.gates) for r in self._routes],
            "bad_weights": bad_tensors(self._model.state_dict())[:SHOWN],
            "bad_gradients": bad_tensors(gradients)[:SHOWN],
        }


def is_finite(value: Tensor) -> bool:
    """Whether every number is."""
    return bool(torch.isfinite(value.detach()).all())


def bad_tensors(tensors: Mapping[str, Any]) -> list[str]:
    """The names of the tensors that hold a NaN or an infinite number."""
    floating = {
        name: value
        for name, value in tensors.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    return [name for name, value in floating.items() if not is_finite(value)]


def finite_gradients(optimizer: torch.optim.Optimizer) -> bool:
    """Whether every gradient is finite; as a rule one number travels from the device."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return True
    # The square of a large finite number may be infinite, so this says yes for sure, not no.
    if math.isfinite(float(nn.utils.get_total_norm(gradients))):
        return True
    return all(is_finite(gradient) for gradient in gradients)


def anywhere(here: bool, model: nn.Module) -> bool:
    """Whether it holds in any process."""
    if comm.get_world_size() == 1:
        return here
    flag = torch.tensor(float(here), device=next(model.parameters()).device)
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
    return bool(flag)


def _names(batch: Any) -> list[str]:
    """File names of a batch; ids where there are none."""
    if not isinstance(batch, list | tuple):
        return []
    records = [record for record in batch if isinstance(record, Mapping)]
    return [str(record.get("file_name", record.get("image_id", "?"))) for record in records]


def gate_statistics(gates: Tensor) -> dict[str, Any]:
    """A few numbers on the gates of a forward.

    Args:
        gates: (N, E).
    """
    gates = gates.detach().float()
    finite = gates[torch.isfinite(gates)]
    numbers = {"images": gates.shape[0], "edges": gates.shape[1]}
    numbers["not_finite"] = gates.numel() - finite.numel()
    if not finite.numel():
        return numbers
    return numbers | {
        "min": float(finite.min()),
        "mean": float(finite.mean()),
        "max": float(finite.max()),
        "closed_share": float((finite == 0).float().mean()),
    }


def _readable(loss: Tensor) -> float | str:
    """A number, or the word for one that JSON does not have."""
    number = float(loss.detach().float().sum())
    return number if math.isfinite(number) else str(number)
