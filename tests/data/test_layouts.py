import io
import pickle
import sys
import tarfile
import threading
import warnings
from functools import partial
from hashlib import md5
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torchvision import datasets

from robusteval.data import DATASETS, layouts, load
from robusteval.errors import UserError


def read(folder, name="cifar10", split="test", **options):
    return layouts.read(folder, DATASETS[name], split, **options)


def refusal(folder, name="cifar10", split="test", **options) -> str:
    with pytest.raises(UserError) as caught:
        read(folder, name, split, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(found, pixels) -> bool:
    assert (found.images.dtype, found.labels.dtype) == (np.uint8, np.int64)
    assert found.images.flags.c_contiguous
    return np.array_equal(found.images, pixels.images) and np.array_equal(found.labels, pixels.labels)


def rows10(pixels) -> bytes:
    return b"".join(bytes([y]) + x.tobytes() for x, y in zip(pixels.images, pixels.labels, strict=True))


def rows100(pixels) -> bytes:
    coarse = DATASETS["cifar100"].coarse
    return b"".join(bytes([coarse[y], y]) + x.tobytes() for x, y in zip(pixels.images, pixels.labels, strict=True))


# Where things are.


@pytest.mark.parametrize("place", ["", "cifar-10-batches-bin", "cifar10", "CIFAR-10/cifar-10-batches-bin", "cifar-10"])
def test_usual_places_are_searched(tmp_path, place, complete10):
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "test_batch.bin").write_bytes(rows10(complete10))
    found = read(tmp_path)
    assert same(found, complete10)
    assert found.source == str(folder)


