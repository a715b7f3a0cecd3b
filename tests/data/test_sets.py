from pathlib import Path

import numpy as np
import pytest

from robusteval.data import DATASETS, load, verify
from robusteval.data.digest import content_digest
from robusteval.errors import UserError

SAMPLE = "cifar10-sample"


def write(folder: Path, pixels, name="cifar10", split="test") -> Path:
    np.savez(folder / f"{name}-{split}.npz", images=pixels[0], labels=pixels[1])
    return folder


def refusal(folder, name="cifar10", split="test") -> str:
    with pytest.raises(UserError) as caught:
        load(name, split, data_dir=folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_first_and_ref():
    data = load(SAMPLE, "test")
    part = data.first(30)
    assert (part.images == data.images[:30]).all()
    assert part.labels.tolist() == data.labels[:30].tolist()
    assert (part.digest, part.verified, part.classes) == (data.digest, True, data.classes)
    assert part.ref().model_dump() == {
        "name": SAMPLE,
        "split": "test",
        "n": 30,
        "digest": DATASETS[SAMPLE].digests["test"],
        "verified": True,
    }
    assert data.first(None).ref().n == data.first(5000).ref().n == 1000
    with pytest.raises(UserError, match="limit: 0 images; allowed: 1 or more"):
        data.first(0)


def test_an_unknown_name_comes_with_the_nearest():
    with pytest.raises(UserError, match=r"unknown data set 'cifar-10'; did you mean 'cifar10'\?; allowed: cifar10, "):
        load("cifar-10", "train")


def test_unknown_content_is_allowed_and_marked(tmp_path, complete10):
    data = load("cifar10", "test", data_dir=write(tmp_path, complete10))
    assert not data.verified
    assert not data.ref().verified
    assert data.digest == content_digest(*complete10)
    assert (data.images.numpy() == complete10.images).all()
    assert (data.labels.numpy() == complete10.labels).all()


def test_verify_counts_classes(tmp_path, few):
    found = verify("cifar10", "test", data_dir=write(tmp_path, few))
    assert found.counts == tuple((few.labels == c).sum() for c in range(10))
    assert (found.n, found.verified, found.digest) == (20, False, content_digest(*few))
    assert found.source == str(tmp_path / "cifar10-test.npz")
    assert verify(SAMPLE, "train").verified


def test_the_folder_falls_back_to_the_environment_and_then_to_the_cache(tmp_path, few, monkeypatch):
    named, cache = tmp_path / "named", tmp_path / "cache"
    for folder in (named, cache / "robusteval" / "data"):
        folder.mkdir(parents=True)
    write(named, few)
    write(cache / "robusteval" / "data", [few.images[:10], few.labels[:10]])
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name, appauthor: cache / name)
    monkeypatch.setenv("ROBUSTEVAL_DATA", str(named))
    assert len(load("cifar10", "test").labels) == 20
    monkeypatch.setenv("ROBUSTEVAL_DATA", "")
    assert len(load("cifar10", "test").labels) == 10
    assert "cifar10 train: not found in" in refusal(None, split="train")


def test_labels_out_of_range_are_refused(tmp_path, few):
    few.labels[3] = 10
    assert "labels from 0 to 10; cifar10 has 0 to 9" in refusal(write(tmp_path, few))
    few.labels[3] = -1
    assert "labels from -1 to 9" in refusal(write(tmp_path, few))


def test_labels_of_another_data_set_are_refused(tmp_path, complete100):
    assert "labels from 0 to 99; cifar10 has 0 to 9" in refusal(write(tmp_path, complete100))


@pytest.mark.parametrize("wrong", [lambda y: y // 2, lambda y: np.where(np.arange(len(y)) == 4, (y + 1) % 10, y)])
def test_a_complete_set_with_odd_class_counts_is_refused(tmp_path, complete10, wrong):
    pixels = [complete10.images, wrong(complete10.labels)]
    assert "cifar10 test has 1000 of every class" in refusal(write(tmp_path, pixels))


def test_more_images_than_the_set_has_are_refused(tmp_path):
    pixels = [np.zeros((10_001, 3, 32, 32), np.uint8), np.zeros(10_001, np.int64)]
    assert "10001 images; cifar10 test has 10000" in refusal(write(tmp_path, pixels))
    pixels = [np.zeros((0, 3, 32, 32), np.uint8), np.zeros(0, np.int64)]
    assert "0 images" in refusal(write(tmp_path, pixels))


def test_a_known_split_under_another_name_is_refused(tmp_path):
    data = load(SAMPLE, "test")
    folder = write(tmp_path, [data.images.numpy(), data.labels.numpy()], split="train")
    assert f"this is {SAMPLE} test, not cifar10 train" in refusal(folder, split="train")


@pytest.mark.data
@pytest.mark.parametrize(("name", "split"), [("cifar10", "train"), ("cifar10", "test"), ("cifar100", "test")])
def test_the_real_files_are_verified(cifar, name, split):
    found = verify(name, split, data_dir=cifar)
    assert found.verified
    assert found.digest == DATASETS[name].digests[split]
    assert set(found.counts) == {found.n // len(found.counts)}


@pytest.mark.data
def test_one_changed_pixel_of_the_real_files_is_seen(cifar, tmp_path):
    data = bytearray((cifar / "cifar-10-batches-bin" / "test_batch.bin").read_bytes())
    data[3073 * 77 + 500] ^= 4
    (tmp_path / "test_batch.bin").write_bytes(data)
    assert not load("cifar10", "test", data_dir=tmp_path).verified
