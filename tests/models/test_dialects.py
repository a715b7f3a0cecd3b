"""BatchNorm branches of other people's checkpoints: their modules, written out here, agree with ours by branch."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robusteval.branches import add_branches, branch_names, keep_branch, use_branch
from robusteval.errors import UserError
from robusteval.models import build
from robusteval.models.adoption import Adopted, adopt
from robusteval.models.dialects import imported
from robusteval.models.layers import NORMALIZATIONS, Normalization

# Layers of other packages --------------------------------------------------------------------------------------------


class Routed(nn.BatchNorm2d):
    """A layer with further ones inside, where its package keeps them.

    ``chosen`` is this test's way through one: the name of the submodule, "" for the layer itself.
    """

    chosen = ""

    def forward(self, x: Tensor) -> Tensor:
        return self.get_submodule(self.chosen)(x) if self.chosen else super().forward(x)


class SplitNorm(Routed):
    """timm's layer for three parts of the batch."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.aux_bn = nn.ModuleList([nn.BatchNorm2d(channels) for _ in range(2)])


class HalvedNorm(Routed):
    """timm's layer for two parts."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.aux_bn = nn.ModuleList([nn.BatchNorm2d(channels)])


class MixNorm(Routed):
    """Fast AdvProp's layer."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.aux_bn = nn.BatchNorm2d(channels)


class SwitchNorm(Routed):
    """EasyRobust's layer."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.bn_adv = nn.BatchNorm2d(channels)


def replaced(module: nn.Module, layer: Callable[[int], nn.Module]) -> nn.Module:
    """The network with every BatchNorm layer exchanged, as those packages' converters do it."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, layer(child.num_features))
        else:
            replaced(child, layer)
    return module


# Networks of other packages -------------------------------------------------------------------------------------------


class ListNorm(nn.Module):
    """DynACL's and ACL's: a list of layers, and nothing else."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn_list = nn.ModuleList([nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)])

    def forward(self, x: Tensor, branch: str) -> Tensor:
        return self.bn_list[int(branch)](x)


class ListBlock(nn.Module):
    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False)
        self.bn1 = ListNorm(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = ListNorm(out)
        if stride > 1:
            self.downsample = nn.Module()
            self.downsample.conv = nn.Conv2d(inside, out, 1, stride, bias=False)
            self.downsample.bn = ListNorm(out)

    def forward(self, x: Tensor, branch: str) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x), branch))), branch)
        if hasattr(self, "downsample"):
            x = self.downsample.bn(self.downsample.conv(x), branch)
        return F.relu(out + x)


class DynAcl(nn.Module):
    """DynACL's ResNet-18, its normalising layer with buffers included."""

    def __init__(self) -> None:
        super().__init__()
        self.normalize = nn.Module()
        self.normalize.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]))
        self.normalize.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]))
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = ListNorm(64)
        inside = 64
        for number, width in enumerate((64, 128, 256, 512), start=1):
            blocks = [ListBlock(inside, width, 1 if number == 1 else 2), ListBlock(width, width, 1)]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
            inside = width
        self.fc = nn.Linear(512, 10)

    def forward(self, x: Tensor, branch: str) -> Tensor:
        x = (x - self.normalize.mean[:, None, None]) / self.normalize.std[:, None, None]
        x = F.relu(self.bn1(self.conv1(x), branch))
        for block in [*self.layer1, *self.layer2, *self.layer3, *self.layer4]:
            x = block(x, branch)
        return self.fc(x.mean((2, 3)))


NAMES = ("base", "base_adv")


def named(channels: int) -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.BatchNorm2d(channels) for name in NAMES})


