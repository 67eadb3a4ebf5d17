"""Meta-architectures: Detectron2's own, which also hand over the routes that were taken."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, SemanticSegmentor
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from dynamic_routing.divdr.loss import DivDRLoss
from dynamic_routing.modeling.cost import model_cost
from dynamic_routing.modeling.losses import with_routing_losses
from dynamic_routing.routing import Routes, record_routes
from dynamic_routing.routing.cost import GIGA, CostModel

LOG_PERIOD = 20
"""Iterations between two entries of ``routing/*`` in training, Detectron2's writing period."""


class RoutingMixin(nn.Module):
    """Put before a Detectron2 meta-architecture: losses on routes, routes in the outputs.

    In training the losses of ``routing_losses`` join the task's; in evaluation output i gains
    ``"routes"``, the :class:`Routes` of image i (N = 1, on the CPU), and ``"milliseconds"``, the
    wall time of the forward divided by the images of the batch.

    Args:
        routing_losses: modules that map (routes, image ids) to a dict of ``loss_*``.
        **kwargs: what the meta-architecture itself takes.
    """

    backbone: nn.Module

    def __init__(self, *, routing_losses: Sequence[nn.Module] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.routing_losses = nn.ModuleList(routing_losses)
        self._cost: CostModel | None = None

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """As the meta-architecture's forward; see there for inputs and outputs.

        In evaluation an image is padded to the backbone's stride and never to the size of another
        image, so its result does not depend on its batch.

        Raises:
            ValueError: an empty batch, or a backbone that does not route once a forward.
        """
        if not batched_inputs:
            raise ValueError("expected at least one image, got an empty batch")
        if self.training:
            losses, routes = self._routed(batched_inputs)
            self._log(routes)
            losses.update(self._losses(routes, [image_id(x) for x in batched_inputs]))
            return losses
        outputs: list[dict[str, Any]] = [{} for _ in batched_inputs]
        for group in self.routed_groups(batched_inputs):
            for i, output in zip(group, self._infer([batched_inputs[i] for i in group])):
                outputs[i] = output
        return outputs

    def _routed(self, batched_inputs: list[dict[str, Any]]) -> tuple[Any, Routes]:
        """What the meta-architecture returns, and the routes that were taken on the way."""
        with record_routes(self.backbone) as records:
            outputs = super().forward(batched_inputs)  # type: ignore[misc]
        if len(records) != 1:
            raise ValueError(
                f"{type(self).__name__} needs a backbone that routes once a forward (such as "
                f"build_dynamic_routing_backbone), got {len(records)} routed forwards"
            )
        return outputs, records[0]

    def _infer(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Outputs for images of one padded size, with routes and time."""
        start = time.perf_counter()
        outputs, routes = self._routed(batched_inputs)
        detached = self.clustered(routes.detach())  # the copy to the CPU waits for the GPU
        milliseconds = 1000 * (time.perf_counter() - start) / len(outputs)
        for i, output in enumerate(outputs):
            output["routes"] = detached[i]
            output["milliseconds"] = milliseconds
        return outputs

    def routed_groups(self, batched_inputs: list[dict[str, Any]]) -> list[list[int]]:
        """Positions of the images of each forward, grouped by their size padded to the stride."""
        stride = max(int(self.backbone.size_divisibility), 1)  # type: ignore[arg-type]
        groups: dict[tuple[int, int], list[int]] = {}
        for i, inputs in enumerate(batched_inputs):
            height, width = (-(-side // stride) for side in inputs["image"].shape[-2:])
            groups.setdefault((height, width), []).append(i)
        return list(groups.values())

    def _log(self, routes: Routes) -> None:
        """Every few iterations: how open the gates of this batch were, and what that costs."""
        if not has_event_storage() or get_event_storage().iter % LOG_PERIOD:
            return
        if self._cost is None:
            self._cost = model_cost(self, convention="macs")
        storage, routes = get_event_storage(), routes.detach()
        executed = float(self._cost.executed(routes).mean())
        storage.put_scalar(
            "routing/expected_gmacs", float(self._cost.expected(routes).mean()) / GIGA
        )
        storage.put_scalar("routing/executed_gmacs", executed / GIGA)
        storage.put_scalar("routing/batch_open_share", float(routes.open.double().mean()))
        for name, share in self._cost.scale_shares(routes).items():
            storage.put_scalar(f"routing/{name}", share)

    def clustered(self, routes: Routes) -> Routes:
        """Detached routes with their clusters, where the network was clustered."""
        for loss in self.routing_losses:
            if isinstance(loss, DivDRLoss) and loss.ready:
                found = loss.assign(routes)
                return replace(routes, cluster=found.clusters, cluster_distance=found.distances)
        return routes

    def _losses(self, routes: Routes, image_ids: list[str]) -> dict[str, Tensor]:
        """Every loss on routes, by name."""
        losses: dict[str, Tensor] = {}
        for loss in self.routing_losses:
            losses.update(loss(routes, image_ids))
        return losses


def cluster_centres(model: nn.Module) -> np.ndarray | None:
    """The (K, A) centres of a model that was clustered (DivDR), else None."""
    for loss in model.modules():
        if isinstance(loss, DivDRLoss) and loss.ready:
            return loss.centres.cpu().numpy()
    return None


def image_id(inputs: dict[str, Any]) -> str:
    """What names an image in every Detectron2 data set: its file (``image_id`` is not in all)."""
    return str(inputs.get("file_name", inputs.get("image_id", "")))


@META_ARCH_REGISTRY.register()
class DynamicRoutingSemanticSegmentor(RoutingMixin, SemanticSegmentor):
    """Detectron2's SemanticSegmentor with routes (``MODEL.META_ARCHITECTURE``)."""

    @configurable
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read what SemanticSegmentor reads, and the losses on routes."""
        return with_routing_losses(cfg, SemanticSegmentor.from_config(cfg))
