#!/usr/bin/env python3
"""Time the executor against the dense definition, a static network and ResNet-50-FPN.

Examples:
    OMP_NUM_THREADS=1 python tools/benchmark.py                       # about 3 minutes
    OMP_NUM_THREADS=1 python tools/benchmark.py --size 512 1024 --no-training --json big.json
    python tools/benchmark.py --config-file F --weights W --images a.png b.png   # its own routes

Routes are forced to fixed sparsity levels; with --weights the trained network takes its own. All
candidates take turns in one run: only ratios of medians of the same run mean anything. On a machine
that does other work, --clock cpu leaves out the time in which others had the core.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynamic_routing.analysis import benchmark as bench
from dynamic_routing.analysis import benchmark_networks as networks
from dynamic_routing.files import write_atomically
from dynamic_routing.routing import GateSpec, RoutingNetwork, RoutingSpace


def trained_network(config_file: Path | None, weights: Path) -> RoutingNetwork:
    """The routing network of a checkpoint."""
    from detectron2.modeling import build_model

    from dynamic_routing.engine.checkpoint import RoutingCheckpointer
    from dynamic_routing.modeling import get_config
    from dynamic_routing.modeling.cost import routed_network

    if config_file is None:
        raise ValueError("--weights needs the --config-file that they were trained with")
    model = build_model(get_config(config_file, ["MODEL.DEVICE", "cpu"]))
    RoutingCheckpointer(model, strict=True).load(str(weights))
    return routed_network(model.backbone)


def read_images(files: list[Path], size: tuple[int, int], count: int) -> Tensor:
    """(count, 3, H, W), the files in turn, or noise if there are none; zero mean."""
    if not files:
        return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0))
    import numpy as np
    from PIL import Image

    resized = [Image.open(f).convert("RGB").resize((size[1], size[0])) for f in files]
    pixels = [np.array(image, dtype=np.float32)[:, :, ::-1] - 115.0 for image in resized]
    images = [torch.from_numpy(p.transpose(2, 0, 1).copy()) for p in pixels]
    return torch.stack([images[i % len(images)] for i in range(count)])


def candidates(setting: networks.Setting, args: argparse.Namespace) -> list[bench.Candidate]:
    """Everything that takes part."""
    found = []
    for batch in args.batches:
        if args.weights:
            found += networks.executors(setting, networks.TRAINED, None, batch)
        for level in networks.LEVELS:
            routes = networks.level_routes(setting, level)
            found += networks.executors(setting, level, routes, batch)
            if batch == 1:
                found.append(networks.static(setting, level, routes))
                found += networks.heads(setting, level, routes)
        if batch > 1:
            routes = networks.level_routes(setting, list(networks.LEVELS)[-1], count=batch)
            found += networks.executors(setting, networks.DIFFERENT, routes, batch)
        found.append(networks.resnet(setting, batch))
        found.append(networks.resnet(setting, batch, lean=True))
    if args.training:
        for level in networks.LEVELS:
            routes = networks.level_routes(setting, level)
            found += networks.training_steps(setting, level, routes, args.training_batch)
    return found


def device_name(device: torch.device) -> str:
    """The processor's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add("--size", type=int, nargs=2, default=(256, 512), metavar=("H", "W"))
    add("--batches", type=int, nargs="+", default=[1, 4], metavar="N", help="default: 1 4")
    add("--layers", type=int, default=16)
    add("--width", type=int, default=64)
    add("--small-gate", action="store_true", help="gates that look at a quarter of the size")
    add("--repeats", type=int, default=11, help="rounds; default: 11")
    add("--threads", type=int, default=1, help="CPU threads; default: 1")
    add("--device", default="cpu", help="cpu or cuda; default: cpu")
    add("--clock", choices=list(bench.CLOCKS), default="wall")
    add("--no-training", dest="training", action="store_false")
    add("--training-batch", type=int, default=2, metavar="N", help="images a step; default: 2")
    add("--config-file", type=Path, metavar="F")
    add("--weights", type=Path, metavar="W", help="a trained network, measured on its own routes")
    add("--images", type=Path, nargs="+", default=[], metavar="FILE")
    add("--json", type=Path, metavar="FILE", help="also write everything to FILE")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    if args.weights:
        network = trained_network(args.config_file, args.weights)
    else:
        space, gate = RoutingSpace.grid(args.layers), GateSpec(small=args.small_gate)
        network = RoutingNetwork(space, width=args.width, gate=gate)
    count = max(*args.batches, args.training_batch)
    images = read_images(args.images, tuple(args.size), count).to(device)
    found = candidates(networks.Setting(network.eval().to(device), images), args)
    peak = bench.measure(found, repeats=args.repeats, clock=args.clock, device=device)
    rows = bench.summarise(found, peak=peak, open_level=networks.OPEN)
    figures = networks.key_figures(found)
    about: dict[str, Any] = {
        "device": device_name(device), "threads": args.threads, "torch": torch.__version__,
        "size": list(args.size), "repeats": args.repeats, "clock": args.clock,
        "peak_gmacs_per_second": peak / 1e9,
    }  # fmt: skip
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(bench.format_rows(rows))
    print("\n".join(f"{value:6.2f}  {name}" for name, value in figures.items()))
    if args.json:
        content = json.dumps(bench.as_json(rows, **about, figures=figures), indent=1)
        write_atomically(args.json, content.encode("utf-8"))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        print(f"benchmark.py: error: {error}", file=sys.stderr)
        sys.exit(2)
