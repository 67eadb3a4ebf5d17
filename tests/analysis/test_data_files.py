"""Tables as files: every digit is kept, holes are empty."""

import csv
import io
import json
import math

import numpy as np
import pytest

from dynamic_routing.analysis.data_files import columns_csv, csv_bytes, json_bytes


def read(content):
    return list(csv.reader(io.StringIO(content.decode("utf-8"))))


def test_numbers_keep_every_digit():
    values = [0.1 + 0.2, np.float64(1 / 3), np.float32(0.1), 10**20, np.int64(7)]
    (_, row) = read(csv_bytes(list("abcde"), [values]))
    assert float(row[0]) == 0.1 + 0.2 and float(row[1]) == 1 / 3
    assert np.float32(row[2]) == np.float32(0.1) and row[3:] == [str(10**20), "7"]


def test_holes_are_empty_and_texts_survive():
    text = 'a,"b"\nc <script>'
    assert read(csv_bytes(["x"], [[None], [math.nan], [text]])) == [["x"], [""], [""], [text]]


def test_columns_become_rows():
    found = read(columns_csv("class", {"IoU": {"road": 1.5}, "ACC": {"road": 2, "sky": 3.0}}))
    assert found == [["class", "IoU", "ACC"], ["road", "1.5", "2"], ["sky", "", "3.0"]]


def test_json_holds_no_nan():
    assert json.loads(json_bytes({"a": [1, 2.5]})) == {"a": [1, 2.5]}
    with pytest.raises(ValueError):
        json_bytes({"a": math.nan})
