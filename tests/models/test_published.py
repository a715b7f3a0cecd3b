"""Public checkpoints score what their authors published; the constants are those of the real images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from robusteval.models import NORMALIZATIONS, build
from robusteval.models.weights import load_state, read_state

pytestmark = pytest.mark.data


def folder(variable: str) -> Path:
    if variable not in os.environ:
        pytest.skip(f"needs the folder that {variable} names")
    return Path(os.environ[variable])


def cifar10(*files: str) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 32, 32) uint8 and labels, straight from the official binary files."""
    root = folder("ROBUSTEVAL_DATA") / "cifar-10-batches-bin"
    rows = np.concatenate([np.fromfile(root / file, dtype=np.uint8).reshape(-1, 3073) for file in files])
    return torch.from_numpy(rows[:, 1:].reshape(-1, 3, 32, 32).copy()), torch.from_numpy(rows[:, 0].astype(np.int64))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "wrong"), [("resnet20", 827), ("resnet56", 661)])
def test_cifar_resnets_have_exactly_their_published_error(name: str, wrong: int) -> None:
    """8.27 % and 6.61 % of 10,000 images, in the table of akamaster/pytorch_resnet_cifar10."""
    found = sorted(folder("ROBUSTEVAL_CHECKPOINTS").glob(f"*{name}-*.th"))
    if not found:
        pytest.skip(f"ROBUSTEVAL_CHECKPOINTS holds no checkpoint of {name}")
    model = build(name, classes=10, normalize="imagenet")
    load_state(model, read_state(found[0]), where=found[0].name)
    model.eval().to(memory_format=torch.channels_last)
    images, labels = cifar10("test_batch.bin")
    errors = 0
    with torch.inference_mode():
        for x, y in zip(images.split(250), labels.split(250), strict=True):
            errors += int((model((x / 255).to(memory_format=torch.channels_last)).argmax(1) != y).sum())
    assert (errors, len(labels)) == (wrong, 10_000)


def test_cifar10_constants_are_those_of_the_training_images() -> None:
    images, _ = cifar10(*(f"data_batch_{k}.bin" for k in range(1, 6)))
    counts = torch.stack([torch.bincount(images[:, c].flatten(), minlength=256) for c in range(3)]).double()
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = (counts @ values) / counts.sum(1)
    std = torch.sqrt((counts @ values**2) / counts.sum(1) - mean**2)
    for measured, written in zip((mean, std), NORMALIZATIONS["cifar10"], strict=True):
        assert tuple(round(value, 4) for value in measured.tolist()) == written
