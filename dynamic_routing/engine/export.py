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

from dynamic_routing.files import write_atomically
from dynamic_routing.modeling.cost import routed_network
from dynamic_routing.modeling.features import feature_name
from dynamic_routing.modeling.image_classifier import PlainImageClassifier
from dynamic_routing.modeling.sem_seg_head import DynamicRoutingSemSegHead
from dynamic_routing.routing import SegmentationDecoder
from dynamic_routing.routing.exportable import exportable
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


class ExportError(ValueError):
    """A model that cannot be exported as asked; its message is one line."""


class ExportForm(nn.Module):
    """A Detectron2 model as one that maps an image tensor to tensors.

    Images are (N, C, H, W), 0..255 in the model's own order of channels; H and W are multiples of
    the coarsest stride. Outputs by name (see ``names``): "scores" (N, K, H, W) of a segmentor or
    (N, K) of a classifier, the feature maps "p2", "p3", ... of a backbone with any other head, and
    always "gates" (N, E).

    Args:
        model: a routed model in evaluation mode.
        form: "static", "masked" or "branches".

    Raises:
        ExportError: the form does not fit the model.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, model: nn.Module, form: str) -> None:
        super().__init__()
        try:
            network = routed_network(model.backbone)  # type: ignore[arg-type]
            self.routing = exportable(network, form)
        except ValueError as error:
            raise ExportError(str(error)) from None
        self.stride = network.space.stride
        self.channels = network.image_channels
        self.scales = [feature_name(s) for s in network.space.scales]
        self.head, self.names = self._head(model)
        for name in ("pixel_mean", "pixel_std"):
            self.register_buffer(name, getattr(model, name).detach().clone())

    def _head(self, model: nn.Module) -> tuple[nn.Module | None, list[str]]:
        """What stands on the features, and the names of the outputs."""
        head = getattr(model, "sem_seg_head", None)
        if isinstance(head, DynamicRoutingSemSegHead) and len(head.in_features) == len(self.scales):
            return head.decoder, ["scores", "gates"]
        if isinstance(model, PlainImageClassifier):
            return model.classifier, ["scores", "gates"]
        return None, [*self.scales, "gates"]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Outputs in the order of ``names``."""
        features, reached, gates = self.routing((images - self.pixel_mean) / self.pixel_std)
        return (*self.outputs(features, reached), gates)

    def outputs(self, features: Sequence[Tensor], reached: Sequence[Tensor]) -> list[Tensor]:
        """The head's scores, or the features, from those of every scale, fine to coarse."""
        if self.head is None:
            return list(features)
        if isinstance(self.head, SegmentationDecoder):
            return [self.head(dict(enumerate(features)), dict(enumerate(reached)))]
        return [self.head(dict(zip(self.scales, features)))]


@dataclass(frozen=True)
class ExportReport:
    """What was exported and how it was checked.

    Attributes:
        path: the file.
        deviation: largest deviation from eager, relative to each output's largest magnitude.
        routes: different routes among the inputs of the check.
        dynamic: whether height and width are free.
        names: of the outputs.
    """

    path: Path
    deviation: float
    routes: int
    dynamic: bool
    names: tuple[str, ...]


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
    if any(side % module.stride or side < module.stride for side in size):
        raise ExportError(
            f"height and width must be multiples of {module.stride}, got {size[0]}x{size[1]}"
        )
    with torch.no_grad():
        inputs, routes = varied_inputs(model, module, size=size, seed=seed)
        program = _exported(module, inputs[0], form=form, dynamic=dynamic)
        run, content = (_onnx if path.suffix == ONNX else _pt2)(program, module, inputs[0])
        others = _other_sizes(inputs, module.stride) if dynamic else inputs
        deviation = max(_deviation(model, module, run, images) for images in (*inputs, *others))
    if not deviation <= TOLERANCE:
        raise ExportError(
            f"the exported network differs from eager by {deviation:.1e}, more than {TOLERANCE:g}: "
            "not written"
        )
    write_atomically(path, content)
    return ExportReport(path, deviation, routes, dynamic, tuple(module.names))


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
    """The images at another height and width each."""
    sizes = [(x.shape[-2] + (i + 1) * stride, x.shape[-1] + stride) for i, x in enumerate(inputs)]
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
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
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
    found = run(images)
    return max(
        float((a - b).abs().max() / b.abs().max().clamp(min=1.0)) for a, b in zip(found, wanted)
    )


def eager_outputs(model: nn.Module, module: ExportForm, images: Tensor) -> list[Tensor]:
    """The outputs of ``module.names`` from the model itself, by sparse execution."""
    features = (images - module.pixel_mean) / module.pixel_std
    output = routed_network(model.backbone).forward_sparse(features)  # type: ignore[arg-type]
    reached = [output.routes.output_reached(s) for s in output.features]
    return [*module.outputs(list(output.features.values()), reached), output.routes.gates]
