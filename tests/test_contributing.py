"""The worked example of docs/add-a-method.md, executed as it stands there."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from robusteval.testing import MethodContract

GUIDE = Path(__file__).parents[1] / "docs" / "add-a-method.md"
FILE, TEST = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


def module(name, text, folder):
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made  # the options decorator looks annotations up in the class's module
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    yield module("contributed_noise", FILE, tmp_path_factory.mktemp("example")).Noise
    del sys.modules["contributed_noise"]


CHECKS = [name for name in dir(MethodContract) if name.startswith("test_")]


@pytest.mark.parametrize("check", CHECKS)
def test_example_keeps_the_contract(noise, check):
    contract = type("Contract", (MethodContract,), {"method": noise()})()
    getattr(contract, check)()


def test_numeric_test_of_the_example_passes_and_can_fail(noise):
    space = {"Noise": noise}
    exec(TEST, space)
    space["test_noise_step_by_hand"]()
    space["Noise"] = lambda: noise(sigma=0.3)
    with pytest.raises(AssertionError):
        space["test_noise_step_by_hand"]()


def test_example_fits_its_file_size_rule():
    assert len(FILE.splitlines()) < 100
