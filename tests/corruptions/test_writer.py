"""Written folders: what they hold, that they can be read back, interrupted and gone on with, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from hashlib import md5, sha256
from pathlib import Path

import numpy as np
import pytest
import torch

from robusteval.corruptions import GENERATOR_VERSION, corrupt, files, textures, writer
from robusteval.corruptions.contents import Contents, read_contents, write_contents
from robusteval.corruptions.published import CIFAR10_C
from robusteval.corruptions.request import Request
from robusteval.corruptions.strengths import CIFAR
from robusteval.corruptions.writer import Written, write
from robusteval.data import ImageSet, load
from robusteval.errors import UserError
from robusteval.progress import Silent


@pytest.fixture
def images() -> ImageSet:
    return load("cifar10-sample", "test").first(23)


THREE = Request(names=("fog", "contrast", "shot_noise"), severities=(2, 5), seed=4)


def written(images: ImageSet, folder: Path, request: Request = THREE) -> list[Written]:
    return list(write(images, folder, request))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_are_what_numpy_saves_of_the_corrupted_images(images: ImageSet, tmp_path: Path) -> None:
    """Severity after severity, each the images in their order; whatever the size of the blocks that are written."""
    found = written(images, tmp_path / "out")
    assert [(one.path.name, one.kept, one.equal) for one in found] == [
        (f"{name}.npy", False, None) for name in THREE.names
    ]
    for one in found:
        name = one.path.stem
        parts = [corrupt(images.images, name, s, seed=4, index=torch.arange(23)) for s in (2, 5)]
        expected = tmp_path / "expected.npy"
        np.save(expected, torch.cat(parts).permute(0, 2, 3, 1).contiguous().numpy())
        content = expected.read_bytes()
        assert one.path.read_bytes() == content
        assert (one.sha256, one.md5) == (sha256(content).hexdigest(), md5(content).hexdigest())
    labels = np.load(tmp_path / "out" / "labels.npy")
    assert labels.dtype == np.uint8
    assert labels.tolist() == 2 * images.labels.tolist()
    assert not [*(tmp_path / "out").glob("*.tmp")]


def test_the_size_of_blocks_does_not_matter(images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(images, tmp_path / "whole")
    monkeypatch.setattr(writer, "_ROWS", 7)
    written(images, tmp_path / "blocks")
    assert tree(tmp_path / "whole") == tree(tmp_path / "blocks")


def test_the_other_benchmark_has_a_name_and_a_folder_of_its_own(
    images: ImageSet, tmp_path: Path, refused: Callable[..., str]
) -> None:
    bar = replace(THREE, names=("ripple", "lines+sparkles"))
    written(images, tmp_path / "bar", bar)
    contents = read_contents(tmp_path / "bar")
    assert contents is not None
    assert (contents.name, contents.table) == ("cifar10-c-bar-gen", "cifar-bar")
    assert contents.strengths["lines+sparkles"] == ((1, 3.5), (2.5, 7))
    made = corrupt(images.images, "ripple", 5, seed=4, index=torch.arange(23))
    assert torch.equal(files.read_generated(tmp_path / "bar", "ripple", 5, expect=images.labels), made)
    text = (tmp_path / "bar" / "README.md").read_text()
    assert text.startswith("# cifar10-c-bar-gen\n\nThese are not CIFAR-10-C, nor images that anybody else drew")
    for names in (("fog",), ("ripple", "fog")):
        assert not (tmp_path / "bar" / "fog.npy").exists()
        message = refused(tmp_path / "bar", replace(THREE, names=names))
        assert "cifar10-c-bar-gen" in message
        assert "cifar10-c-gen" in message
    assert "a folder of this name is for the published files only" in refused(tmp_path / "CIFAR-10-C-Bar", bar)
    message = refused(tmp_path / "x", replace(THREE, names=("imagecorruptions:fog",)))
    assert "imagecorruptions:fog is not written" in message
    assert not (tmp_path / "x").exists()


def test_a_folder_is_found_only_by_who_would_make_the_same_images(images: ImageSet, tmp_path: Path) -> None:
    folder = tmp_path / "cifar10-c-gen"
    written(images, folder)

    def found(data: ImageSet = images, name: str = "fog", severity: float = 5, seed: int = 4) -> Path | None:
        return files.written(tmp_path, data, name, severity, seed=seed)

    assert found() == folder
    assert found(images.first(5)) == folder
    assert found(images, "shot_noise", 2) == folder
    more = load("cifar10-sample", "test").first(24)
    tall = replace(images, images=images.images.repeat(1, 1, 2, 1))
    for other in (
        found(more),
        found(tall),
        found(replace(images, digest="0" * 64)),
        found(replace(images, name="cifar10")),
        found(replace(images, split="train")),
        found(name="snow"),
        found(name="ripple"),
        found(severity=3),
        found(severity=2.5),
        found(seed=0),
        files.written(folder, images, "fog", 5, seed=4),
    ):
        assert other is None
    contents = read_contents(folder)
    assert contents is not None
    for change in ({"generator": "0"}, {"table": "imagenet"}):
        write_contents(folder, contents.model_copy(update=change))
        assert found() is None


def test_the_manifest_says_how_they_were_made(images: ImageSet, tmp_path: Path) -> None:
    written(images, tmp_path)
    raw = json.loads((tmp_path / "manifest.json").read_text())
    assert raw["name"] == "cifar10-c-gen"
    assert (raw["generator"], raw["table"], raw["seed"]) == (GENERATOR_VERSION, "cifar", 4)
    assert raw["data"] == images.ref().model_dump()
    assert raw["severities"] == [2, 5]
    assert raw["strengths"] == {name: [list(CIFAR[name][1]), list(CIFAR[name][4])] for name in THREE.names}
    assert raw["sha256"] == {
        path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(tmp_path.glob("*.npy"))
    }
    assert raw["md5"] == {path.name: md5(path.read_bytes()).hexdigest() for path in sorted(tmp_path.glob("*.npy"))}
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("# cifar10-c-gen\n\nThese are not the files published as CIFAR-10-C")
    assert "in this order: 2, 5" in text


def test_what_was_written_can_be_read_back(images: ImageSet, tmp_path: Path) -> None:
    written(images, tmp_path)
    for n in (23, 4):
        found = files.read_generated(tmp_path, "fog", 5, expect=images.labels[:n])
        assert torch.equal(found, corrupt(images.images[:n], "fog", 5, seed=4, index=torch.arange(n)))
    contents = read_contents(tmp_path)
    assert contents is not None
    assert {one.verdict for one in files.verified_generated(tmp_path, contents)} == {"as written"}


def test_reading_back_refuses_what_is_not_there_or_not_as_it_was_written(images: ImageSet, tmp_path: Path) -> None:
    def refusal(name: str, severity: int, labels: torch.Tensor = images.labels) -> str:
        with pytest.raises(UserError) as caught:
            files.read_generated(tmp_path, name, severity, expect=labels)
        return str(caught.value)

    assert "holds no manifest.json of generated images" in refusal("fog", 5)
    written(images, tmp_path)
    assert "unknown corruption 'fgo'; did you mean 'fog'?" in refusal("fgo", 5)
    assert "has no severity 1; allowed: 2, 5" in refusal("fog", 1)
    assert "has 23 images of each severity, not 46" in refusal("fog", 5, torch.cat([images.labels] * 2))
    assert "its labels are not those of the first 23 test images" in refusal("fog", 5, images.labels.flip(0))
    path = tmp_path / "fog.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    assert "fog.npy: not what was written (sha256 differs)" in refusal("fog", 5)
    contents = read_contents(tmp_path)
    assert contents is not None
    (tmp_path / "contrast.npy").unlink()
    verdicts = {one.path.name: one.verdict for one in files.verified_generated(tmp_path, contents)}
    assert verdicts == {
        "labels.npy": "as written",
        "fog.npy": "changed",
        "contrast.npy": "missing",
        "shot_noise.npy": "as written",
    }


class Stops(Silent):
    """Presses Ctrl-C after so many blocks."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.left -= amount
        if self.left < 0:
            raise KeyboardInterrupt