def test_missing_data_are_explained(tmp_path):
    message = refusal(tmp_path, split="train")
    for part in (
        f"cifar10 train: not found in {tmp_path};",
        "cifar-10-batches-bin/data_batch_1.bin to data_batch_5.bin",
        "cifar-10-batches-py/",
        "train-00000-of-00001.parquet",
        "cifar10-train.npz",
        "--data-dir or ROBUSTEVAL_DATA",
        "robusteval data get cifar10",
    ):
        assert part in message
    assert "not found in" in refusal(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert "is a file; allowed: the folder that holds the data" in refusal(tmp_path / "file")


def test_damage_is_no_reason_to_read_another_layout(tmp_path, few):
    np.savez(tmp_path / "cifar10-test.npz", images=few.images, labels=few.labels)
    assert same(read(tmp_path), few)
    (tmp_path / "test_batch.bin").write_bytes(b"x")
    assert "test_batch.bin: 1 bytes" in refusal(tmp_path)


# Official binary files.


def test_binary_training_files_are_joined_in_order(tmp_path, complete10):
    for i in range(5):
        shifted = complete10._replace(labels=(complete10.labels + i) % 10)
        (tmp_path / f"data_batch_{i + 1}.bin").write_bytes(rows10(shifted))
    found = read(tmp_path, split="train")
    assert np.array_equal(found.labels.reshape(5, -1), (complete10.labels + np.arange(5)[:, None]) % 10)
    assert all((found.images[i : i + 10_000] == complete10.images).all() for i in range(0, 50_000, 10_000))
    (tmp_path / "data_batch_4.bin").unlink()
    (tmp_path / "data_batch_2.bin").unlink()
    assert "incomplete; missing: data_batch_2.bin, data_batch_4.bin" in refusal(tmp_path, split="train")


def test_binary_cifar100(tmp_path, complete100):
    (tmp_path / "test.bin").write_bytes(rows100(complete100))
    assert same(read(tmp_path, "cifar100"), complete100)
    changed = bytearray((tmp_path / "test.bin").read_bytes())
    changed[3074 * 8] ^= 1
    (tmp_path / "test.bin").write_bytes(changed)
    assert "superclasses do not belong to the classes" in refusal(tmp_path, "cifar100")


@pytest.mark.parametrize("kept", [0, 1, 3073 * 5000, 30_730_000 - 1, 30_730_000 + 3073])
def test_binary_files_of_another_size_are_refused(tmp_path, complete10, kept):
    (tmp_path / "test_batch.bin").write_bytes((rows10(complete10) * 2)[:kept])
    assert f"{kept} bytes; cifar10 has 30730000 here (10000 rows of 3073): truncated, or not" in refusal(tmp_path)


def test_a_data_set_under_the_other_ones_name_is_refused(tmp_path, complete10, complete100):
    (tmp_path / "test_batch.bin").write_bytes(rows100(complete100))
    assert "30740000 bytes; cifar10 has 30730000" in refusal(tmp_path)
    (tmp_path / "test.bin").write_bytes(rows10(complete10))
    assert "30730000 bytes; cifar100 has 30740000" in refusal(tmp_path, "cifar100")


# Pickles, through torchvision.


def write_pickles(folder: Path, pixels, monkeypatch, name="cifar10") -> None:
    """A small data set in torchvision's layout, with its table of published md5 sums changed to fit."""
    reader = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    place = folder / reader.base_folder
    place.mkdir(parents=True)
    key = {"cifar10": "labels", "cifar100": "fine_labels"}[name]
    size = len(pixels.labels) // max(len(reader.train_list), 1)
    for attribute, whole in (("train_list", False), ("test_list", True)):
        table = []
        for i, (file, _) in enumerate(getattr(reader, attribute)):
            rows = slice(None) if whole else slice(i * size, (i + 1) * size)
            data = pixels.images[rows].reshape(-1, 3072)
            content = pickle.dumps({"data": data, key: pixels.labels[rows].tolist(), "coarse_labels": [0] * len(data)})
            (place / file).write_bytes(content)
            table.append([file, md5(content).hexdigest()])
        monkeypatch.setattr(reader, attribute, table)
    meta = pickle.dumps({reader.meta["key"]: list(DATASETS[name].classes)})
    (place / reader.meta["filename"]).write_bytes(meta)
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": md5(meta).hexdigest()})


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("inside", [False, True])
def test_pickles(tmp_path, few, monkeypatch, name, split, inside):
    write_pickles(tmp_path, few, monkeypatch, name)
    place = next(tmp_path.iterdir())
    found = read(place if inside else tmp_path, name, split)
    assert same(found, few)
    assert found.source == str(place)


def test_pickles_that_are_not_the_published_ones_are_refused_unread(tmp_path, few, monkeypatch):
    write_pickles(tmp_path, few, monkeypatch)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(path.read_bytes() + b" ")
    monkeypatch.setattr(pickle, "load", None)
    assert "incomplete or damaged" in refusal(tmp_path)
    path.unlink()
    assert "delete it and run `robusteval data get cifar10`" in refusal(tmp_path)


def test_numpys_complaint_about_files_as_old_as_the_published_ones_is_not_passed_on(tmp_path, few, monkeypatch):
    def load(file, **options):
        text = "dtype(): align should be passed as Python or NumPy boolean but got `align=0`."
        warnings.warn(text, np.exceptions.VisibleDeprecationWarning, stacklevel=2)
        return pickle.loads(file.read(), **options)

    write_pickles(tmp_path, few, monkeypatch)
    monkeypatch.setattr(pickle, "load", load)
    assert same(read(tmp_path), few)


@pytest.fixture
def server(tmp_path):
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    (tmp_path / "served").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path / "served")) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", tmp_path / "served"
        running.shutdown()
        thread.join()


def test_download_only_when_asked(tmp_path, few, monkeypatch, server):
    url, served = server
    write_pickles(tmp_path / "made", few, monkeypatch)
    archive = served / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "made" / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(datasets.CIFAR10, "url", f"{url}/{archive.name}")
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(archive.read_bytes()).hexdigest())
    assert "not found in" in refusal(tmp_path / "data")
    assert not (tmp_path / "data").exists()
    assert same(read(tmp_path / "data", download=True), few)
    archive.unlink()
    assert same(read(tmp_path / "data", split="train", download=True), few)


