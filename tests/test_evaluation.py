"""`robusteval.evaluate`: numbers are those of straight-line loops, the caller's network is untouched."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robusteval
from robusteval.branches import add_branches, keep_branch
from robusteval.data import load
from robusteval.errors import UserError
from robusteval.evaluation import Evaluation
from robusteval.hardware import choose_device
from robusteval.method import attach
from robusteval.models import build
from robusteval.options import options
from robusteval.records import Measurement, Reason
from robusteval.stats import wilson
from robusteval.subjects import copies
from robusteval.tasks import Clean, Corruption, Pgd
from robusteval.tasks.task import Observation
from robusteval.testing import TinyNet


@pytest.fixture(scope="module")
def images():
    return load("cifar10-sample", "test").first(60)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return build("resnet8", classes=10)


def straight(network: nn.Module, images, labels) -> np.ndarray:
    """Which images a copy of the network gets right, in one pass."""
    network = copy.deepcopy(network).eval()
    with torch.no_grad():
        return (network(images.float() / 255).argmax(1) == labels).numpy()


def state(network: nn.Module) -> list[object]:
    """All that evaluation might change: values, identities, flags, gradients, routes, hooks."""
    found: list[object] = []
    for name, module in network.named_modules():
        kept = {key: value for key, value in vars(module).items() if not key.startswith("_")}
        found.append((name, type(module), kept, list(module._modules), list(module._forward_pre_hooks)))
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        grad = None if tensor.grad is None else tensor.grad.clone()
        found.append((name, id(tensor), tensor.detach().clone(), tensor.requires_grad, grad, tensor.device))
    return found


def same(before: list[object], after: list[object]) -> bool:
    def equal(a: object, b: object) -> bool:
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return torch.equal(a, b)
        if isinstance(a, tuple) and isinstance(b, tuple):
            return len(a) == len(b) and all(map(equal, a, b))
        return a == b

    return len(before) == len(after) and all(map(equal, before, after))


# The numbers ----------------------------------------------------------------------------------------------------------


def test_three_lines(network, images):
    result = robusteval.evaluate(network, "cifar10-sample", limit=60)
    right = straight(network, images.images, images.labels)
    (one,) = result.measurements
    assert (one.task, one.metric, one.value, one.n) == ("clean", "accuracy", right.mean(), 60)
    assert (one.low, one.high) == wilson(int(right.sum()), 60)
    assert one.outcomes is not None
    assert np.array_equal(result.outcomes[one.outcomes], right)
    assert result.data == images.ref()
    assert result.notes == ("main: was in train mode; a copy is judged in eval mode",)


def test_names_and_objects_of_tasks_give_the_same_numbers(network, images):
    tasks = ["clean", Pgd(steps=2, epsilon=0.01, checked=0), "pgd", Pgd(epsilon=0.0, steps=1, checked=0)]
    result = robusteval.evaluate(network.eval(), images, tasks, limit=6)
    assert result.notes == ()
    found = [m for m in result.measurements if m.metric in ("accuracy", "robust_accuracy")]
    assert [(m.task, m.where.get("steps")) for m in found] == [("clean", None), ("pgd", 2), ("pgd", 20), ("pgd", 1)]
    clean, short, long, none = (result.outcomes[m.outcomes] for m in found)
    assert np.array_equal(clean, none)
    assert not (short & ~clean).any()
    assert long.sum() <= short.sum() <= clean.sum()
    assert [m.value for m in robusteval.evaluate(network, images, "clean, pgd", limit=6).measurements] == [
        m.value for m in result.measurements if m.where.get("steps") in (None, 20)
    ]


def test_every_branch_is_judged_as_itself(network, images):
    network.train()
    add_branches(network, ["aux"])
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5 * ("aux_bn" in name))
    attach(network, predictor=nn.Linear(2, 2))
    result = robusteval.evaluate(network, images)
    expected = {name: straight(keep_branch(network, name), images.images, images.labels) for name in ("main", "aux")}
    found = {m.where["branch"]: result.outcomes[m.outcomes] for m in result.measurements}
    assert list(found) == ["main", "aux"]
    assert all(np.array_equal(found[name], expected[name]) for name in found)
    assert not np.array_equal(found["main"], found["aux"])
    for copied in copies(network, torch.device("cpu")).models.values():
        assert list(copied.state_dict()) == list(build("resnet8", classes=10).state_dict())


def test_a_mapping_of_networks(network, images):
    torch.manual_seed(1)
    other = build("resnet8", classes=10)
    result = robusteval.evaluate({"one": network, "two": other}, images)
    found = {m.where["branch"]: result.outcomes[m.outcomes] for m in result.measurements}
    for name, model in (("one", network), ("two", other)):
        assert np.array_equal(found[name], straight(model, images.images, images.labels))


def forms(images: Tensor) -> Iterator[object]:
    rows = images.permute(0, 2, 3, 1)
    yield from (images, images.numpy(), rows, rows.numpy())
    yield from (images / 255, (rows / 255).numpy(), (images.double() / 255).numpy(), images.float().numpy() / 255)


def test_arrays_in_every_form_are_the_same_images(network, images):
    expected = straight(network, images.images, images.labels)
    for pixels in forms(images.images):
        for labels in (images.labels, images.labels.numpy(), images.labels.tolist(), images.labels.to(torch.uint8)):
            result = robusteval.evaluate(network.eval(), (pixels, labels))
            assert np.array_equal(result.outcomes["0"], expected)
            assert (result.notes, result.data.name, result.data.verified) == ((), "arrays", False)
            assert result.data.digest == robusteval.evaluate(network, (images.images, images.labels)).data.digest
            if not isinstance(pixels, Tensor):
                break


@pytest.mark.parametrize("shift", [-0.4, 0.4])
def test_floats_between_the_levels_are_rounded_and_that_is_said(shift, network, images):
    moved = (images.images / 255 + shift / 255).clamp(0, 1)
    result = robusteval.evaluate(network.eval(), (moved, images.labels))
    assert result.notes == ("images were rounded to 8 bits, by up to 0.400/255",)
    assert np.array_equal(result.outcomes["0"], straight(network, images.images, images.labels))


def test_other_sizes_and_a_seed(images):
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (20, 3, 48, 40), dtype=torch.uint8)
    network = build("resnet8", classes=7).eval()
    labels = torch.arange(20) % 7
    task = Corruption(names=("gaussian_noise",), severities=(5,))
    first, again, other = (
        robusteval.evaluate(network, (pixels, labels), ["clean", task], seed=seed) for seed in (0, 0, 3)
    )
    assert np.array_equal(first.outcomes["0"], straight(network, pixels, labels))
    assert first.measurements == again.measurements
    assert first.measurements[1].where["seed"] == 0
    assert other.measurements[1].where["seed"] == 3


def test_batches_make_no_difference(network, images):
    tasks = ["clean", Pgd(steps=4, checked=0)]
    results = [robusteval.evaluate(network, images, tasks, batch_size=size) for size in (7, 60)]
    for name in results[0].outcomes:
        assert np.array_equal(results[0].outcomes[name], results[1].outcomes[name])


class Flattening(nn.Module):
    """A network whose ``view`` refuses images with the channels last in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.linear = nn.Linear(4 * 30 * 30, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(F.relu(self.conv(x)).view(len(x), -1))


def test_networks_that_flatten_with_view(images):
    torch.manual_seed(0)
    network = Flattening().eval()
    with pytest.raises(RuntimeError, match="view"):
        network(images.images.float().contiguous(memory_format=torch.channels_last))
    result = robusteval.evaluate(network, images, ["clean", Pgd(steps=2, checked=0)])
    assert np.array_equal(result.outcomes["0"], straight(network, images.images, images.labels))
    assert result.outcomes["1"].sum() <= result.outcomes["0"].sum()


# The result -----------------------------------------------------------------------------------------------------------


def test_the_frame_and_the_table(network, images):
    told: list[Measurement] = []
    result = robusteval.evaluate(network, images, ["clean", Pgd(steps=1, checked=0)], told=told.append)
    assert tuple(told) == result.measurements
    frame = result.frame()
    assert isinstance(frame, pd.DataFrame)
    assert list(frame["task"]) == [m.task for m in result.measurements]
    assert list(frame["value"]) == [m.value for m in result.measurements]
    assert list(frame["where_branch"]) == ["main"] * len(frame)
    assert pd.isna(frame["where_epsilon"][0])
    assert frame["where_epsilon"][1] == "8/255"
    head, first, second, *_ = str(result).splitlines()
    assert head.split() == ["TASK", "METRIC", "VALUE", "LOW", "HIGH", "N", "TRUST", "WHERE"]
    assert first.split()[:4] == ["clean", "accuracy", f"{100 * result.measurements[0].value:.2f}", "%"]
    assert first.split()[-2:] == [str(result.measurements[0].n), "branch=main"]  # nothing to check: no mark
    assert second.split()[second.split().index("branch=main") - 1] == "unchecked"
    assert "epsilon=8/255" in second
    assert str(result).splitlines()[-1] == "main: was in train mode; a copy is judged in eval mode"
    assert "<td>clean</td>" in result._repr_html_()


def test_the_table_ends_with_what_is_said_of_numbers_and_reasons_name_their_branch(images):
    doubt = Reason(name="late", evidence="7 of 9", text="Too late.")

    def number(branch: str, note: str = "", *reasons: Reason) -> Measurement:
        where = {"branch": branch}
        return Measurement(task="probe", metric="m", value=0.5, n=9, where=where, note=note, reasons=reasons)

    def under(*numbers: Measurement) -> list[str]:
        result = Evaluation(numbers, {}, ("said of the network",), images.ref())
        assert str(result) == f"{result.table()}\nsaid of the network"
        return result.table().splitlines()[1 + len(numbers) :]

    assert under(number("main", "no ties", doubt), number("main", "no ties"), number("main", "few")) == [
        "probe: late: 7 of 9",
        "probe: no ties",
        "probe: few",
    ]
    assert under(number("main", "no ties", doubt), number("aux", "no ties", doubt)) == [
        "probe (branch main): late: 7 of 9",
        "probe (branch aux): late: 7 of 9",
        "probe: no ties",
    ]
    assert under(number("main")) == []


def test_a_task_that_finds_nothing_to_measure_is_named(network, images):
    result = robusteval.evaluate(network.eval(), images, "branches")
    assert result.measurements == ()
    assert result.notes == ("branches: nothing to measure: the networks lack what this task looks at",)
    assert list(result.frame().columns) == []


# What is left as it was -----------------------------------------------------------------------------------------------


@options
class Ruthless:
    """Changes whatever it gets hold of, and then fails."""

    name: ClassVar[str] = "ruthless"
    version: ClassVar[int] = 1
    fails: bool = True

    def resolved(self, data, data_dir):
        return self

    def measure(self, models, data, context) -> Iterator[Observation]:
        for model in models.values():
            model.train()
            model(torch.rand(4, 3, 32, 32)).sum().backward()
            for parameter in model.parameters():
                parameter.data.zero_()
                parameter.requires_grad_(False)
            for buffer in model.buffers():
                buffer.fill_(7)
            model.stem = nn.Identity()
        torch.set_num_threads(2)
        torch.rand(3)
        if self.fails:
            raise RuntimeError("as it always does")
        return iter(())


@pytest.mark.parametrize("kind", ["plain", "branches", "mapping"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_callers_network_is_bit_identical(kind, fails, images):
    torch.manual_seed(0)
    network = build("resnet8", classes=10)
    if kind == "branches":
        add_branches(network, ["aux"])
        attach(network, predictor=nn.Linear(2, 2))
    network(torch.rand(4, 3, 32, 32)).sum().backward()  # gradients, and statistics on the way
    network.layer2.eval()
    network.conv1.weight.requires_grad_(False)
    network.conv1.weight.grad = None
    given = {"one": network, "two": network} if kind == "mapping" else network
    before, drawn = state(network), torch.get_rng_state()
    tasks = ["clean", Pgd(steps=1), Corruption(names=("fog",), severities=(1,)), Ruthless(fails=fails)]
    if fails:
        with pytest.raises(RuntimeError, match="as it always does"):
            robusteval.evaluate(given, images, tasks, limit=4)
    else:
        robusteval.evaluate(given, images, tasks, limit=4)
    assert same(before, state(network))
    assert torch.equal(drawn, torch.get_rng_state())


def test_the_comparison_of_networks_sees_every_change():
    """So that the test above could fail."""

    def changed(how) -> bool:
        torch.manual_seed(0)
        network = TinyNet()
        network(torch.rand(4, 3, 8, 8)).sum().backward()
        before = state(network)
        how(network)
        return not same(before, state(network))

    assert not changed(lambda net: None)
    assert changed(lambda net: net.eval())
    assert changed(lambda net: net(torch.rand(4, 3, 8, 8)))
    assert changed(lambda net: net.zero_grad())
    assert changed(lambda net: next(net.parameters()).requires_grad_(False))
    assert changed(lambda net: next(net.parameters()).data.add_(1e-7 * 2**4))
    assert changed(lambda net: net.register_forward_pre_hook(lambda module, inputs: None))
    assert changed(lambda net: net.add_module("more", nn.Identity()))


def test_the_process_is_left_as_it_was(network, images):
    def settings() -> list[object]:
        backends = torch.backends
        return [
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.get_num_threads(),
            torch.utils.deterministic.fill_uninitialized_memory,
            backends.cudnn.benchmark,
            backends.cudnn.conv.fp32_precision,
            torch.is_grad_enabled(),
            np.random.get_state()[1].tolist(),
        ]

    before = settings()
    robusteval.evaluate(network, images, Pgd(steps=1, checked=0), threads=before[2] + 1, limit=5)
    with pytest.raises(UserError):
        robusteval.evaluate(network, "nowhere", threads=before[2] + 1)
    assert settings() == before
    torch.use_deterministic_algorithms(True)
    try:
        robusteval.evaluate(network, images, limit=5)
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(before[0])


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_attacks_work_where_gradients_are_switched_off(context, network, images):
    task = Pgd(steps=3, epsilon=0.02, checked=0)
    expected = robusteval.evaluate(network, images, task)
    with context():
        found = robusteval.evaluate(network, images, task)
    assert found.measurements == expected.measurements


def test_networks_that_draw_numbers_are_repeatable_and_disturb_nobody(images):
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.randn(len(x), 10)

    torch.manual_seed(9)
    first = robusteval.evaluate(Noisy(), images).measurements
    torch.rand(7)
    assert robusteval.evaluate(Noisy(), images).measurements == first
    torch.manual_seed(9)
    torch.rand(7)
    expected = torch.rand(1)
    torch.manual_seed(9)
    torch.rand(7)
    robusteval.evaluate(Noisy(), images)
    assert torch.equal(torch.rand(1), expected)


def test_the_package_is_imported_without_torch_until_evaluate_is_asked_for():
    code = (
        "import sys, robusteval; assert 'torch' not in sys.modules; "
        "assert robusteval.evaluate.__module__ == 'robusteval.evaluation'; assert 'torch' in sys.modules; "
        "assert robusteval.Evaluation.__name__ == 'Evaluation'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'evaluat'"):
        _ = robusteval.evaluat


SCRIPTED = (
    "ignore:.torch.jit:FutureWarning",  # torch wants its users to leave TorchScript; theirs is not ours to leave
    "ignore:.torch.jit:DeprecationWarning",
    "ignore:Converting a tensor:torch.jit.TracerWarning",  # torch's own check of a batch's size
)


@pytest.mark.parametrize("how", ["traced", "scripted", "loaded"])
@pytest.mark.filterwarnings(*SCRIPTED)
def test_torchscript_is_judged_as_the_network_that_it_was_made_of(how, network, images, tmp_path):
    if how == "scripted":
        norm = nn.BatchNorm2d(3)
        network = nn.Sequential(norm, nn.Flatten(), nn.Linear(3072, 10))
        norm.running_mean.fill_(0.3)
        given = torch.jit.script(network)  # in train mode, out of which it is taken
    else:
        given = torch.jit.trace(network.eval(), torch.rand(2, 3, 32, 32))
    if how == "loaded":
        given.save(tmp_path / "network.pt")
        given = torch.jit.load(tmp_path / "network.pt")
    before = [value.clone() for value in given.state_dict().values()]
    tasks = ["clean", Pgd(steps=2, checked=0)]
    found, expected = (robusteval.evaluate(model, images, tasks) for model in (given, network))
    assert [m.value for m in found.measurements] == [m.value for m in expected.measurements]
    assert np.array_equal(found.outcomes["0"], straight(network, images.images, images.labels))
    assert all(map(torch.equal, before, given.state_dict().values()))
    assert given.training == (how == "scripted")
    given.eval()
    (copied,) = copies(given, torch.device("cpu")).models.values()
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in copied.parameters())
    copied(torch.rand(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is None for parameter in given.parameters())


@pytest.mark.filterwarnings(*SCRIPTED)
def test_torchscript_that_cannot_be_put_into_eval_mode_is_refused(network, images):
    traced = torch.jit.trace(network, torch.rand(2, 3, 32, 32), check_trace=False)
    assert refused(traced, images) == (
        "main: was traced in train mode, which a trace keeps; allowed: torch.jit.trace after .eval()"
    )
    frozen = torch.jit.freeze(torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).eval()))
    assert refused(frozen, images).startswith("main: frozen TorchScript has no train and eval mode; allowed: ")


def test_torchs_device_is_the_device_of_that_name(network, images):
    first, second = (robusteval.evaluate(network, images, device=one) for one in ("cpu", torch.device("cpu")))
    assert first.measurements == second.measurements
    assert choose_device(torch.device("cpu")) == torch.device("cpu")
    assert refused(network, images, device=torch.device("meta")).startswith("--device: 'meta' cannot be used here")
    assert refused(network, images, device=3).startswith("--device: '3' cannot be used here")


# Mistakes -------------------------------------------------------------------------------------------------------------


def refused(model: object, data: object, tasks: object = "clean", **given: object) -> str:
    with pytest.raises(UserError) as caught:
        robusteval.evaluate(model, data, tasks, **given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_wrong_networks(images, network):
    assert refused(build("resnet8", classes=100), images) == (
        "main: the network's output is (60, 100); allowed: logits (60, 10)"
    )
    bad = copy.deepcopy(network)
    bad.linear.bias.data[3] = float("nan")
    assert refused(bad, images) == "main: the network's logits are not finite on 60 of 60 images"
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    assert refused(linear.double(), images).startswith(
        "main: the network fails on float32 images (60, 3, 32, 32) in [0, 1]: RuntimeError: "
    )
    assert refused(lambda x: x, images) == (
        "model: 'main' is a function; allowed: a torch.nn.Module, or names with one each"
    )
    assert refused({}, images) == "model: no network; allowed: a torch.nn.Module, or branch names with one each"
    assert refused({"a": 3}, images).startswith("model: 'a' is a int")
    assert refused(nn.Flatten(0), (images.images, images.labels)) == (
        "main: the network's output is (3072,); allowed: logits (B, classes)"
    )
    add_branches(network, ["aux"])
    assert refused({"a": network}, images) == "a: has BatchNorm branches (main, aux) itself; give it alone"


def test_probabilities_in_place_of_logits_are_flagged(images):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10), nn.Softmax(dim=1)).eval()
    result = robusteval.evaluate(network, images, Pgd(steps=2), limit=8)
    attacked = next(m for m in result.measurements if m.metric == "robust_accuracy")
    assert attacked.trust == "flagged"
    assert "probabilities" in [reason.name for reason in attacked.reasons]
    assert "pgd: probabilities: " in result.table()