def test_an_interrupted_call_goes_on_where_it_was(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder holds whole files at any instant, and in the end what an uninterrupted call would have written."""
    written(images, tmp_path / "whole")
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        list(write(images, out, THREE, progress=Stops(after=3)))  # in the middle of the second file
    assert {*tree(out)} == {".lock", "README.md", "fog.npy", "labels.npy", "manifest.json"}
    whole = tree(tmp_path / "whole")
    assert all(content == whole[name] for name, content in tree(out).items() if name != "manifest.json")

    made: list[str] = []

    def noted(images: torch.Tensor, name: str, *rest: object, **options: object) -> torch.Tensor:
        if len(images) > 1:  # not the trial
            made.append(name)
        return corrupt(images, name, *rest, **options)

    monkeypatch.setattr("robusteval.corruptions.request.corrupt", noted)
    found = written(images, out)
    assert [(one.path.stem, one.kept) for one in found] == [("fog", True), ("contrast", False), ("shot_noise", False)]
    assert made == ["contrast", "contrast", "shot_noise", "shot_noise"]
    assert tree(out) == whole
    assert all(one.kept for one in written(images, out))
    assert len(made) == 4


def test_no_file_is_in_its_place_before_the_manifest_names_it(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a call killed between the two would leave a file that the next one takes for somebody else's."""

    def killed(folder: Path, contents: Contents) -> None:
        if "fog.npy" in contents.sha256:
            raise KeyboardInterrupt
        write_contents(folder, contents)

    monkeypatch.setattr(writer, "write_contents", killed)
    with pytest.raises(KeyboardInterrupt):
        written(images, tmp_path)
    monkeypatch.undo()
    assert [one.kept for one in written(images, tmp_path)] == [False] * 3


def test_a_kill_at_any_other_instant_is_made_good(images: ImageSet, tmp_path: Path) -> None:
    """Left behind: a half-written temporary file; a manifest that names a file not yet in its place; a damaged file."""
    out = tmp_path / "out"
    written(images, out)
    whole = tree(out)
    (out / "contrast.npy.tmp").write_bytes(b"half")
    (out / "contrast.npy").unlink()
    (out / "README.md").unlink()
    path = out / "fog.npy"
    path.write_bytes(path.read_bytes()[:100])
    found = written(images, out)
    assert [one.path.stem for one in found if not one.kept] == ["fog", "contrast"]
    assert tree(out) == whole


def test_compounds_are_corruptions_too(images: ImageSet, tmp_path: Path) -> None:
    name = "defocus_blur+gaussian_noise"
    (found,) = written(images, tmp_path, Request(names=(name,), severities=(4,)))
    assert found.path.name == f"{name}.npy"
    expected = corrupt(images.images, name, 4, seed=0, index=torch.arange(23))
    assert torch.equal(files.read_generated(tmp_path, name, 4, expect=images.labels), expected)
    contents = read_contents(tmp_path)
    assert contents is not None
    assert contents.strengths == {name: ((*CIFAR["defocus_blur"][3], *CIFAR["gaussian_noise"][3]),)}


def test_other_corruptions_are_added(images: ImageSet, tmp_path: Path) -> None:
    written(images, tmp_path)
    (found,) = written(images, tmp_path, replace(THREE, names=("brightness",)))
    assert not found.kept
    contents = read_contents(tmp_path)
    assert contents is not None
    assert [*contents.strengths] == [*THREE.names, "brightness"]
    assert {one.verdict for one in files.verified_generated(tmp_path, contents)} == {"as written"}


@pytest.fixture
def refused(images: ImageSet, tmp_path: Path) -> Callable[..., str]:
    """The message of a refusal that changes nothing below `tmp_path`."""

    def call(folder: Path, request: Request = THREE, images: ImageSet = images) -> str:
        before = tree(tmp_path), {*tmp_path.rglob("*")}
        with pytest.raises(UserError) as caught:
            written(images, folder, request)
        assert "\n" not in str(caught.value)
        assert (tree(tmp_path), {*tmp_path.rglob("*")}) == before
        return str(caught.value)

    return call


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(names=("fgo",)), "unknown corruption 'fgo'; did you mean 'fog'?"),
        (Request(names=("fog", "fog")), "each corruption once, and at least one; given: fog, fog"),
        (Request(names=()), "each corruption once"),
        (Request(severities=(1, 1)), "each severity once"),
        (Request(severities=(0, 1)), "severity 0 is not one of 1, 2, 3, 4, 5"),
        (Request(severities=(6,)), "severity 6 is not one of"),
        (Request(exact=True), "--exact: nothing is published to compare with"),
    ],
)
def test_what_cannot_be_meant(refused: Callable[..., str], tmp_path: Path, request_: Request, message: str) -> None:
    assert message in refused(tmp_path / "out", request_)


