from collections import Counter

import pytest
import torch

from robusteval.data import DATASETS, load


def test_the_embedded_sample_is_the_default():
    assert next(iter(DATASETS)) == "cifar10-sample"
    assert [info.name for info in DATASETS.values() if info.embedded] == ["cifar10-sample"]


def test_classes_and_superclasses():
    cifar100 = DATASETS["cifar100"]
    assert [len(set(info.classes)) for info in DATASETS.values()] == [10, 10, 100]
    assert Counter(cifar100.coarse) == dict.fromkeys(range(20), 5)
    members: dict[int, set[str]] = {}
    for name, coarse in zip(cifar100.classes, cifar100.coarse, strict=True):
        members.setdefault(coarse, set()).add(name)
    # From the published table of superclasses, which are numbered in its order.
    assert members[0] == {"beaver", "dolphin", "otter", "seal", "whale"}
    assert members[1] == {"aquarium_fish", "flatfish", "ray", "shark", "trout"}
    assert members[4] == {"apple", "mushroom", "orange", "pear", "sweet_pepper"}
    assert members[19] == {"lawn_mower", "rocket", "streetcar", "tank", "tractor"}


@pytest.mark.data
def test_statistics_of_cifar10(cifar):
    pixels = load("cifar10", "train", data_dir=cifar).images.permute(1, 0, 2, 3).reshape(3, -1)
    for info in (DATASETS["cifar10"], DATASETS["cifar10-sample"]):
        for channel in range(3):
            counts = torch.bincount(pixels[channel].int(), minlength=256).double()
            values, share = torch.arange(256) / 255, counts / counts.sum()
            mean = (share * values).sum()
            std = (share * (values - mean) ** 2).sum().sqrt()
            assert round(mean.item(), 4) == info.mean[channel]
            assert round(std.item(), 4) == info.std[channel]