class NamedBlock(nn.Module):
    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False)
        self.bn1 = named(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = named(out)
        self.shortcut = nn.Conv2d(inside, out, 1, stride, bias=False) if stride > 1 else nn.Sequential()
        self.shortcut_bn = named(out) if stride > 1 else nn.ModuleDict({name: nn.Sequential() for name in NAMES})

    def forward(self, x: Tensor, branch: str) -> Tensor:
        out = self.bn2[branch](self.conv2(F.relu(self.bn1[branch](self.conv1(x)))))
        return F.relu(out + self.shortcut_bn[branch](self.shortcut(x)))


class ArAt(nn.Module):
    """AR-AT's ResNet-18; it gets normalised images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = named(64)
        inside = 64
        for number, width in enumerate((64, 128, 256, 512), start=1):
            blocks = [NamedBlock(inside, width, 1 if number == 1 else 2), NamedBlock(width, width, 1)]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
            inside = width
        self.linear = nn.Linear(512, 10)

    def forward(self, x: Tensor, branch: str) -> Tensor:
        x = F.relu(self.bn1[branch](self.conv1(x)))
        for block in [*self.layer1, *self.layer2, *self.layer3, *self.layer4]:
            x = block(x, branch)
        return self.linear(x.mean((2, 3)))


# Agreement ------------------------------------------------------------------------------------------------------------


def drawn(network: nn.Module) -> nn.Module:
    """The network with weights and statistics that differ between all layers and branches."""
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low, high in (
                    (module.weight, 0.5, 1.5),
                    (module.bias, -0.3, 0.3),
                    (module.running_mean, -0.3, 0.3),
                    (module.running_var, 0.5, 1.5),
                ):
                    tensor.copy_(torch.rand(tensor.shape, generator=rng) * (high - low) + low)
    return network.eval()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def through(network: nn.Module, place: str, x: Tensor) -> Tensor:
    """The foreign network's logits with every layer set to one place."""
    for module in network.modules():
        if isinstance(module, Routed):
            module.chosen = place
    with torch.no_grad():
        return network(x)


def ours(name: str, state: dict[str, Tensor], *, normalize: str | None = None) -> tuple[nn.Module, Adopted]:
    network = build(name, classes=10, normalize=normalize)
    adopted = adopt(network, state, where="file.pt", normalize=normalize)
    return network.eval(), adopted


@pytest.mark.parametrize(
    ("layer", "dialect", "places"),
    [
        (HalvedNorm, "timm", {"main": "", "aux": "aux_bn.0"}),
        (SplitNorm, "timm", {"main": "", "aux1": "aux_bn.0", "aux2": "aux_bn.1"}),
        (MixNorm, "fast_advprop", {"main": "", "aux": "aux_bn"}),
        (SwitchNorm, "easyrobust", {"main": "", "adv": "bn_adv"}),
    ],
)
def test_exchanged_layers(layer, dialect, places, x):
    torch.manual_seed(0)
    foreign = drawn(replaced(build("resnet8", classes=10), layer))
    network, adopted = ours("resnet8", foreign.state_dict())
    assert branch_names(network) == tuple(places)
    logits = {name: through(foreign, place, x) for name, place in places.items()}
    for name, expected in logits.items():
        with use_branch(network, name), torch.no_grad():
            torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-5)
        others = [other for different, other in logits.items() if different != name]
        assert all((expected - other).abs().max() > 0.1 for other in others)
    (note,) = adopted.notes
    assert note.startswith(f"BatchNorm branches in the layout of {dialect}: main = the layer itself, ")
    assert all(f"{name} = .{place}" in note for name, place in places.items() if place)
    assert adopted.deployed == "main"


def test_dynacl(x):
    torch.manual_seed(0)
    foreign = drawn(DynAcl())
    network, adopted = ours("resnet18", foreign.state_dict())
    for name, place in (("main", "0"), ("adv", "1")):
        with torch.no_grad():
            expected = foreign(x, place)
            torch.testing.assert_close(keep_branch(network, name)(x), expected, rtol=1e-4, atol=1e-4)
    assert adopted == Adopted(
        "adv",
        (
            "BatchNorm branches in the layout of dynacl: main = .bn_list.0, adv = .bn_list.1",
            "pixels are normalised with the checkpoint's own statistics: mean 0.485 0.456 0.406, std 0.229 0.224 0.225",
        ),
    )
    assert (foreign(x, "0") - foreign(x, "1")).abs().max() > 0.1


