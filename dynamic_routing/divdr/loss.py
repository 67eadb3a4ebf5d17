"""The DivDR loss: pull a route to its nearest centre, push it away from the others.

Csaba et al. 2022, Eq. 2-3, an unsupervised Magnet loss over the gate activations A(x). Centres and
variance are constants of the loss: k-means sets them from time to time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dynamic_routing.routing.routes import Routes

MIN_VARIANCE = 1e-3
"""Least sigma^2 in the loss: images 0.03 from their centre, a tenth of the tightest clusters that
the paper reports (Table 2: 0.1 to 1.5). Collapsed routes have sigma^2 = 0."""

NORM_POWERS = (1, 2)
"""Powers of the distances in the loss: 1 as DivDR prints it, 2 as in Magnet loss."""

Sink = Callable[[np.ndarray, Sequence[str]], None]
"""Takes the (N, A) float32 activations of a training batch and the names of its N images."""


@dataclass(frozen=True, eq=False)
class Assignment:
    """Which centre each of N images is nearest to.

    Attributes:
        clusters: (N,) int64, the lowest number on ties.
        distances: (N,) Euclidean distance to that centre, in units of A-space.
    """

    clusters: Tensor
    distances: Tensor


def centre_distances(activations: Tensor, centres: Tensor, *, norm_power: int = 1) -> Tensor:
    """||A(x_n) - mu_k|| ** norm_power, with gradient 0 where the distance is 0.

    Args:
        activations: (N, A).
        centres: (K, A).
        norm_power: one of :data:`NORM_POWERS`.

    Returns:
        (N, K), in float32 at least, inside autocast too.
    """
    dtype = torch.promote_types(activations.dtype, torch.float32)
    difference = activations.to(dtype)[:, None] - centres.to(dtype)  # (N, K, A)
    if norm_power == 2:
        return difference.square().sum(dim=2)
    return torch.linalg.vector_norm(difference, dim=2)


def assign(activations: Tensor, centres: Tensor) -> Assignment:
    """The nearest centre of each image.

    Args:
        activations: (N, A).
        centres: (K, A).
    """
    distances, clusters = centre_distances(activations, centres).min(dim=1)
    return Assignment(clusters, distances)


def divdr_loss(
    activations: Tensor, centres: Tensor, variance: Tensor, *, margin: float, norm_power: int = 1
) -> Tensor:
    """{margin + d(x, mu(x)) / 2s + log sum_{k: mu_k is not mu(x)} exp(-d(x, mu_k) / 2s)}_+.

    Csaba et al. 2022, Eq. 2-3, with d(x, mu) = ||A(x) - mu|| ** norm_power, mu(x) the nearest
    centre and s = sigma^2, at least :data:`MIN_VARIANCE`. mu(x) is left out of the sum by its
    number, so an equal centre stays in. Values and gradients are finite for all finite arguments:
    a distance of 0 has gradient 0, and an image far nearer to its centre than to others loss 0.

    Args:
        activations: (N, A); takes the gradient.
        centres: (K, A), K >= 2; a constant.
        variance: scalar sigma^2, summed over the A dimensions; a constant.
        margin: alpha, at least 0.
        norm_power: one of :data:`NORM_POWERS`.

    Returns:
        (N,) loss of each image, at least 0, in float32 at least.

    Raises:
        ValueError: fewer than two centres, or shapes that do not fit.
    """
    check_clusters(len(centres))
    if activations.ndim != 2 or centres.ndim != 2 or activations.shape[1] != centres.shape[1]:
        raise ValueError(
            "activations (N, A) and centres (K, A) must agree in A, got "
            f"{tuple(activations.shape)} and {tuple(centres.shape)}"
        )
    distances = centre_distances(activations, centres.detach(), norm_power=norm_power)
    exponents = distances / (2 * variance.detach().to(distances).clamp(min=MIN_VARIANCE))
    nearest = distances.detach().argmin(dim=1, keepdim=True)
    own = torch.zeros_like(exponents, dtype=torch.bool).scatter(1, nearest, True)
    others = torch.logsumexp(-exponents.masked_fill(own, torch.inf), dim=1)
    return torch.relu(margin + exponents.gather(1, nearest).squeeze(1) + others)


def check_clusters(num_clusters: int) -> int:
    """Return ``num_clusters`` if the loss has a meaning for so many, else raise ValueError."""
    if num_clusters < 2:
        raise ValueError(
            f"DivDR needs at least 2 clusters, got {num_clusters}: one cluster is the trivial "
            "solution, with no other centre to keep away from"
        )
    return num_clusters


class DivDRLoss(nn.Module):
    """weight * mean over the images of a batch of :func:`divdr_loss` (lambda_2 * L_cl).

    Args:
        num_clusters: K, at least 2.
        activation_dim: A, :attr:`RoutingSpace.activation_dim`.
        weight: lambda_2, at least 0; 0 still collects and keeps clusters, to watch them.
        margin: alpha, at least 0.
        norm_power: one of :data:`NORM_POWERS`.

    Attributes:
        centres: (K, A) float32. Like the next two part of the checkpoint.
        variance: scalar sigma^2 of the last clustering.
        ready: whether there are centres; until then the loss is 0.
        sink: gets the activations of each training step, on the CPU. Neither in the state dict
            nor in a copy of the module.

    Raises:
        ValueError: an argument outside these bounds.
    """

    centres: Tensor
    variance: Tensor
    ready: Tensor

    def __init__(
        self,
        num_clusters: int,
        activation_dim: int,
        *,
        weight: float,
        margin: float,
        norm_power: int = 1,
    ) -> None:
        super().__init__()
        check_clusters(num_clusters)
        if not (0 <= weight < float("inf") and 0 <= margin < float("inf")):
            raise ValueError(
                f"DivDR weight and margin must be finite and >= 0, got {weight} and {margin}"
            )
        if norm_power not in NORM_POWERS:
            raise ValueError(f"norm_power must be one of {NORM_POWERS}, got {norm_power}")
        self.weight = weight
        self.margin = margin
        self.norm_power = norm_power
        self.sink: Sink | None = None
        self.register_buffer("centres", torch.zeros(num_clusters, activation_dim))
        self.register_buffer("variance", torch.ones(()))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))

    def extra_repr(self) -> str:
        """The settings, where a model is printed."""
        clusters, dim = self.centres.shape
        return (
            f"{clusters} clusters, A = {dim}, weight={self.weight}, margin={self.margin}, "
            f"norm_power={self.norm_power}"
        )

    def __getstate__(self) -> dict[str, Any]:
        """What a copy gets: all but the sink, so that a copy collects nothing."""
        return {**self.__dict__, "sink": None}

    @torch.no_grad()
    def set_clusters(self, centres: Tensor, variance: float) -> None:
        """Take the result of a clustering; from now on the loss is active.

        Args:
            centres: (K, A).
            variance: sigma^2, at least 0.

        Raises:
            ValueError: another shape, or values that are not finite.
        """
        if centres.shape != self.centres.shape:
            raise ValueError(
                f"centres must have shape {tuple(self.centres.shape)}, got {tuple(centres.shape)}"
            )
        if not (bool(torch.isfinite(centres).all()) and 0 <= variance < float("inf")):
            raise ValueError(f"centres and variance must be finite, got variance {variance}")
        self.centres.copy_(centres)
        self.variance.fill_(variance)
        self.ready.fill_(True)

    @torch.no_grad()
    def reset(self) -> None:
        """Forget the clusters: the loss is 0 until the next clustering."""
        self.centres.zero_()
        self.variance.fill_(1)
        self.ready.fill_(False)

    def assign(self, routes: Routes) -> Assignment:
        """The cluster of each image, without gradient.

        Raises:
            ValueError: there are no centres yet.
        """
        if not self.ready:
            raise ValueError("no clusters to assign to: this network was never clustered")
        return assign(routes.activations().detach(), self.centres.to(routes.gates.device))

    def forward(self, routes: Routes, image_ids: Sequence[str] = ()) -> dict[str, Tensor]:
        """The loss for the routes of one batch.

        Args:
            routes: N images.
            image_ids: their names; needed by the sink only.

        Returns:
            ``{"loss_divdr": scalar float32}``; 0 with a gradient of 0 before the first clustering.

        Raises:
            ValueError: a training step in which the gates carry no gradient, or routes of a space
                with another A.
        """
        activations = routes.activations()
        if activations.shape[1] != self.centres.shape[1]:
            raise ValueError(
                f"routes have A = {activations.shape[1]}, the loss {self.centres.shape[1]}"
            )
        if self.training and torch.is_grad_enabled():
            self._check_gradient(activations)
            if self.sink is not None:
                self.sink(activations.detach().float().cpu().numpy(), image_ids)
        if not self.ready:
            return {"loss_divdr": 0.0 * activations.float().sum()}
        losses = divdr_loss(
            activations,
            self.centres,
            self.variance,
            margin=self.margin,
            norm_power=self.norm_power,
        )
        return {"loss_divdr": self.weight * losses.mean()}

    @staticmethod
    def _check_gradient(activations: Tensor) -> None:
        """Without a gradient the loss would be a number that changes nothing."""
        if not activations.requires_grad:
            raise ValueError(
                "gates carry no gradient in training, so the DivDR loss cannot act: use "
                "non-reentrant activation checkpointing (use_reentrant=False), gates that learn, "
                "and a backbone that is not frozen"
            )
