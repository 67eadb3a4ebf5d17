#!/usr/bin/env python3
"""Run a trained network on images, folders, patterns and videos; write pictures and predictions.

Examples:
    python demo/demo.py --config-file output/config.yaml --weights output/model_final.pth \\
        --input street.jpg photos 'more/*.png' drive.mp4 --output predictions --show-routes
    python demo/demo.py --config-file F --weights W --input photos --output predictions \\
        --batch-size 8 --no-pictures INPUT.MIN_SIZE_TEST 512
    # what becomes of prediction and cost along another image's route, or with an edge closed
    python demo/demo.py ... --route-of output/inference/gates_NAME.npz:frankfurt_000294.png
    python demo/demo.py ... --expert output/inference/gates_NAME.npz:2 --close 5,1/8,down

Exit status: 0; 1 if some inputs could not be read; 2 for an error; 130 after Ctrl-C, with the
results so far. dynamic_routing/engine/prediction_files.py lists what is written.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

DEBUG_VARIABLE = "DYNAMIC_ROUTING_DEBUG"
"""Environment variable: if set, user errors come with their traceback."""


def say(message: str) -> None:
    """Print for the user; results go to files."""
    print(f"demo.py: {message}", file=sys.stderr, flush=True)


def quieten() -> None:
    """Keep what libraries say about themselves out of the way of our own lines."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
    warnings.filterwarnings("ignore", message="torch.meshgrid", category=UserWarning)
    for name in ("detectron2", "fvcore"):
        logging.getLogger(name).setLevel(logging.ERROR)


def run(args: argparse.Namespace) -> int:
    """Predict on all inputs.

    Raises:
        ValueError: anything that the user has to mend, in one line.
        OSError: the output folder cannot be written.
    """
    from dynamic_routing.engine.inputs import expand_inputs
    from dynamic_routing.engine.prediction_files import check_writable
    from dynamic_routing.engine.predictor import Predictor, confidence_overrides
    from dynamic_routing.engine.replay import with_replay
    from dynamic_routing.evaluation.class_names import predicted_classes
    from dynamic_routing.evaluation.route_choice import route_choice
    from dynamic_routing.modeling import get_config
    from dynamic_routing.modeling.cost import RouteCosts
    from dynamic_routing.modeling.meta_arch import RoutingMixin

    if args.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {args.batch_size}")
    cfg = get_config(args.config_file, [*confidence_overrides(args.confidence), *args.opts])
    classes = predicted_classes(cfg, args.dataset)
    sources = expand_inputs(args.input, output=args.output)
    choice = route_choice(**{k: getattr(args, k) for k in ("route_of", "expert", "open", "close")})
    predictor = Predictor(cfg, weights=args.weights)
    routed = isinstance(predictor.model, RoutingMixin)
    if (args.show_routes or choice) and not routed:
        what = "--show-routes" if args.show_routes else "another route"
        raise ValueError(f"{what}: {cfg.MODEL.META_ARCHITECTURE} takes no routes")
    cost = RouteCosts(predictor.model) if routed else None
    options = {"pictures": not args.no_pictures, "show_routes": args.show_routes}
    pair = with_replay(predictor, choice, args.output, classes=classes, cost=cost, **options)
    check_writable(args.output)
    return write_all(*pair, sources, batch_size=args.batch_size)


def write_all(predict: Any, writer: Any, sources: list[Any], *, batch_size: int) -> int:
    """Predict, write and say what came out; the exit status."""
    from dynamic_routing.engine.inputs import count_frames, read_frames
    from dynamic_routing.engine.prediction_run import Progress, predict_all

    broken = []

    def skip(source: Any, reason: str) -> None:
        """Report a source that cannot be read."""
        broken.append(source)
        say(reason)

    progress = Progress(count_frames(sources), say=say)
    try:
        with writer:
            frames = read_frames(sources, on_broken=skip)
            predict_all(predict, frames, writer, batch_size=batch_size, progress=progress)
    except KeyboardInterrupt:
        say(f"interrupted; {writer.summary()[0]}, in {writer.folder}")
        return 130
    first, *more = writer.summary()
    for line in (f"{first}, in {writer.folder}", *more):
        say(line)
    if broken:
        say(f"{len(broken)} of {len(sources)} inputs could not be read")
    return 1 if broken else 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add("--config-file", type=Path, required=True, metavar="FILE")
    add("--weights", metavar="W", help="checkpoint; default: MODEL.WEIGHTS of the config")
    add("--input", nargs="+", required=True, help="images, folders, patterns, videos")
    add("--output", type=Path, required=True, metavar="DIR")
    add("--batch-size", type=int, default=1, metavar="N", help="images a forward; default: 1")
    add("--confidence", type=float, default=0.5, help="least score of an instance; default: 0.5")
    add("--show-routes", action="store_true", help="draw each route below its picture")
    add("--route-of", metavar="GATES.npz:IMAGE", help="run along this image's route too")
    add("--expert", metavar="GATES.npz:K", help="run along what cluster K's images share too")
    edge = {"nargs": "+", "default": [], "metavar": "EDGE"}
    add("--open", **edge, help="edges to open in that route, or the own one, as 5,1/8,down")
    add("--close", **edge, help="edges to close")
    add("--no-pictures", action="store_true", help="write predictions and routes only")
    add("--dataset", metavar="NAME", help="class names; default: the first of DATASETS.TEST")
    add("opts", nargs="*", metavar="KEY VALUE", help="config keys, after the other arguments")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Parse, run, and turn errors into one line."""
    args = parse(argv)
    try:
        return run(args)
    except KeyboardInterrupt:
        say("interrupted before the first image")
        return 130
    except (ValueError, OSError) as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        say(f"error: {error}")
        return 2


if __name__ == "__main__":
    quieten()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a killed run keeps its results
    sys.exit(main())