def test_arat(x):
    torch.manual_seed(0)
    foreign = drawn(ArAt())
    network, adopted = ours("resnet18", foreign.state_dict(), normalize="none")
    for name, place in (("main", "base"), ("base_adv", "base_adv")):
        with torch.no_grad():
            torch.testing.assert_close(keep_branch(network, name)(x), foreign(x, place), rtol=1e-4, atol=1e-4)
    assert adopted == Adopted(
        "base_adv", ("BatchNorm branches in the layout of arat: main = .base, base_adv = .base_adv",)
    )
    assert (foreign(x, "base") - foreign(x, "base_adv")).abs().max() > 0.1


def test_our_own_branches_and_plain_networks_are_left_as_they_are(x):
    torch.manual_seed(0)
    for name in ("resnet8", "preact_resnet18", "wrn_16_4"):
        plain = build(name, classes=10)
        state = plain.state_dict()
        found = imported(state, where="here")
        assert (found.dialect, list(found.state), str(found)) == ("", list(state), "")
    own = build("resnet8", classes=10)
    add_branches(own, ["aux", "weight", "bn_adv"])
    drawn(own)
    network, adopted = ours("resnet8", own.state_dict())
    assert adopted == Adopted("main", ())
    for name in ("main", "aux", "weight", "bn_adv"):
        assert torch.equal(keep_branch(network, name)(x), keep_branch(own, name)(x))


def test_a_layer_that_is_merely_called_like_a_branch_is_none():
    stem = nn.ModuleDict({"bn_adv": nn.BatchNorm2d(2), "conv": nn.Conv2d(3, 2, 1)})
    assert imported(nn.ModuleDict({"stem": stem}).state_dict(), where="here").dialect == ""


@pytest.mark.parametrize("names", [(("bn",), ("bn",)), (("one", "two"), ("two", "three")), (("0", "1"), ("0", "1"))])
def test_containers_of_layers_are_branches_only_if_all_hold_the_same_two_names(names):
    parts = {part: nn.ModuleDict({n: nn.BatchNorm2d(2) for n in held}) for part, held in zip("ab", names, strict=True)}
    assert imported(nn.ModuleDict(parts).state_dict(), where="here").dialect == ""


def test_the_tensors_and_the_state_are_the_callers(x):
    state = drawn(replaced(build("resnet8", classes=10), MixNorm)).state_dict()
    keys = list(state)
    found = imported(state, where="here").state
    assert list(state) == keys
    assert found["bn1.aux_bn.aux.weight"] is state["bn1.aux_bn.weight"]
    assert len(found) == len(state)


# Refusals -------------------------------------------------------------------------------------------------------------


def state_of(layer: Callable[[int], nn.Module]) -> dict[str, Tensor]:
    return dict(replaced(build("resnet8", classes=10), layer).state_dict())


def refusal(state: dict[str, Tensor]) -> str:
    with pytest.raises(UserError, match=r"^file\.pt: ") as caught:
        adopt(build("resnet8", classes=10), state, where="file.pt", normalize=None)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix("file.pt: ")


def test_mixed_layouts_are_refused():
    mixed = state_of(MixNorm) | {k: v for k, v in state_of(SwitchNorm).items() if k.startswith("layer3")}
    assert refusal(mixed) == (
        "has BatchNorm branches in the layouts of fast_advprop (bn1.aux_bn.weight) and easyrobust "
        "(layer3.0.bn1.bn_adv.weight); allowed: one of them"
    )


def test_layers_with_different_branches_are_refused():
    state = {k: v for k, v in state_of(SplitNorm).items() if not k.startswith("layer2.0.bn2.aux_bn.1.")}
    assert refusal(state) == (
        "not all BatchNorm layers have the same branches: 'bn1' has '0', '1' but 'layer2.0.bn2' has '0'"
    )


def test_a_layer_without_the_branch_of_the_others_does_not_fit():
    state = {k: v for k, v in state_of(MixNorm).items() if not k.startswith("layer2.0.bn2.aux_bn.")}
    assert refusal(state) == "does not fit ResNet: 5 missing (first 'layer2.0.bn2.aux_bn.aux.weight')"


