"""Exporting a trained model through torch.export or to ONNX, checked before a file is written."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dynamic_routing.engine.export_form import ExportError, ExportForm
from dynamic_routing.files import write_atomically
from dynamic_routing.modeling.cost import routed_network
from dynamic_routing.routing.sparse import is_static

TOLERANCE = 1e-4
"""Largest allowed deviation from eager, relative to the largest magnitude of an output."""

CHECKS = 3
"""Inputs of the check, which take as many different routes if the network has them."""

CANDIDATES = 48
"""Random images among which inputs with different routes are looked for."""

LARGEST_SIDE = 128
"""Largest height and width of a dynamic export, in strides of the network."""

PT2, ONNX = ".pt2", ".onnx"


@dataclass(frozen=True)
class ExportReport:
    """What was exported and how it was checked.

    Attributes:
        path: the file.
        deviation: largest deviation from eager, relative to each output's largest magnitude.
        routes: different routes among the inputs of the check.
        dynamic: whether height and width are free.
        names: of the outputs.
        smallest: pixels of the smallest height and width that were found to work.
    """

    path: Path
    deviation: float
    routes: int
    dynamic: bool
    names: tuple[str, ...]
    smallest: int


def export_model(
    model: nn.Module,
    path: str | Path,
    *,
    form: str,
    size: tuple[int, int],
    dynamic: bool = True,
    seed: int = 0,
) -> ExportReport:
    """Export, compare with eager on three inputs, then write in one step.

    Args:
        model: a routed Detectron2 model in evaluation mode, on the CPU.
        path: ends in .pt2 (torch.export) or .onnx.
        form: "static" for fixed gates; "masked" or "branches" for a dynamic network.
        size: (height, width) in pixels of the example, multiples of the coarsest stride; with
            ``dynamic`` any multiple may follow.
        dynamic: leave height and width (and in the masked form the batch) free.
        seed: of the inputs of the check.

    Raises:
        ExportError: a form that does not fit, a size that cannot be routed, what torch or ONNX
            cannot express, or outputs that differ from eager by more than 1e-4. No file is written.
    """
    path = Path(path)
    if path.suffix not in (PT2, ONNX):
        raise ExportError(f"the file must end in {PT2} or {ONNX}, got {path}")
    if path.suffix == ONNX and form == "branches":
        raise ExportError("ONNX is offered for static and masked networks; branches go to .pt2")
    module = ExportForm(model, form).eval()
    _check_size(size, module.stride, dynamic=dynamic)
    with torch.no_grad():
        inputs, routes = varied_inputs(model, module, size=size, seed=seed)
        program = _exported(module, inputs[0], form=form, dynamic=dynamic)
        run, content = (_onnx if path.suffix == ONNX else _pt2)(program, module, inputs[0])
        others = _other_sizes(inputs, module.stride) if dynamic else []
        deviation = max(_deviation(model, module, run, images) for images in (*inputs, *others))
    if not deviation <= TOLERANCE:
        raise ExportError(
            f"the exported network differs from eager by {deviation:.1e}, more than {TOLERANCE:g}: "
            "not written"
        )
    with torch.no_grad():
        smallest = _smallest(model, module, run, inputs[0]) if dynamic else min(size)
    write_atomically(path, content)
    return ExportReport(path, deviation, routes, dynamic, tuple(module.names), smallest)


def _check_size(size: tuple[int, int], stride: int, *, dynamic: bool) -> None:
    """Raise unless the example has a size that can be routed, and generalised if ``dynamic``."""
    shown = f"got {size[0]}x{size[1]}"
    if any(side % stride or side < stride for side in size):
        raise ExportError(f"height and width must be multiples of {stride}, {shown}")
    if dynamic and not all(2 <= side // stride <= LARGEST_SIDE for side in size):
        raise ExportError(
            f"with free height and width the example needs 2 to {LARGEST_SIDE} strides of "
            f"{stride} a side, {shown}; --static-size fixes them"
        )


# Inputs -----------------------------------------------------------------------------------------


def varied_inputs(
    model: nn.Module, module: ExportForm, *, size: tuple[int, int], seed: int
) -> tuple[list[Tensor], int]:
    """Three images (1, C, H, W) with different routes, as far as random images find them.

    Returns:
        The images, and how many different routes they take.

    Raises:
        ExportError: a dynamic network for which all candidates take one route, so that the check
            would say nothing about the others.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[bytes, Tensor] = {}
    network = routed_network(model.backbone)  # type: ignore[arg-type]
    spare: list[Tensor] = []
    for _ in range(CANDIDATES):
        image = _random_image(module, size, generator)
        open_edges = network((image - module.pixel_mean) / module.pixel_std).routes.open
        if found.setdefault(open_edges.numpy().tobytes(), image) is not image:
            spare.append(image)
        if len(found) == CHECKS or (is_static(network) and len(spare) >= CHECKS):
            break
    if len(found) == 1 and not is_static(network):
        raise ExportError(
            f"{CANDIDATES} random images of {size[0]}x{size[1]} all take one route: the check "
            "would not see a frozen one (a collapsed network? tools/extract_subnetwork.py)"
        )
    return [*found.values(), *spare][:CHECKS], len(found)


