"""Planted mistakes in the modules of statistics."""

from __future__ import annotations

import importlib
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

Mutant = Callable[..., Any]


def _mutant(subject: Callable[..., Any], old: str, new: str) -> Any:
    """The function from a copy of its module in which a piece of the text is another."""
    source = inspect.getsource(importlib.import_module(subject.__module__))
    if source.count(old) != 1:  # no AssertionError: that is what a test of a mutant expects
        raise ValueError(f"{old!r} is {source.count(old)} times in {subject.__module__}")
    module = types.ModuleType(f"{subject.__module__}_mutant")
    sys.modules[module.__name__] = module  # named tuples look their annotations up there
    exec(compile(source.replace(old, new), module.__name__, "exec"), module.__dict__)
    return getattr(module, subject.__name__)


@pytest.fixture(scope="session")
def mutant() -> Mutant:
    return _mutant
