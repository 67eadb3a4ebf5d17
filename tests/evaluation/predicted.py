"""Hand-made predictions for the tests of pictures and files: boxes, masks, keypoints, maps."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.structures import Boxes, Instances

from dynamic_routing.evaluation.class_names import ClassNames, PredictedClasses
from dynamic_routing.routing import Routes, RoutingSpace

SPACE = RoutingSpace.grid(3)
THINGS = ClassNames(("person", "car", "bus"), ((255, 0, 0), (0, 255, 0), (0, 0, 255)), {1: 7, 0: 4})
STUFF = ClassNames(("things", "road", "sky"), ((0, 0, 0), (200, 0, 200), (0, 200, 200)), {1: 21})
CLASSES = PredictedClasses(THINGS, STUFF, num_things=3, num_stuff=3, dataset_name="mine")


def instances(height: int, width: int, *, masks: bool = True, keypoints: bool = False) -> Instances:
    """A car in the upper left quarter and a person in the lower right one."""
    top, left = max(1, height // 2), max(1, width // 2)
    boxes = torch.tensor([[0, 0, left, top], [left, top, width, height]])
    result = Instances(
        (height, width),
        pred_boxes=Boxes(boxes.float()),
        scores=torch.tensor([0.75, 0.5]),
        pred_classes=torch.tensor([1, 0]),
    )
    if masks:
        result.pred_masks = torch.zeros(2, height, width, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(result.pred_masks, boxes.tolist()):
            mask[y0:y1, x0:x1] = True
    if keypoints:
        result.pred_keypoints = torch.rand(2, 17, 3) * torch.tensor([width, height, 1.0])
    return result


def no_instances(height: int, width: int) -> Instances:
    """What a mask head returns where it finds nothing."""
    return instances(height, width)[[]]


def label_scores(height: int, width: int) -> torch.Tensor:
    """(3, H, W) scores: sky above road."""
    scores = torch.zeros(3, height, width)
    scores[2, : height // 2] = 1
    scores[1, height // 2 :] = 1
    return scores


def panoptic(height: int, width: int) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """One car above the road; the rest is no segment."""
    segments = torch.zeros(height, width, dtype=torch.int32)
    segments[height // 2 :] = 300
    segments[: height // 2, : width // 2] = 70_000
    return segments, [
        {"id": 70_000, "isthing": True, "score": 0.9, "category_id": 1, "instance_id": 0},
        {"id": 300, "isthing": False, "category_id": 1, "area": 5},
    ]


def routes(seed: int = 0, image_size: tuple[int, int] = (64, 64)) -> Routes:
    """One image's route."""
    generator = torch.Generator().manual_seed(seed)
    gates = torch.rand(1, len(SPACE.edges), generator=generator).sub(0.3).clamp(min=0)
    return Routes(SPACE, gates, "absent", image_size)


def route_cost(route: Routes) -> dict[str, torch.Tensor]:
    """A cost that the tests can compute."""
    return {"gmacs": route.gates.sum(dim=1), "paper_gflops": 2 * route.gates.sum(dim=1)}
