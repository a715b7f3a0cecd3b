"""Provenance: the commit is ours or none, versions are the installed ones."""

import ctypes
import os
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from robusteval import allocator, provenance, runtime
from robusteval.errors import UserError


@pytest.fixture
def fresh():
    """Forgets cached facts, before and after."""
    for function in (provenance.commit, provenance.versions, provenance.cpu_model):
        function.cache_clear()
    yield
    for function in (provenance.commit, provenance.versions, provenance.cpu_model):
        function.cache_clear()


@pytest.fixture
def prepared():
    """A prepared process, put back after the test."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield runtime.prepare("cpu", 1)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_it_says_what_computed(prepared, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/robusteval", "run", "--seed", "3"])
    record = provenance.collect(prepared, "bfloat16")
    assert record.packages["torch"] == version("torch")
    assert record.packages["numpy"] == version("numpy")
    assert (record.threads, record.precision, record.device) == (1, "bfloat16", "cpu")
    assert record.command == ("robusteval", "run", "--seed", "3")
    assert record.platform.endswith(f"malloc: {prepared.allocator}")
    assert record.cpu


def checkout(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the module at its place in it."""
    place = folder / "robusteval" / "provenance.py"
    place.parent.mkdir(parents=True)
    place.write_text("")
    monkeypatch.setattr(provenance, "__file__", str(place))
    return place


def test_the_commit_of_a_checkout_and_its_changes(tmp_path, monkeypatch, fresh):
    place = checkout(tmp_path, monkeypatch)
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "x")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert provenance.commit() == head
    (tmp_path / "notes.txt").write_text("no part of the package")
    provenance.commit.cache_clear()
    assert provenance.commit() == head
    place.with_name("new.py").write_text("part of it")
    provenance.commit.cache_clear()
    assert provenance.commit() == f"{head}+changes"


def test_the_commit_of_somebody_elses_repository_is_not_ours(tmp_path, monkeypatch, fresh):
    """E.g. a virtual environment inside a project."""
    checkout(tmp_path / "venv" / "site-packages", monkeypatch)
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "x")
    assert provenance.commit() is None


def test_no_commit_without_git_or_repository(tmp_path, monkeypatch, fresh):
    checkout(tmp_path, monkeypatch)
    assert provenance.commit() is None
    monkeypatch.setenv("PATH", "")
    provenance.commit.cache_clear()
    assert provenance.commit() is None


def test_a_package_that_is_not_installed_is_left_out(monkeypatch, fresh):
    monkeypatch.setattr(provenance, "PACKAGES", ("numpy", "surely-not-installed"))
    assert provenance.versions() == {"numpy": version("numpy")}


def test_preparing_makes_torch_deterministic_and_sets_threads(prepared):
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == prepared.threads == 1
    assert prepared.device == torch.device("cpu")
    assert "CUBLAS_WORKSPACE_CONFIG" in os.environ


def test_the_allocator_is_tuned_on_glibc_and_left_alone_elsewhere(monkeypatch):
    calls = []

    class Libc:
        def mallopt(self, option, value):
            calls.append((option, value))
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Libc())
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    assert allocator.tune_allocator() == "glibc, tuned"
    assert sorted(calls) == [(-3, 1 << 30), (-1, 2**31 - 1)]  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h
    monkeypatch.setattr(Libc, "mallopt", lambda self, option, value: 0)
    assert allocator.tune_allocator() == "system"
    for system, libc in (("Darwin", ""), ("Linux", "musl")):
        monkeypatch.setattr("platform.system", lambda system=system: system)
        monkeypatch.setattr("platform.libc_ver", lambda libc=libc: (libc, ""))
        assert allocator.tune_allocator() == "system"


def test_a_device_that_is_not_there_is_one_clear_error():
    with pytest.raises(UserError, match=r"--device: 'tpu'.*allowed: auto, cpu, cuda"):
        runtime.prepare("tpu")
