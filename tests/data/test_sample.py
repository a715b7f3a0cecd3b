import importlib.util
import json
import shutil
from collections import Counter
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from robusteval.data import DATASETS, load, sample
from robusteval.data.digest import content_digest
from robusteval.errors import UserError

FOLDER = Path(str(resources.files("robusteval.data.sample")))


@pytest.mark.parametrize(("split", "n"), [("train", 4000), ("test", 1000)])
def test_the_sample_is_balanced_and_so_is_every_prefix(split, n):
    data = load("cifar10-sample", split)
    assert data.verified
    assert data.images.shape == (n, 3, 32, 32)
    assert Counter(data.labels.tolist()) == dict.fromkeys(range(10), n // 10)
    for prefix in (1, 10, 128, 999):
        counts = np.bincount(data.first(prefix).labels, minlength=10)
        assert counts.max() - counts.min() <= 1
    indices = sample.indices(split)
    assert len(set(indices)) == n
    assert 0 <= min(indices) <= max(indices) < DATASETS["cifar10"].sizes[split]


def test_it_is_small_and_says_where_it_is_from():
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 9_000_000
    readme = (FOLDER / "README.md").read_text()
    for word in ("Krizhevsky", "Learning Multiple Layers of Features from Tiny Images", "2009", "make_sample.py"):
        assert word in readme
    assert "@techreport{krizhevsky2009learning" in (FOLDER / "CITATION.bib").read_text()


def test_fold_puts_tiles_row_by_row():
    images = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 32, 32), np.uint8)
    images[13, 2, 5, 7] = 255
    picture = sample.fold(images)
    assert picture.shape == (64, 320, 3)
    assert picture[32 + 5, 3 * 32 + 7].tolist() == [13, 13, 255]
    assert (sample.unfold(picture) == images).all()


def damaged_copies():
    def flip_bit(folder):
        data = bytearray((folder / "test.webp").read_bytes())
        data[len(data) // 2] ^= 1
        (folder / "test.webp").write_bytes(data)

    def cut(folder):
        (folder / "test.webp").write_bytes((folder / "test.webp").read_bytes()[:100_000])

    def swap_labels(folder):
        index = json.loads((folder / "index.json").read_text())
        index["test"]["labels"][:2] = index["test"]["labels"][1::-1]
        (folder / "index.json").write_text(json.dumps(index))

    def remove(folder):
        (folder / "test.webp").unlink()

    def spoil(folder):
        (folder / "index.json").write_text("[]")

    return [flip_bit, cut, swap_labels, remove, spoil]


@pytest.mark.parametrize("damage", damaged_copies())
def test_a_damaged_sample_is_refused(damage, tmp_path, monkeypatch):
    folder = tmp_path / "sample"
    shutil.copytree(FOLDER, folder)
    monkeypatch.setattr(resources, "files", lambda name: folder)
    load("cifar10-sample", "test")
    damage(folder)
    with pytest.raises(UserError, match=r"install robusteval again") as caught:
        load("cifar10-sample", "test")
    assert "\n" not in str(caught.value)


@pytest.mark.data
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_committed_script_chooses_the_stored_images(split, cifar):
    path = Path(__file__).parents[2] / "benchmarks" / "make_sample.py"
    spec = importlib.util.spec_from_file_location("make_sample", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    whole = load("cifar10", split, data_dir=cifar)
    assert whole.verified
    chosen = script.choose(whole.labels.tolist(), split)
    stored = load("cifar10-sample", split)
    assert chosen == sample.indices(split)
    assert (whole.images[chosen] == stored.images).all()
    assert (whole.labels[chosen] == stored.labels).all()
    assert content_digest(stored.images.numpy(), stored.labels.numpy()) == DATASETS["cifar10-sample"].digests[split]
