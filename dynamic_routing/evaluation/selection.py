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
        ValueError: a name that matches no image, with the first few that exist, or a cluster
            without images.
    """
    if cluster is not None:
        return cluster_rows(gates, cluster)
    if not images:
        return list(range(len(gates)))
    rows = [i for i, f in enumerate(gates.file_names) if f in images or Path(f).name in images]
    found = {Path(gates.file_names[i]).name for i in rows}
    missing = [name for name in images if Path(name).name not in found]
    if missing:
        known = ", ".join(Path(f).name for f in gates.file_names[:3])
        raise ValueError(f"no image {missing[0]} in the gates file; it has {known}, ...")
    return rows


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
