"""Test-time augmentation of R-CNNs against the model itself, and through the trainer."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import pairwise_iou
from PIL import Image
from torch import nn

from dynamic_routing.engine.model_checks import check_augmentation_applies
from dynamic_routing.engine.trainer import Trainer
from dynamic_routing.modeling.detection_tta import RCNNWithTTA
from dynamic_routing.modeling.test_time_augmentation import (
    SemanticSegmentorWithTTA,
    with_test_time_augmentation,
)
from tests.evaluation.tiny_coco import coco_dataset, registered
from tests.modeling.builders import small_config, small_model
from tests.modeling.detectors import (
    FASTER,
    KEYPOINT,
    MASK,
    PANOPTIC,
    RETINA,
    detection_batch,
    small_detector,
    small_detector_config,
)

HEIGHT, WIDTH = 70, 100


def views(*sizes, flip=False, longest=400):
    """Config overrides for these shorter sides."""
    return (
        "TEST.AUG.MIN_SIZES", str(tuple(sizes)),
        "TEST.AUG.MAX_SIZE", str(longest),
        "TEST.AUG.FLIP", str(flip),
    )  # fmt: skip


def augmented(model, *overrides):
    return with_test_time_augmentation(small_detector_config(*overrides), model)


def entry(seed=0, **more):
    """One image as a test loader delivers it: 8 bit, with the size of the original."""
    (inputs,) = detection_batch((HEIGHT, WIDTH), seed=seed, labels=False)
    inputs["image"] = inputs["image"].clamp(0, 255).byte()
    return {"height": HEIGHT, "width": WIDTH, **inputs, **more}


@torch.no_grad()
def infer(model, inputs):
    return model.eval()([inputs])[0]


@pytest.fixture(scope="module")
def faster():
    return small_detector(*FASTER, seed=3).eval()


@pytest.fixture(scope="module")
def masked():
    return small_detector(*MASK, seed=3).eval()


def test_augmentation_that_a_model_lacks_is_refused_before_training():
    cfg = small_detector_config(*RETINA, "TEST.AUG.ENABLED", "True")
    with pytest.raises(ValueError, match="RetinaNet has no test-time augmentation"):
        check_augmentation_applies(cfg, small_detector(*RETINA))


def test_one_plain_view_gives_the_models_own_result(masked):
    inputs = entry(height=2 * HEIGHT, width=2 * WIDTH)
    (output,) = augmented(masked, *MASK, *views(HEIGHT))([inputs])
    expected = infer(masked, inputs)
    found, wanted = output["instances"], expected["instances"]
    assert len(found) == len(wanted) > 0 and found.image_size == (2 * HEIGHT, 2 * WIDTH)
    torch.testing.assert_close(found.pred_boxes.tensor, wanted.pred_boxes.tensor)
    torch.testing.assert_close(found.scores, wanted.scores)
    assert torch.equal(found.pred_classes, wanted.pred_classes)
    assert float((found.pred_masks == wanted.pred_masks).float().mean()) > 0.999
    assert torch.equal(output["routes"].gates, expected["routes"].gates)


def test_mirrored_image_gives_mirrored_boxes(faster):
    tta = augmented(faster, *views(HEIGHT, 96, flip=True))
    plain = entry()
    mirrored = {**plain, "image": plain["image"].flip(-1)}
    a, b = (tta([inputs])[0]["instances"] for inputs in (plain, mirrored))
    assert len(a) == len(b) > 0
    torch.testing.assert_close(a.scores, b.scores, rtol=1e-4, atol=1e-5)
    turned = b.pred_boxes.clone()
    turned.tensor[:, [0, 2]] = WIDTH - turned.tensor[:, [2, 0]]
    overlap = pairwise_iou(a.pred_boxes, turned) * (a.pred_classes[:, None] == b.pred_classes)
    assert float(overlap.max(dim=1).values.min()) > 0.99
    assert len(a) > len(infer(faster, plain)["instances"])


@pytest.mark.parametrize("flip", [False, True])
def test_routes_are_those_of_the_plain_view_of_nearest_size(faster, flip):
    inputs = entry()
    (output,) = augmented(faster, *views(130, HEIGHT, 200, flip=flip))([inputs])
    assert torch.equal(output["routes"].gates, infer(faster, inputs)["routes"].gates)
    assert len(output["routes"]) == 1 and output["routes"].gates.device.type == "cpu"
    (larger,) = augmented(faster, *views(130, 260, flip=flip))([inputs])
    assert larger["routes"].image_size == (192, 192)  # 130 x 186, padded to the stride


@torch.no_grad()
@pytest.mark.parametrize("clusters", [0, 2])
def test_routes_say_which_cluster_they_belong_to(clusters):
    options = (*FASTER, "MODEL.DYNAMIC_ROUTING.DIVDR.NUM_CLUSTERS", str(clusters))
    model, inputs = small_detector(*options, seed=3).eval(), entry()
    if clusters:
        rows = [infer(model, entry(seed))["routes"].activations() for seed in (1, 0)]
        model.routing_losses[0].set_clusters(torch.cat(rows), 0.5)
    expected = infer(model, inputs)["routes"]
    routes = augmented(model, *views(HEIGHT, 96, flip=True))([inputs])[0]["routes"]
    if not clusters:
        assert routes.cluster is routes.cluster_distance is expected.cluster is None
        return
    assert routes.cluster == expected.cluster == 1
    assert torch.equal(routes.cluster_distance, expected.cluster_distance)


def test_longest_side_limits_the_view_that_is_chosen(faster):
    # With at most 105 pixels a side, 500 becomes 74, nearer to 70 than 64 is.
    (output,) = augmented(faster, *views(64, 500, longest=105))([entry()])
    (alone,) = augmented(faster, *views(500, longest=105))([entry()])
    assert torch.equal(output["routes"].gates, alone["routes"].gates)


@torch.no_grad()
def test_route_of_a_view_does_not_depend_on_the_others(masked):
    alone, among = (
        augmented(masked, *MASK, *views(*sizes, flip=True))([entry()])[0]["routes"]
        for sizes in ((HEIGHT,), (HEIGHT, 150, 230))
    )
    assert torch.equal(alone.gates, among.gates) and alone.image_size == among.image_size


def test_time_covers_all_views_and_nothing_is_left_on_the_model(faster):
    tta = augmented(faster, *views(HEIGHT, 96, flip=True))
    calls = []
    handle = faster.backbone.register_forward_hook(lambda *_: calls.append(1))
    (output,) = tta([entry()])
    handle.remove()
    assert len(calls) == 4 and output["milliseconds"] > 0
    assert not any(module._forward_hooks for module in faster.modules())


def test_images_without_detections_are_no_exception(masked):
    nothing = (*MASK, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "1.0", *views(HEIGHT, 96))
    model = small_detector(*nothing, seed=3).eval()
    (output,) = augmented(model, *nothing)([entry()])
    assert len(output["instances"]) == 0 and output["instances"].has("pred_masks")
    assert len(output["routes"]) == 1


def test_unrouted_backbone_gives_no_routes(faster):
    class Fixed(nn.Module):
        """Detectron2's interface without a routing network."""

        size_divisibility = faster.backbone.size_divisibility
        padding_constraints = faster.backbone.padding_constraints

        def forward(self, x):
            sizes = {f"p{i}": (x.shape[-2] >> i, x.shape[-1] >> i) for i in range(2, 7)}
            return {name: torch.zeros(len(x), 8, *size) for name, size in sizes.items()}

    model = small_detector("MODEL.META_ARCHITECTURE", "GeneralizedRCNN").eval()
    model.backbone = Fixed()
    assert set(augmented(model, *views(HEIGHT))([entry()])[0]) == {"instances"}


