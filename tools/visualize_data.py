#!/usr/bin/env python3
"""Pictures of training or test samples as the network sees them, with their labels.

Example:
    python tools/visualize_data.py --config-file configs/quick/dr_c_cityscapes.yaml \\
        --count 8 --output samples

Images are chosen by --seed; image i is augmented with seed + i, so a picture can be had again.
Leaves DIR/sample_00.png, ... and DIR/samples.json (files, sizes, seeds).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from detectron2.config import CfgNode

from dynamic_routing.analysis.sample_figure import sample_png
from dynamic_routing.engine.data_pictures import SPLITS, draw_sample, mapped_images
from dynamic_routing.engine.loaders import prepare_datasets
from dynamic_routing.files import write_atomically
from dynamic_routing.modeling import get_config


def draw_all(cfg: CfgNode, args: argparse.Namespace) -> int:
    """Draw the samples; how many there were.

    Raises:
        ValueError: anything that the user has to mend, in one line.
    """
    listed = []
    found = mapped_images(cfg, split=args.split, count=args.count, seed=args.seed)
    for i, image in enumerate(found):
        sample = draw_sample(image, image_format=cfg.INPUT.FORMAT)
        path = args.output / f"sample_{i:02d}.png"
        write_atomically(path, sample_png(sample))
        height, width = image.inputs["image"].shape[-2:]
        entry = {"picture": path.name, "file_name": str(image.inputs.get("file_name", ""))}
        listed.append(
            {**entry, "seed": image.seed, "height": height, "width": width, "title": sample.title}
        )
    content = {"dataset_split": args.split, "samples": listed}
    write_atomically(args.output / "samples.json", json.dumps(content, indent=1).encode("utf-8"))
    return len(listed)


def main(argv: list[str] | None = None) -> int:
    """Parse and draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--config-file", type=Path, required=True, metavar="FILE")
    parser.add_argument("--split", choices=SPLITS, default="train", help="default: train")
    parser.add_argument("--count", type=int, default=8, metavar="N", help="default: 8")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys")
    args = parser.parse_args(argv)
    try:
        if args.seed < 0:
            raise ValueError(f"--seed must not be negative, got {args.seed}")
        cfg = get_config(args.config_file, args.opts)
        prepare_datasets(cfg)
        print(f"samples in {args.output}: {draw_all(cfg, args)}")
    except (ValueError, OSError) as error:
        print(f"visualize_data.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("visualize_data.py: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
