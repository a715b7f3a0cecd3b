"""Drafts are taken up again by the same work only, and leave nothing behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robusteval import store
from robusteval.drafts import StoredDraft


def test_what_was_written_is_read_by_the_same_work(tmp_path: Path) -> None:
    draft = StoredDraft(tmp_path, "key", "cpu 2")
    assert draft.read("a 0") is None
    draft.write("a 0", {"x": np.arange(3), "flag": np.array(True)})
    draft.write("a 01", {"x": np.arange(4)})
    draft.write("a 0", {"x": np.arange(5), "flag": np.array(False)})
    for one in (draft, StoredDraft(tmp_path, "key", "cpu 2")):
        found = one.read("a 0")
        assert found is not None
        assert sorted(found) == ["flag", "x"]
        np.testing.assert_array_equal(found["x"], np.arange(5))
        assert not found["flag"]
    assert store.names(tmp_path) == ("drafts/key.npz",)
    StoredDraft(tmp_path, "key", "cpu 2").discard()
    assert store.names(tmp_path) == ()


@pytest.mark.parametrize(("key", "alike"), [("other", "cpu 2"), ("key", "cpu 1")])
def test_other_work_begins_again(key: str, alike: str, tmp_path: Path) -> None:
    StoredDraft(tmp_path, "key", "cpu 2").write("a", {"x": np.arange(3)})
    other = StoredDraft(tmp_path, key, alike)
    assert other.read("a") is None
    assert other.seconds == 0
    other.write("b", {"x": np.arange(3)})
    assert StoredDraft(tmp_path, key, alike).read("a") is None


def test_seconds_of_interrupted_attempts_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    first = StoredDraft(tmp_path, "key", "")
    now[0] += 7
    first.write("a", {"x": np.arange(1)})
    now[0] += 1000  # lost: nothing was noted since
    second = StoredDraft(tmp_path, "key", "")
    assert second.elapsed == 7
    now[0] += 5
    assert second.elapsed == 12


def test_a_flipped_bit_costs_the_draft_and_nothing_else(tmp_path: Path) -> None:
    StoredDraft(tmp_path, "key", "").write("a", {"x": np.arange(3)})
    path = tmp_path / "drafts" / "key.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    again = StoredDraft(tmp_path, "key", "")
    assert again.read("a") is None
    assert again.seconds == 0
    again.write("a", {"x": np.arange(4)})
    found = StoredDraft(tmp_path, "key", "").read("a")
    assert found is not None
    assert len(found["x"]) == 4
