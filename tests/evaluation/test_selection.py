"""Choosing rows of a gates file by name: exact, unique or refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dynamic_routing.evaluation.gates_file import GatesFile
from dynamic_routing.evaluation.selection import chosen_rows
from dynamic_routing.routing import RoutingSpace

SPACE = RoutingSpace.grid(3)
NAMES = ("in/a.jpg", "in/sub/a.jpg", "in/b.jpg")


@pytest.fixture
def gates():
    return GatesFile(
        space=SPACE,
        gates=torch.rand(3, len(SPACE.edges)),
        rule="absent",
        file_names=NAMES,
        image_sizes=np.full((3, 2), 32),
        milliseconds=np.ones(3),
        image_ids=(1, 2, 3),
    )


@pytest.mark.parametrize(
    ("images", "rows"),
    [((), [0, 1, 2]), (("in/sub/a.jpg",), [1]), (("b.jpg",), [2]), (("b.jpg", "in/a.jpg"), [0, 2]),
     (("b.jpg", "in/b.jpg"), [2])],
)  # fmt: skip
def test_exact_path_or_unique_name_is_chosen(gates, images, rows):
    assert chosen_rows(gates, images) == rows


def test_name_of_several_images_is_refused_with_their_paths(gates):
    with pytest.raises(ValueError, match="a.jpg names 2 images; .* in/a.jpg, in/sub/a.jpg"):
        chosen_rows(gates, ["a.jpg"])


def test_unknown_name_is_refused(gates):
    with pytest.raises(ValueError, match="no image c.jpg in the gates file; it has a.jpg"):
        chosen_rows(gates, ["c.jpg"])