def test_images_of_another_kind_do_not_get_into_a_folder(
    refused: Callable[..., str], images: ImageSet, tmp_path: Path
) -> None:
    written(images, tmp_path / "out")
    for request, given, message in (
        (replace(THREE, seed=5), images, "holds images with another seed (4, not 5); choose another --out"),
        (replace(THREE, severities=(5,)), images, "another severities (2 5, not 5)"),
        (
            THREE,
            images.first(9),
            "another data (23 images of cifar10-sample test, digest c045ce8889cf, not 9 ",
        ),
        (THREE, replace(images, name="cifar100"), "another name (cifar10-c-gen, not cifar100-c-gen)"),
    ):
        assert message in refused(tmp_path / "out", request, given)


def test_nothing_of_the_users_is_overwritten(refused: Callable[..., str], tmp_path: Path) -> None:
    for name in ("README.md", "labels.npy", "contrast.npy"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text("mine")
        assert f"{name}: exists, and not from here" in refused(folder)
    (tmp_path / "manifest.json").write_text('{"mine": 1}')
    assert "manifest.json: not a manifest that `robusteval data corrupt` wrote" in refused(tmp_path)
    assert "is a file; allowed: a folder" in refused(tmp_path / "manifest.json")


@pytest.mark.parametrize("name", ["CIFAR-10-C", "cifar-100-c"])
def test_the_published_files_name_is_not_taken(refused: Callable[..., str], tmp_path: Path, name: str) -> None:
    assert "is for the published files only; allowed: another, for example " in refused(tmp_path / name)


def test_a_full_disk_is_found_out_before(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 100_000))
    assert "needs 0.00 GB and has 0.00 GB" in refused(tmp_path / "a" / "b")


