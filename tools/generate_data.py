"""Write a generated data set: street scenes laid out as Cityscapes or PASCAL VOC 2012, patches of
them laid out as ImageNet, or pictures with objects, keypoints and panoptic segments as COCO 2017.

Example:
    python tools/generate_data.py --format cityscapes --root datasets --train 300 --val 60
    python tools/generate_data.py --format coco --root datasets --train 900 --val 90
    DETECTRON2_DATASETS=datasets python train_net.py ...

A tree that is already there with the same parameters is left as it is.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from dynamic_routing.data.cityscapes import generate_cityscapes
from dynamic_routing.data.coco import DEFAULT_SIZE as COCO_SIZE
from dynamic_routing.data.coco import generate_coco
from dynamic_routing.data.patches import DEFAULT_SIZE as PATCH_SIZE
from dynamic_routing.data.patches import generate_patches
from dynamic_routing.data.profiles import PROFILES
from dynamic_routing.data.voc import generate_voc

_GENERATORS: dict[str, Callable[..., Path]] = {
    "cityscapes": generate_cityscapes,
    "coco": generate_coco,
    "imagenet": generate_patches,
    "voc": generate_voc,
}
_STREET_SIZE = (256, 512)
_SIZES = {
    "cityscapes": _STREET_SIZE,
    "coco": COCO_SIZE,
    "imagenet": PATCH_SIZE,
    "voc": _STREET_SIZE,
}


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Args:
        arguments: words after the program's name; those of the process by default.

    Returns:
        format, root, train, val, size, seed, profiles and overwrite.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--format", choices=sorted(_GENERATORS), default="cityscapes")
    parser.add_argument("--root", type=Path, required=True, help="what DETECTRON2_DATASETS names")
    parser.add_argument("--train", type=int, default=48, help="number of training images")
    parser.add_argument("--val", type=int, default=12, help="number of validation images")
    sizes = ", ".join(f"{height} {width} for {kind}" for kind, (height, width) in _SIZES.items())
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help=f"by default {sizes}"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profiles", nargs="+", choices=PROFILES, default=list(PROFILES))
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a generated tree with other parameters"
    )
    args = parser.parse_args(arguments)
    args.size = tuple(args.size or _SIZES[args.format])
    return args


def show_progress(done: int, total: int) -> None:
    """Say every tenth of the way how many images are written."""
    if done == total or done % max(1, total // 10) == 0:
        print(f"{done}/{total} images", flush=True)


def main(args: argparse.Namespace) -> int:
    """Generate the tree.

    Args:
        args: see `parse_args`.

    Returns:
        Exit status: 0, or 2 for input that cannot be used (said in one line).
    """
    try:
        tree = _GENERATORS[args.format](
            args.root,
            counts={"train": args.train, "val": args.val},
            size=args.size,
            seed=args.seed,
            profiles=args.profiles,
            overwrite=args.overwrite,
            progress=show_progress,
        )
    except (ValueError, OSError) as error:
        print(f"generate_data.py: {error}", file=sys.stderr)
        return 2
    print(f"{tree} holds {args.train} train and {args.val} val images")
    print(f"export DETECTRON2_DATASETS={shlex.quote(str(args.root.expanduser().absolute()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main(parse_args()))
