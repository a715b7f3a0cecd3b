"""Predictions: the batch's shape, the number format, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms.functional import to_tensor

from robusteval.data.sets import ImageSet
from robusteval.errors import UserError
from robusteval.tasks.predict import Part, batches, judge, parts, predict, to_input, true_float32
from robusteval.tasks.task import Context


def test_every_batch_has_the_same_shape_and_every_image_its_place(data: ImageSet, context: Context) -> None:
    found = list(parts(data, 16))
    assert [len(part.images) for part in found] == [16] * 4
    assert [part.n for part in found] == [16, 16, 16, 5]
    assert len(found) == batches(data, context) == batches(data.first(49), context)
    assert torch.equal(torch.cat([part.images[: part.n] for part in found]), data.images)
    assert torch.equal(torch.cat([part.labels[: part.n] for part in found]), data.labels)
    assert torch.cat([part.index[: part.n] for part in found]).tolist() == list(range(53))
    assert found[-1].index[5:].tolist() == [52] * 11
    assert (found[-1].images[5:] == data.images[52]).all()


def test_inputs_are_those_of_torchvision(data: ImageSet) -> None:
    x = to_input(data.images, torch.device("cpu"))
    peer = torch.stack([to_tensor(image.permute(1, 2, 0).numpy()) for image in data.images])
    assert torch.equal(x, peer)
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_predictions_are_those_of_a_plain_eval_forward(network: Callable[[], nn.Module], data: ImageSet) -> None:
    model = network()
    x = to_input(data.images, torch.device("cpu"))
    expected = network().eval()(x).argmax(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(predict(model, x, classes=5, where="main"), expected)
    assert all(module.training for module in model.modules())


def test_predictions_are_float32_without_gradients(data: ImageSet) -> None:
    seen: list[tuple[torch.dtype, bool, str]] = []

    class Probe(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x.flatten(1))
            seen.append((logits.dtype, logits.requires_grad, torch.backends.cudnn.conv.fp32_precision))
            return logits

    with torch.autocast("cpu", dtype=torch.bfloat16):
        predict(Probe(3072, 5), to_input(data.images, torch.device("cpu")), classes=5, where="main")
    assert seen == [(torch.float32, False, "ieee")]


def test_true_float32_holds_inside_and_is_undone() -> None:
    """`medium` lets the CPU multiply matrices in bfloat16 where it can, and a GPU in TensorFloat-32."""

    def settings() -> list[str]:
        backends = torch.backends
        units = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul)
        return [unit.fp32_precision for unit in units]

    torch.set_float32_matmul_precision("medium")
    try:
        before = settings()
        with pytest.raises(RuntimeError, match="planned"), true_float32():
            assert settings() == ["ieee"] * 4
            raise RuntimeError("planned")
        assert settings() == before
        assert before != ["ieee"] * 4
    finally:
        torch.set_float32_matmul_precision("highest")


class Returns(nn.Module):
    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> object:
        return self.output


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.zeros(4, 1000), r"aux: the network's output is \(4, 1000\); allowed: logits \(4, 5\)"),
        (torch.zeros(4), r"output is \(4,\)"),
        (torch.zeros(3, 5), r"output is \(3, 5\)"),
        ((torch.zeros(4, 5), None), "output is tuple"),
        (torch.zeros(4, 5, dtype=torch.complex64), r"output is complex64 \(4, 5\); allowed: logits that are real"),
        (torch.zeros(4, 5, dtype=torch.bool), r"output is bool \(4, 5\); allowed: logits that are real numbers"),
        (torch.tensor([[0.0] * 4 + [torch.nan]] * 4), "not finite on 4 of 4 images"),
        (torch.tensor([[0.0] * 5] * 3 + [[torch.inf] * 5]), "not finite on 1 of 4 images"),
    ],
)
def test_what_are_no_logits_is_refused(output: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        predict(Returns(output), torch.zeros(4, 3, 8, 8), classes=5, where="aux")


def test_changed_images_are_made_once_for_all_networks(data: ImageSet, context: Context) -> None:
    calls: list[int] = []
    seen: list[Tensor] = []

    def inverted(part: Part) -> Tensor:
        calls.append(part.n)
        return 255 - part.images

    class Keeps(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return super().forward(x.flatten(1))

    right = judge({"main": Keeps(3072, 5), "aux": Keeps(3072, 5)}, data, context, inverted)
    assert calls == [16, 16, 16, 5]
    assert len(seen) == 8
    assert torch.equal(torch.cat(seen[::2])[:53], to_input(255 - data.images, context.device))
    assert all(len(outcomes) == 53 for outcomes in right.values())
