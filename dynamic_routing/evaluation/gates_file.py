"""The file that keeps every image's gates.

One compressed ``.npz`` (a zip of ``.npy`` arrays) for N images and the E edges of a space. It is
written in one step and read without pickle, so it can be exchanged safely. Its entries, version 1:

=================  ==============  ===============================================================
``format``         str, 0-d        ``"dynamic_routing gates"``
``version``        int64, 0-d      1
``edges``          str, 0-d        JSON: E triples [layer, scale, kind], in the column order of
                                   ``gates``; layer -1 is the initial cell
``rule``           str, 0-d        what happened to unreached cells: ``absent`` or ``released``
``gates``          float32 (N, E)  0 is closed; 0 on every edge of a cell that did not exist
``file_names``     str (N,)        the images, in the order of the rows
``image_ids``      str, 0-d        JSON: N integers, strings or nulls, the data set's own numbering
``image_sizes``    int64 (N, 2)    height and width in pixels of the routed tensor, with padding
``milliseconds``   float64 (N,)    wall time an image, NaN where it was not measured
``cost.<name>``    float64 (N,)    any number of further columns, for example GMACs
=================  ==============  ===============================================================

A network with clusters (DivDR) adds three entries; readers may ignore them:

=================  ==============  ===============================================================
``clusters``       int64 (N,)      number of the centre that is nearest to the image's A(x)
``distances``      float32 (N,)    Euclidean distance to it in A-space
``centres``        float32 (K, A)  the centres, in the slots of A(x)
=================  ==============  ===============================================================

Example:
    >>> stored = load_gates("output/gates_street_val.npz")
    >>> stored.routes.open.sum(dim=1), stored.file_names
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dynamic_routing.files import write_atomically
from dynamic_routing.routing.routes import Routes, check_unreached_rule
from dynamic_routing.routing.space import RoutingSpace

FORMAT = "dynamic_routing gates"
VERSION = 1
COST_PREFIX = "cost."
MAX_BYTES = 4 << 30
"""Unpacked size that is still read: some 5 million images of 200 gates."""

ImageId = int | str | None


class GatesFileError(ValueError):
    """A file that holds no gates that this version can read."""


@dataclass(frozen=True, eq=False)
class RouteClusters:
    """Which cluster each of N images belongs to.

    Attributes:
        labels: (N,) int64, in [0, K).
        distances: (N,) float32, Euclidean distance to that centre in A-space.
        centres: (K, A) float32.

    Raises:
        ValueError: a label without a centre.
    """

    labels: np.ndarray
    distances: np.ndarray
    centres: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.centres)
        wrong = self.labels[(self.labels < 0) | (self.labels >= count)]
        if len(wrong):
            raise ValueError(f"cluster {wrong[0]} does not exist, there are {count}")


@dataclass(frozen=True, eq=False)
class GatesFile:
    """The gates of N images and what belongs to each of them.

    Attributes:
        space: the space of E edges whose order the columns of ``gates`` follow.
        gates: (N, E) float32 on the CPU, finite.
        rule: a key of :data:`~dynamic_routing.routing.UNREACHED_RULES`.
        file_names: N names.
        image_sizes: (N, 2) int64, height and width of the routed tensor in pixels.
        milliseconds: (N,) float64, NaN where unknown.
        image_ids: N identities as the data set gives them, None where it gives none.
        costs: name -> (N,) float64.
        clusters: of a network with clusters, else None.

    Raises:
        ValueError: lengths that differ from N, gates that are not finite, an unknown rule.
    """

    space: RoutingSpace
    gates: Tensor
    rule: str
    file_names: tuple[str, ...]
    image_sizes: np.ndarray
    milliseconds: np.ndarray
    image_ids: tuple[ImageId, ...]
    costs: Mapping[str, np.ndarray] = field(default_factory=dict)
    clusters: RouteClusters | None = None

    def __post_init__(self) -> None:
        count, edges = len(self.file_names), len(self.space.edges)
        check_unreached_rule(self.rule)
        columns = {COST_PREFIX + name: (c.shape, (count,)) for name, c in self.costs.items()}
        shapes = {
            "gates": (tuple(self.gates.shape), (count, edges)),
            "image_sizes": (self.image_sizes.shape, (count, 2)),
            "milliseconds": (self.milliseconds.shape, (count,)),
            "image_ids": ((len(self.image_ids),), (count,)),
        }
        if self.clusters is not None:
            dim = self.space.activation_dim
            shapes["clusters"] = (self.clusters.labels.shape, (count,))
            shapes["distances"] = (self.clusters.distances.shape, (count,))
            shapes["centres"] = (self.clusters.centres.shape, (len(self.clusters.centres), dim))
        for name, (shape, wanted) in {**shapes, **columns}.items():
            if shape != wanted:
                raise ValueError(f"{name} of {count} images must have shape {wanted}, got {shape}")
        if self.gates.dtype != torch.float32:
            raise ValueError(f"gates must be float32, got {self.gates.dtype}")
        bad = (~torch.isfinite(self.gates)).any(dim=1).nonzero().flatten().tolist()
        if bad:
            raise ValueError(f"gates of {self.file_names[bad[0]]} are not finite")

    def __len__(self) -> int:
        return len(self.file_names)

    def __getitem__(self, index: int) -> Routes:
        """The route of one image (N = 1), with the size at which it was routed."""
        index = range(len(self))[index]
        height, width = self.image_sizes[index].tolist()
        return Routes(self.space, self.gates[index : index + 1], self.rule, (height, width))

    @property
    def routes(self) -> Routes:
        """All routes together; ``image_size`` is the largest height and the largest width."""
        height, width = self.image_sizes.max(axis=0).tolist() if len(self) else (0, 0)
        return Routes(self.space, self.gates, self.rule, (height, width))


def save_gates(path: str | Path, records: GatesFile) -> Path:
    """Write ``records`` to ``path`` in one step. Equal records give equal bytes.

    Returns:
        ``path``.

    Raises:
        ValueError: a cost without a name.
        OSError: the folder cannot be written.
    """
    if "" in records.costs:
        raise ValueError("a cost needs a name, got ''")
    content = io.BytesIO()
    arrays = {
        "format": np.array(FORMAT),
        "version": np.array(VERSION, dtype=np.int64),
        "edges": np.array(json.dumps(records.space.to_edges())),
        "rule": np.array(records.rule),
        "gates": records.gates.numpy(),
        "file_names": np.array(records.file_names, dtype=np.str_),
        "image_ids": np.array(json.dumps(records.image_ids)),
        "image_sizes": records.image_sizes.astype(np.int64),
        "milliseconds": records.milliseconds.astype(np.float64),
    }
    costs = {COST_PREFIX + name: c.astype(np.float64) for name, c in records.costs.items()}
    clusters = {} if records.clusters is None else _cluster_arrays(records.clusters)
    np.savez_compressed(content, allow_pickle=False, **arrays, **costs, **clusters)
    return write_atomically(path, content.getvalue())


def _cluster_arrays(clusters: RouteClusters) -> dict[str, np.ndarray]:
    """The optional entries."""
    return {
        "clusters": clusters.labels.astype(np.int64),
        "distances": clusters.distances.astype(np.float32),
        "centres": clusters.centres.astype(np.float32),
    }


def load_gates(path: str | Path) -> GatesFile:
    """Read what :func:`save_gates` wrote.

    Raises:
        GatesFileError: the file is cut short, damaged, of another kind or of a newer version.
        OSError: there is no such file, or it cannot be read.
    """
    content = Path(path).read_bytes()
    try:
        return _records(_arrays(content))
    except Exception as error:  # zipfile, zlib, numpy and json raise a dozen types on damaged bytes
        raise GatesFileError(
            f"{path} holds no gates ({type(error).__name__}: {error}); "
            "run the evaluation again to write it"
        ) from error


def _arrays(content: bytes) -> dict[str, np.ndarray]:
    """Every array of an .npz, its checksum verified before it is parsed."""
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        size = sum(info.file_size for info in archive.infolist())
        if size > MAX_BYTES:
            raise ValueError(f"{size} bytes unpacked, at most {MAX_BYTES} are read")
        for info in archive.infolist():
            member = io.BytesIO(archive.read(info))
            arrays[info.filename.removesuffix(".npy")] = np.lib.format.read_array(
                member, allow_pickle=False
            )
    return arrays


def _records(arrays: dict[str, np.ndarray]) -> GatesFile:
    """Check and name the entries of a file."""
    if str(_typed(arrays, "format", "U", 0)) != FORMAT:
        raise ValueError("the entry 'format' names another kind of file")
    version = int(_typed(arrays, "version", "i", 0))
    if version != VERSION:
        raise ValueError(f"version {version}, this package reads version {VERSION}")
    edges = [tuple(edge) for edge in json.loads(str(_typed(arrays, "edges", "U", 0)))]
    space = RoutingSpace.from_edges(edges)
    if space.to_edges() != edges:
        raise ValueError("the entry 'edges' is not in column order")
    image_ids = json.loads(str(_typed(arrays, "image_ids", "U", 0)))
    if not all(i is None or isinstance(i, int | str) for i in image_ids):
        raise ValueError("the entry 'image_ids' holds more than integers, strings and nulls")
    costs = [name for name in arrays if name.startswith(COST_PREFIX)]
    return GatesFile(
        space=space,
        gates=torch.from_numpy(_typed(arrays, "gates", "f", 2)),
        rule=str(_typed(arrays, "rule", "U", 0)),
        file_names=tuple(_typed(arrays, "file_names", "U", 1).tolist()),
        image_sizes=_typed(arrays, "image_sizes", "i", 2),
        milliseconds=_typed(arrays, "milliseconds", "f", 1),
        image_ids=tuple(image_ids),
        costs={name.removeprefix(COST_PREFIX): _typed(arrays, name, "f", 1) for name in costs},
        clusters=_clusters(arrays),
    )


def _clusters(arrays: dict[str, np.ndarray]) -> RouteClusters | None:
    """The optional entries, all or none."""
    if "clusters" not in arrays:
        return None
    return RouteClusters(
        labels=_typed(arrays, "clusters", "i", 1),
        distances=_typed(arrays, "distances", "f", 1),
        centres=_typed(arrays, "centres", "f", 2),
    )


def _typed(arrays: dict[str, np.ndarray], name: str, kind: str, ndim: int) -> np.ndarray:
    """An entry of the dtype kind (U, i, f) and number of dimensions that the format asks for."""
    if name not in arrays:
        raise ValueError(f"the entry {name!r} is missing")
    array = arrays[name]
    if array.dtype.kind != kind or array.ndim != ndim:
        raise ValueError(f"the entry {name!r} is {array.dtype} of shape {array.shape}")
    return array
