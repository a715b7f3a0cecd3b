"""The cache: the same images with and without it, whatever became of its files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from robusteval import manifest
from robusteval.corruptions import cache, corrupt
from robusteval.data import ImageSet, load
from robusteval.errors import UserError
from robusteval.tasks import Context, Corruption
from robusteval.tasks.views import views

CPU = torch.device("cpu")


@pytest.fixture
def images() -> ImageSet:
    return load("cifar10-sample", "test").first(9)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was generated, one entry a call."""
    calls: list[str] = []

    def noted(images: Tensor, name: str, severity: int, *, seed: int, index: Tensor) -> Tensor:
        calls.append(f"{name}-{severity}")
        return corrupt(images, name, severity, seed=seed, index=index)

    monkeypatch.setattr(cache, "corrupt", noted)
    return calls


def expected(images: ImageSet, name: str, severity: int, seed: int) -> Tensor:
    return corrupt(images.images, name, severity, seed=seed, index=torch.arange(len(images.labels)))


def test_images_are_made_once(images: ImageSet, root: Path, made: list[str]) -> None:
    for _ in range(2):
        for name, severity in (("fog", 2), ("fog", 4), ("shot_noise", 2)):
            found = cache.corrupted(images, name, severity, seed=1, device=CPU)
            assert torch.equal(found, expected(images, name, severity, 1))
    assert made == ["fog-2", "fog-4", "shot_noise-2"]


def test_what_decides_a_pixel_keeps_them_apart(
    images: ImageSet, root: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.corrupted(images, "fog", 2, seed=1, device=CPU)
    others = replace(images, images=images.images.flip(3))  # with the digest of the set that they were taken from
    assert torch.equal(cache.corrupted(others, "fog", 2, seed=1, device=CPU), expected(others, "fog", 2, 1))
    few = images.first(4)
    assert torch.equal(cache.corrupted(few, "fog", 2, seed=1, device=CPU), expected(few, "fog", 2, 1))
    assert torch.equal(cache.corrupted(images, "fog", 2, seed=2, device=CPU), expected(images, "fog", 2, 2))
    monkeypatch.setattr(cache, "GENERATOR_VERSION", "next")
    cache.corrupted(images, "fog", 2, seed=1, device=CPU)
    assert len(made) == 5


def test_nothing_is_kept_unless_a_folder_is_named(
    images: ImageSet, tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(cache.CACHE_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    assert torch.equal(cache.corrupted(images, "fog", 2, seed=1, device=CPU), expected(images, "fog", 2, 1))
    assert not [*tmp_path.rglob("*")]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("what", ["fog-2.npy", "manifest.json"])
@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
def test_damaged_files_are_made_again(
    images: ImageSet, root: Path, made: list[str], what: str, damage: Callable[[Path], None]
) -> None:
    cache.corrupted(images, "fog", 2, seed=1, device=CPU)
    (path,) = root.rglob(what)
    damage(path)
    for _ in range(2):
        found = cache.corrupted(images, "fog", 2, seed=1, device=CPU)
        assert torch.equal(found, expected(images, "fog", 2, 1))
    assert made == ["fog-2", "fog-2"]


def test_where_another_process_writes_nothing_is_kept(images: ImageSet, root: Path, made: list[str]) -> None:
    cache.corrupted(images, "fog", 2, seed=1, device=CPU)
    (path,) = root.rglob("fog-2.npy")
    with manifest.locked(path.parent):
        assert torch.equal(cache.corrupted(images, "fog", 2, seed=1, device=CPU), expected(images, "fog", 2, 1))
        for _ in range(2):
            assert torch.equal(cache.corrupted(images, "fog", 3, seed=1, device=CPU), expected(images, "fog", 3, 1))
    assert made == ["fog-2", "fog-3", "fog-3"]


def test_a_folder_that_cannot_be_written_is_one_clear_error(images: ImageSet, root: Path) -> None:
    root.write_text("in the way")
    with pytest.raises(UserError, match=r"cannot be written"):
        cache.corrupted(images, "fog", 2, seed=1, device=CPU)


class Reads(nn.Module):
    """Logits that depend on every pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3070].unflatten(1, (10, 307)).sum(2)


def test_no_number_depends_on_it(
    images: ImageSet, tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Corruption(names=("fog", "shot_noise"), severities=(1, 5), source="generated")
    context = Context(CPU, seed=3, deployed="main", batch_size=4)
    monkeypatch.delenv(cache.CACHE_VARIABLE, raising=False)
    without = list(task.measure({"main": Reads()}, images, context))
    seen = [view.data.images for view in views(images, task, context)]
    made.clear()
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "cache"))
    for _ in range(2):
        for one, other in zip(task.measure({"main": Reads()}, images, context), without, strict=True):
            assert one.measurement == other.measurement
            if other.outcomes is not None:
                assert (one.outcomes == other.outcomes).all()
        for view, pixels in zip(views(images, task, context), seen, strict=True):
            assert torch.equal(view.data.images, pixels)
    assert made == ["fog-1", "fog-5", "shot_noise-1", "shot_noise-5"]
