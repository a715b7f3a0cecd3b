"""Networks of timm, torchvision and RobustBench behind our input: the same logits as on their own."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robusteval.branches import use_branch
from robusteval.errors import UserError
from robusteval.models import NORMALIZATIONS, build, wrappers
from robusteval.models.adoption import adopt
from robusteval.models.external import External, package
from robusteval.models.weights import read_state

X = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="the extra [timm] is not installed")
needs_robustbench = pytest.mark.skipif(
    find_spec("robustbench") is None, reason="the extra [robustbench] is not installed"
)


def normalised(x: torch.Tensor, name: str) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in NORMALIZATIONS[name])
    return (x - mean) / std


def randomised(network: nn.Module) -> nn.Module:
    """The network with running statistics and affine parameters that are not the initial ones."""
    rng = torch.Generator().manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.rand(module.running_mean.shape, generator=rng) * 0.2)
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=rng) + 0.5)
    return network.eval()


def loaded(name: str, network: nn.Module, folder, *, normalize: str | None = "cifar100", resize: int | None = None):
    """The named network with the weights of another one, by way of a file."""
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, folder / "a.pth")
    made = build(name, classes=10, normalize=normalize, resize=resize)
    adopted = adopt(made, read_state(folder / "a.pth"), where="a.pth", normalize=normalize)
    return made.eval(), adopted.notes


@pytest.mark.parametrize("resize", [None, 48])
def test_torchvision(resize, tmp_path):
    from torchvision import models

    torch.manual_seed(0)
    theirs = randomised(models.resnet18(num_classes=10))
    ours, notes = loaded("torchvision:resnet18", theirs, tmp_path, resize=resize)
    x = X if resize is None else F.interpolate(X, size=(resize, resize), mode="bilinear", align_corners=False)
    with torch.no_grad():
        torch.testing.assert_close(ours(X), theirs(normalised(x, "cifar100")), rtol=1e-5, atol=1e-5)
    assert notes == ()
    assert isinstance(ours, External)


def test_the_gradient_goes_through_the_resizing():
    torch.manual_seed(0)
    network = build("torchvision:squeezenet1_1", classes=10, resize=64).eval()
    x = X.clone().requires_grad_()
    network(x).sum().backward()
    assert x.grad.shape == X.shape
    assert bool((x.grad.abs().amax((1, 2, 3)) > 0).all())


def test_a_checkpoint_for_other_classes_or_of_another_network_is_refused(tmp_path):
    from torchvision import models

    with pytest.raises(UserError, match=r"does not fit ResNet: it is made for 7 classes, the network has 10; "):
        loaded("torchvision:resnet18", models.resnet18(num_classes=7), tmp_path)
    with pytest.raises(UserError, match=r"does not fit ResNet: .*missing"):
        loaded("torchvision:resnet34", models.resnet18(num_classes=10), tmp_path)


def test_a_missing_package_is_named_with_what_to_type(monkeypatch):
    for absent, message in (
        ("timm", r"^timm: is not installed; allowed after: pip install 'robusteval\[timm\]'$"),
        ("robustbench", r"^robustbench: is not installed; allowed after: pip install 'robusteval\[robustbench\]'$"),
    ):
        for name in [name for name in sys.modules if name.partition(".")[0] == absent]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "meta_path", [Absent(absent), *sys.meta_path])
        with pytest.raises(UserError, match=message):
            build(f"{absent}:resnet18", classes=10)


class Absent:
    """A finder in whose world a package does not exist."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        (
            "torchvision:resnet19",
            {},
            r"^torchvision: unknown network 'resnet19'; did you mean 'resnet\d+'\?; a",
        ),
        ("torchvision:fasterrcnn_resnet50_fpn", {}, "^torchvision: unknown network 'fasterrcnn_resnet50_fpn'"),
        ("keras:resnet18", {}, "^model: unknown architecture 'keras:resnet18'.*torchvision:NAME"),
        ("torchvision:resnet18", {"normalize": "cifar"}, "unknown normalisation 'cifar'"),
        ("torchvision:resnet18", {"classes": 1}, "1 classes; allowed: 2 or more"),
        ("resnet8", {"resize": 64}, "^resnet8: takes images of any size as they are"),
        ("robustbench:Standard", {"normalize": "cifar10"}, "^robustbench:Standard: normalises pixels itself"),
    ],
)
def test_mistakes(name, given, message):
    with pytest.raises(UserError, match=message):
        build(name, **({"classes": 10} | given))


def test_what_cannot_be_built_is_said_in_one_line(monkeypatch):
    from torchvision import models

    def broken(name, **options):
        raise RuntimeError("no\nsuch luck")

    monkeypatch.setattr(models, "get_model", broken)
    with pytest.raises(UserError, match=r"^torchvision:resnet18: cannot be built here: RuntimeError: no such luck$"):
        build("torchvision:resnet18", classes=10)


