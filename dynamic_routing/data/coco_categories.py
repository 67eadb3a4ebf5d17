"""COCO's official categories, as the "categories" of its annotation files list them."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from .coco_person import KEYPOINT_NAMES, SKELETON

_THINGS: Mapping[str, Mapping[int, str]] = {
    "person": {1: "person"},
    "vehicle": {
        2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 8: "truck",
        9: "boat",
    },
    "outdoor": {
        10: "traffic light", 11: "fire hydrant", 13: "stop sign", 14: "parking meter", 15: "bench",
    },
    "animal": {
        16: "bird", 17: "cat", 18: "dog", 19: "horse", 20: "sheep", 21: "cow", 22: "elephant",
        23: "bear", 24: "zebra", 25: "giraffe",
    },
    "accessory": {27: "backpack", 28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase"},
    "sports": {
        34: "frisbee", 35: "skis", 36: "snowboard", 37: "sports ball", 38: "kite",
        39: "baseball bat", 40: "baseball glove", 41: "skateboard", 42: "surfboard",
        43: "tennis racket",
    },
    "kitchen": {
        44: "bottle", 46: "wine glass", 47: "cup", 48: "fork", 49: "knife", 50: "spoon", 51: "bowl",
    },
    "food": {
        52: "banana", 53: "apple", 54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot",
        58: "hot dog", 59: "pizza", 60: "donut", 61: "cake",
    },
    "furniture": {
        62: "chair", 63: "couch", 64: "potted plant", 65: "bed", 67: "dining table", 70: "toilet",
    },
    "electronic": {
        72: "tv", 73: "laptop", 74: "mouse", 75: "remote", 76: "keyboard", 77: "cell phone",
    },
    "appliance": {78: "microwave", 79: "oven", 80: "toaster", 81: "sink", 82: "refrigerator"},
    "indoor": {
        84: "book", 85: "clock", 86: "vase", 87: "scissors", 88: "teddy bear", 89: "hair drier",
        90: "toothbrush",
    },
}  # fmt: skip
"""The 80 things by supercategory: official id and name."""

_STUFF: Mapping[str, Mapping[int, str]] = {
    "textile": {
        92: "banner", 93: "blanket", 109: "curtain", 141: "pillow", 168: "towel", 200: "rug-merged",
    },
    "building": {
        95: "bridge", 128: "house", 151: "roof", 166: "tent", 197: "building-other-merged",
    },
    "raw-material": {100: "cardboard", 195: "paper-merged"},
    "furniture-stuff": {
        107: "counter", 112: "door-stuff", 130: "light", 133: "mirror-stuff", 156: "shelf",
        161: "stairs", 188: "cabinet-merged", 189: "table-merged",
    },
    "floor": {118: "floor-wood", 190: "floor-other-merged"},
    "plant": {119: "flower", 184: "tree-merged", 193: "grass-merged"},
    "food-stuff": {122: "fruit", 196: "food-other-merged"},
    "ground": {
        125: "gravel", 144: "platform", 145: "playingfield", 147: "railroad", 149: "road",
        154: "sand", 159: "snow", 191: "pavement-merged", 194: "dirt-merged",
    },
    "structural": {138: "net", 185: "fence-merged"},
    "water": {148: "river", 155: "sea", 178: "water-other"},
    "wall": {
        171: "wall-brick", 175: "wall-stone", 176: "wall-tile", 177: "wall-wood",
        199: "wall-other-merged",
    },
    "window": {180: "window-blind", 181: "window-other"},
    "ceiling": {186: "ceiling-merged"},
    "sky": {187: "sky-other-merged"},
    "solid": {192: "mountain-merged", 198: "rock-merged"},
}  # fmt: skip
"""The 53 kinds of stuff of the panoptic task, likewise."""


def _entries(groups: Mapping[str, Mapping[int, str]]) -> list[dict[str, Any]]:
    """Supercategory, id and name, by id."""
    entries = [
        {"supercategory": group, "id": number, "name": name}
        for group, members in groups.items()
        for number, name in members.items()
    ]
    return sorted(entries, key=itemgetter("id"))


def instance_categories() -> list[dict[str, Any]]:
    """The 80 things: supercategory, id and name."""
    return _entries(_THINGS)


def panoptic_categories() -> list[dict[str, Any]]:
    """The 80 things and 53 kinds of stuff: supercategory, isthing, id and name."""
    marked = [(1, entry) for entry in _entries(_THINGS)]
    marked += [(0, entry) for entry in _entries(_STUFF)]
    return [
        {"supercategory": entry["supercategory"], "isthing": isthing, **entry}
        for isthing, entry in marked
    ]


def keypoint_categories() -> list[dict[str, Any]]:
    """Person alone, with its keypoints and skeleton."""
    (entry,) = [entry for entry in instance_categories() if entry["name"] == "person"]
    skeleton = [list(bone) for bone in SKELETON]
    return [{**entry, "keypoints": list(KEYPOINT_NAMES), "skeleton": skeleton}]


def category_ids() -> dict[str, int]:
    """Official id of each of the 133 names."""
    return {entry["name"]: entry["id"] for entry in panoptic_categories()}


def stuff_labels() -> dict[str, int]:
    """Label of each kind of stuff in Detectron2's panoptic_stuff PNGs: 1 to 53 in COCO's order."""
    stuff = [entry["name"] for entry in panoptic_categories() if not entry["isthing"]]
    return {name: label for label, name in enumerate(stuff, start=1)}
