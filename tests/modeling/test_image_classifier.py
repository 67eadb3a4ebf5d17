"""The classifier: scores and loss by hand, gradients everywhere, weights for other tasks."""

from __future__ import annotations

import logging

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from dynamic_routing.engine.checkpoint import CheckpointError, RoutingCheckpointer
from dynamic_routing.engine.solver import build_optimizer, gate_parameter_names
from dynamic_routing.modeling import ImageClassifier, get_config, prepare_model
from dynamic_routing.modeling.cost import model_cost
from dynamic_routing.modeling.image_classifier import PlainImageClassifier, PooledClassifier
from dynamic_routing.routing import RoutingNetwork
from tests.modeling.builders import CONFIGS, SMALL, small_config, small_model
from tests.routing.builders import randomise

CLASSES = 7
CLASSIFIER = ("MODEL.META_ARCHITECTURE", "ImageClassifier", "MODEL.CLASSIFIER.NUM_CLASSES", "7")
DETECTION = (
    *SMALL,
    *("MODEL.DYNAMIC_ROUTING.SPACE.NUM_LAYERS", "5"),
    *("MODEL.DYNAMIC_ROUTING.SPACE.NUM_OUTPUT_SCALES", "5"),
)


def images(count: int = 3, size: int = 64) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "image": torch.rand(3, size, size, generator=generator) * 100 * (i + 1),
            "file_name": str(i),
            "class_id": i % CLASSES,
        }
        for i in range(count)
    ]


def classifier(*overrides, seed: int = 1) -> ImageClassifier:
    return small_model(*CLASSIFIER, *overrides, seed=seed)


def test_scores_are_a_linear_layer_on_all_pooled_outputs():
    model, batch = classifier().eval(), images(2)
    with torch.no_grad():
        outputs = model(batch)
        for given, output in zip(batch, outputs):
            x = (given["image"] - model.pixel_mean)[None] / model.pixel_std
            pooled = torch.cat([f.mean(dim=(2, 3)) for f in model.backbone(x).values()], dim=1)
            linear = model.classifier.linear
            norm = model.classifier.norm
            scale = norm.weight / (norm.running_var + 1e-5).sqrt()
            pooled = (pooled - norm.running_mean) * scale + norm.bias
            wanted = (pooled @ linear.weight.T + linear.bias)[0]
            torch.testing.assert_close(output["scores"], wanted)
            assert len(output["routes"]) == 1 and output["milliseconds"] > 0


def test_loss_is_cross_entropy_with_label_smoothing():
    model, batch = classifier("MODEL.CLASSIFIER.LABEL_SMOOTHING", "0.2"), images(4)
    model.train()
    x = torch.stack([(i["image"] - model.pixel_mean) / model.pixel_std for i in batch])
    with EventStorage(0), torch.no_grad():
        log = model.classifier(model.backbone(x)).log_softmax(dim=1)
        loss = model(batch)["loss_class"]
    own = torch.stack([log[i, given["class_id"]] for i, given in enumerate(batch)])
    torch.testing.assert_close(loss, -(0.8 * own + 0.2 * log.mean(dim=1)).mean())


