"""Which images are judged, from which source, and what the options refuse."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robusteval.cells import plain, task_key
from robusteval.corruptions import CORRUPTIONS, GENERATOR_VERSION, HELD_OUT, corrupt, files
from robusteval.corruptions.contents import generated_name
from robusteval.corruptions.request import Request
from robusteval.corruptions.writer import write
from robusteval.data.sets import ImageSet
from robusteval.errors import UserError
from robusteval.options import build
from robusteval.stats import mean_interval, wilson
from robusteval.tasks import Clean, Context, Corruption, Observation
from robusteval.tasks.predict import predict, to_input


class Brighter(nn.Module):
    """Class 0 for images whose mean exceeds a half, else class 1."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x.flatten(1).mean(1) - 0.5
        return torch.stack([bright, -bright, *[bright - 9] * 3], dim=1)


def cells(found: list[Observation]) -> dict[tuple[object, object, object], Observation]:
    keys = ("branch", "corruption", "severity")
    return {tuple(o.measurement.where.get(key) for key in keys): o for o in found}


def test_cells_hold_what_the_generator_makes(
    network: Callable[[], nn.Module], data: ImageSet, context: Context
) -> None:
    """Against the whole set corrupted and judged at once; the seed is the context's."""
    task = Corruption(names=("fog", "speckle_noise"), severities=(2, 5))
    models = {"main": network(), "aux": Brighter()}
    found = cells(list(task.measure(models, data, context)))
    assert len(found) == 2 * 2 * 2 + 2
    for (branch, name, severity), observation in found.items():
        if name is None:
            continue
        images = corrupt(data.images, name, severity, seed=3, index=torch.arange(53))
        right = predict(models[branch], to_input(images, context.device), classes=5, where="") == data.labels
        np.testing.assert_array_equal(observation.outcomes, right.numpy())
        measurement = observation.measurement
        assert (measurement.task, measurement.metric) == ("corruption", "accuracy")
        assert (measurement.low, measurement.high) == wilson(int(right.sum()), 53)
        assert measurement.where == {
            "branch": branch,
            "corruption": name,
            "severity": severity,
            "source": "generated",
            "generator": GENERATOR_VERSION,
            "table": "cifar",
            "seed": 3,
        }


def test_the_mean_is_over_cells_and_its_interval_over_images(
    network: Callable[[], nn.Module], data: ImageSet, context: Context
) -> None:
    task = Corruption(names=("gaussian_noise", "contrast", "pixelate"), severities=(1, 5))
    found = list(task.measure({"main": network(), "aux": Brighter()}, data, context))
    for branch in ("main", "aux"):
        outcomes = [o.outcomes for o in found if o.measurement.where["branch"] == branch and o.outcomes is not None]
        (mean,) = [
            o for o in found if o.measurement.where["branch"] == branch and o.measurement.metric == "mean_accuracy"
        ]
        assert mean.outcomes is None
        assert mean.measurement.value == pytest.approx(np.mean([right.mean() for right in outcomes]))
        assert mean.measurement.n == 53
        interval = mean_interval(np.mean(outcomes, axis=0))
        assert (mean.measurement.low, mean.measurement.high) == pytest.approx(interval)
        assert mean.measurement.where == {
            "branch": branch,
            "corruptions": 3,
            "severities": "1+5",
            "names": "gaussian_noise contrast pixelate",
            "source": "generated",
            "generator": GENERATOR_VERSION,
            "table": "cifar",
            "seed": 3,
        }


def test_the_default_is_the_benchmark(known: Mapping[str, nn.Module], data: ImageSet, context: Context) -> None:
    found = list(Corruption(limit=3).measure({"main": known["constant"]}, data, context))
    done = [(o.measurement.where.get("corruption"), o.measurement.where.get("severity")) for o in found[:-1]]
    assert done == [(name, severity) for name in CORRUPTIONS for severity in (1, 2, 3, 4, 5)]
    last = found[-1].measurement
    assert (last.where["corruptions"], last.where["severities"]) == (15, 5)
    assert last.value == (data.labels[:3] == 2).numpy().mean()


