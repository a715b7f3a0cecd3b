"""Broken methods and evaluations turn the gate red, and it says which number changed by how much."""

import functools
import re

import pytest
from torch import nn

from robusteval.attacks.search import Query
from robusteval.data.augment import Augment
from robusteval.methods import advprop, disentangled, entprop
from robusteval.tasks import robust
from robusteval.train import _Loop


def errors(out):
    return [line for line in out.splitlines() if line.startswith("error: ")]


def least(line):
    """The lower end of the interval of a fall, in points."""
    value, low, high = map(float, re.search(r"fell by ([\d.]+) points \(([\d.]+) points to ([\d.]+) ", line).groups())
    assert low < value < high
    return low


def test_twice_on_the_same_code_is_green(toy, tmp_path, capsys):
    for _ in range(2):  # the second time all is done already
        assert toy.check(out=tmp_path / "fresh") == 0
        assert "green: nothing fell beyond what is tolerated. 6 numbers were compared" in capsys.readouterr().out


def test_augmentation_off(toy, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("robusteval.feed.Augment", lambda **_: Augment(crop_padding=0, flip=False, cutout=0))
    assert toy.check(out=tmp_path / "off") == 1
    told = errors(capsys.readouterr().out)
    found = next(line for line in told if "resnet8/standard main clean_accuracy" in line)
    assert least(found) > 15


def test_statistics_frozen(toy, tmp_path, capsys, monkeypatch):
    def frozen(self):
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.0

    monkeypatch.setattr(_Loop, "_set_momentum", frozen)
    assert toy.check(out=tmp_path / "frozen") == 1
    assert any("standard main clean_accuracy: fell by" in line for line in errors(capsys.readouterr().out))


def test_training_attack_through_the_wrong_branch(toy, tmp_path, capsys, monkeypatch):
    real = advprop.use_branch
    monkeypatch.setattr(advprop, "use_branch", lambda model, name: real(model, "main"))
    assert toy.check(out=tmp_path / "wrong") == 1
    told = errors(capsys.readouterr().out)
    rise = "main: 6,400 to 25,600 (+300.0 %), aux: 25,600 to 6,400 (-75.0 %)"
    assert f"error: cifar10-sample/resnet8/advprop forward passes: rose: {rise}" in told
    found = next(line for line in told if "advprop aux PGD-2 Linf 12/255" in line)
    assert least(found) > 10
    assert not [line for line in told if "standard" in line]


@pytest.mark.parametrize(
    ("method", "module", "name", "broken"),
    [
        ("advprop", disentangled, "split_batch", lambda real, model, sizes: real(model, {"main": sum(sizes.values())})),
        ("entprop", entprop, "use_branch", lambda real, model, name: real(model, "main")),
    ],
)
def test_auxiliary_images_through_the_main_branch(toy, tmp_path, capsys, monkeypatch, method, module, name, broken):
    single = toy._replace(suite=tmp_path / "one.toml", baseline=tmp_path / "one.json")
    options = f'{{ name = "{method}", steps = 1, epsilon = "8/255", step_size = "8/255" }}'
    head = toy.suite.read_text().partition("\n\n")[0]
    single.suite.write_text(f"{head}\nmethods = [{options}]")
    assert single.check("--update", "--seeds", 3, "--quiet", out=tmp_path / "right") == 0
    monkeypatch.setattr(module, name, functools.partial(broken, getattr(module, name)))
    assert single.check(out=tmp_path / "wrong") == 1
    told = errors(capsys.readouterr().out)
    assert least(next(line for line in told if f"{method} aux clean_accuracy" in line)) > 15


def test_judging_attack_through_another_network(toy, tmp_path, capsys, monkeypatch):
    gradient, withstand, first = Query.gradient, robust.withstand, []

    def through(model, *arguments, **others):
        first.append(model)  # the first of all, standard's, is the one that is attacked from then on
        return withstand(model, *arguments, **others)

    monkeypatch.setattr(robust, "withstand", through)
    monkeypatch.setattr(Query, "gradient", lambda self, *rest: gradient(Query(first[0]), *rest))
    assert toy.check(out=tmp_path / "judged") == 1
    told = errors(capsys.readouterr().out)
    assert [line.split(":")[1].split()[1:] for line in told] == [
        [one, "PGD-2", "Linf", "12/255"] for one in ("main", "aux")
    ]
    for line in told:
        rise, low = re.search(r"rose by ([\d.]+) points \(([\d.]+) points", line).groups()
        assert 5 < float(low) < float(rise)
        assert "with the very weights of the baseline: the attack finds less than it did" in line