@pytest.fixture
def unread() -> Iterator[None]:
    """The frost photographs as if no test had read them yet, and afterwards as if this one had not."""

    def forget() -> None:
        textures.frost.cache_clear()
        textures.ice.cache_clear()

    forget()
    yield
    forget()


@pytest.mark.usefixtures("unread")
def test_missing_photographs_are_found_out_before(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(textures, "find_spec", lambda _: None)
    assert "frost: its photographs come with" in refused(tmp_path / "out", Request(names=("fog", "frost")))


def as_published(monkeypatch: pytest.MonkeyPatch, digests: dict[str, str]) -> None:
    """Takes the sample for a data set of which files with these digests are published."""
    monkeypatch.setattr("robusteval.corruptions.request.PUBLISHED", {"cifar10-sample": replace(CIFAR10_C, md5=digests)})
    monkeypatch.setattr("robusteval.corruptions.request.IMAGES", 23)


FIVE = Request(names=("fog", "contrast"))


def exact(names: Sequence[str] = FIVE.names) -> Request:
    return replace(FIVE, names=tuple(names), exact=True)


def test_exact_files_equal_the_published_ones(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    plain = {one.path.stem: one.md5 for one in written(images, tmp_path / "plain", FIVE)}
    as_published(monkeypatch, {"contrast": plain["contrast"]})
    found = written(images, tmp_path / "exact", exact())
    assert {one.path.stem: one.equal for one in found} == {"fog": None, "contrast": True}  # fog's draws are anybody's
    assert tree(tmp_path / "exact") == tree(tmp_path / "plain")
    assert "no file can equal a published one: they draw random numbers" in refused(tmp_path / "x", exact(["fog"]))
    few = replace(exact(), severities=(1, 2))
    assert "nothing is published to compare with" in refused(tmp_path / "x", few)
    assert "nothing is published to compare with" in refused(tmp_path / "x", exact(), images.first(9))
    assert "nothing is published to compare with" in refused(tmp_path / "x", exact(), replace(images, verified=False))


def test_exact_leaves_no_file_that_differs(images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_published(monkeypatch, {"contrast": "0" * 32})
    assert {one.path.stem: one.equal for one in written(images, tmp_path / "free", FIVE)} == {
        "fog": None,
        "contrast": False,
    }
    with pytest.raises(UserError, match=r"contrast.npy: is not the published file to the byte"):
        written(images, tmp_path / "out", exact())
    assert {*tree(tmp_path / "out")} == {".lock", "README.md", "fog.npy", "labels.npy", "manifest.json"}
    contents = read_contents(tmp_path / "out")
    assert contents is not None
    assert [*contents.sha256] == ["labels.npy", "fog.npy"]
    with pytest.raises(UserError, match=r"contrast.npy: is not the published file to the byte"):
        written(images, tmp_path / "free", exact())  # one that was written without --exact does not pass either
