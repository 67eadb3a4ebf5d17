"""Running images along given routes: those of other images, of a cluster's expert, edited ones.

The gate networks still run, as they would for a route of their own, so costs and times compare;
only their answer is replaced. No weight changes, and the network is as before when the ``with``
ends. A checkpoint is not saved inside it: the gates' tensors have other names there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from dynamic_routing.routing.execution import PreparedNetwork
from dynamic_routing.routing.gates import Gate, at_least_float32
from dynamic_routing.routing.network import RoutingNetwork
from dynamic_routing.routing.prepared import PreparedGate
from dynamic_routing.routing.routes import Routes
from dynamic_routing.routing.space import INITIAL, Node, RoutingSpace


@runtime_checkable
class RoutesInGroups(Protocol):
    """A model that may run its network several times for one batch."""

    def routed_groups(self, batched_inputs: Any) -> list[list[int]]:
        """The images of each of these forwards, as positions in the batch."""
        ...


class GivenRoutes:
    """Whose route a gate is asked for.

    Dense execution asks for the whole batch. The executors ask for one image after the other, or,
    grouped, for the images that reach a cell; the initial cell, where all start, tells which.

    Args:
        routes: of one image, for every image, or of N.
        like: gives device and precision.
    """

    def __init__(self, routes: Routes, like: Tensor) -> None:
        self._space = routes.space
        self._every = routes.gates.detach().to(like.device, at_least_float32(like.dtype))
        self._reached_by = routes.reached.to(like.device)
        self._groups: list[list[int]] = []
        self._choose(slice(None))

    @property
    def single(self) -> bool:
        """Whether every image takes the same route."""
        return len(self._every) == 1

    def _choose(self, images: slice | list[int]) -> None:
        """Let the next forward be of these images."""
        self._rows, self._reached = self._every[images], self._reached_by[images]
        self._together, self._turn = False, -1

    def start_model(self, groups: Sequence[list[int]]) -> None:
        """Be told which images the forwards to come are of."""
        if self.single:
            return
        count = sum(len(group) for group in groups)
        if count != len(self._every):
            raise ValueError(self._mismatch(count))
        self._groups = list(groups)

    def end_model(self) -> None:
        """Forget that, also after an exception."""
        self._groups = []
        self._choose(slice(None))

    def start(self, count: int) -> None:
        """Be told that a forward of ``count`` images begins."""
        self._choose(self._groups.pop(0) if self._groups else slice(None))
        if len(self._rows) not in (1, count):
            raise ValueError(self._mismatch(count))

    def _mismatch(self, count: int) -> str:
        return f"routes of {len(self._every)} images cannot be taken by a batch of {count}"

    def of(self, node: Node, count: int) -> Tensor:
        """Strengths (count, k) of the node's edges, for the images that it is run on now."""
        columns, given = self._space.columns(node), len(self._rows)
        if given == 1:
            return self._rows[:, columns].expand(count, -1)
        if node == INITIAL:
            self._together = count == given
            self._turn = (self._turn + 1) % given
        if count == given and self._together:
            return self._rows[:, columns]
        here = self._reached[:, self._space.node_index[node]]
        if self._together and count == int(here.sum()):
            return self._rows[here, columns]
        if not self._together and count == 1:
            return self._rows[self._turn : self._turn + 1, columns]
        raise ValueError(f"routes of {given} images cannot be taken by a group of {count}")


class GivenGate(Gate):
    """A gate whose answer is given. It only infers, since nothing would train the gate."""

    def __init__(self, gate: Gate, given: GivenRoutes, node: Node) -> None:
        super().__init__()
        self.gate = gate
        self.num_edges = gate.num_edges
        self.can_close = True
        self._given, self._node = given, node

    def logits(self, x: Tensor) -> Tensor:
        """The gate network's own logits (N, k)."""
        return self.gate.logits(x)

    def activate(self, logits: Tensor) -> Tensor:
        """The given strengths (N, k).

        Raises:
            ValueError: in training mode.
        """
        if self.training:
            raise ValueError("fixed routes are for inference: call eval() on the network first")
        return self._given.of(self._node, len(logits)).to(logits)


class _GivenPreparedGate(PreparedGate):
    """The same for a prepared network."""

    elementwise = False

    def __init__(self, gate: PreparedGate, given: GivenRoutes, node: Node) -> None:
        super().__init__()
        self.gate = gate
        # With several routes the host decides whose turn it is.
        self.recordable = gate.recordable and given.single
        self._given, self._node = given, node

    def activation(self, logits: Tensor) -> Tensor:  # type: ignore[override]
        """The given strengths (N, k)."""
        return self._given.of(self._node, len(logits))

    def forward(self, x: Tensor) -> Tensor:
        """The gate network's own logits (N, k)."""
        return self.gate(x)