def _random_image(module: ExportForm, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Noise at a random scale, of random brightness and contrast, in 0..255."""
    cells = [max(1, side // 2 ** int(torch.randint(0, 7, (), generator=generator)))
             for side in size]  # fmt: skip
    noise = torch.rand(1, module.channels, *cells, generator=generator)
    image = nn.functional.interpolate(noise, size=size, mode="bilinear", align_corners=False)
    low, high = torch.rand(2, generator=generator).sort().values.tolist()
    return (255 * (low + (high - low) * image)).contiguous()


def _other_sizes(inputs: Sequence[Tensor], stride: int) -> list[Tensor]:
    """The images at another height and width each, larger or, at the limit, smaller."""
    sizes = []
    for i, x in enumerate(inputs):
        height, width = (side // stride for side in x.shape[-2:])
        up = i + 1 if height + len(inputs) <= LARGEST_SIDE else -i - 1
        right = 1 if width < LARGEST_SIDE else -1
        sizes.append(((height + up) * stride, (width + right) * stride))
    return [
        nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
        for x, size in zip(inputs, sizes)
    ]


# Export -----------------------------------------------------------------------------------------

Run = Callable[[Tensor], Sequence[Tensor]]


def _exported(module: ExportForm, image: Tensor, *, form: str, dynamic: bool) -> ExportedProgram:
    """torch.export of the module; only the branching form fixes the batch to 1."""
    one = form == "branches"
    example = image if one or not dynamic else torch.cat([image, image])
    shapes: dict[int, Any] = {}
    if dynamic:
        strides = [Dim(name, min=1, max=LARGEST_SIDE) for name in ("rows", "columns")]
        shapes = {2: module.stride * strides[0], 3: module.stride * strides[1]}
        if not one:
            shapes[0] = Dim("batch", min=1, max=1024)
    spec = {"images": shapes} if dynamic else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about torch's own internals
            return torch.export.export(module, (example,), dynamic_shapes=spec, strict=False)
    except Exception as error:  # torch raises many kinds, over many lines
        reason = str(error).strip().split("\n", 1)[0]
        hint = "; --static-size fixes height and width" if dynamic else ""
        raise ExportError(f"torch.export cannot express this network: {reason}{hint}") from None


def _pt2(program: ExportedProgram, module: ExportForm, image: Tensor) -> tuple[Run, bytes]:
    """What runs the program as it will be read back, and the file's bytes."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    read_back = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    return read_back, buffer.getvalue()


def _onnx(program: ExportedProgram, module: ExportForm, image: Tensor) -> tuple[Run, bytes]:
    """onnxruntime on the converted program, and the file's bytes."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch.onnx needs it)
    except ImportError as error:
        raise ExportError(
            f"ONNX needs the package {error.name}: pip install 'dynamic_routing[export]'"
        ) from None
    try:
        converted = torch.onnx.export(
            program, input_names=["images"], output_names=module.names, dynamo=True, verbose=False
        )
        assert converted is not None, "torch.onnx.export returns a program without a file name"
        content = converted.model_proto.SerializeToString()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what fails is raised, and said in one line
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of torch, onnxscript and onnxruntime
        reason = str(error).strip().split("\n", 1)[0]
        raise ExportError(f"this network cannot go to ONNX: {reason}") from None

    def run(images: Tensor) -> list[Tensor]:
        """One call of the session."""
        return [torch.from_numpy(y) for y in session.run(None, {"images": images.numpy()})]

    return run, content


def _deviation(model: nn.Module, module: ExportForm, run: Run, images: Tensor) -> float:
    """Largest relative deviation of the exported program from the model as it is used."""
    wanted = eager_outputs(model, module, images)
    try:
        found = run(images)
    except Exception as error:  # a guard of torch's, or onnxruntime's own kinds
        height, width = images.shape[-2:]
        reason = str(error).strip().split("\n", 1)[0]
        raise ExportError(
            f"the exported network does not take {height}x{width}: {reason}; a larger --size "
            "leaves more sizes free, --static-size none"
        ) from None
    return max(
        float((a - b).abs().max() / b.abs().max().clamp(min=1.0)) for a, b in zip(found, wanted)
    )


def _smallest(model: nn.Module, module: ExportForm, run: Run, image: Tensor) -> int:
    """The smallest square of at most the example's size that the program takes as eager does.

    The small gate shrinks tiny inputs in another way than larger ones, and torch keeps the way of
    the example: the program then begins at a larger size than the network.
    """
    shorter = min(image.shape[-2:])
    for side in range(module.stride, shorter, module.stride):
        try:
            deviation = _deviation(model, module, run, image[..., :side, :side].contiguous())
        except ExportError:
            continue
        if deviation <= TOLERANCE:
            return side
    return shorter


def eager_outputs(model: nn.Module, module: ExportForm, images: Tensor) -> list[Tensor]:
    """The outputs of ``module.names`` from the model itself, by sparse execution."""
    features = (images - module.pixel_mean) / module.pixel_std
    output = routed_network(model.backbone).forward_sparse(features)  # type: ignore[arg-type]
    reached = [output.routes.output_reached(s) for s in output.features]
    return [*module.outputs(list(output.features.values()), reached), output.routes.gates]
