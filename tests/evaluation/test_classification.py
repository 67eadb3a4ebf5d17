"""Top-1 and top-5 against scikit-learn, and their edge cases."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import top_k_accuracy_score

from dynamic_routing.evaluation.classification import ClassificationEvaluator


def evaluate(scores: torch.Tensor, classes: list[int]) -> dict[str, float]:
    evaluator = ClassificationEvaluator()
    evaluator.reset()
    for i, (row, own) in enumerate(zip(scores, classes)):
        evaluator.process([{"file_name": f"{i}", "class_id": own}], [{"scores": row}])
    result = evaluator.evaluate()
    assert result is not None
    return result["classification"]


def test_accuracy_is_scikit_learns():
    torch.manual_seed(3)
    scores, classes = torch.randn(200, 9), torch.randint(9, (200,)).tolist()
    result = evaluate(scores, classes)
    for k in (1, 5):
        wanted = top_k_accuracy_score(classes, scores.numpy(), k=k, labels=range(9))
        assert result[f"top{k}"] == pytest.approx(100 * wanted)
    assert result["images"] == 200


def test_constant_or_undefined_scores_are_no_success():
    assert evaluate(torch.zeros(4, 9), [0, 1, 2, 3])["top1"] == 0
    assert evaluate(torch.full((4, 9), float("nan")), [0, 1, 2, 3])["top5"] == 0


def test_few_classes_and_repeated_images():
    result = evaluate(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), [0, 1])
    assert result == {"top1": 50.0, "top5": 100.0, "images": 2.0}
    evaluator = ClassificationEvaluator()
    for _ in range(2):
        evaluator.process(
            [{"file_name": "a", "class_id": 0}], [{"scores": torch.tensor([1.0, 0.0])}]
        )
    assert evaluator.evaluate()["classification"]["images"] == 1
    evaluator.reset()
    with pytest.raises(ValueError, match="no image"):
        evaluator.evaluate()
