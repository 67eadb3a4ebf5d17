#!/usr/bin/env python3
"""Export a trained model through torch.export (.pt2) or to ONNX (.onnx), and check it first.

Examples:
    # a dynamic network: every cell computed and masked (exact), or real branches (torch.cond)
    python tools/export_model.py output/dr_c --form masked --size 512 1024 --output dr_c.pt2
    python tools/export_model.py output/dr_c --form branches --size 512 1024 --output dr_c.pt2
    # a static one (classic, common, a cluster's expert), to ONNX
    python tools/export_model.py common/model.pth --form static --size 512 1024 --output c.onnx

The exported network maps images (N, 3, H, W), 0..255 in INPUT.FORMAT, to scores and gates (see
--help). Height and width may be any multiples of the coarsest stride unless --static-size is given,
with small gates from the size on that is printed;
a batch may be any size in the static and masked forms, and is 1 with branches. Before the file is
written it is compared with the model on three images that take different routes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dynamic_routing.engine.export import export_model
from dynamic_routing.engine.pretrained import load_pretrained
from dynamic_routing.routing.exportable import FORMS, STATIC


def main(argv: list[str] | None = None) -> int:
    """Parse, load, export."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path, help="checkpoint, or a run's folder")
    parser.add_argument("--config-file", type=Path, metavar="F", help="default: config.yaml beside")
    parser.add_argument("--form", choices=[STATIC, *FORMS], required=True)
    parser.add_argument("--size", type=int, nargs=2, required=True, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--static-size", action="store_true", help="fix batch, height and width")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help=".pt2 or .onnx")
    parser.add_argument("--seed", type=int, default=0, help="of the images of the check")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of the config")
    args = parser.parse_intermixed_args(argv)
    try:
        model = load_pretrained(
            args.weights, config_file=args.config_file, overrides=args.opts, device="cpu"
        )
        report = export_model(
            model,
            args.output,
            form=args.form,
            size=tuple(args.size),
            dynamic=not args.static_size,
            seed=args.seed,
        )
    except (ValueError, OSError) as error:
        print(f"export_model.py: error: {error}", file=sys.stderr)
        return 2
    fixed = f"{args.size[0]}x{args.size[1]}"
    sizes = f"multiples of the stride from {report.smallest}" if report.dynamic else fixed
    print(
        f"{report.path}: images -> {', '.join(report.names)}; height and width {sizes}; differs "
        f"from eager by at most {report.deviation:.1e} on inputs with {report.routes} routes"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
