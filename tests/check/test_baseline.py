"""The baseline file: what was written is read, and nothing else is taken for it."""

import json

import numpy as np
import pytest

from robusteval.check.baseline import read, text, write
from robusteval.check.packing import pack, unpack
from robusteval.errors import UserError


def outcomes(share, seeds=3, n=37):
    return np.random.default_rng(0).random((seeds, n)) < share


@pytest.mark.parametrize(("n", "parts"), [(1, 1), (8, 1), (37, 1), (37, 75), (5, 300), (5, 70_000)])
def test_outcomes_come_back(n, parts):
    counts = np.random.default_rng(n).integers(0, parts + 1, n)
    scores = counts.astype(bool) if parts == 1 else counts / parts
    again = unpack(pack(scores, parts), n, parts)
    assert again.dtype == scores.dtype
    np.testing.assert_array_equal(again, scores)


@pytest.mark.parametrize("bad", ["?", "AAAA", pack(np.zeros(30, bool))])
def test_other_texts_are_no_outcomes(bad):
    with pytest.raises(ValueError, match="outcomes"):
        unpack(bad, 16)
    with pytest.raises(ValueError, match="right of 3"):
        unpack(pack(np.ones(2), 4), 2, 3)


@pytest.fixture
def made(baseline):
    cost = {"a": [({"main": 5}, 7)] * 3}
    return baseline({("a", "main", "clean"): outcomes(0.5), ("b", "aux", "PGD"): outcomes(0.2)}, cost=cost, wall=2.5)


def test_the_file_comes_back_and_is_a_number_a_line(made, tmp_path):
    path = tmp_path / "new" / "baseline.json"
    write(path, made)
    assert read(path) == made
    assert json.loads(path.read_text()) == json.loads(text(made))
    lines = [line for line in path.read_text().splitlines() if '"outcomes"' in line]
    assert len(lines) == 2
    assert all(line.lstrip().startswith(('"clean": {', '"PGD": {')) for line in lines)
    assert [path.name for path in path.parent.iterdir()] == ["baseline.json"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda table: table["cells"]["a"]["numbers"]["main"]["clean"]["values"].__setitem__(0, 0.9), "not the mean"),
        (lambda table: table["cells"]["a"]["numbers"]["main"]["clean"]["values"].append(0.5), "one value and outcome"),
        (
            lambda table: table["cells"]["a"]["numbers"]["main"]["clean"]["outcomes"].__setitem__(1, "!"),
            "not a baseline: cells.a.numbers.main.clean: outcomes are not base64",
        ),
        (lambda table: table["cells"]["a"]["weights"].append(None), "not one digest of weights"),
        (lambda table: table["quantities"].pop("clean"), "not in quantities"),
        (lambda table: table["cells"]["a"].update(extra=1), "cells.a.extra"),
        (lambda table: table.update(tolerance={"clean": -1}), "tolerance.clean"),
        (lambda table: table.update(schema_version=2), "written by a newer robusteval"),
        (lambda table: table.clear(), "Field required"),
    ],
)
def test_a_changed_file_is_refused(made, tmp_path, change, told):
    path = tmp_path / "baseline.json"
    table = json.loads(text(made))
    change(table)
    path.write_text(json.dumps(table))
    with pytest.raises(UserError, match=told):
        read(path)


def test_what_is_no_json_or_not_there_is_refused(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        read(tmp_path / "x.json")
    (tmp_path / "y.json").write_text("[]")
    with pytest.raises(UserError, match="not a baseline"):
        read(tmp_path / "y.json")
    with pytest.raises(UserError, match="cannot be read") as folder:
        read(tmp_path)
    assert "--update" not in str(folder.value)
    with pytest.raises(UserError, match="check --update` writes one"):
        read(tmp_path / "none.json")
