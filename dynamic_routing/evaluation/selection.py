"""Which rows of a gates file are meant: named images, a cluster's, or all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dynamic_routing.evaluation.gates_file import GatesFile


def chosen_rows(
    gates: GatesFile, images: Sequence[str] = (), cluster: int | None = None
) -> list[int]:
    """The rows of the named images, of a cluster's, or all.

    Raises:
        ValueError: a name that matches no image, with the first few that exist, or several; a
            cluster without images.
    """
    if cluster is not None:
        return cluster_rows(gates, cluster)
    if not images:
        return list(range(len(gates)))
    return sorted({_row_of(gates, name) for name in images})


def _row_of(gates: GatesFile, image: str) -> int:
    """The row of one image: its exact path, else the only one with that file name."""
    if image in gates.file_names:
        return gates.file_names.index(image)
    rows = [i for i, f in enumerate(gates.file_names) if Path(f).name == Path(image).name]
    if not rows:
        known = ", ".join(Path(f).name for f in gates.file_names[:3])
        raise ValueError(f"no image {image} in the gates file; it has {known}, ...")
    if len(rows) > 1:
        paths = ", ".join(gates.file_names[i] for i in rows[:3])
        raise ValueError(f"{image} names {len(rows)} images; give the whole path: {paths}")
    return rows[0]


def cluster_rows(gates: GatesFile, cluster: int) -> list[int]:
    """The rows whose nearest centre is ``cluster``.

    Raises:
        ValueError: the network has no clusters, or no image is in this one.
    """
    if gates.clusters is None:
        raise ValueError(
            "the gates file has no clusters: its network was not trained with DIVDR.NUM_CLUSTERS"
        )
    rows = np.flatnonzero(gates.clusters.labels == cluster).tolist()
    if not rows:
        sizes = np.bincount(gates.clusters.labels, minlength=len(gates.clusters.centres))
        raise ValueError(f"no image is in cluster {cluster}; images by cluster: {sizes.tolist()}")
    return rows