def test_kind_of_model_decides(faster):
    segmentor = small_model().eval()
    assert isinstance(
        with_test_time_augmentation(small_config(), segmentor), SemanticSegmentorWithTTA
    )
    assert isinstance(augmented(faster), RCNNWithTTA)


@pytest.mark.parametrize(
    ("kind", "overrides", "said"),
    [
        (RETINA, (), "DynamicRoutingRetinaNet has no test-time augmentation"),
        (PANOPTIC, (), "DynamicRoutingPanopticFPN has no test-time augmentation"),
        (KEYPOINT, (), "test-time augmentation does not work with MODEL.KEYPOINT_ON True"),
        (FASTER, views(), r"test-time augmentation does not work with TEST.AUG.MIN_SIZES \(\)"),
    ],
    ids=["retinanet", "panoptic", "keypoints", "no_view"],
)
def test_what_cannot_be_augmented_is_refused_in_one_line(kind, overrides, said):
    with pytest.raises(ValueError, match=said) as caught:
        augmented(small_detector(*kind), *kind, *overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_trainer_reports_ap_and_routes_of_augmented_testing(tmp_path):
    dataset = coco_dataset(images=2)
    for image in dataset["images"]:
        noise = np.random.default_rng(image["id"]).integers(0, 255, (60, 90, 3), dtype=np.uint8)
        (tmp_path / "data").mkdir(exist_ok=True)
        Image.fromarray(noise).save(tmp_path / "data" / image["file_name"])
    with registered(dataset, tmp_path / "data") as name:
        overrides = (
            *MASK, *views(64, 96, flip=True), "TEST.AUG.ENABLED", "True",
            "MODEL.ROI_HEADS.NUM_CLASSES", str(len(MetadataCatalog.get(name).thing_classes)),
            "DATASETS.TEST", f"('{name}',)", "OUTPUT_DIR", str(tmp_path / "out"),
            "INPUT.MIN_SIZE_TEST", "64", "DATALOADER.NUM_WORKERS", "0",
        )  # fmt: skip
        cfg = small_detector_config(*overrides)
        with contextlib.redirect_stdout(io.StringIO()):
            results = Trainer.test(cfg, small_detector(*overrides, seed=3))
    assert set(results) == {"bbox", "segm", "routing"}
    assert results["routing"]["images"] == 2 and results["routing"]["gmacs_avg"] > 0
    table = json.loads((tmp_path / "out" / "inference" / "class_table.json").read_text())
    assert sum(entry["predictions"] for entry in table["classes"]) > 0
