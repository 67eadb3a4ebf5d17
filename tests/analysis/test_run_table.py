"""The table of runs: numbers as they stand in the files, and a reason for each that is missing."""

from __future__ import annotations

import csv
import io
import json

import pytest
import torch

from dynamic_routing.analysis import run_table
from dynamic_routing.analysis.run_table import (
    as_csv,
    as_markdown,
    parameters_of,
    read_rows,
    reasons,
)
from dynamic_routing.routing.cost import count_parameters
from tests.engine.divdr_training import DIVDR
from tests.modeling.builders import small_model
from tests.modeling.detectors import MASK, small_detector
from tests.tools.evil import Witness

RESULTS = {
    "sem_seg": {"mIoU": 51.234567, "IoU-train": float("nan")},
    "routing": {"gmacs_avg": 1.5, "gmacs_max": 2.5, "gmacs_min": 0.5, "ms_avg": 12.0,
                "divdr_inter": 3.0, "divdr_intra_pair": 1.25},
}  # fmt: skip


def run(folder, results=None, config="", model=None):
    folder.mkdir()
    if results is not None:
        (folder / "results.json").write_text(json.dumps(results))
    (folder / "config.yaml").write_text(config)
    if model is not None:
        torch.save({"model": model.state_dict()}, folder / "model_final.pth")
    return folder


@pytest.mark.parametrize("frozen", [False, True])
def test_parameters_are_those_of_the_model_without_buffers(tmp_path, frozen):
    norm = ("MODEL.DYNAMIC_ROUTING.NORM", "FrozenBN" if frozen else "BN")
    models = [
        small_model(*norm, f"{DIVDR}NUM_CLUSTERS", "2"),
        small_model(*norm, "MODEL.DYNAMIC_ROUTING.GATE.ACTIVATION", "fixed"),
        small_detector(*MASK),
    ]
    for i, model in enumerate(models):
        folder = run(tmp_path / str(i), model=model)
        expected = count_parameters(model)
        assert parameters_of(folder / "model_final.pth") == expected
        assert expected < sum(t.numel() for t in model.state_dict().values())


def test_numbers_are_those_of_the_files(tmp_path):
    model = small_model()
    folder = run(tmp_path / "a", RESULTS, model=model)
    rows = read_rows([folder])
    (found,) = csv.DictReader(io.StringIO(as_csv(rows)))
    assert found == {
        "run": "a", "mIoU": "51.234567", "GMACs avg": "1.5", "GMACs max": "2.5",
        "GMACs min": "0.5", "ms": "12.0", "params (M)": str(count_parameters(model) / 1e6),
        "inter": "3.0", "intra": "1.25",
    }  # fmt: skip
    assert "| a | 51.23 | 1.5 | 2.5 | 0.5 | 12 |" in as_markdown(rows)
    assert "n/a" not in as_markdown(rows)


def test_what_is_missing_says_why(tmp_path):
    folders = [
        run(tmp_path / "no clusters", {"bbox": {"AP": 1.0}, "routing": {"gmacs_avg": 1.0}},
            "MODEL: {DYNAMIC_ROUTING: {DIVDR: {NUM_CLUSTERS: 0}}}"),
        run(tmp_path / "unfinished"),
        run(tmp_path / "two sets", {"one": {"sem_seg": {"mIoU": 1}}}, "DATASETS: {TEST: [a, b]}"),
        run(tmp_path / "broken", "[", "a: ["),
    ]  # fmt: skip
    (folders[3] / "results.json").write_text("{")
    (folders[3] / "model_final.pth").write_bytes(b"no checkpoint")
    rows = read_rows(folders)
    assert run_table.table_columns(rows)[0] == "box AP"
    text = "\n".join(reasons(rows))
    for expected in (
        "no clusters: inter, intra: trained without clusters (DIVDR.NUM_CLUSTERS 0)",
        "no clusters: GMACs max, GMACs min, ms: not in results.json",
        "unfinished: params (M): no model_final.pth: the training is not complete",
        "unfinished: box AP, GMACs avg, GMACs max, GMACs min, ms, inter, intra: no results.json",
        "two sets: box AP, GMACs avg, GMACs max, GMACs min, ms, inter, intra: results of 2 test",
        "broken: box AP, GMACs avg, GMACs max, GMACs min, ms, inter, intra: results.json cannot",
        "broken: params (M): model_final.pth cannot be read",
    ):
        assert expected in text, expected
    assert "| unfinished | n/a | n/a |" in as_markdown(rows)
    assert all(line.startswith("#") for line in as_csv(rows).splitlines()[5:])


@pytest.mark.parametrize("text", ['{"bbox": {"AP": 1' + "0" * 400 + "}}", "[" * 100_000])
def test_results_that_no_parser_can_hold_are_the_reason(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    (tmp_path / "config.yaml").write_text("[" * 5000)
    assert "results.json cannot be read" in "\n".join(reasons(read_rows([tmp_path])))


def test_checkpoint_of_a_stranger_runs_no_code(tmp_path):
    path = tmp_path / "model_final.pth"
    torch.save({"model": Witness(tmp_path / "ran")}, path)
    assert "cannot be read" in parameters_of(path)
    assert not (tmp_path / "ran").exists()


def test_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no folder; give the OUTPUT_DIR"):
        read_rows([tmp_path / "none"])
