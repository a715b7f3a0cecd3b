"""What is wrong with corrupted images is said in one line, with the exit code of a user's mistake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from robusteval.corruptions import files
from robusteval.corruptions.published import PUBLISHED, digest
from robusteval.data import load
from robusteval.models import build


@pytest.fixture
def judged(cli, tmp_path, small_cifar, monkeypatch):
    """Calls ``eval`` on 50 images of CIFAR-10 with corrupted files of that size, taken for the published ones."""
    save_file(build("resnet8", classes=10).state_dict(), tmp_path / "weights.safetensors")
    data = tmp_path / "data"
    (data / "CIFAR-10-C").mkdir(parents=True)
    for path in small_cifar.iterdir():
        (data / path.name).symlink_to(path)
    labels = load("cifar10", "test", data_dir=data).labels.numpy().astype(np.uint8)
    np.save(data / "CIFAR-10-C" / "labels.npy", np.tile(labels, 5))
    np.save(data / "CIFAR-10-C" / "fog.npy", np.zeros((250, 32, 32, 3), np.uint8))
    known = {path.stem: digest(path, "md5") for path in (data / "CIFAR-10-C").iterdir()}
    monkeypatch.setattr(files, "IMAGES", 50)
    monkeypatch.setattr(files, "PUBLISHED", {"cifar10": replace(PUBLISHED["cifar10"], md5=known)})

    def call(*settings: str, names: str = '["fog"]') -> tuple[int, str, str]:
        options = [part for one in (f"corruption.names={names}", *settings) for part in ("--set", one)]
        weights = ("--checkpoint", "weights.safetensors", "--data-dir", data)
        return cli("eval", "resnet8", *weights, "--dataset", "cifar10", "--tasks", "corruption", *options)

    return call


def spoiled(path: Path, kind: str) -> None:
    """Damages the file as downloads and mistakes do."""
    if kind == "html":
        path.write_text("<!doctype html><title>Just a moment...</title>")
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    elif kind == "one byte":
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    elif kind == "float":
        np.save(path, np.load(path).astype(np.float32) / 255)
    elif kind == "channels first":
        np.save(path, np.load(path).transpose(0, 3, 1, 2))
    elif kind == "short":
        np.save(path, np.load(path)[:-1])
    elif kind == "other":
        np.save(path, (np.load(path) + 1) % 10)
    else:
        path.unlink()


def test_whole_files_are_judged(judged):
    code, out, err = judged()
    assert (code, err) == (0, "")
    assert out.count("source=official") == 6


@pytest.mark.parametrize(
    ("file", "kind", "message"),
    [
        ("fog", "html", "fog.npy: not a complete .npy file (46 bytes, a web page); get it again"),
        ("fog", "truncated", "fog.npy: not a complete .npy file"),
        ("fog", "one byte", "fog.npy: not the file published as CIFAR-10-C"),
        ("fog", "float", "fog.npy: holds float32; allowed: uint8"),
        ("fog", "channels first", "fog.npy: holds the shape (250, 3, 32, 32); allowed: (250, 32, 32, 3)"),
        ("fog", "missing", "fog.npy: there is no such file; the folder has: labels.npy"),
        ("labels", "short", "labels.npy: holds the shape (249,); allowed: (250,)"),
        ("labels", "other", "labels.npy: its labels are not those of the first 50 test images"),
        ("labels", "html", "labels.npy: not a complete .npy file"),
    ],
)
def test_spoiled_files_are_one_clear_error(judged, tmp_path, file, kind, message):
    spoiled(tmp_path / "data" / "CIFAR-10-C" / f"{file}.npy", kind)
    code, out, err = judged()
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("settings", "names", "message"),
    [
        ((), '["fgo"]', "unknown corruption 'fgo'; did you mean 'fog'?"),
        ((), '["rippel"]', "unknown corruption 'rippel'; did you mean 'ripple'?"),
        (("corruption.severities=[0]",), '["fog"]', "severities.0: "),
        (("corruption.severities=[6]",), '["fog"]', "severities.0: "),
        (("corruption.severities=[1.5]",), '["imagecorruptions:fog"]', "has none between"),
    ],
)
def test_wrong_names_and_severities_are_one_clear_error(judged, settings, names, message):
    code, out, err = judged(*settings, names=names)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.astype(np.float32) / 128, "images are float32 (50, 3, 32, 32); allowed: uint8"),
        (lambda x: x.astype(np.float32) / 255, "images are float32 (50, 3, 32, 32); allowed: uint8"),
        (lambda x: x.transpose(0, 2, 1, 3), "images are uint8 (50, 32, 3, 32); allowed: uint8"),
    ],
)
def test_clean_images_that_cannot_be_corrupted(cli, tmp_path, change, message):
    images = load("cifar10-sample", "test").first(50)
    np.savez(tmp_path / "cifar10-test.npz", images=change(images.images.numpy()), labels=images.labels.numpy())
    code, out, err = cli("data", "corrupt", "cifar10", "--data-dir", tmp_path, "--out", "out")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_severities_between_the_published_ones(judged):
    code, out, err = judged("corruption.severities=[1.5, 2]")
    assert (code, err) == (0, "")
    assert "severity=1.5 source=generated" in out
    assert "severity=2 source=official" in out
