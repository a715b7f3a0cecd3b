"""What the tests of methods share: plain networks to write a step out with, its comparison, and planted mistakes."""

import importlib
import inspect
import sys
import types

import pytest
import torch

from robusteval.branches import add_branches, keep_branch
from robusteval.testing import TinyNet, example_batch

BATCH = example_batch(20)


def _networks(*, branches=("aux",), network=TinyNet):
    """A model whose branches differ, and a plain network of each branch that shares nothing with it."""
    torch.manual_seed(3)
    model = network().train()
    if branches:
        add_branches(model, branches)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bn" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
        for _ in range(3):  # running statistics that are not the initial ones
            model(BATCH.x)
    return model, *[keep_branch(model, name) for name in ("main", *branches)]


def _check(model, method, *plain, branches=("aux",), batch=BATCH):
    """One step of the method leaves the gradients and statistics that the plain networks have."""
    method.step(model, batch, torch.autograd.backward)
    prefixes = ["", *[f".aux_bn.{name}" for name in branches]]
    for name, parameter in plain[0].named_parameters():
        layer, leaf = name.rsplit(".", 1)
        if "bn" not in name:
            if not parameter.requires_grad:
                continue
            expected = sum(
                p.grad for net in plain for n, p in net.named_parameters() if n == name and p.grad is not None
            )
            torch.testing.assert_close(model.get_parameter(name).grad, expected, rtol=1e-4, atol=1e-6)
            continue
        for net, prefix in zip(plain, prefixes, strict=False):
            mine = model.get_parameter(f"{layer}{prefix}.{leaf}").grad
            torch.testing.assert_close(mine, net.get_parameter(name).grad, rtol=1e-4, atol=1e-6)
    for name, _ in plain[0].named_buffers():
        layer, leaf = name.rsplit(".", 1)
        for net, prefix in zip(plain, prefixes, strict=False):
            mine = model.get_buffer(f"{layer}{prefix}.{leaf}")
            torch.testing.assert_close(mine, net.get_buffer(name), rtol=1e-4, atol=1e-6)


_MUTANTS = 0


def _mutant(method, old, new):
    """The method's class from a copy of its module in which a piece of the text is another: a planted mistake."""
    global _MUTANTS
    source = inspect.getsource(importlib.import_module(method.__module__))
    if source.count(old) != 1:  # no AssertionError: that is what a test of a mutant expects
        raise ValueError(f"{old!r} is {source.count(old)} times in {method.__module__}")
    _MUTANTS += 1
    module = types.ModuleType(f"{method.__module__}_mutant{_MUTANTS}")
    sys.modules[module.__name__] = module  # pydantic looks types up there
    exec(compile(source.replace(old, new), module.__name__, "exec"), module.__dict__)
    return getattr(module, method.__name__)


@pytest.fixture(scope="session")
def networks():
    return _networks


@pytest.fixture(scope="session")
def check():
    return _check


@pytest.fixture(scope="session")
def mutant():
    return _mutant
