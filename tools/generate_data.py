"""Write a generated data set of street scenes, laid out as Cityscapes, PASCAL VOC 2012 or ImageNet.

Example:
    python tools/generate_data.py --format cityscapes --root datasets --train 300 --val 60
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
from dynamic_routing.data.patches import generate_patches
from dynamic_routing.data.scenes import PROFILES
from dynamic_routing.data.voc import generate_voc

_GENERATORS: dict[str, Callable[..., Path]] = {
    "cityscapes": generate_cityscapes,
    "imagenet": generate_patches,
    "voc": generate_voc,
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
    parser.add_argument(
        "--size", type=int, nargs=2, default=(256, 512), metavar=("HEIGHT", "WIDTH")
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profiles", nargs="+", choices=PROFILES, default=list(PROFILES))
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a generated tree with other parameters"
    )
    return parser.parse_args(arguments)


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
            size=tuple(args.size),
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
