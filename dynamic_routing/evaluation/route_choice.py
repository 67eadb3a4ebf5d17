"""Which route an image is run along: one of a gates file, a cluster's expert, edited edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dynamic_routing.evaluation.gates_file import GatesFile, load_gates
from dynamic_routing.evaluation.selection import chosen_rows
from dynamic_routing.routing.editing import common_route, edited, find_edge, parse_edge
from dynamic_routing.routing.routes import Routes
from dynamic_routing.routing.space import Edge, RoutingSpace

SUFFIX = ".npz"
CLUSTER_SHARE = 0.5
"""Share of a cluster's images that take a path of its expert: the majority. At the 95 % of the
common network a loose cluster's expert may reach no output."""


@dataclass(frozen=True)
class RouteChoice:
    """From an image's own route to the one that it is run along.

    Attributes:
        title: what the route is, for captions and files.
        base: one image's route; None: the image's own.
        open: edges to open in it.
        close: edges to close in it.
    """

    title: str
    base: Routes | None = None
    open: tuple[Edge, ...] = ()
    close: tuple[Edge, ...] = ()

    def routes_for(self, own: Sequence[Routes]) -> Routes:
        """The routes of N images, from the own route (N = 1) of each.

        Raises:
            ValueError: an edge that cannot be opened or closed, see
                :func:`~dynamic_routing.routing.editing.edited`.
        """
        bases = [route if self.base is None else self.base for route in own]
        gates = torch.cat([base.gates.to(own[0].gates) for base in bases])
        routes = Routes(bases[0].space, gates, bases[0].rule, own[0].image_size)
        return edited(routes, open=self.open, close=self.close)

    def check(self, space: RoutingSpace) -> None:
        """Refuse edges that a network does not have before anything runs.

        Raises:
            ValueError: see :func:`~dynamic_routing.routing.editing.find_edge`.
        """
        for edge in (*self.open, *self.close):
            find_edge(space, edge)


def route_choice(
    *,
    route_of: str | None = None,
    expert: str | None = None,
    open: Sequence[str] = (),  # noqa: A002 - as the option is called
    close: Sequence[str] = (),
) -> RouteChoice | None:
    """What the options of the demo ask for; None if they ask for nothing.

    Args:
        route_of: ``GATES.npz:IMAGE``, another image's route.
        expert: ``GATES.npz:K``, what the images of cluster K share.
        open: edges to open, as :func:`~dynamic_routing.routing.editing.parse_edge` reads them.
        close: edges to close.

    Raises:
        ValueError: both kinds of base, a file, image, cluster or edge that is not there.
    """
    if route_of and expert:
        raise ValueError("give --route-of or --expert, not both")
    if not (route_of or expert or open or close):
        return None
    base, title = None, "own route"
    if route_of:
        base, title = stored_route(route_of)
    elif expert:
        base, title = expert_route(expert)
    for verb, names in (("opened", open), ("closed", close)):
        if names:
            title += f", {verb} {' '.join(names)}"
    opened, closed = (tuple(parse_edge(name) for name in names) for names in (open, close))
    return RouteChoice(title, base, opened, closed)


def stored_route(where: str) -> tuple[Routes, str]:
    """The route ``GATES.npz:IMAGE`` and what to call it.

    Raises:
        ValueError: no such image, or another form.
        OSError: no such file.
    """
    gates, image = _opened(where, "IMAGE")
    (row,) = chosen_rows(gates, [image])
    return gates[row], f"route of {Path(image).name}"


def expert_route(where: str) -> tuple[Routes, str]:
    """The expert ``GATES.npz:K`` of cluster K, numbered from 0, and what to call it.

    Raises:
        ValueError: no such cluster, no path that its images share, or another form.
        OSError: no such file.
    """
    gates, number = _opened(where, "K")
    if not number.isdecimal():
        raise ValueError(f"--expert: K must be the number of a cluster, from 0, got {number!r}")
    rows, every = chosen_rows(gates, cluster=int(number)), gates.routes
    members = Routes(every.space, every.gates[rows], every.rule, every.image_size)
    route = common_route(members, share=CLUSTER_SHARE)
    return route, f"expert of cluster {number} ({len(rows)} images)"


def _opened(where: str, what: str) -> tuple[GatesFile, str]:
    """The gates file, and what stands behind the colon."""
    path, colon, name = where.partition(SUFFIX + ":")
    if not colon or not name:
        raise ValueError(f"a stored route is GATES{SUFFIX}:{what}, got {where!r}")
    path += SUFFIX
    if not Path(path).is_file():
        raise ValueError(f"gates file {path} does not exist; evaluate the network first")
    return load_gates(path), name
