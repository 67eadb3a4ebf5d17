"""The visual study: its data, its oracle, its runs and its table."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dynamic_routing.studies import visual_plan
from dynamic_routing.studies.rows import read_rows
from dynamic_routing.studies.visual_data import (
    CLASSES,
    LABELS,
    PATTERNS,
    SUBSETS,
    generate_scenes,
    label_of,
)
from dynamic_routing.studies.visual_network import Ensemble, TableGate, VisualNetwork
from dynamic_routing.studies.visual_plan import EVALUATION_SEEDS, PLAN, QUESTIONS, Item, run_plan
from dynamic_routing.studies.visual_report import ROWS_FILE, SUMMARY_FILE, report
from dynamic_routing.studies.visual_settings import VisualSetting
from dynamic_routing.studies.visual_table import COLUMNS, Difference, summary, to_markdown
from dynamic_routing.studies.visual_training import train

COMMITTED = Path(__file__).resolve().parents[2] / "docs" / "study"
TINY = VisualSetting("divdr", layers=2, iterations=6, start=2, period=2)
SIZES = {"training": 24, "held_out": 12}


# Data


def test_scenes_repeat_for_a_seed_and_differ_between_seeds() -> None:
    first, again, other = (generate_scenes(6, seed=s) for s in (5, 5, 6))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.targets, again.targets)
    assert first.radii == again.radii
    assert not torch.equal(first.images, other.images)


def test_subsets_are_balanced_and_have_their_own_scales() -> None:
    scenes = generate_scenes(60, seed=1)
    assert torch.bincount(scenes.subsets).tolist() == [20, 20, 20]
    for subset, radii in zip(scenes.subsets.tolist(), scenes.radii):
        big = [r for r in radii if r > 8]
        little = [r for r in radii if r <= 8]
        wanted = {
            "large": len(big) >= 1 and not little,
            "small": not big and len(little) >= 5,
            "mixed": len(big) == 1 and len(little) >= 1,
        }
        assert wanted[SUBSETS[subset]], (SUBSETS[subset], radii)


def test_background_brightness_tells_nothing_of_the_subset() -> None:
    scenes = generate_scenes(120, seed=2)
    background = scenes.targets == 0
    means = torch.stack([i[:, b].mean() for i, b in zip(scenes.images, background)])
    per_subset = torch.stack([means[scenes.subsets == k].mean() for k in range(len(SUBSETS))])
    assert float(per_subset.max() - per_subset.min()) < 2 * float(means.std()) / np.sqrt(40) * 2


@pytest.mark.parametrize("labels", LABELS)
def test_labels_are_a_permutation_of_the_patterns_in_each_subset(labels: str) -> None:
    for subset in range(len(SUBSETS)):
        classes = {label_of(p, subset, labels) for p in range(len(PATTERNS))}
        assert classes == set(range(1, CLASSES))


def test_shifted_labels_contradict_one_another_for_every_pattern() -> None:
    for pattern in range(len(PATTERNS)):
        classes = {label_of(pattern, s, "shifted") for s in range(len(SUBSETS))}
        assert len(classes) == len(SUBSETS)
        assert len({label_of(pattern, s, "plain") for s in range(len(SUBSETS))}) == 1


def test_the_two_labellings_share_images_and_objects() -> None:
    plain, shifted = (generate_scenes(9, seed=3, labels=labels) for labels in LABELS)
    assert torch.equal(plain.images, shifted.images)
    assert torch.equal(plain.targets == 0, shifted.targets == 0)
    inside = plain.targets > 0
    moved = 1 + (plain.targets - 1 + plain.subsets[:, None, None]) % len(PATTERNS)
    assert torch.equal(shifted.targets[inside], moved[inside])


def test_bad_arguments_are_refused_with_their_value() -> None:
    with pytest.raises(ValueError, match="at least 1 scene, got 0"):
        generate_scenes(0, seed=1)
    with pytest.raises(ValueError, match="labels must be one of .*'other'"):
        generate_scenes(1, seed=1, labels="other")
    with pytest.raises(ValueError, match="method must be one of .*'guess'"):
        VisualSetting("guess")
    with pytest.raises(ValueError, match="norm_power"):
        VisualSetting(norm_power=3)
    with pytest.raises(ValueError, match="at least one seed"):
        train(TINY, [])


# Networks


def test_oracle_routes_by_the_told_subset_and_by_nothing_else() -> None:
    torch.manual_seed(1)
    network = VisualNetwork("oracle", 2).eval()
    scenes = generate_scenes(6, seed=1)
    _, gates = network(scenes.images, scenes.subsets)
    assert torch.equal(gates[:3], gates[3:])  # subsets come in turn
    assert len({tuple(row) for row in gates.tolist()}) == len(SUBSETS)
    _, other = network(scenes.images, (scenes.subsets + 1) % len(SUBSETS))
    assert torch.equal(other[:2], gates[1:3])


def test_oracle_and_static_pay_for_no_gate_network() -> None:
    costs = {m: VisualNetwork(m, 2).cost.table(48, 48) for m in ("oracle", "static", "dr")}
    assert float(costs["oracle"].gates.sum()) == float(costs["static"].gates.sum()) == 0
    assert float(costs["dr"].gates.sum()) > 0
    assert torch.equal(costs["oracle"].cells, costs["dr"].cells)


def test_oracle_gate_refuses_to_guess() -> None:
    with pytest.raises(AssertionError, match="not told"):
        TableGate(2)(torch.zeros(1, 8, 4, 4))


def test_a_network_of_an_ensemble_equals_the_network_alone() -> None:
    ensemble = Ensemble("dr", 2, [1, 2])
    ensemble.base.eval()
    scenes = generate_scenes(3, seed=1)
    scores, gates = ensemble(scenes.images.expand(2, -1, -1, -1, -1), scenes.subsets.expand(2, -1))
    for number, seed in enumerate((1, 2)):
        torch.manual_seed(seed)
        alone = VisualNetwork("dr", 2).eval()
        own_scores, own_gates = alone(scenes.images, scenes.subsets)
        torch.testing.assert_close(scores[number], own_scores, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(gates[number], own_gates)


def test_dense_cost_is_that_of_sparse_execution() -> None:
    torch.manual_seed(3)
    network = VisualNetwork("dr", 2).eval()
    scenes = generate_scenes(3, seed=1)
    _, gates = network(scenes.images, scenes.subsets)
    sparse = network.backbone.forward_sparse(scenes.images).routes
    torch.testing.assert_close(sparse.gates, gates)


# Training


def test_training_repeats_for_a_seed() -> None:
    first, again = (train(TINY, [1], **SIZES).outcomes[0] for _ in range(2))
    assert replace(first, seconds=0.0) == replace(again, seconds=0.0)
    assert 0 <= first.recovery <= 1
    assert first.kmacs_min <= first.kmacs_avg <= first.kmacs_max


def test_training_moves_the_weights_and_the_running_statistics() -> None:
    before, after = Ensemble("dr", 2, [1]), train(replace(TINY, method="dr"), [1], **SIZES).ensemble
    changed = before.network(0).state_dict(), after.network(0).state_dict()
    for name in ("backbone.stem.first.conv.weight", "backbone.stem.first.norm.running_mean"):
        assert not torch.equal(changed[0][name], changed[1][name]), name


# Table


def test_a_finished_row_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, said = tmp_path / "rows.csv", []
    plan = [Item("main", m, replace(TINY, method=m, iterations=1)) for m in ("static", "dr")]
    first = run_plan(path, [1], plan=plan, say=said.append, **SIZES)
    assert [row["label"] for row in first] == ["static", "dr"]
    assert first[0]["recovery"] == "" and first[1]["recovery"] != ""
    trained: list[tuple[str, list[int]]] = []
    real = visual_plan.train

    def spy(setting: VisualSetting, seeds: list[int], **sizes: int) -> object:
        trained.append((setting.method, list(seeds)))
        return real(setting, seeds, **sizes)

    monkeypatch.setattr(visual_plan, "train", spy)
    assert run_plan(path, [1], plan=plan, say=said.append, **SIZES) == first
    assert trained == []
    run_plan(path, [1, 2], plan=plan[:1], say=said.append, **SIZES)
    assert trained == [("static", [2])]
    assert len(read_rows(path, COLUMNS)) == 3
    assert "minutes left" in said[-1]


def _row(seed: int, **columns: str) -> dict[str, str]:
    return {**dict.fromkeys(COLUMNS, ""), "seed": str(seed), **columns}


def test_differences_pair_the_seeds() -> None:
    rows = [_row(1, miou="0.5"), _row(2, miou="0.7"), _row(3, miou="")]
    others = [_row(2, miou="0.6"), _row(1, miou="0.3")]
    found = Difference.of(rows, others, "miou")
    assert found.mean == pytest.approx(0.15)
    assert found.seeds == 2
    assert found.error == pytest.approx(0.05)


def test_summary_and_markdown_leave_out_what_does_not_exist() -> None:
    rows = [_row(1, miou="0.5", kmacs_min="1", kmacs_max="2"), _row(2, miou="0.7")]
    line = summary("main", "static", rows)
    assert (line["miou_mean"], line["recovery_mean"]) == ("0.6000", "")
    line |= {"kmacs_min_mean": "1", "kmacs_max_mean": "2"}
    assert "| static | 2 | - | 0.600 ± 0.141 |" in to_markdown([line])


def test_committed_summary_follows_from_the_committed_rows(tmp_path: Path) -> None:
    shutil.copy(COMMITTED / ROWS_FILE, tmp_path)
    report(tmp_path, EVALUATION_SEEDS, plan=[*PLAN, *QUESTIONS])
    assert (tmp_path / SUMMARY_FILE).read_bytes() == (COMMITTED / SUMMARY_FILE).read_bytes()
