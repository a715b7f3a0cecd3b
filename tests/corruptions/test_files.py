from dataclasses import replace
from hashlib import file_digest, md5
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from torch import Tensor

from robusteval.corruptions import CORRUPTIONS, HELD_OUT, files, published
from robusteval.corruptions.published import DETERMINISTIC, LABELS, PUBLISHED
from robusteval.errors import UserError


@pytest.fixture(scope="module")
def labels() -> Tensor:
    return torch.randint(0, 10, (100,), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def root(tmp_path: Path, labels: Tensor, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with one file of corrupted images, a hundredth of the real size, taken for the published one."""
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(labels.numpy().astype(np.uint8), 5))
    images = np.zeros((500, 32, 32, 3), dtype=np.uint8)
    for severity in range(5):
        for place in (0, 1, 2, 99):
            images[severity * 100 + place] = severity + 1
            images[severity * 100 + place, 5, 7] = (place, 20, 30)
    np.save(folder / "fog.npy", images)
    known = {name: md5((folder / f"{name}.npy").read_bytes()).hexdigest() for name in ("fog", LABELS)}
    monkeypatch.setattr(files, "IMAGES", 100)
    monkeypatch.setattr(files, "PUBLISHED", {"cifar10": replace(PUBLISHED["cifar10"], md5=known)})
    return tmp_path


@pytest.mark.parametrize("dataset", PUBLISHED)
def test_every_published_file_has_a_digest_of_its_own(dataset: str) -> None:
    digests = PUBLISHED[dataset].md5
    assert {*digests} == {*CORRUPTIONS, *HELD_OUT, LABELS}
    assert all(len(digest) == 32 and int(digest, 16) for digest in digests.values())
    assert len({*PUBLISHED["cifar10"].md5.values(), *PUBLISHED["cifar100"].md5.values()}) == 40
    assert {*DETERMINISTIC} < {*digests}
    assert files.FOLDERS[dataset] == PUBLISHED[dataset].folder


def test_available_means_that_the_folder_is_there(root: Path) -> None:
    assert files.available(root, "cifar10")
    assert not files.available(root, "cifar100")
    assert not files.available(root, "cifar10-sample")
    assert not files.available(root / "CIFAR-10-C", "cifar10")


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_severities_are_blocks_of_all_images(root: Path, labels: Tensor, severity: int) -> None:
    images = files.read(root, "cifar10", "fog", severity, expect=labels)
    assert images.dtype == torch.uint8
    assert images.shape == (100, 3, 32, 32)
    for place in (0, 2, 99):
        assert images[place, :, 0, 0].tolist() == [severity] * 3
        assert images[place, :, 5, 7].tolist() == [place, 20, 30]
    assert not images[3:99].any()
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
    for severity in (0, 6):
        assert f"severity {severity} is not one of" in refused(root, labels, severity=severity)
    assert "unknown data set 'cifar10-sample'" in refused(root, labels, dataset="cifar10-sample")
    assert "CIFAR-100-C: there is no such folder" in refused(root, labels, dataset="cifar100")
    assert "has 100 images of each severity, not 200" in refused(root, torch.cat([labels, labels]))


def test_other_labels_are_refused(root: Path, labels: Tensor) -> None:
    other = labels.clone()
    other[77] = (other[77] + 1) % 10
    files.read(root, "cifar10", "fog", 1, expect=other[:77])
    assert "its labels are not those of the first 78 test images" in refused(root, other[:78])
    np.save(root / "CIFAR-10-C" / "labels.npy", labels.numpy())
    assert "labels.npy: holds the shape (100,); allowed: (500,)" in refused(root, labels)
    np.save(root / "CIFAR-10-C" / "labels.npy", np.tile(labels.numpy(), 5).astype(np.float32))
    assert "labels.npy: holds float32; allowed: integers" in refused(root, labels)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((100, 32, 32, 3), np.uint8), "fog.npy: holds the shape (100, 32, 32, 3)"),
        (np.zeros((500, 3, 32, 32), np.uint8), "allowed: (500, 32, 32, 3)"),
        (np.zeros((500, 32, 32, 3), np.int8), "fog.npy: holds int8; allowed: uint8"),
        (b"\n<!doctype html><title>Sign in</title>", "fog.npy: not a complete .npy file (38 bytes, a web page)"),
        (b"\x93NUMPY", "not a complete .npy file (6 bytes); get it again"),
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
        file.truncate(1_000_000)
    assert "fog.npy: not a complete .npy file (1000000 bytes)" in refused(root, labels)


def test_objects_are_not_unpickled(root: Path, labels: Tensor) -> None:
    path = root / "CIFAR-10-C" / "fog.npy"
    path.unlink()
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "not a complete .npy file" in refused(root, labels)


@pytest.mark.parametrize("name", ["fog", LABELS])
def test_nothing_but_the_published_files_bears_their_name(root: Path, labels: Tensor, name: str) -> None:
    """One changed byte, in a row that is not even read, as by another severity's images."""
    files.read(root, "cifar10", "fog", 1, expect=labels[:5])
    path = root / "CIFAR-10-C" / f"{name}.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    message = refused(root, labels[:5])
    assert f"{name}.npy: not the file published as CIFAR-10-C (md5 {md5(content).hexdigest()}, not " in message
    assert "get it again from https://zenodo.org/records/2535967" in message


def test_a_file_is_checked_once_and_again_when_it_has_changed(
    root: Path, labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def noted(file: BinaryIO, kind: str) -> object:
        read.append(Path(file.name).name)
        return file_digest(file, kind)

    monkeypatch.setattr(published.hashlib, "file_digest", noted)
    for severity in (1, 2, 3):
        files.read(root, "cifar10", "fog", severity, expect=labels)
    assert sorted(read) == ["fog.npy", "labels.npy"]
    path = root / "CIFAR-10-C" / "fog.npy"
    path.write_bytes(path.read_bytes())
    files.read(root, "cifar10", "fog", 1, expect=labels)
    assert read.count("fog.npy") == 2
    assert sorted(one.name for one in path.parent.iterdir()) == ["fog.npy", "labels.npy"]  # nothing left beside them


def test_every_file_that_is_there_gets_its_verdict(root: Path) -> None:
    path = root / "CIFAR-10-C" / "fog.npy"
    content = path.read_bytes()
    assert [(one.path.name, one.right) for one in files.verified(root, "cifar10")] == [
        ("labels.npy", True),
        ("fog.npy", True),
    ]
    path.write_bytes(content[:-1] + b"\x01")
    wrong = list(files.verified(root, "cifar10"))[1]
    assert (wrong.right, wrong.verdict) == (False, "not the published file")


def test_the_layout_is_the_published_one(tmp_path: Path) -> None:
    """The size that the other tests make smaller; the labels and images are holes of that size."""
    folder = tmp_path / "CIFAR-100-C"
    folder.mkdir()
    np.save(folder / "labels.npy", np.zeros(50_000, np.uint8))
    np.lib.format.open_memmap(folder / "fog.npy", mode="w+", dtype=np.uint8, shape=(50_000, 32, 32, 3)).flush()
    expect = torch.zeros(10_000, dtype=torch.long)
    assert "labels.npy: not the file published as CIFAR-100-C" in refused(tmp_path, expect, dataset="cifar100")
    assert "has 10000 images of each severity, not 10001" in refused(
        tmp_path, torch.zeros(10_001, dtype=torch.long), dataset="cifar100"
    )