def force_routes(
    network: RoutingNetwork | PreparedNetwork,
    routes: Routes,
    *,
    gate_type: type[GivenGate] = GivenGate,
) -> GivenRoutes:
    """Make a network, in place and for good, take ``routes`` whatever the images.

    Args:
        network: a copy that nobody else uses; see :func:`fixed_routes` otherwise.
        routes: of one image, for every image; or of N images, for batches of exactly these. Nodes
            that they do not reach stay unreached.
        gate_type: what replaces the gates of a network that is not prepared.

    Raises:
        ValueError: routes of another space or rule, no image, or gates outside [0, 1].
    """
    check_routes_fit(network, routes)
    given = GivenRoutes(routes, next(network.stem.buffers()))
    for node in network.space.nodes:
        cell = network.cell(node)
        mode = cell.gate.training
        if isinstance(cell.gate, PreparedGate):
            cell.gate = _GivenPreparedGate(cell.gate, given, node).train(mode)
        else:
            cell.gate = gate_type(cell.gate, given, node).train(mode)
    _forget_recordings(network)
    return given


def _forget_recordings(network: RoutingNetwork | PreparedNetwork) -> None:
    """Recordings hold the kernels of the gates that were there."""
    if isinstance(network, PreparedNetwork) and network.graphed is not None:
        network.graphed.clear()


def check_routes_fit(network: RoutingNetwork | PreparedNetwork, routes: Routes) -> None:
    """Refuse routes that were not taken in a network like this one.

    Raises:
        ValueError: another space or rule, no image, or gates that are not in [0, 1].
    """
    if routes.space.edges != network.space.edges:
        raise ValueError(
            f"the routes are of a space with {_size(routes.space)}, the network's has "
            f"{_size(network.space)}"
        )
    if routes.rule != network.unreached:
        raise ValueError(
            f"the routes follow the rule {routes.rule!r} for unreached cells, the network "
            f"{network.unreached!r}"
        )
    if not len(routes):
        raise ValueError("fixed routes need at least one image, got none")
    inside = (routes.gates >= 0) & (routes.gates <= 1)  # not a number is not inside
    if not bool(inside.all()):
        raise ValueError(f"gates must be in [0, 1], got {float(routes.gates[~inside][0])}")


def _size(space: RoutingSpace) -> str:
    return f"{space.num_layers} layers and {len(space.edges)} edges"


@contextmanager
def fixed_routes(network: Any, routes: Routes) -> Iterator[None]:
    """Let a network take given routes inside the ``with``, whatever the images.

    Args:
        network: in evaluation mode: a :class:`RoutingNetwork` or :class:`PreparedNetwork`, a
            module with one inside, such as a Detectron2 model, or an object that holds such
            modules, such as a predictor.
        routes: of one image, for every image; or of N images, for batches of exactly these, image
            by image. Nodes that they do not reach stay unreached.

    Raises:
        ValueError: no network, or more than one; routes that do not belong to it. Inside the
            ``with``: a batch of another size, or training mode.

    Example:
        >>> own = model(inputs)[0]
        >>> with fixed_routes(model, edited(own["routes"], close=[(3, 0, "down")])):
        ...     other = model(inputs)[0]
    """
    with ExitStack() as stack:
        for module in _modules(network):
            stack.enter_context(_fixed(module, routes))
        yield


def _modules(target: Any) -> list[nn.Module]:
    """The target itself, or the modules that it holds, those with a network inside."""
    parts = (
        [target]
        if isinstance(target, nn.Module)
        else list(getattr(target, "__dict__", {}).values())
    )
    found = [part for part in parts if isinstance(part, nn.Module) and _networks(part)]
    if not found:
        raise ValueError(f"there is no routing network in {type(target).__name__}")
    return found


def _networks(module: nn.Module) -> list[RoutingNetwork | PreparedNetwork]:
    return [m for m in module.modules() if isinstance(m, RoutingNetwork | PreparedNetwork)]


@contextmanager
def _fixed(module: nn.Module, routes: Routes) -> Iterator[None]:
    """:func:`fixed_routes` for one module."""
    networks = _networks(module)
    if len(networks) != 1:
        raise ValueError(f"expected one routing network in {type(module).__name__}, "
                         f"found {len(networks)}")  # fmt: skip
    (network,) = networks
    before = {node: network.cell(node).gate for node in network.space.nodes}
    given = force_routes(network, routes)
    handles = [network.register_forward_pre_hook(
        lambda _, args, kwargs: given.start(len(_batch(args, kwargs))), with_kwargs=True
    )]  # fmt: skip
    for model in (m for m in module.modules() if isinstance(m, RoutesInGroups)):
        handles += _follow(model, given)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for node, gate in before.items():
            network.cell(node).gate = gate  # type: ignore[assignment]
        _forget_recordings(network)


def _follow(model: Any, given: GivenRoutes) -> list[torch.utils.hooks.RemovableHandle]:
    """Tell ``given`` which images each forward of the network is of."""

    def begin(_model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given.start_model(model.routed_groups(_batch(args, kwargs)))

    def end(_model: nn.Module, _inputs: object, _output: object) -> None:
        given.end_model()

    return [
        model.register_forward_pre_hook(begin, with_kwargs=True),
        model.register_forward_hook(end, always_call=True),
    ]


def _batch(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The one input of a forward, given by position or by name."""
    return args[0] if args else next(iter(kwargs.values()))
