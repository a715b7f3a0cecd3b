"""RobustBench's architectures, from its package but without importing the package itself.

``import robustbench`` (1.1.1) fails in a fresh environment: its first lines import `pkg_resources`, which setuptools
dropped in version 82, and a module `autoattack`, while the package that it depends on is called `pyautoattack`. Both
serve its downloads and its evaluation. What is wanted here, ``robustbench.model_zoo``, needs neither, and works with
timm releases later than the one that the package pins (tried with 1.0.9 and 1.0.31). So, for as long as the zoo is
imported, an empty module with the package's path stands where the package would be; afterwards it and all that came
with it are taken out of `sys.modules` again, so that a program's own ``import robustbench`` meets nothing of ours.

The wheel also installs a top-level package ``tests``. Nothing here imports it.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from torch import nn

from robusteval.errors import UserError
from robusteval.models.external import Found, built, no_such

PACKAGE = "robustbench"
THREATS = ("Linf", "L2", "corruptions")
DATASETS = {10: "cifar10", 100: "cifar100"}
"""Its data sets of small images, by number of classes."""
UNUSED = r"model_preact_hl1\..*|.*\.scores"
"""Keys of published checkpoints that no forward pass of the zoo reads; RobustBench drops them, too."""

Zoo = Mapping[str, Mapping[str, Mapping[str, Callable[[], nn.Module]]]]
"""Data set, threat model and name to what builds the network."""


def find(name: str, classes: int) -> Found:
    """A network of the zoo with fresh weights.

    Args:
        name: as in RobustBench's tables, e.g. ``Carmon2019Unlabeled``; of the zoo for Linf, or of another one with
            ``@L2`` or ``@corruptions`` after it.
        classes: 10 or 100.

    Raises:
        UserError: the package is not installed, has no such network, or cannot build it here.
    """
    name, at, threat = name.partition("@")
    if at and threat not in THREATS:
        raise UserError(f"{PACKAGE}: {name}@{threat}: unknown threat model; allowed: {', '.join(THREATS)}")
    if classes not in DATASETS:
        raise UserError(f"{PACKAGE}: has no networks for {classes} classes; allowed: 10 and 100")
    zoo = _zoo()[DATASETS[classes]]
    known = zoo.get(threat or "Linf", {})
    if name not in known:
        elsewhere = [f"{PACKAGE}:{name}@{other}" for other, names in zoo.items() if name in names]
        where = f"its zoo for {DATASETS[classes]} and {threat or 'Linf'}"
        listed = f"{where}, or {' or '.join(elsewhere)}" if elsewhere else where
        raise no_such(PACKAGE, name, known, listed)
    network = built(f"{PACKAGE}:{name}", known[name])
    constants = [
        key
        for key, tensor in network.state_dict().items()
        if key.rpartition(".")[2] in ("mu", "sigma", "mean", "std") and tensor.numel() == 3
    ]
    return Found(network, tuple(constants), UNUSED)


@cache
def _zoo() -> Zoo:
    """The package's table of networks, imported once."""
    with _without_the_package_itself(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that timm has moved
        try:
            models = import_module(f"{PACKAGE}.model_zoo.models")
            timm = import_module("timm")
        except ImportError as error:
            raise UserError(
                f"{PACKAGE}: its architectures cannot be imported: {error}; allowed after: "
                f"pip install 'robusteval[{PACKAGE}]'"
            ) from error
    return {
        dataset.value: {
            threat.value: {
                name: _maker(timm, name, entry, dataset.value, threat.value) for name, entry in names.items()
            }
            for threat, names in threats.items()
        }
        for dataset, threats in models.model_dicts.items()
    }


def _maker(timm: Any, name: str, entry: Mapping[str, Any], dataset: str, threat: str) -> Callable[[], nn.Module]:
    """What builds a network: as its own loader decides, a model that the zoo registered with timm, else the entry's."""
    registered = f"{name}_{dataset}_{threat}".lower().replace("-", "_")
    if timm.is_model(registered):
        classes = {of: number for number, of in DATASETS.items()}.get(dataset, 1000)
        return lambda: timm.create_model(registered, num_classes=classes, pretrained=False)
    make: Callable[[], nn.Module] = entry["model"]
    return make


@contextmanager
def _without_the_package_itself() -> Iterator[None]:
    """A context in which the package's modules can be imported and its own initialisation does not run.

    Raises:
        UserError: the package is not installed.
    """
    if PACKAGE in sys.modules:  # the program has made it work by itself
        yield
        return
    try:
        spec = find_spec(PACKAGE)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.submodule_search_locations is None:
        raise UserError(f"{PACKAGE}: is not installed; allowed after: pip install 'robusteval[{PACKAGE}]'")
    stand_in = ModuleType(PACKAGE)
    stand_in.__path__ = list(spec.submodule_search_locations)
    before = {name for name in sys.modules if name.partition(".")[0] == PACKAGE}
    sys.modules[PACKAGE] = stand_in
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
            if name not in before:
                del sys.modules[name]