def test_failed_downloads_say_what_to_do(tmp_path, monkeypatch, server):
    url, served = server
    monkeypatch.setattr(datasets.CIFAR10, "url", f"{url}/cifar-10-python.tar.gz")
    message = refusal(tmp_path / "data", download=True)
    assert f"cifar10: the download to {tmp_path / 'data'} failed (HTTP Error 404" in message
    assert f"get {url}/cifar-10-python.tar.gz elsewhere" in message
    (served / "cifar-10-python.tar.gz").write_bytes(b"not the archive")
    assert "failed (File not found or corrupted" in refusal(tmp_path / "data", download=True)


# Hugging Face parquet.


def encoded(image, kind="PNG", mode="RGB") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def write_parquet(path: Path, pixels, image="img", label="label", bare=False, **columns) -> None:
    cells = [encoded(x) if bare else {"bytes": encoded(x), "path": None} for x in pixels.images]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({image: cells, label: pixels.labels, **columns}), path)


@pytest.mark.parametrize(
    ("name", "file", "options"),
    [
        ("cifar10", "plain_text/test-00000-of-00001.parquet", {}),
        ("cifar10", "cifar10/plain_text/test-00000-of-00001.parquet", {"image": "image"}),
        ("cifar10", "cifar10-test.parquet", {"bare": True}),
        ("cifar10", "data/test.parquet", {}),
        ("cifar100", "cifar100/test-00000-of-00001.parquet", {"label": "fine_label", "coarse_label": [0] * 20}),
        ("cifar100", "test-00000-of-00001.parquet", {"label": "label"}),
    ],
)
def test_parquet(tmp_path, few, name, file, options):
    write_parquet(tmp_path / file, few, **options)
    assert same(read(tmp_path, name), few)


def test_parquet_shards(tmp_path, few):
    for i in range(2):
        rows = slice(i * 10, (i + 1) * 10)
        write_parquet(tmp_path / f"train-{i:05}-of-00002.parquet", type(few)(few.images[rows], few.labels[rows]))
    assert same(read(tmp_path, split="train"), few)
    (tmp_path / "train-00000-of-00002.parquet").unlink()
    assert "1 of 2 files train-*-of-00002.parquet; get the others" in refusal(tmp_path, split="train")


