"""The conditions that the diagnostics look at are those of the task `corruption`, image for image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from robusteval.corruptions import corrupt, files
from robusteval.data.sets import ImageSet
from robusteval.tasks.corruption import Corruption
from robusteval.tasks.task import Context
from robusteval.tasks.views import views


def test_generated_images(data: ImageSet, context: Context) -> None:
    corruption = Corruption(names=("shot_noise", "fog"), severities=(4, 2), source="generated")
    clean, *found = views(data, corruption, context)
    assert (clean.where, clean.data) == ({"images": "clean"}, data)
    cells = [("shot_noise", 4), ("shot_noise", 2), ("fog", 4), ("fog", 2)]
    for view, (name, severity) in zip(found, cells, strict=True):
        made = {"source": "generated", "generator": "1", "table": "cifar", "seed": context.seed}
        assert view.where == {"images": name, "severity": severity, **made}
        expected = corrupt(data.images, name, severity, seed=context.seed, index=torch.arange(53))
        assert torch.equal(view.data.images, expected)
        assert view.data.labels is data.labels
        (few,) = (v for v in views(data.first(5), corruption, context) if v.where == view.where)
        assert torch.equal(few.data.images, expected[:5])


def test_published_images(data: ImageSet, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_check_published", lambda *_: None)  # they are not the published ones
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    labels = np.zeros((5, 10_000), dtype=np.uint8)
    labels[:, :53] = data.labels.numpy()
    np.save(folder / "labels.npy", labels.reshape(-1))
    array = np.lib.format.open_memmap(folder / "fog.npy", "w+", np.uint8, (50_000, 32, 32, 3))  # sparse
    array[20_000:20_053] = data.images.numpy().transpose(0, 2, 3, 1) // 2
    array.flush()
    data, context = replace(data, name="cifar10"), replace(context, data_dir=tmp_path)
    corruption = Corruption(names=("fog",), severities=(3,)).resolved(data, tmp_path)
    _, view = views(data, corruption, context)
    assert view.where == {"images": "fog", "severity": 3, "source": "official"}
    assert torch.equal(view.data.images, data.images // 2)
