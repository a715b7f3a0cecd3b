import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from robusteval.data import ImageSet, load


@pytest.fixture(scope="session")
def photos() -> Tensor:
    """48 photographs, uint8; three made pictures at the end are the hard cases: black, white, two colours."""
    images = load("cifar10-sample", "test").images[:48].clone()
    images[-3] = 0
    images[-2] = 255
    images[-1, 0], images[-1, 1], images[-1, 2] = 200, 40, 40
    images[-1, :, ::2] = 77
    return images


@pytest.fixture(scope="session")
def many() -> Tensor:
    """500 photographs: enough to show in which order numbers were added."""
    return load("cifar10-sample", "test").images[:500]


@pytest.fixture(scope="session")
def index() -> Tensor:
    """Indices that do not count up from zero."""
    return torch.arange(48) * 7 + 3


@pytest.fixture(scope="session")
def cifar_test() -> ImageSet:
    folder = os.environ.get("ROBUSTEVAL_DATA")
    if not folder:
        pytest.skip("ROBUSTEVAL_DATA does not name a folder with the complete CIFAR data")
    return load("cifar10", "test", data_dir=Path(folder))