def test_networks_that_cannot_be_copied(images):
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    network.kept = network(torch.rand(2, 3, 32, 32))  # with its graph
    assert refused(network, images).startswith("main: cannot be copied: Only Tensors created explicitly by the user")
    with torch.no_grad():
        network.kept = network(torch.rand(2, 3, 32, 32))
    assert len(robusteval.evaluate(network, images).measurements) == 1


def test_wrong_images(network, images):
    pixels, labels = images.images, images.labels
    for data, message in (
        ((pixels.float(), labels), "images: floats from 0 to 255; allowed: from 0 to 1 (a normalisation belongs into"),
        ((pixels / 255 - 0.5, labels), "images: floats from -0.5 to 0.5; allowed"),
        ((torch.full((2, 3, 8, 8), float("nan")), labels[:2]), "images: floats from nan to nan"),
        ((pixels.long(), labels), "images: int64 (60, 3, 32, 32); allowed: uint8, or floats from 0 to 1"),
        (((pixels > 99).to(torch.uint8), labels), "images: uint8 with no value but 0 and 1; allowed: 0 to 255"),
        ((pixels[:, :1], labels), "images: uint8 (60, 1, 32, 32); allowed: (N, 3, H, W) or (N, H, W, 3), N at least 1"),
        ((pixels[0], labels), "images: uint8 (3, 32, 32); allowed"),
        ((pixels[:0], labels[:0]), "images: uint8 (0, 3, 32, 32); allowed"),
        ((["a"], labels), "images: list: "),
        ((pixels, labels[:-1]), "labels: 59 for 60 images; allowed: one each"),
        ((pixels, F.one_hot(labels)), "labels: int64 (60, 10); allowed: whole numbers (N,)"),
        ((pixels, labels.float()), "labels: float32 (60,); allowed: whole numbers"),
        ((pixels, labels - 1), "labels: -1; allowed: 0 and above"),
        ((pixels, labels + 1), "labels: 10, but the network has 10 logits; allowed: below that"),
        (pixels, "data: a Tensor; allowed: a data set's name, an ImageSet, or (images, labels)"),
        (3, "data: a int; allowed"),
        ("cifar11", "dataset: unknown data set 'cifar11'; did you mean 'cifar10'"),
    ):
        assert refused(network, data).startswith(message), message