def test_what_networks_print_as_they_are_built_is_no_result(monkeypatch, capsys):
    from torchvision import models

    def talkative(name, **options):
        print("I have 3 layers")  # noqa: T201 - it is what is tested
        return nn.Linear(3, 10)

    monkeypatch.setattr(models, "get_model", talkative)
    build("torchvision:resnet18", classes=10)
    assert capsys.readouterr() == ("", "I have 3 layers\n")


@needs_timm
def test_timm(tmp_path):
    timm = package("timm", "timm")
    torch.manual_seed(0)
    theirs = randomised(timm.create_model("resnet10t", num_classes=10))
    ours, notes = loaded("timm:resnet10t", theirs, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(ours(X), theirs(normalised(X, "cifar100")), rtol=1e-5, atol=1e-5)
    assert notes == ()
    with pytest.raises(UserError, match=r"^timm: unknown network 'resnet10x'; did you mean 'resnet10t'\?"):
        build("timm:resnet10x", classes=10)


@needs_timm
def test_timms_split_batch_norm(tmp_path):
    """The branches that timm itself cannot go through in eval mode."""
    timm, layers = package("timm", "timm"), package("timm.layers", "timm")
    torch.manual_seed(0)
    theirs = randomised(layers.convert_splitbn_model(timm.create_model("resnet18", num_classes=10), num_splits=2))
    ours, notes = loaded("timm:resnet18", theirs, tmp_path)
    assert notes == ("BatchNorm branches in the layout of timm: main = the layer itself, aux = .aux_bn.0",)
    with torch.no_grad():
        torch.testing.assert_close(ours(X), theirs(normalised(X, "cifar100")), rtol=1e-5, atol=1e-5)
        for module in theirs.modules():
            if hasattr(module, "aux_bn"):
                for name in ("weight", "bias", "running_mean", "running_var"):
                    getattr(module, name).copy_(getattr(module.aux_bn[0], name))
        with use_branch(ours, "aux"):
            torch.testing.assert_close(ours(X), theirs(normalised(X, "cifar100")), rtol=1e-5, atol=1e-5)


# RobustBench ----------------------------------------------------------------------------------------------------------


@needs_robustbench
@pytest.mark.parametrize(
    ("name", "classes", "notes"),
    [
        ("Andriushchenko2020Understanding", 10, 0),
        ("Wong2020Fast", 10, 1),
        ("Rebuffi2021Fixing_R18_cutmix_ddpm@L2", 10, 0),
        ("Rice2020Overfitting", 100, 0),
    ],
)
def test_robustbench(name, classes, notes, tmp_path):
    """An architecture of the zoo with random weights, by way of a file; where the zoo's loader lets them be absent,
    the file lacks the constants of the normalisation."""
    from robusteval.models.robustbench import find

    torch.manual_seed(0)
    theirs = randomised(find(name, classes).network)
    state = theirs.state_dict()
    if notes:
        state = {key: value for key, value in state.items() if key not in ("mu", "sigma")}
    torch.save({"last": {f"module.{key}": value for key, value in state.items()}, "best": {}}, tmp_path / "a.pt")
    torch.manual_seed(1)
    ours = build(f"robustbench:{name}", classes=classes)
    read = read_state(tmp_path / "a.pt", also=wrappers(f"robustbench:{name}"))
    adopted = adopt(ours, read, where="a.pt", normalize=None)
    with torch.no_grad():
        assert torch.equal(ours.eval()(X), theirs(X))
    assert adopted.notes == (("not in the checkpoint, so as the network was built: mu, sigma",) if notes else ())


@needs_robustbench
def test_nothing_of_robustbench_is_left_in_the_process():
    code = (
        "import sys; from robusteval.models import build\n"
        "build('robustbench:Andriushchenko2020Understanding', classes=10)\n"
        "assert not [name for name in sys.modules if name.startswith(('robustbench', 'pkg_resources', 'autoattack'))]\n"
        "assert 'tests' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@needs_robustbench
@pytest.mark.parametrize(
    ("name", "classes", "message"),
    [
        ("Carmon2019Unlabelled", 10, "unknown network 'Carmon2019Unlabelled'; did you mean 'Carmon2019Unlabeled'"),
        ("Ding2020MMA@L3", 10, "Ding2020MMA@L3: unknown threat model; allowed: Linf, L2, corruptions"),
        ("Rony2019Decoupling", 10, "its zoo for cifar10 and Linf, or robustbench:Rony2019Decoupling@L2"),
        ("Standard", 7, "has no networks for 7 classes; allowed: 10 and 100"),
    ],
)
def test_mistakes_with_robustbench(name, classes, message):
    with pytest.raises(UserError, match=message):
        build(f"robustbench:{name}", classes=classes)