def test_numbers_that_say_nothing_are_refused():
    state = {k.replace("aux_bn.0", "aux_bn.1"): v for k, v in state_of(HalvedNorm).items()}
    assert refusal(state) == (
        "BatchNorm branches in the layout of timm: the numbers are 1; allowed: 0, 1, ... without a gap"
    )
    three = {}
    for key, tensor in DynAcl().state_dict().items():
        three |= {key: tensor} | ({key.replace("list.1", "list.2"): tensor} if "list.1" in key else {})
    assert refusal(three) == (
        "BatchNorm branches in the layout of dynacl: the numbers are 0, 1, 2; allowed: 0 (clean) and 1 (adversarial)"
    )


@pytest.mark.parametrize("names", [("one", "two"), ("clean", "base")])
def test_names_that_do_not_say_which_is_clean_are_refused(names):
    new = dict(zip(NAMES, names, strict=True))
    state = {".".join(new.get(p, p) for p in key.split(".")): value for key, value in ArAt().state_dict().items()}
    assert refusal(state).startswith(
        f"BatchNorm branches in the layout of arat: which of {', '.join(names)} is the branch of clean images?"
    )


# Pixel statistics in the file -----------------------------------------------------------------------------------------

OWN = Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def with_statistics(mean: str, std: str, prefix: str = "", statistics: Normalization = OWN) -> dict[str, Tensor]:
    torch.manual_seed(0)
    state = {prefix + key: value for key, value in build("resnet8", classes=10).state_dict().items()}
    shape = (1, 3, 1, 1)
    return {mean: torch.tensor(statistics.mean).view(shape), std: torch.tensor(statistics.std).view(shape)} | state


@pytest.mark.parametrize(
    ("mean", "std", "prefix"),
    [
        ("normalize.mean", "normalize.std", ""),
        ("normalizer.mean", "normalizer.std", "net."),
        ("0.mean", "0.std", "1."),
        ("mu", "sigma", ""),
        ("mean", "std", "model."),
        ("normalizer.new_mean", "normalizer.new_std", "backbone."),
    ],
)
def test_the_files_own_statistics_are_used(mean, std, prefix, x):
    network, adopted = ours("resnet8", with_statistics(mean, std, prefix))
    torch.manual_seed(0)
    bare = build("resnet8", classes=10, normalize="none").eval()
    normal = (x - torch.tensor(OWN.mean).view(3, 1, 1)) / torch.tensor(OWN.std).view(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(network(x), bare(normal), rtol=1e-5, atol=1e-6)
        assert not torch.allclose(network(x), build("resnet8", classes=10).eval()(x))
    assert adopted.notes == (
        "pixels are normalised with the checkpoint's own statistics: mean 0.1 0.2 0.3, std 0.4 0.5 0.6",
    )


def test_statistics_that_contradict_what_was_asked_for_are_refused():
    network = build("resnet8", classes=10, normalize="imagenet")
    with pytest.raises(UserError, match=r"^--normalize imagenet: a\.pt holds the statistics itself, others: mean 0\.1"):
        adopt(network, with_statistics("mu", "sigma"), where="a.pt", normalize="imagenet")
    same = with_statistics("mu", "sigma", statistics=NORMALIZATIONS["imagenet"])
    assert "own statistics" in adopt(network, same, where="a.pt", normalize="imagenet").notes[0]


def test_statistics_of_other_pixels_and_several_sets_are_refused():
    big = Normalization((125.3, 123.0, 113.9), (63.0, 62.1, 66.7))
    assert refusal(with_statistics("mu", "sigma", statistics=big)) == (
        "mu mean 125.3 123 113.9, std 63 62.1 66.7: not those of pixels in [0, 1], which networks get here"
    )
    two = with_statistics("mu", "sigma") | {"n.mean": torch.zeros(3), "n.std": torch.ones(3)}
    assert refusal(two) == "holds several sets of pixel statistics (n.mean, mu); allowed: one"


def test_a_layer_of_three_that_the_network_has_is_no_statistics():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.std = nn.Parameter(torch.rand(3)), nn.Parameter(torch.rand(3))

    network = Odd()
    given = copy.deepcopy(network.state_dict())
    given["mean"] += 1
    assert adopt(network, given, where="a.pt", normalize=None) == Adopted("main", ())
    assert torch.equal(network.mean.detach(), given["mean"])