def test_wrong_tasks_and_options(network, images):
    for tasks, message in (
        ("pdg", "tasks: unknown task 'pdg'; did you mean 'pgd'"),
        ([], "tasks: none; allowed: clean, corruption"),
        (" , ", "tasks: none; allowed: clean"),
        (Clean, "tasks: the class Clean; allowed: names (clean, "),
        ([Pgd(), 3], "tasks: a int; allowed: names (clean, "),
    ):
        assert refused(network, images, tasks).startswith(message)
    for given, message in (
        ({"seed": -1}, "seed: -1; allowed: 0 and above"),
        ({"batch_size": 0}, "batch_size: 0; allowed: 1 and above"),
        ({"threads": 0}, "threads: 0; allowed: 1 and above"),
        ({"limit": 0}, "limit: 0; allowed: 1 and above"),
        ({"limit": 2.5}, "limit: 2.5; allowed: whole numbers, 1 and above"),
        ({"limit": "5"}, "limit: '5'; allowed: whole numbers"),
        ({"limit": True}, "limit: True; allowed: whole numbers"),
        ({"seed": None}, "seed: None; allowed: whole numbers, 0 and above"),
        ({"batch_size": "a"}, "batch_size: 'a'; allowed: whole numbers"),
        ({"threads": 1.0}, "threads: 1.0; allowed: whole numbers"),
        ({"device": "tpu"}, "--device: 'tpu' cannot be used here"),
        ({"deployed": "axu"}, "deployed: unknown branch 'axu'"),
    ):
        assert refused(network, images, **given).startswith(message)
    few = robusteval.evaluate(network, images, limit=np.int64(3), batch_size=np.int32(2), seed=np.uint8(1))
    assert few.measurements == robusteval.evaluate(network, images, limit=3, batch_size=2, seed=1).measurements
    assert few.data.n == 3
