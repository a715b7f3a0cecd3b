from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robusteval.data import DATASETS, export, layouts, load
from robusteval.data.digest import content_digest
from robusteval.data.sets import checked
from robusteval.errors import UserError


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def reading(folder, name="cifar10-sample", split="test"):
    """The embedded sample, read from an export of it."""
    return checked(DATASETS[name], split, layouts.read(folder, DATASETS[name], split))


@pytest.mark.parametrize("layout", ["binary", "npz"])
def test_what_is_written_is_read_back(tmp_path, layout):
    for split in ("train", "test"):
        data = load("cifar10-sample", split)
        written = export(data, tmp_path / "out", layout)
        assert all(path.is_file() for path in written)
        again = reading(tmp_path / "out", split=split)
        assert (again.digest, again.verified) == (data.digest, True)
    assert not [name for name in files(tmp_path) if ".export" in name]


def test_binary_files_are_the_official_rows(tmp_path, complete100):
    np.savez(tmp_path / "test.npz", images=complete100.images, labels=complete100.labels)
    data = load("cifar100", "test", data_dir=tmp_path)
    export(data, tmp_path / "out", "binary")
    assert files(tmp_path / "out") == {"cifar-100-binary/test.bin", "cifar-100-binary/cifar100-test.json"}
    coarse = DATASETS["cifar100"].coarse
    rows = [bytes([coarse[y], y]) + x.tobytes() for x, y in zip(*complete100, strict=True)]
    assert (tmp_path / "out/cifar-100-binary/test.bin").read_bytes() == b"".join(rows)
    assert load("cifar100", "test", data_dir=tmp_path / "out").digest == data.digest
    (tmp_path / "out/cifar-100-binary/cifar100-test.json").unlink()
    assert load("cifar100", "test", data_dir=tmp_path / "out").digest == data.digest


@pytest.mark.parametrize("layout", ["binary", "npz"])
def test_a_part_is_written_with_a_digest_of_its_own(tmp_path, few, layout):
    np.savez(tmp_path / "train.npz", images=few.images, labels=few.labels)
    part = load("cifar10", "train", data_dir=tmp_path).first(13)
    export(part, tmp_path / "out", layout)
    again = load("cifar10", "train", data_dir=tmp_path / "out")
    assert len(again.labels) == 13
    assert again.digest == content_digest(few.images[:13], few.labels[:13]) != part.digest


def test_binary_parts_fill_all_five_files(tmp_path, few):
    np.savez(tmp_path / "train.npz", images=few.images, labels=few.labels)
    written = export(load("cifar10", "train", data_dir=tmp_path).first(13), tmp_path / "out", "binary")
    sizes = [path.stat().st_size // 3073 for path in written if path.suffix == ".bin"]
    assert sizes == [3, 3, 3, 2, 2]


@pytest.mark.parametrize(("layout", "file"), [("binary", "cifar-10-batches-bin/test_batch.bin"), ("npz", None)])
def test_a_later_change_is_found(tmp_path, layout, file):
    data = load("cifar10-sample", "test")
    export(data, tmp_path, layout)
    if file:
        changed = bytearray((tmp_path / file).read_bytes())
        changed[3073 * 5 + 100] ^= 1
        (tmp_path / file).write_bytes(changed)
    else:
        images = data.images.numpy().copy()
        images[5, 0, 0, 0] ^= 1
        np.savez(tmp_path / "cifar10-sample-test.npz", images=images, labels=data.labels.numpy())
    with pytest.raises(UserError, match="the content has changed since it was written"):
        reading(tmp_path)


def test_png_files_are_lossless_and_sorted_by_class(tmp_path):
    data = load("cifar10-sample", "test").first(25)
    written = export(data, tmp_path, "png")
    assert len(written) == 25
    for position, label in enumerate(data.labels.tolist()):
        path = tmp_path / "cifar10-sample-test" / data.classes[label] / f"{position:05}.png"
        assert (np.asarray(Image.open(path)) == data.images[position].permute(1, 2, 0).numpy()).all()
    assert {path.name for path in (tmp_path / "cifar10-sample-test").iterdir()} == set(data.classes)


@pytest.mark.parametrize("layout", ["binary", "npz", "png"])
def test_nothing_is_overwritten(tmp_path, layout):
    data = load("cifar10-sample", "test").first(12)
    written = export(data, tmp_path, layout)
    before = {path: path.read_bytes() for path in written}
    with pytest.raises(UserError, match="exists; allowed: a folder without it"):
        export(data.first(11), tmp_path, layout)
    assert {path: path.read_bytes() for path in written} == before
    assert {tmp_path / name for name in files(tmp_path)} == set(before)


@pytest.mark.parametrize("layout", ["binary", "npz", "png"])
def test_a_failure_leaves_nothing(tmp_path, layout, monkeypatch):
    data = load("cifar10-sample", "test").first(12)

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)") as caught:
        export(data, tmp_path, layout)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_bad_place_or_layout_is_refused(tmp_path):
    data = load("cifar10-sample", "test").first(2)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        export(data, tmp_path / "file", "npz")
    with pytest.raises(UserError, match="unknown layout 'pngs'; did you mean 'png'"):
        export(data, tmp_path, "pngs")


def test_a_foreign_note_is_refused(tmp_path):
    export(load("cifar10-sample", "test").first(2), tmp_path, "npz")
    note = tmp_path / "cifar10-sample-test.json"
    text = note.read_text()
    note.write_text(text.replace('"test"', '"train"'))
    with pytest.raises(UserError, match="is about cifar10-sample train, not cifar10-sample test"):
        reading(tmp_path)
    note.write_text(text[:40])
    with pytest.raises(UserError, match="not a note"):
        reading(tmp_path)