def test_images_are_made_once_for_all_networks(
    known: Mapping[str, nn.Module], data: ImageSet, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def counted(images: Tensor, name: str, severity: float, *, seed: int, index: Tensor) -> Tensor:
        made.append(len(images))
        return corrupt(images, name, severity, seed=seed, index=index)

    monkeypatch.setattr("robusteval.tasks.corruption.corrupt", counted)
    list(Corruption(names=("contrast",), severities=(1,)).measure(known, data, context))
    assert made == [16, 16, 16, 5]


@pytest.fixture
def published(tmp_path: Path, data: ImageSet, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files in the published layout whose images are all of one grey level: 10 times the severity, fog 100 more."""
    monkeypatch.setattr(files, "_check_published", lambda *_: None)  # they are not the published ones
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    labels = np.zeros((5, 10_000), dtype=np.uint8)
    labels[:, :53] = data.labels.numpy()
    np.save(folder / "labels.npy", labels.reshape(-1))
    for name, level in (("fog", 100), ("contrast", 0)):
        # A sparse file: only the rows that are read are written.
        array = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint8, (50_000, 32, 32, 3))
        for severity in range(1, 6):
            array[(severity - 1) * 10_000 :][:60] = level + 10 * severity
        array.flush()
    return tmp_path


class Level(nn.Module):
    """Always answers class 0, and notes the grey levels that it saw, one for each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def forward(self, x: Tensor) -> Tensor:
        levels = (x * 255).round().flatten(1)
        assert (levels == levels[:, :1]).all()
        self.seen.add(int(levels[0, 0]))
        return torch.eye(5)[torch.zeros(len(x), dtype=torch.long)]


def test_published_files_are_read_by_name_and_severity(data: ImageSet, context: Context, published: Path) -> None:
    data = replace(data, name="cifar10")
    context = replace(context, data_dir=published)
    model = Level()
    for source in ("auto", "official"):
        task = Corruption(names=("fog", "contrast"), severities=(2, 5), source=source)
        model.seen.clear()
        found = list(task.measure({"main": model}, data, context))
        assert model.seen == {120, 150, 20, 50}
        assert {o.measurement.where["source"] for o in found} == {"official"}
        assert not any("generator" in o.measurement.where for o in found)
        for observation in found[:-1]:
            np.testing.assert_array_equal(observation.outcomes, (data.labels == 0).numpy())
    # The limit reads the first images only; a prefix is still the benchmark's.
    (first, _) = Corruption(names=("fog",), severities=(1,), limit=7).measure({"main": model}, data, context)
    assert first.measurement.n == 7


def test_files_are_found_through_the_environment(
    data: ImageSet, context: Context, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBUSTEVAL_DATA", str(published))
    task = Corruption(names=("fog",), severities=(1,))
    (cell, _) = task.measure({"main": Level()}, replace(data, name="cifar10"), context)
    assert cell.measurement.where["source"] == "official"


def test_files_are_not_used_where_they_do_not_apply(
    known: Mapping[str, nn.Module], data: ImageSet, context: Context, published: Path
) -> None:
    """The embedded sample and training images have no published files; `generated` does not look."""
    context = replace(context, data_dir=published)
    models = {"main": known["constant"]}
    for images, source in (
        (data, "auto"),
        (replace(data, name="cifar10", split="train"), "auto"),
        (replace(data, name="cifar10"), "generated"),
    ):
        (cell, _) = Corruption(names=("fog",), severities=(1,), source=source).measure(models, images, context)
        assert cell.measurement.where["source"] == "generated"


def test_a_folder_without_a_file_is_an_error_not_a_reason_to_generate(
    known: Mapping[str, nn.Module], data: ImageSet, context: Context, published: Path
) -> None:
    task = Corruption(names=("fog", "snow"), severities=(1,))
    with pytest.raises(UserError, match=r"snow.npy: there is no such file"):
        list(task.measure(known, replace(data, name="cifar10"), replace(context, data_dir=published)))


def test_official_files_that_are_not_there(known: Mapping[str, nn.Module], data: ImageSet, context: Context) -> None:
    task = Corruption(source="official")
    message = "corruption: no published files for {} test in .*folder: {}.; allowed without them: source = 'generated'"
    for name, folder in (("cifar10", "CIFAR-10-C"), ("cifar10-sample", "none published")):
        with pytest.raises(UserError, match=message.format(name, folder)):
            list(task.measure(known, replace(data, name=name), replace(context, data_dir=Path("nowhere"))))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"names": ["gausian_noise"]}, "names: unknown corruption 'gausian_noise'; did you mean 'gaussian_noise'?"),
        ({"names": []}, "names: .*at least 1"),
        ({"names": ["fog", "snow", "fog"]}, "names: one is listed twice"),
        ({"names": "fog"}, "names: should be a list"),
        ({"severities": [0, 1]}, "severities.0: .*greater than or equal to 1"),
        ({"severities": [6]}, "severities.0: .*less than or equal to 5"),
        ({"severities": [1, 1]}, "severities: one is listed twice"),
        ({"severities": [2, 2.0]}, "severities: one is listed twice"),
        ({"severities": [5.5]}, "severities.0: .*less than or equal to 5"),
        ({"severities": [0.99]}, "severities.0: .*greater than or equal to 1"),
        ({"severities": [float("nan")]}, "severities.0: .*finite number"),
        ({"severities": [True]}, "severities.0: .*valid number"),
        ({"severities": ["3"]}, "severities.0: .*valid number"),
        (
            {"names": ["fog", "imagecorruptions:fog"], "severities": [1.5]},
            r"severities: imagecorruptions:\* has none between; allowed with it: 1, 2, 3, 4, 5",
        ),
        ({"source": "zenodo"}, "source: .*'auto', 'official' or 'generated'"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=rf"^quick.toml: {message}"):
        build(Corruption, values, "quick.toml")


def test_published_severities_are_recorded_as_ever(data: ImageSet) -> None:
    """The very same options, and so the same keys, however they are written; a key of before severities between."""
    whole, floats = (build(Corruption, {"severities": some}, "x") for some in ([1, 2, 3], [1.0, 2.0, 3.0]))
    assert json.dumps(plain(floats)) == json.dumps(plain(whole))
    assert plain(whole)["severities"] == [1, 2, 3]
    assert all(type(severity) is int for severity in floats.severities)
    assert task_key(floats, data.ref(), "") == task_key(whole, data.ref(), "")
    assert task_key(Corruption(severities=(1, 2.5)), data.ref(), "") != task_key(
        Corruption(severities=(1, 2)), data.ref(), ""
    )


def test_severities_between_are_generated_and_ours(
    network: Callable[[], nn.Module], data: ImageSet, context: Context, published: Path
) -> None:
    data = replace(data, name="cifar10").first(9)
    model = network()
    task = Corruption(names=("contrast",), severities=(1.5, 2.25))
    first, second, mean = task.measure({"main": model}, data, replace(context, data_dir=published))
    for observation, severity in ((first, 1.5), (second, 2.25)):
        measurement = observation.measurement
        images = corrupt(data.images, "contrast", severity, seed=context.seed, index=torch.arange(9))
        right = predict(model, to_input(images, context.device), classes=5, where="") == data.labels
        np.testing.assert_array_equal(observation.outcomes, right.numpy())
        assert measurement.where["severity"] == severity
        assert measurement.where["source"] == "generated"
        assert "interpolated" in measurement.note
    # As many severities as the benchmark has are not the benchmark's.
    assert mean.measurement.where["severities"] == "1.5+2.25"


def test_a_published_severity_beside_one_between_is_read_from_the_files(
    data: ImageSet, context: Context, published: Path
) -> None:
    class Any(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.eye(5)[torch.zeros(len(x), dtype=torch.long)]

    data = replace(data, name="cifar10")
    found = list(
        Corruption(names=("fog",), severities=(2, 2.5)).measure(
            {"main": Any()}, data, replace(context, data_dir=published)
        )
    )
    assert [o.measurement.where["source"] for o in found] == ["official", "generated", "mixed"]
    assert [type(o.measurement.where.get("severity")) for o in found[:2]] == [int, float]
    assert [bool(o.measurement.note) for o in found[:2]] == [False, True]


def test_what_data_corrupt_wrote_is_read_where_it_is_the_same(
    network: Callable[[], nn.Module], data: ImageSet, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, context = tmp_path / generated_name(data.name), replace(context, data_dir=tmp_path)
    task, models = Corruption(names=("fog", "shot_noise"), severities=(2, 5)), {"main": network()}
    on_the_fly = list(task.measure(models, data, context))
    list(write(data, folder, Request(names=("fog", "shot_noise"), severities=(2, 5), seed=context.seed)))

    def made(*_: object, **__: object) -> Tensor:
        raise AssertionError("made again")

    monkeypatch.setattr("robusteval.tasks.corruption.corrupt", made)
    for source in ("auto", "generated"):
        from_files = list(replace(task, source=source).measure(models, data, context))
        for one, other in zip(on_the_fly, from_files, strict=True):
            assert one.measurement == other.measurement
            if one.outcomes is not None:
                np.testing.assert_array_equal(one.outcomes, other.outcomes)
    assert len(list(replace(task, limit=7).measure(models, data, context))) == 5
    with pytest.raises(AssertionError, match="made again"):
        list(task.measure(models, data, replace(context, seed=context.seed + 1)))
    with pytest.raises(UserError, match="no published files"):
        list(replace(task, source="official").measure(models, data, context))
    path = folder / "fog.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"fog.npy: not what was written \(sha256 differs\)"):
        list(task.measure(models, data, context))


def test_the_other_benchmark_has_strengths_of_its_own_in_records(
    known: Mapping[str, nn.Module], data: ImageSet, context: Context
) -> None:
    def tables(*names: str) -> list[object]:
        task = Corruption(names=names, severities=(1,), limit=3)
        return [o.measurement.where.get("table") for o in task.measure({"main": known["constant"]}, data, context)]

    assert tables("ripple", "lines") == ["cifar-bar"] * 3
    assert tables("ripple", "fog", "fog+ripple") == ["cifar-bar", "cifar", "cifar+cifar-bar", None]
    assert tables("fog") == ["cifar"] * 2


def test_toml_arrays_and_held_out_names_are_accepted() -> None:
    task = build(Corruption, {"names": [*HELD_OUT, "fog"], "severities": [3]}, "quick.toml")
    assert (task.names, task.severities) == ((*HELD_OUT, "fog"), (3,))
    assert hash(task) == hash(Corruption(names=(*HELD_OUT, "fog"), severities=(3,)))


def test_other_names_are_named_in_the_mean_and_the_benchmarks_own_are_not(
    known: Mapping[str, nn.Module], data: ImageSet, context: Context
) -> None:
    def mean_where(names: tuple[str, ...]) -> dict[str, object]:
        *_, last = Corruption(names=names, severities=(1,), limit=2).measure(known, data, context)
        return last.measurement.where

    # 15 names, but one of them is held out: not the benchmark's mean, though its size is the same.
    other = (*CORRUPTIONS[:-1], "saturate")
    assert mean_where(other)["names"] == " ".join(other)
    assert "names" not in mean_where(CORRUPTIONS[::-1])


def test_compounds_and_the_other_package_say_where_they_come_from(network, data, context):
    few = data.first(8)
    task = Corruption(names=("fog", "defocus_blur+gaussian_noise", "imagecorruptions:fog"), severities=(2,))
    found = list(task.measure({"main": network()}, few, context))
    by_name = {o.measurement.where.get("corruption"): o for o in found}
    assert by_name["fog"].measurement.where["source"] == "generated"
    compound = by_name["defocus_blur+gaussian_noise"]
    images = corrupt(few.images, "defocus_blur", 2, seed=context.seed, index=torch.arange(8))
    images = corrupt(images, "gaussian_noise", 2, seed=context.seed, index=torch.arange(8))
    (expected,) = Clean().measure({"main": network()}, replace(few, images=images), context)
    np.testing.assert_array_equal(compound.outcomes, expected.outcomes)
    other = by_name["imagecorruptions:fog"].measurement
    assert other.where["source"] == "imagecorruptions"
    assert other.where["seed"] == context.seed
    assert "strengths of ImageNet-C" in other.note
    assert by_name[None].measurement.where["source"] == "mixed"
    assert by_name[None].measurement.where["names"].split() == list(task.names)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fog+fogg", "unknown corruption 'fogg'; did you mean 'fog'"),
        ("fog+fog", "has a corruption twice"),
        ("imagecorruptions:fogg", "unknown corruption 'imagecorruptions:fogg'"),
    ],
)
def test_wrong_names_are_refused(name, message):
    with pytest.raises(UserError, match=message):
        build(Corruption, {"names": [name]}, "here")
