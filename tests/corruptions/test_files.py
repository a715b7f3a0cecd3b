from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from robusteval.corruptions import files
from robusteval.errors import UserError


@pytest.fixture(scope="module")
def labels() -> Tensor:
    return torch.randint(0, 10, (10_000,), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def root(tmp_path: Path, labels: Tensor) -> Path:
    """A data folder with one file of corrupted images; all but a few rows are holes."""
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(labels.numpy().astype(np.uint8), 5))
    images = np.lib.format.open_memmap(folder / "fog.npy", mode="w+", dtype=np.uint8, shape=(50_000, 32, 32, 3))
    for severity in range(5):
        for place in (0, 1, 2, 9_999):
            images[severity * 10_000 + place] = severity + 1
            images[severity * 10_000 + place, 5, 7] = (place % 100, 20, 30)
    images.flush()
    return tmp_path


def test_available_means_that_the_folder_is_there(root: Path) -> None:
    assert files.available(root, "cifar10")
    assert not files.available(root, "cifar100")
    assert not files.available(root, "cifar10-sample")
    assert not files.available(root / "CIFAR-10-C", "cifar10")


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_severities_are_blocks_of_ten_thousand(root: Path, labels: Tensor, severity: int) -> None:
    images = files.read(root, "cifar10", "fog", severity, expect=labels)
    assert images.dtype == torch.uint8
    assert images.shape == (10_000, 3, 32, 32)
    for place in (0, 2, 9_999):
        assert images[place, :, 0, 0].tolist() == [severity] * 3
        assert images[place, :, 5, 7].tolist() == [place % 100, 20, 30]
    assert not images[3:9_999].any()
    assert torch.equal(files.read(root, "cifar10", "fog", severity, expect=labels[:3]), images[:3])


def test_one_severity_is_read_without_the_others(root: Path, labels: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    load, modes = np.load, []

    def noted(path: Path, **options: object) -> np.ndarray:
        modes.append(options["mmap_mode"])
        return load(path, **options)

    monkeypatch.setattr(np, "load", noted)
    files.read(root, "cifar10", "fog", 2, expect=labels[:10])
    assert modes == ["r", "r"]


def refused(root: Path, labels: Tensor, name: str = "fog", severity: int = 1, dataset: str = "cifar10") -> str:
    with pytest.raises(UserError) as caught:
        files.read(root, dataset, name, severity, expect=labels)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_mistakes_are_named(root: Path, labels: Tensor) -> None:
    assert "did you mean 'frost'" in refused(root, labels, name="frots")
    assert "snow.npy: there is no such file; the folder has: fog.npy, labels.npy" in refused(root, labels, name="snow")
    assert "severity 6 is not one of" in refused(root, labels, severity=6)
    assert "unknown data set 'cifar10-sample'" in refused(root, labels, dataset="cifar10-sample")
    assert "CIFAR-100-C: there is no such folder" in refused(root, labels, dataset="cifar100")
    assert "has 10000 images of each severity, not 20000" in refused(root, torch.cat([labels, labels]))


def test_other_labels_are_refused(root: Path, labels: Tensor) -> None:
    other = labels.clone()
    other[77] = (other[77] + 1) % 10
    files.read(root, "cifar10", "fog", 1, expect=other[:77])
    assert "its labels are not those of the first 78 test images" in refused(root, other[:78])
    np.save(root / "CIFAR-10-C" / "labels.npy", labels.numpy())
    assert "labels.npy: holds the shape (10000,); allowed: (50000,)" in refused(root, labels)
    np.save(root / "CIFAR-10-C" / "labels.npy", np.tile(labels.numpy(), 5).astype(np.float32))
    assert "labels.npy: holds float32; allowed: integers" in refused(root, labels)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((10_000, 32, 32, 3), np.uint8), "fog.npy: holds the shape (10000, 32, 32, 3)"),
        (np.zeros((10, 32, 32, 3), np.uint8), "allowed: (50000, 32, 32, 3)"),
        (b"<!doctype html><title>Sign in</title>", "fog.npy: not a complete .npy file (37 bytes)"),
        (b"", "not a complete .npy file (0 bytes)"),
    ],
)
def test_damaged_files_are_refused(root: Path, labels: Tensor, content: np.ndarray | bytes, message: str) -> None:
    path = root / "CIFAR-10-C" / "fog.npy"
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    assert message in refused(root, labels)


def test_a_cut_off_file_is_refused(root: Path, labels: Tensor) -> None:
    path = root / "CIFAR-10-C" / "fog.npy"
    with path.open("r+b") as file:
        file.truncate(100_000_000)
    assert "fog.npy: not a complete .npy file (100000000 bytes)" in refused(root, labels)


def test_another_type_is_refused(root: Path, labels: Tensor) -> None:
    path = root / "CIFAR-10-C" / "fog.npy"
    path.unlink()
    np.lib.format.open_memmap(path, mode="w+", dtype=np.int8, shape=(50_000, 32, 32, 3)).flush()
    assert "fog.npy: holds int8; allowed: uint8" in refused(root, labels)


def test_objects_are_not_unpickled(root: Path, labels: Tensor) -> None:
    path = root / "CIFAR-10-C" / "fog.npy"
    path.unlink()
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "not a complete .npy file" in refused(root, labels)
