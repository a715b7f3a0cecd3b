import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest


class Pixels(NamedTuple):
    images: np.ndarray  # uint8 (N, 3, 32, 32)
    labels: np.ndarray  # int64 (N,)


def made(n: int, classes: int, seed: int = 0) -> Pixels:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
    return Pixels(images, rng.permutation(np.arange(n) % classes))


@pytest.fixture(scope="session")
def complete10() -> Pixels:
    """Noise with the structure of CIFAR-10's complete test split."""
    return made(10_000, 10)


@pytest.fixture(scope="session")
def complete100() -> Pixels:
    return made(10_000, 100)


@pytest.fixture
def few() -> Pixels:
    return made(20, 10)


@pytest.fixture(scope="session")
def cifar() -> Path:
    folder = os.environ.get("ROBUSTEVAL_DATA")
    if not folder:
        pytest.skip("ROBUSTEVAL_DATA does not name a folder with the complete CIFAR data")
    return Path(folder)
