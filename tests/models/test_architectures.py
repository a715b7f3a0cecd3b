"""The architectures against closed forms, straight-line computations and torchvision."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from robusteval.errors import UserError
from robusteval.models import MODELS, NORMALIZATIONS, build
from robusteval.models.layers import Normalize
from robusteval.models.preact import PreActResNet
from robusteval.models.resnet import ResNet, ZeroPadShortcut
from robusteval.models.wide import WideResNet

NONE = NORMALIZATIONS["none"]


class Form(NamedTuple):
    """What the papers say an architecture is made of."""

    stem: int
    widths: tuple[int, ...]
    blocks: int
    projections: bool
    preactivation: bool
    parameters: int
    published: str


WIDTHS = (64, 128, 256, 512)
FORMS = {
    "resnet8": Form(16, (16, 32, 64), 1, False, False, 75_290, "0.08"),
    "resnet20": Form(16, (16, 32, 64), 3, False, False, 269_722, "0.27"),
    "resnet56": Form(16, (16, 32, 64), 9, False, False, 853_018, "0.85"),
    "resnet18": Form(64, WIDTHS, 2, True, False, 11_173_962, "11.2"),
    "preact_resnet18": Form(64, WIDTHS, 2, True, True, 11_172_170, "11.2"),
    "wrn_16_4": Form(16, (64, 128, 256), 2, True, True, 2_748_890, "2.7"),
    "wrn_28_10": Form(16, (160, 320, 640), 4, True, True, 36_479_194, "36.5"),
    "wrn_34_10": Form(16, (160, 320, 640), 5, True, True, 46_160_474, "46.2"),
    "wrn_40_2": Form(16, (32, 64, 128), 6, True, True, 2_243_546, "2.2"),
}


def convolutions(form: Form) -> Iterator[tuple[int, int, int, int]]:
    """(inputs, outputs, kernel side, image side) of every convolution on a 32x32 image."""
    yield 3, form.stem, 3, 32
    inputs = form.stem
    for stage, width in enumerate(form.widths):
        side = 32 >> stage
        yield inputs, width, 3, side
        for _ in range(2 * form.blocks - 1):
            yield width, width, 3, side
        if form.projections and (inputs != width or stage):
            yield inputs, width, 1, side
        inputs = width


def batchnorm_channels(form: Form) -> int:
    """The channels of all BatchNorm layers together."""
    after = sum(outputs for _, outputs, _, _ in convolutions(form))
    if not form.preactivation:
        return after  # one after every convolution
    # One before every 3x3 convolution of the blocks, and one before the classifier.
    before = sum(inputs for inputs, _, kernel, _ in list(convolutions(form))[1:] if kernel == 3)
    return before + form.widths[-1]


def meta(name: str, *, classes: int = 10) -> nn.Module:
    with torch.device("meta"):
        return build(name, classes=classes)


def small(kind: str) -> nn.Module:
    """A narrow network of each kind, double precision, with statistics that are not the initial ones."""
    torch.manual_seed(0)
    model: nn.Module
    if kind == "wide":
        model = WideResNet(classes=7, normalization=NONE, depth=16, widen=1)
    elif kind == "preact":
        model = PreActResNet(classes=7, normalization=NONE, widths=(4, 8), blocks=(2, 2))
    else:
        model = ResNet(classes=7, normalization=NONE, widths=(4, 8), blocks=(2, 2), option=kind)  # type: ignore[arg-type]  # "A" or "B"
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 2.0)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor)
    return model.double().eval()


def images(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def test_every_architecture_is_compared_with_its_paper() -> None:
    assert FORMS.keys() == MODELS.keys()


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_those_of_the_paper(name: str) -> None:
    form = FORMS[name]
    closed = sum(i * o * k * k for i, o, k, _ in convolutions(form)) + 2 * batchnorm_channels(form)
    closed += (form.widths[-1] + 1) * 10
    counted = sum(p.numel() for p in meta(name).parameters())
    assert counted == closed == form.parameters
    digits = len(form.published.partition(".")[2])
    assert f"{counted / 1e6:.{digits}f}" == form.published
    assert f"{form.published}M parameters" in MODELS[name].description


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("name", MODELS)
def test_forward_flops_are_the_closed_form(name: str, classes: int) -> None:
    form = FORMS[name]
    multiplications = (
        sum(i * o * k * k * side * side for i, o, k, side in convolutions(form)) + form.widths[-1] * classes
    )
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        logits = meta(name, classes=classes)(torch.zeros(2, 3, 32, 32))
    assert logits.shape == (2, classes)
    assert counter.get_total_flops() == 2 * 2 * multiplications


@pytest.mark.parametrize(("name", "flops"), [("resnet20", 81_102_080), ("resnet18", 1_110_845_440)])
def test_forward_flops_are_those_measured_elsewhere(name: str, flops: int) -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        meta(name)(torch.zeros(1, 3, 32, 32))
    assert counter.get_total_flops() == flops


def test_option_a_shortcut_is_every_second_pixel_between_zero_channels() -> None:
    x = images(2, 4, 6, 5)
    expected = torch.zeros(2, 8, 3, 3)
    for b in range(2):
        for c in range(4):
            for i in range(3):
                for j in range(3):
                    expected[b, c + 2, i, j] = x[b, c, 2 * i, 2 * j]
    assert torch.equal(ZeroPadShortcut(4, 8)(x), expected)


def batchnorm(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """The textbook formula with running statistics."""
    weight, bias, mean, var = (
        state[f"{name}.{key}"][:, None, None] for key in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias


@pytest.mark.parametrize(("height", "width"), [(12, 12), (9, 7)])
def test_cifar_resnet_is_the_straight_line_computation(height: int, width: int) -> None:
    model, x = small("A"), images(3, 3, height, width, dtype=torch.float64)
    state = model.state_dict()
    h = F.conv2d(x, state["conv1.weight"], padding=1)
    h = batchnorm(state, "bn1", h).clamp(min=0)
    for name, stride in (("layer1.0", 1), ("layer1.1", 1), ("layer2.0", 2), ("layer2.1", 1)):
        short = h
        if stride == 2:
            short = torch.zeros(3, 8, (height + 1) // 2, (width + 1) // 2, dtype=torch.float64)
            short[:, 2:6] = h[:, :, 0::2, 0::2]
        h = batchnorm(state, f"{name}.bn1", F.conv2d(h, state[f"{name}.conv1.weight"], stride=stride, padding=1))
        h = batchnorm(state, f"{name}.bn2", F.conv2d(h.clamp(min=0), state[f"{name}.conv2.weight"], padding=1))
        h = (h + short).clamp(min=0)
    expected = h.flatten(2).sum(2) / h[0, 0].numel() @ state["linear.weight"].T + state["linear.bias"]
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["preact", "wide"])
def test_preactivation_networks_are_the_straight_line_computation(kind: str) -> None:
    model, x = small(kind), images(3, 3, 8, 8, dtype=torch.float64)
    state = model.state_dict()
    wide = kind == "wide"
    stages = [f"block{k}.layer" for k in (1, 2, 3)] if wide else ["layer1", "layer2"]
    h = F.conv2d(x, state["conv1.weight"], padding=1)
    for stage, group in enumerate(stages):
        for block in range(2):
            name, stride = f"{group}.{block}", 2 if stage and not block else 1
            active = batchnorm(state, f"{name}.bn1", h).clamp(min=0)
            projection = state.get(f"{name}.convShortcut.weight" if wide else f"{name}.shortcut.0.weight")
            assert (projection is not None) == (stride == 2)
            short = h if projection is None else F.conv2d(active, projection, stride=stride)
            out = F.conv2d(active, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            out = batchnorm(state, f"{name}.bn2", out).clamp(min=0)
            h = F.conv2d(out, state[f"{name}.conv2.weight"], padding=1) + short
    norm, head = ("bn1", "fc") if wide else ("bn", "linear")
    pooled = batchnorm(state, norm, h).clamp(min=0).flatten(2).sum(2) / h[0, 0].numel()
    expected = pooled @ state[f"{head}.weight"].T + state[f"{head}.bias"]
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)


def test_a_widened_first_group_projects_at_stride_1() -> None:
    first = meta("wrn_16_4").state_dict()["block1.layer.0.convShortcut.weight"]
    assert first.shape == (64, 16, 1, 1)


@pytest.mark.parametrize("training", [False, True])
def test_resnet18_is_torchvisions_with_another_stem(training: bool) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=10)
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    state = {k.replace("downsample", "shortcut").replace("fc.", "linear."): v for k, v in theirs.state_dict().items()}
    ours = build("resnet18", classes=10, normalize="none")
    ours.load_state_dict(state, strict=True)
    x = images(2, 3, 16, 16, dtype=torch.float64)
    ours.double().train(training)
    theirs.double().train(training)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_normalisation_is_bit_equal_to_torchvisions(name: str) -> None:
    mean, std = NORMALIZATIONS[name]
    x = images(4, 3, 8, 8)
    before = x.clone()
    expected = torchvision.transforms.Normalize(mean, std)(x)
    assert torch.equal(Normalize(NORMALIZATIONS[name])(x), expected)
    assert torch.equal(x, before)
    assert name != "none" or torch.equal(expected, x)


def test_normalisation_refuses_whole_numbers() -> None:
    with pytest.raises(AssertionError, match="uint8"):
        Normalize(NONE)(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))


@pytest.mark.parametrize("name", MODELS)
def test_normalisation_comes_first_and_is_not_in_the_state(name: str) -> None:
    model = meta(name)
    assert next(iter(model.named_children()))[0] == "normalize"
    assert [n for n, _ in model.named_buffers() if n.startswith("normalize")] == ["normalize.mean", "normalize.std"]
    assert not [key for key in model.state_dict() if key.startswith("normalize")]


def test_keys_are_those_of_public_checkpoints() -> None:
    norm = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}

    def keys(name: str, block: str) -> set[str]:
        return {k.removeprefix(block) for k in meta(name).state_dict() if k.startswith(block)}

    basic = {"conv1.weight", "conv2.weight"} | {f"{bn}.{k}" for bn in ("bn1", "bn2") for k in norm}
    assert keys("resnet20", "layer2.0.") == keys("resnet20", "layer3.2.") == basic
    assert keys("resnet18", "layer4.1.") == basic
    assert keys("resnet18", "layer4.0.") == basic | {"shortcut.0.weight"} | {f"shortcut.1.{k}" for k in norm}
    assert keys("preact_resnet18", "layer4.0.") == basic | {"shortcut.0.weight"}
    assert keys("wrn_28_10", "block3.layer.0.") == basic | {"convShortcut.weight"}
    assert keys("wrn_28_10", "block3.layer.3.") == basic
    outer = {name: {k.split(".")[0] for k in meta(name).state_dict()} for name in MODELS}
    layers = {f"layer{k}" for k in (1, 2, 3)}
    assert outer["resnet56"] == {"conv1", "bn1", "linear"} | layers
    assert outer["resnet18"] == {"conv1", "bn1", "linear", "layer4"} | layers
    assert outer["preact_resnet18"] == {"conv1", "bn", "linear", "layer4"} | layers
    assert outer["wrn_40_2"] == {"conv1", "bn1", "fc", "block1", "block2", "block3"}


@pytest.mark.parametrize("kind", ["A", "B", "preact", "wide"])
@pytest.mark.parametrize("size", [(32, 32), (20, 12)])
def test_channels_last_runs_through_and_changes_nothing(kind: str, size: tuple[int, int]) -> None:
    model, x = small(kind), images(2, 3, *size, dtype=torch.float64)
    expected = model(x)
    formats: list[bool] = []

    def record(module: nn.Module, args: object, out: Tensor) -> None:
        if out.dim() == 4:
            formats.append(out.is_contiguous(memory_format=torch.channels_last))

    model.to(memory_format=torch.channels_last)
    for module in model.modules():
        module.register_forward_hook(record)
    torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), expected, rtol=1e-12, atol=1e-12)
    assert formats
    assert all(formats)


@pytest.mark.parametrize("kind", ["A", "B", "preact", "wide"])
def test_bf16_autocast_changes_logits_by_rounding_only(kind: str) -> None:
    model = small(kind).float()
    x = images(16, 3, 16, 16)
    exact = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(x)
    assert rounded.dtype == torch.bfloat16
    error = (rounded.float() - exact).norm() / exact.norm()
    assert 0 < error < 0.05


@pytest.mark.parametrize("kind", ["A", "B", "preact", "wide"])
def test_one_graph_serves_two_gradients_and_no_layer_output_is_overwritten(kind: str) -> None:
    model = small(kind).train()
    kept: list[tuple[Tensor, Tensor]] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_hook(lambda module, args, out: kept.append((out, out.detach().clone())))
    x = images(4, 3, 8, 8, dtype=torch.float64)
    before = x.clone()
    delta = torch.zeros_like(x, requires_grad=True)
    y = torch.tensor([0, 1, 2, 3])
    loss = F.cross_entropy(model(x + delta), y)
    assert all(torch.equal(out, copy) for out, copy in kept)
    (first,) = torch.autograd.grad(loss, delta, retain_graph=True)
    loss.backward()
    assert delta.grad is not None
    assert torch.equal(delta.grad, first)
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
    assert torch.equal(x, before)
    # The gradient against a central difference along a random direction.
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    with torch.no_grad():
        up, down = (F.cross_entropy(model(x + s * 1e-6 * direction), y) for s in (1, -1))
    torch.testing.assert_close((first * direction).sum(), (up - down) / 2e-6, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("name", "fan"), [("resnet20", "in"), ("preact_resnet18", "out"), ("wrn_40_2", "out")])
def test_initialisation_has_the_variance_of_he_et_al(name: str, fan: str) -> None:
    torch.manual_seed(0)
    model = build(name, classes=10)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            n = module.kernel_size[0] ** 2 * (module.in_channels if fan == "in" else module.out_channels)
            weight = module.weight.detach()
            # The standard deviation of an estimate from N normal draws is sigma / sqrt(2N); five of them.
            assert abs(weight.std().item() * math.sqrt(n / 2) - 1) < 5 / math.sqrt(2 * weight.numel())
            kurtosis = (weight**4).mean() / (weight**2).mean() ** 2
            assert abs(kurtosis.item() - 3) < 5 * math.sqrt(24 / weight.numel())
        elif isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all())
            assert not bool(module.bias.any())
        elif isinstance(module, nn.Linear):
            assert not bool(module.bias.any())


def test_weights_come_from_the_global_generator() -> None:
    def weights(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return list(build("resnet8", classes=2).parameters())

    assert all(torch.equal(a, b) for a, b in zip(weights(3), weights(3), strict=True))
    assert not torch.equal(weights(3)[0], weights(4)[0])


def test_unknown_names_get_the_nearest_one() -> None:
    with pytest.raises(UserError, match=r"unknown architecture 'resnet-20'; did you mean 'resnet20'\?"):
        build("resnet-20", classes=10)
    with pytest.raises(UserError, match=r"resnet8: unknown normalisation 'cifar-10'; did you mean 'cifar10'\?"):
        build("resnet8", classes=10, normalize="cifar-10")
    with pytest.raises(UserError, match="resnet8: 1 classes; allowed: 2 or more"):
        build("resnet8", classes=1)
