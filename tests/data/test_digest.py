import hashlib
from dataclasses import replace

import numpy as np
import pytest

from robusteval.data.digest import content_digest, is_known, known_elsewhere, official_order, records
from robusteval.data.registry import DATASETS


def test_content_digest_is_sha256_of_header_pixels_and_labels(few):
    expected = hashlib.sha256(b"robusteval-images-1 20 3 32 32\n")
    for image in few.images:
        expected.update(image.tobytes())
    for label in few.labels:
        expected.update(int(label).to_bytes(8, "little", signed=True))
    assert content_digest(few.images, few.labels) == expected.hexdigest()


def test_content_digest_depends_on_everything_but_the_memory_layout(few):
    images, labels = few
    base = content_digest(images, labels)
    pixel, label = images.copy(), labels.copy()
    pixel[7, 1, 3, 4] ^= 1
    label[7] = (label[7] + 1) % 10
    others = [
        content_digest(pixel, labels),
        content_digest(images, label),
        content_digest(images[::-1], labels[::-1]),
        content_digest(images[:19], labels[:19]),
        content_digest(images.reshape(20, 3, 16, 64), labels),
    ]
    assert len({base, *others}) == 6
    nhwc = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    assert content_digest(nhwc.transpose(0, 3, 1, 2), labels.astype(">i8")) == base


def test_records_are_the_published_rows(few):
    images, labels = few
    rows = records(images, labels, ())
    assert rows.shape == (20, 3073)
    assert rows[3].tobytes() == bytes([labels[3]]) + images[3].tobytes()
    coarse = tuple(19 - c for c in range(10))
    assert records(images, labels, coarse)[3].tobytes() == bytes([19 - labels[3], labels[3]]) + images[3].tobytes()


def test_a_split_without_pinned_digest_is_known_by_its_binary_file():
    rng = np.random.default_rng(3)
    images, labels = rng.integers(0, 256, (200, 3, 2, 2), dtype=np.uint8), np.arange(200) % 100
    info = DATASETS["cifar100"]
    file = b"".join(bytes([info.coarse[y], y]) + x.tobytes() for x, y in zip(images, labels, strict=True))
    info = replace(info, sizes={"train": 200}, binary_sha256={"train": hashlib.sha256(file).hexdigest()})
    assert is_known(info, "train", images, labels, "any")
    images[199, 2, 1, 1] ^= 1
    assert not is_known(info, "train", images, labels, "any")


def test_known_elsewhere():
    sample = DATASETS["cifar10-sample"]
    assert known_elsewhere(sample, "train", sample.digests["test"]) == ("cifar10-sample", "test")
    assert known_elsewhere(DATASETS["cifar10"], "test", sample.digests["test"]) == ("cifar10-sample", "test")
    assert known_elsewhere(sample, "test", sample.digests["test"]) is None
    assert known_elsewhere(sample, "test", "0" * 64) is None


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_official_order_restores_the_order_of_the_files(order):
    rng = np.random.default_rng(5)
    images, labels = rng.integers(0, 256, (30_000, 3, 1, 1), dtype=np.uint8), rng.integers(0, 10, 30_000)
    rows = [bytes([y]) + x.tobytes() for x, y in zip(images, labels, strict=True)]
    md5 = tuple(hashlib.md5(b"".join(rows[i : i + 10_000])).hexdigest() for i in (0, 10_000, 20_000))
    info = replace(DATASETS["cifar10"], block_md5=md5)
    mixed = np.concatenate([np.arange(10_000) + 10_000 * block for block in order])
    found = official_order(info, images[mixed], labels[mixed])
    assert (found[0] == images).all()
    assert (found[1] == labels).all()
    # Anything else stays as it is.
    mixed[[5, 6]] = mixed[[6, 5]]
    found = official_order(info, images[mixed], labels[mixed])
    assert (found[0] == images[mixed]).all()


@pytest.mark.data
def test_rebuilt_cifar100_file_has_the_published_sha256(cifar):
    from robusteval.data import load

    data = load("cifar100", "test", data_dir=cifar)
    rows = records(data.images.numpy(), data.labels.numpy(), DATASETS["cifar100"].coarse)
    published = "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a"
    assert hashlib.sha256(rows.tobytes()).hexdigest() == published


@pytest.mark.data
def test_official_order_on_the_real_training_set(cifar):
    from robusteval.data import load

    info = DATASETS["cifar10"]
    data = load("cifar10", "train", data_dir=cifar)
    mixed = np.concatenate([np.arange(10_000) + 10_000 * block for block in (3, 2, 1, 4, 0)])
    images, labels = data.images.numpy()[mixed], data.labels.numpy()[mixed]
    assert content_digest(images, labels) != info.digests["train"]
    assert content_digest(*official_order(info, images, labels)) == info.digests["train"]
