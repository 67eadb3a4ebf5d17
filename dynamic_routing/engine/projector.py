"""A-space for TensorBoard's projector: a point an image, with a thumbnail."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dynamic_routing.data.images import ImageError, read_image
from dynamic_routing.divdr.sources import choose_subset
from dynamic_routing.evaluation.gates_file import GatesFile, load_gates

THUMBNAIL = 48
"""Side of a thumbnail in pixels."""

MAX_POINTS = 2000
"""TensorBoard reads one picture of all thumbnails of at most 8192 x 8192 pixels."""

UNREADABLE = 0.6
"""Grey of the thumbnail of an image that is no longer there."""


def write_embedding(folder: str | Path, files: Mapping[str, Path], *, seed: int = 0) -> Path:
    """Write A(x) of the images of gates files for ``tensorboard --logdir``.

    Args:
        folder: replaced by the new one.
        files: name of the data set -> gates file. Of more than :data:`MAX_POINTS` images a sample
            is shown.
        seed: of the sample.

    Returns:
        ``folder``.

    Raises:
        GatesFileError: a file that holds no gates.
    """
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(str(folder)) as writer:
        for name, path in files.items():
            gates = load_gates(path)
            rows = choose_subset(len(gates), MAX_POINTS, seed=seed)
            facts = image_facts(gates)
            header = list(facts)
            writer.add_embedding(
                gates.routes.activations()[rows],
                metadata=[[facts[key][row] for key in header] for row in rows],
                metadata_header=header,
                label_img=torch.stack([thumbnail(gates.file_names[row]) for row in rows]),
                tag=name,
            )
    return Path(folder)


def image_facts(gates: GatesFile) -> dict[str, list[str]]:
    """What the projector says of each image and colours it by: name -> a text for each of N."""
    facts = {"image": [Path(name).name for name in gates.file_names]}
    if gates.clusters is not None:
        facts["cluster"] = [str(label) for label in gates.clusters.labels.tolist()]
    facts.update({name: [f"{v:.5g}" for v in costs] for name, costs in gates.costs.items()})
    facts["milliseconds"] = [f"{v:.4g}" for v in gates.milliseconds]
    return facts


def thumbnail(file_name: str) -> Tensor:
    """An image as a square (3, s, s) in [0, 1]; grey if it cannot be read."""
    try:
        image = Image.fromarray(read_image(file_name, "RGB"))
    except (ImageError, OSError, ValueError):
        return torch.full((3, THUMBNAIL, THUMBNAIL), UNREADABLE)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    square = Image.new("RGB", (THUMBNAIL, THUMBNAIL))
    square.paste(image, ((THUMBNAIL - image.width) // 2, (THUMBNAIL - image.height) // 2))
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255
