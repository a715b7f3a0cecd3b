"""What tests of searches share: planted mistakes."""

from __future__ import annotations

import importlib
import inspect
import sys
import types
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

_NUMBERS = count()


def _planted(subject: Any, old: str, new: str) -> Any:
    """The class or function from a copy of its module in which a piece of the text is another."""
    source = inspect.getsource(importlib.import_module(subject.__module__))
    assert source.count(old) == 1, f"{old!r} is {source.count(old)} times in {subject.__module__}"
    module = types.ModuleType(f"{subject.__module__}_planted{next(_NUMBERS)}")
    sys.modules[module.__name__] = module  # dataclasses look types up there
    exec(compile(source.replace(old, new), module.__name__, "exec"), module.__dict__)
    return getattr(module, subject.__name__)


@pytest.fixture(scope="session")
def planted() -> Callable[[Any, str, str], Any]:
    return _planted