def test_parquet_problems(tmp_path, few, monkeypatch):
    path = tmp_path / "cifar10-test.parquet"
    write_parquet(path, few, label="fine_label")
    assert "no column label; it has: img, fine_label" in refusal(tmp_path)
    write_parquet(path, few, image="picture")
    assert "no column img or image; it has: picture, label" in refusal(tmp_path)
    write_parquet(path, few._replace(labels=few.labels + 0.5))
    assert "labels are double with 0 empty; allowed: integers" in refusal(tmp_path)
    write_parquet(path, few._replace(labels=[None, *few.labels[1:].tolist()]))
    assert "labels are int64 with 1 empty" in refusal(tmp_path)
    for cell, complaint in (
        ({"bytes": b"no image"}, "row 3 is not a readable image"),
        ({"bytes": encoded(few.images[0])[:-300]}, "row 3 is not a readable image"),
        ({"bytes": None}, "row 3 holds no encoded image"),
        ({"bytes": encoded(few.images[0], mode="L")}, "row 3 is L (32, 32); allowed: RGB (32, 32)"),
        ({"bytes": encoded(few.images[0][:, :, :30])}, "row 3 is RGB (30, 32); allowed: RGB (32, 32)"),
    ):
        cells = [{"bytes": encoded(x)} for x in few.images]
        cells[3] = cell
        pq.write_table(pa.table({"img": cells, "label": few.labels}), path)
        assert complaint in refusal(tmp_path)
    write_parquet(path, few)
    path.write_bytes(path.read_bytes()[:-100])
    assert "damaged parquet file" in refusal(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "reading it needs pyarrow; pip install 'robusteval[parquet]'" in refusal(tmp_path)


@pytest.mark.data
@pytest.mark.slow
def test_parquet_of_the_whole_training_set_in_the_hubs_order(tmp_path, cifar):
    data = load("cifar10", "train", data_dir=cifar)
    order = np.concatenate([np.arange(10_000) + 10_000 * block for block in (3, 2, 1, 4, 0)])
    images, labels = data.images.numpy()[order], data.labels.numpy()[order]
    cells = [{"bytes": encoded(x, "BMP")} for x in images]
    pq.write_table(pa.table({"img": cells, "label": labels}), tmp_path / "train-00000-of-00001.parquet")
    again = load("cifar10", "train", data_dir=tmp_path)
    assert again.verified
    assert again.digest == data.digest


# NumPy archives.


@pytest.mark.parametrize("file", ["cifar10-test.npz", "cifar10_test.npz", "test.npz", "cifar10/test.npz"])
@pytest.mark.parametrize("nhwc", [False, True])
def test_npz_of_one_split(tmp_path, few, file, nhwc):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    np.savez(tmp_path / file, images=few.images.transpose(0, 2, 3, 1) if nhwc else few.images, labels=few.labels)
    assert same(read(tmp_path), few)
    assert "not found" in refusal(tmp_path, split="train")


def test_npz_of_both_splits(tmp_path, few):
    x, y = few.images.transpose(0, 2, 3, 1), few.labels.astype(np.uint8)[:, None]
    np.savez_compressed(tmp_path / "cifar10.npz", x_train=x[:12], y_train=y[:12], x_test=x[12:], y_test=y[12:])
    assert same(read(tmp_path, split="train"), type(few)(few.images[:12], few.labels[:12]))
    assert same(read(tmp_path, split="test"), type(few)(few.images[12:], few.labels[12:]))


def test_npz_that_does_not_say_its_split_is_refused(tmp_path, few):
    np.savez(tmp_path / "cifar10.npz", images=few.images, labels=few.labels)
    assert "no arrays x_test, y_test; it holds: images, labels" in refusal(tmp_path)


def test_npz_problems(tmp_path, few):
    path = tmp_path / "test.npz"
    images, labels = few
    for x, y, complaint in (
        (images.astype(np.float32) / 255, labels, "images are float32 (20, 3, 32, 32); allowed: uint8"),
        (images[:, :1], labels, "images are uint8 (20, 1, 32, 32); allowed"),
        (images[:, :, :28, :28], labels, "images are uint8 (20, 3, 28, 28); allowed"),
        (images[0], labels, "images are uint8 (3, 32, 32); allowed"),
        (images, labels[:19], "labels are int64 (19,) for 20 images; allowed: integers (20,)"),
        (images, np.eye(10)[labels], "labels are float64 (20, 10) for 20 images"),
        (images, labels.astype(np.float32), "labels are float32 (20,)"),
        (images, labels.astype(object), "damaged npz archive (Object arrays cannot be loaded"),
    ):
        np.savez(path, images=x, labels=y)
        assert complaint in refusal(tmp_path)
    np.savez(path, pictures=images)
    assert "no arrays x_test, y_test or images, labels; it holds: pictures" in refusal(tmp_path)
    np.savez_compressed(path, images=images, labels=labels)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "damaged npz archive" in refusal(tmp_path)
    path.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    assert "damaged npz archive" in refusal(tmp_path)
    path.write_bytes(b"")
    assert "damaged npz archive" in refusal(tmp_path)
    with path.open("wb") as file:
        np.save(file, images)
    assert "not an npz archive" in refusal(tmp_path)


def test_a_file_that_cannot_be_read_is_a_users_matter(tmp_path, few, monkeypatch):
    def closed(*args, **options):
        raise PermissionError(13, "Permission denied", str(tmp_path / "test_batch.bin"))

    (tmp_path / "test_batch.bin").write_bytes(b"x" * 30_730_000)
    monkeypatch.setattr(np, "fromfile", closed)
    assert refusal(tmp_path) == f"{tmp_path / 'test_batch.bin'}: cannot be read or written (Permission denied)"
