"""Data with known subsets, and a small gated network that learns them.

Csaba et al. 2022 mention a controlled study in one sentence and give neither data nor network.
Here an input belongs to one of three subsets; each subset has a label rule of its own, and the
rules contradict one another, so that one linear map for all of them fails. The experts are linear:
only gates can tell the subsets apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamic_routing.routing.gates import max_tanh

SUBSETS = 3
SUBSET_DIM = 4
"""Dimensions that show the subset."""
LABEL_DIM = 8
"""Dimensions that the label depends on."""
INPUT_DIM = SUBSET_DIM + LABEL_DIM
CENTRE_NORM = 3.0
SUBSET_NOISE = 0.3

LAYERS = 4
EXPERTS = 3
GATES = LAYERS * EXPERTS
"""A, the length of the activation vector that DivDR clusters."""
WIDTH = 32
"""Channels. Free; so chosen that plain DR does about as well as in our pilots."""
GATE_BIAS = 1.5


@dataclass(frozen=True, eq=False)
class Samples:
    """N inputs; from :func:`stack` with a leading dimension S, one entry a seed.

    Attributes:
        inputs: (N, 12) float32.
        subsets: (N,) int64 in [0, 3), which a method must not see (the oracle may).
        labels: (N,) float32, 0 or 1.
    """

    inputs: Tensor
    subsets: Tensor
    labels: Tensor

    def take(self, index: Tensor) -> Samples:
        """Rows ``index`` (S, B) of stacked samples: each seed's own."""
        seeds = torch.arange(len(index))[:, None]
        return Samples(
            self.inputs[seeds, index], self.subsets[seeds, index], self.labels[seeds, index]
        )


@dataclass(frozen=True, eq=False)
class ToyProblem:
    """Where the subsets lie and how they label.

    Attributes:
        centres: (3, 4) c_s, orthogonal, of norm 3.
        rules: (3, 8) orthonormal w_s; the label is 1 where w_s . z > 0.
        rotation: (12, 12), hides which dimensions show the subset.
    """

    centres: Tensor
    rules: Tensor
    rotation: Tensor

    @classmethod
    def random(cls, generator: torch.Generator) -> ToyProblem:
        """A new problem."""
        return cls(
            centres=CENTRE_NORM * _orthonormal(SUBSETS, SUBSET_DIM, generator),
            rules=_orthonormal(SUBSETS, LABEL_DIM, generator),
            rotation=_orthonormal(INPUT_DIM, INPUT_DIM, generator),
        )

    def draw(self, count: int, generator: torch.Generator) -> Samples:
        """``count`` independent samples."""
        subsets = torch.randint(SUBSETS, (count,), generator=generator)
        noise = SUBSET_NOISE * torch.randn(count, SUBSET_DIM, generator=generator)
        free = torch.randn(count, LABEL_DIM, generator=generator)
        plain = torch.cat([self.centres[subsets] + noise, free], dim=1)
        labels = (free * self.rules[subsets]).sum(dim=1) > 0
        return Samples(plain @ self.rotation.T, subsets, labels.float())


def stack(parts: Sequence[Samples]) -> Samples:
    """The samples of S seeds as one: inputs (S, N, 12), subsets and labels (S, N)."""
    return Samples(
        torch.stack([part.inputs for part in parts]),
        torch.stack([part.subsets for part in parts]),
        torch.stack([part.labels for part in parts]),
    )


@dataclass(frozen=True, eq=False)
class ToyOutput:
    """What S networks say about N inputs each.

    Attributes:
        logits: (S, N); the label is 1 where it is positive.
        gates: (S, N, 12), the activation vectors A(x), layer by layer.
    """

    logits: Tensor
    gates: Tensor


class ToyNetwork(nn.Module):
    """S independent networks, one a seed, in one set of batched matrices.

    Stem 12 -> 32, four layers h + sum_j alpha_j E_j h with three experts E_j, head 32 -> 1, all
    linear; alpha = max(0, tanh(W h + b)), b = 1.5 at the start. The h that always passes is the
    identity among a cell's operations. A network is the same whatever the other seeds are.

    Args:
        seeds: S seeds.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        super().__init__()
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]

        def matrices(inputs: int, outputs: int) -> nn.Parameter:
            return nn.Parameter(torch.stack([_uniform(inputs, outputs, g) for g in generators]))

        self.stem = matrices(INPUT_DIM, WIDTH)
        self.head = matrices(WIDTH, 1)
        self.experts = nn.ParameterList(matrices(WIDTH, EXPERTS * WIDTH) for _ in range(LAYERS))
        self.gates = nn.ParameterList(matrices(WIDTH, EXPERTS) for _ in range(LAYERS))
        self.biases = nn.ParameterList(
            nn.Parameter(torch.full((len(seeds), 1, EXPERTS), GATE_BIAS)) for _ in range(LAYERS)
        )

    def forward(self, inputs: Tensor, fixed_gates: Tensor | None = None) -> ToyOutput:
        """Route and classify.

        Args:
            inputs: (S, N, 12).
            fixed_gates: (S, N, 12) to take instead of the network's own gates.
        """
        hidden = inputs @ self.stem
        taken = []
        for layer in range(LAYERS):
            if fixed_gates is None:
                gates = max_tanh(hidden @ self.gates[layer] + self.biases[layer])
            else:
                gates = fixed_gates[..., layer * EXPERTS : (layer + 1) * EXPERTS]
            taken.append(gates)
            outputs = (hidden @ self.experts[layer]).unflatten(-1, (EXPERTS, WIDTH))
            hidden = hidden + (gates.unsqueeze(-1) * outputs).sum(dim=-2)
        return ToyOutput((hidden @ self.head).squeeze(-1), torch.cat(taken, dim=-1))


def open_gates(samples: Samples) -> Tensor:
    """The static network's gates (S, N, 12): every expert, always."""
    return torch.ones(*samples.subsets.shape, GATES)


def oracle_gates(samples: Samples) -> Tensor:
    """The oracle's gates (S, N, 12): in each layer the one expert of the sample's subset."""
    return F.one_hot(samples.subsets, EXPERTS).float().repeat(1, 1, LAYERS)


def _orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """(rows, columns) with random orthonormal rows, rows <= columns."""
    return torch.linalg.qr(torch.randn(columns, rows, generator=generator))[0].T.contiguous()


def _uniform(inputs: int, outputs: int, generator: torch.Generator) -> Tensor:
    """(inputs, outputs) uniform within +-1 / sqrt(inputs), like nn.Linear's."""
    return (2 * torch.rand(inputs, outputs, generator=generator) - 1) / inputs**0.5
