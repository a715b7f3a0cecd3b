"""``data corrupt``, ``data show`` and ``data verify`` of what they wrote."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robusteval.corruptions import CBAR, CORRUPTIONS, HELD_OUT, corrupt
from robusteval.data import load
from robusteval.progress import Silent

SMALL = ("data", "corrupt", "cifar10-sample", "--limit", "6", "--out", "out")


def test_corrupt_writes_the_layout(cli, tmp_path):
    code, out, err = cli(*SMALL, "--corruption", "fog", "--corruption", "saturate", "--seed", "3")
    assert (code, err) == (0, "")
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [["fog.npy", "written"], ["saturate.npy", "written"]]
    images = load("cifar10-sample", "test").first(6)
    for name in ("fog", "saturate"):
        array = np.load(tmp_path / "out" / f"{name}.npy")
        assert (array.shape, array.dtype) == ((30, 32, 32, 3), np.uint8)
        for severity in range(1, 6):
            made = corrupt(images.images, name, severity, seed=3, index=torch.arange(6))
            rows = array[(severity - 1) * 6 : severity * 6]
            np.testing.assert_array_equal(rows, made.permute(0, 2, 3, 1).numpy())
    assert np.load(tmp_path / "out" / "labels.npy").tolist() == 5 * images.labels.tolist()
    out = cli(*SMALL, "--corruption", "fog", "--seed", "3").out
    assert out.splitlines()[1].split()[:2] == ["fog.npy", "kept"]


def test_all_and_the_default(cli, tmp_path):
    assert cli(*SMALL, "--severity", "1").code == 0
    assert {path.stem for path in (tmp_path / "out").glob("*.npy")} == {*CORRUPTIONS, "labels"}
    assert cli(*SMALL, "--severity", "1", "--corruption", "all", "--corruption", "fog").code == 0
    assert {path.stem for path in (tmp_path / "out").glob("*.npy")} == {*CORRUPTIONS, *HELD_OUT, "labels"}


def test_the_other_benchmark_by_its_name(cli, tmp_path):
    assert cli(*SMALL, "--severity", "1", "--corruption", "c-bar").code == 0
    assert {path.stem for path in (tmp_path / "out").glob("*.npy")} == {*CBAR, "labels"}
    code, out, _ = cli("data", "verify", "out")
    assert code == 0
    assert out.startswith("cifar10-c-bar-gen: generator 1, table cifar-bar, seed 0\n")


def test_severities_may_come_in_any_order(cli, tmp_path):
    assert cli(*SMALL, "--corruption", "fog", "--severity", "5", "--severity", "2").code == 0
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["severities"] == [2, 5]
    assert np.load(tmp_path / "out" / "fog.npy").shape == (12, 32, 32, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*SMALL, "--corruption", "fgo"], "unknown corruption 'fgo'; did you mean 'fog'?"),
        (
            [*SMALL, "--corruption", "fog", "--corruption", "ripple"],
            "would be cifar10-c-gen, others cifar10-c-bar",
        ),
        ([*SMALL, "--corruption", "imagecorruptions:fog"], "imagecorruptions:* has the strengths of ImageNet-C"),
        ([*SMALL, "--severity", "6"], "severity 6 is not one of 1, 2, 3, 4, 5"),
        ([*SMALL, "--severity", "0"], "severity 0 is not one of 1, 2, 3, 4, 5"),
        ([*SMALL, "--severity", "2", "--severity", "2"], "each severity once"),
        ([*SMALL, "--severity", "strong"], "--severity"),
        ([*SMALL, "--exact"], "--exact: nothing is published to compare with"),
        ([*SMALL[:-1], "CIFAR-10-C"], "CIFAR-10-C: a folder of this name is for the published files only"),
        (["data", "corrupt", "cifar11", "--out", "out"], "unknown data set 'cifar11'; did you mean 'cifar10'?"),
        (["data", "corrupt", "cifar10", "--out", "out"], "cifar10 test: not found in"),
        (["data", "corrupt", "cifar10-sample"], "--out"),
        (["data", "show", "--out", "sheet.jpg"], "--out: sheet.jpg is no picture; allowed: a name that ends in .png"),
        (["data", "show", "--out", "sheet"], "--out: sheet is no picture; allowed"),
        (["data", "show", "--out", "a.png", "--corruption", "fgo"], "unknown corruption 'fgo'; did you mean 'fog'?"),
        (["data", "show", "--out", "a.png", "--image", "1000"], "--image: 1000; allowed: 0 to 999"),
        (["data", "show", "cifar11", "--out", "a.png"], "unknown data set 'cifar11'; did you mean 'cifar10'?"),
    ],
)
def test_mistakes_write_nothing(cli, tmp_path, arguments, message):
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not [*tmp_path.rglob("*")]


def test_an_interrupted_command_leaves_whole_files(cli, tmp_path, monkeypatch):
    def interrupted(self, amount=1, note=""):
        if note.startswith("fog 3"):
            raise KeyboardInterrupt

    monkeypatch.setattr("robusteval.display.Lines.advance", interrupted)
    arguments = (*SMALL, "--corruption", "saturate", "--corruption", "fog")
    code, _, err = cli(*arguments)
    assert (code, err) == (130, "interrupted\n")
    assert {path.name for path in (tmp_path / "out").glob("*.npy*")} == {"labels.npy", "saturate.npy"}
    monkeypatch.setattr("robusteval.display.Lines.advance", Silent.advance)
    out = cli(*arguments).out
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [["saturate.npy", "kept"], ["fog.npy", "written"]]


def test_verify_of_a_written_folder(cli, tmp_path):
    cli(*SMALL, "--corruption", "fog")
    code, out, _ = cli("data", "verify", "out")
    assert code == 0
    assert out.startswith("cifar10-c-gen: generator 1, table cifar, seed 0\n")
    assert out.count("as written") == 2
    path = tmp_path / "out" / "fog.npy"
    path.write_bytes(path.read_bytes()[:-1])
    code, out, _ = cli("data", "verify", "out")
    assert code == 1
    assert "changed" in out


def test_verify_of_published_files(cli, tmp_path, small_cifar):
    """Beside the clean images, files in the published layout that are not the published ones."""
    folder = tmp_path / "data"
    folder.mkdir()
    for path in small_cifar.iterdir():
        (folder / path.name).symlink_to(path)
    assert "CIFAR-10-C" not in cli("data", "verify", "cifar10", "--data-dir", folder).out
    (folder / "CIFAR-10-C").mkdir()
    (folder / "CIFAR-10-C" / "fog.npy").write_text("<html>")
    code, out, _ = cli("data", "verify", "cifar10", "--data-dir", folder)
    assert code == 1
    assert "fog.npy  not the published file" in out


@pytest.mark.parametrize(
    ("file", "start"), [("sheet.png", b"\x89PNG"), ("sheet.svg", b"<?xml"), ("sheet.PNG", b"\x89PNG")]
)
def test_show_draws_a_sheet(cli, tmp_path, file, start):
    code, out, err = cli("data", "show", "--corruption", "fog", "--corruption", "contrast", "--out", file)
    assert (code, out, err) == (0, f"{file}\n", "")
    assert (tmp_path / file).read_bytes().startswith(start)


def test_show_draws_all_unless_told_otherwise(cli, tmp_path):
    for name, arguments in (("default", ()), ("all", ("--corruption", "all"))):
        assert cli("data", "show", *arguments, "--out", f"{name}.png").code == 0
    with Image.open(tmp_path / "all.png") as sheet:
        assert sheet.width > 1000
    assert (tmp_path / "all.png").read_bytes() == (tmp_path / "default.png").read_bytes()


def test_out_may_be_in_a_folder_that_is_not_there_yet(cli, tmp_path):
    assert cli("data", "show", "--corruption", "fog", "--out", Path("new") / "a.svg").code == 0
    assert (tmp_path / "new" / "a.svg").exists()


def test_a_contact_sheet_needs_no_name(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("data", "show", "--corruption", "contrast")
    assert (code, err) == (0, "")
    assert out == "corruptions.png\n"
    assert (tmp_path / "corruptions.png").read_bytes().startswith(b"\x89PNG")