def test_every_parameter_gets_a_gradient():
    model = classifier("MODEL.DYNAMIC_ROUTING.GATE.BIAS_INIT", "1.5")
    randomise(model, seed=2, bias=1.0, spread=0.1)
    model.train()
    with EventStorage(0):
        sum(model(images(4)).values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_budget_joins_the_loss_and_the_classifier_is_counted():
    model = classifier("MODEL.DYNAMIC_ROUTING.BUDGET.LAMBDA", "0.5")
    model.train()
    with EventStorage(0):
        assert set(model(images())) == {"loss_class", "loss_budget"}
    with_head = model_cost(model, convention="macs").open_cost(64, 64)
    del model.classifier
    assert with_head - model_cost(model, convention="macs").open_cost(64, 64) == 60 * CLASSES


def test_batch_of_an_image_does_not_matter():
    model, batch = classifier().eval(), images(3)
    with torch.no_grad():
        together = model(batch)
        for given, output in zip(batch, together):
            torch.testing.assert_close(model([given])[0]["scores"], output["scores"])


@pytest.mark.parametrize("bias", [-0.1, 1.5])
def test_prepared_classifier_scores_as_the_model(bias):
    model, batch = small_model(*CLASSIFIER, seed=1, bias=bias).eval(), images(3)
    prepared = prepare_model(model)
    assert prepared.training is False and not any(
        isinstance(m, RoutingNetwork) for m in prepared.modules()
    )
    with torch.no_grad():
        for a, b in zip(prepared(batch), model(batch), strict=True):
            torch.testing.assert_close(a["scores"], b["scores"], rtol=1e-4, atol=1e-5)
            assert torch.equal(a["routes"].open, b["routes"].open)


def test_wrong_arguments_are_one_line():
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        PooledClassifier({"p2": 4}, 1)
    with pytest.raises(ValueError, match="label smoothing"):
        PlainImageClassifier(
            backbone=classifier().backbone,
            num_classes=2,
            label_smoothing=1.0,
            norm="BN",
            pixel_mean=[0.0],
            pixel_std=[1.0],
        )
    model = classifier().train()
    with EventStorage(0), pytest.raises(ValueError, match="class_id"):
        model([{"image": i["image"], "file_name": "a"} for i in images(2)])


# Its weights elsewhere --------------------------------------------------------------------------


def pretrained(folder, *overrides):
    model = build_model(small_config(*CLASSIFIER, *overrides))
    randomise(model, seed=5)
    RoutingCheckpointer(model, str(folder)).save("model_final")
    return model, folder / "model_final.pth"


@pytest.mark.parametrize("gate", ["max_tanh", "fixed"])
def test_segmentation_starts_from_its_weights(tmp_path, caplog, gate):
    activation = ("MODEL.DYNAMIC_ROUTING.GATE.ACTIVATION", gate)
    model, path = pretrained(tmp_path, *activation)
    target = small_model(seed=9)
    fresh = {k: v.clone() for k, v in target.state_dict().items()}
    with caplog.at_level(logging.INFO, "fvcore"):
        RoutingCheckpointer(target, str(tmp_path / "run")).load(str(path))
    assert "classifier.linear" in caplog.text and "sem_seg_head.decoder" in caplog.text
    source = model.state_dict()
    for name, tensor in target.state_dict().items():
        wanted = source if name in source else fresh
        assert torch.equal(tensor, wanted[name]), name
        assert name in source or name.startswith("sem_seg_head") or gate == "fixed"
    with pytest.raises(CheckpointError, match="missing|activation fixed"):
        RoutingCheckpointer(target, strict=True).load(str(path))


def test_gates_learn_faster_in_the_segmentation_that_follows(tmp_path):
    cfg = small_config("SOLVER.BASE_LR", "0.02", "SOLVER.GATE_LR_FACTOR", "2.5")
    model = build_model(cfg)
    _, path = pretrained(tmp_path)
    RoutingCheckpointer(model).load(str(path))
    names = {id(p): n for n, p in model.named_parameters()}
    gates = gate_parameter_names(model)
    for group in build_optimizer(cfg, model).param_groups:
        for parameter in group["params"]:
            factor = 2.5 if names[id(parameter)] in gates else 1.0
            assert group["lr"] == pytest.approx(0.02 * factor)


def test_detection_starts_from_its_weights(tmp_path):
    model, path = pretrained(tmp_path, *DETECTION)
    file = CONFIGS / "quick" / "dr_c_faster_rcnn_coco.yaml"
    detector = build_model(get_config(file, DETECTION))
    RoutingCheckpointer(detector).load(str(path))
    source = model.state_dict()
    for name, tensor in detector.state_dict().items():
        if name.startswith("backbone.network."):
            assert torch.equal(tensor, source[name]), name


def test_other_classes_start_the_classifier_anew(tmp_path, caplog):
    _, path = pretrained(tmp_path)
    other = small_model(*CLASSIFIER[:3], "9", seed=1)
    with caplog.at_level(logging.WARNING, "fvcore"):
        RoutingCheckpointer(other).load(str(path))
    assert "classifier.linear.weight starts anew: (7, 60) there, (9, 60) here" in caplog.text


def test_clusters_and_classes_of_another_number_start_anew(tmp_path, caplog):
    clusters = "MODEL.DYNAMIC_ROUTING.DIVDR.NUM_CLUSTERS"
    _, path = pretrained(tmp_path, clusters, "2")
    other = small_model(*CLASSIFIER[:3], "9", clusters, "3", seed=1)
    with caplog.at_level(logging.WARNING, "fvcore"):
        RoutingCheckpointer(other).load(str(path))
    for name in ("classifier.linear.weight", "routing_losses.0.centres"):
        assert f"{name} starts anew" in caplog.text
    with pytest.raises(CheckpointError, match=r"of another shape: .*routing_losses.0.centres"):
        RoutingCheckpointer(other, strict=True).load(str(path))
