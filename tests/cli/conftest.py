"""The command line in this process, and small data to call it with."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import matplotlib.font_manager  # noqa: F401 - its list of fonts is written at the first import: not into a test's cache
import pytest
import torch

from robusteval.cli import main
from robusteval.data import export, load


class Answer(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Answer]


@pytest.fixture
def cli(capsys, monkeypatch, tmp_path) -> Cli:
    """Calls the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ROBUSTEVAL_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> Answer:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Answer(code, *capsys.readouterr())

    return call


@pytest.fixture(autouse=True)
def same_runtime():
    """Undoes what commands set for the process."""
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small_cifar(tmp_path_factory) -> Path:
    """A data folder with 100 + 50 real images in the official binary layout of CIFAR-10."""
    folder = tmp_path_factory.mktemp("small")
    for split, n in (("train", 100), ("test", 50)):
        export(replace(load("cifar10-sample", split).first(n), name="cifar10"), folder, "binary")
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """An output folder of ``run`` with two finished cells."""
    out = tmp_path_factory.mktemp("finished") / "out"
    suite = out.parent / "two.toml"
    suite.write_text(TWO)
    assert main(["run", str(suite), "--out", str(out), "--limit", "64"]) == 0
    return out


TWO = """
name = "two"
training = { epochs = 1, batch_size = 32, precision = "float32" }
tasks = [{ name = "clean" }]

[[methods]]
name = "standard"

[[methods]]
name = "entprop"
label = "entprop [red]"
"""
