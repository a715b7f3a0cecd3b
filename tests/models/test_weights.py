"""Reading other people's weights: what is understood, and every refusal."""

from __future__ import annotations

import ast
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import robusteval
from robusteval.errors import UserError
from robusteval.models import build
from robusteval.models.weights import load_state, read_state

State = dict[str, Tensor]


@pytest.fixture
def state() -> State:
    torch.manual_seed(0)
    net = nn.Sequential(OrderedDict(conv1=nn.Conv2d(3, 4, 3), bn1=nn.BatchNorm2d(4), linear=nn.Linear(4, 10)))
    return net.state_dict()


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def refusal(path: Path) -> str:
    """The message of the refusal, one line that starts with the file and never advises to trust it."""
    with pytest.raises(UserError) as caught:
        read_state(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert "weights_only" not in message
    return message.removeprefix(f"{path}: ")


def legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


# What is understood -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [torch.save, legacy, save_file])
def test_every_format_is_told_by_its_content(state: State, tmp_path: Path, write: Callable[..., None]) -> None:
    for name in ("weights.pth", "model_best.ckpt", "no_suffix"):
        write(state, tmp_path / name)
        assert same(read_state(tmp_path / name), state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s, "best_prec1": 91.78, "epoch": 200, "optimizer": {"state": {}, "lr": 0.1}},
        lambda s: {"model": s},
        lambda s: {"model_state_dict": s, "model": "resnet20"},
        lambda s: {"net": s, "acc": 95.0},
        lambda s: {"ema": s},
        lambda s: {"state_dict": s, "ema": {k: v.float() + 1 for k, v in s.items()}},
        lambda s: {"model": {"state_dict": s, "epoch": 3}},
    ],
    ids=["state_dict", "model", "model_state_dict", "net", "ema", "state_dict before ema", "nested"],
)
def test_wrappers_are_taken_off(state: State, tmp_path: Path, wrap: Callable[[State], object]) -> None:
    torch.save(wrap(state), tmp_path / "a.pt")
    assert same(read_state(tmp_path / "a.pt"), state)


def test_further_wrappers_are_taken_off_where_they_are_named(state: State, tmp_path: Path) -> None:
    other = {key: value.float() + 1 for key, value in state.items()}
    torch.save({"best": other, "last": state, "epoch": 3}, tmp_path / "a.pt")
    assert same(read_state(tmp_path / "a.pt", also=("last", "best")), state)
    assert refusal(tmp_path / "a.pt").startswith("'best' is a ")
    torch.save({"last": other, "net": state}, tmp_path / "a.pt")
    assert same(read_state(tmp_path / "a.pt", also=("last",)), state)


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.model.", "module.module."])
def test_prefixes_of_all_keys_are_stripped(state: State, tmp_path: Path, prefix: str) -> None:
    save_file({prefix + key: value for key, value in state.items()}, tmp_path / "a.safetensors")
    assert same(read_state(tmp_path / "a.safetensors"), state)


def test_a_prefix_of_some_keys_stays(state: State, tmp_path: Path) -> None:
    mixed = {("module." + key if key.startswith("conv1") else key): value for key, value in state.items()}
    torch.save(mixed, tmp_path / "a.pt")
    assert same(read_state(tmp_path / "a.pt"), mixed)


def test_parameters_come_back_as_plain_tensors(state: State, tmp_path: Path) -> None:
    torch.save({"conv1.weight": nn.Parameter(state["conv1.weight"])}, tmp_path / "a.pt")
    (weight,) = read_state(tmp_path / "a.pt").values()
    assert type(weight) is Tensor
    assert not weight.requires_grad


def test_archives_written_without_check_sums_are_read(state: State, tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(compute_crc32=False)
    try:
        torch.save(state, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(compute_crc32=True)
    assert same(read_state(tmp_path / "a.pt"), state)


# What is refused ----------------------------------------------------------------------------------------------------


def test_missing_folder_and_empty_files(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.pt") == "cannot be read: No such file or directory"
    assert refusal(tmp_path) == "cannot be read: Is a directory"
    (tmp_path / "empty.pt").touch()
    assert refusal(tmp_path / "empty.pt") == "cannot be read: the file is empty"


class Touch:
    """Would create a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("write", [torch.save, legacy, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_code_in_a_pickle_is_named_and_not_run(tmp_path: Path, write: Callable[..., None]) -> None:
    write({"state_dict": Touch(tmp_path / "ran")}, tmp_path / "a.pt")
    message = refusal(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()
    if write in (torch.save, legacy):
        assert re.match(r"cannot be read: it needs \w+\.mkdir to be run, and no file's code is; allowed", message)


def test_a_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "a.pt")
    assert "it needs torch.nn.modules.linear.Linear to be run" in refusal(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "holds a list; allowed: a state dict of tensors"),
        (torch.zeros(1), "holds a Tensor; allowed: a state dict of tensors"),
        ({}, "holds no tensors"),
        ({"state_dict": {}}, "holds no tensors"),
        ({"weight": torch.zeros(1), "epoch": 3}, "'epoch' is a int; allowed: a state dict of tensors, alone or under"),
        ({3: torch.zeros(1)}, "3 is a Tensor; allowed: a state dict of tensors"),
        ({"model": {"a": torch.zeros(1)}, "net": {"a": torch.ones(1)}}, "holds several state dicts (model, net)"),
        ({"a": torch.zeros(2), "b": torch.tensor([1.0, float("nan")])}, "'b' holds values that are not finite"),
        ({"a": torch.tensor(float("-inf"), dtype=torch.bfloat16)}, "'a' holds values that are not finite"),
        ({"a": torch.eye(2).to_sparse()}, "'a' is not a dense tensor of ordinary numbers"),
        ({"a": torch.zeros(2, device="meta")}, "'a' is not a dense tensor of ordinary numbers"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "is not a dense tensor of ordinary numbers (torch.complex64)"),
        ({"a": torch.zeros(2).to(torch.float8_e5m2)}, "is not a dense tensor of ordinary numbers (torch.float8_e5m2)"),
    ],
)
def test_content_that_is_not_a_state_dict(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "a.pt")
    assert message in refusal(tmp_path / "a.pt")


def test_other_files(tmp_path: Path, state: State) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"<html>404: not found</html>")
    assert "cannot be read: damaged, or neither safetensors nor written by torch.save" in refusal(path)
    np.savez(tmp_path / "a.npz", a=np.zeros(2))
    assert "cannot be read: damaged" in refusal(tmp_path / "a.npz")
    torch.save(state, path, pickle_protocol=4)
    assert "default protocol" in refusal(path)


def test_a_flipped_bit_in_any_byte_of_an_archive_is_refused_or_harmless(state: State, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"state_dict": state}, path)
    content = path.read_bytes()
    refused = 0
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            assert same(read_state(path), state)
        except UserError:
            refused += 1
    assert refused > sum(value.nbytes for value in state.values())


def test_data_marked_as_a_folder_is_refused(state: State, tmp_path: Path) -> None:
    """PyTorch reads such a member as uninitialised memory."""
    path = tmp_path / "a.pt"
    torch.save(state, path)
    content = bytearray(path.read_bytes())
    name = content.index(b"a/data/0", content.index(b"PK\x01\x02"))
    content[name - 8] |= 0x10
    path.write_bytes(content)
    assert "a/data/0 is marked as a folder" in refusal(path)


@pytest.mark.parametrize("write", [torch.save, legacy, save_file])
def test_every_truncation_is_refused(state: State, tmp_path: Path, write: Callable[..., None]) -> None:
    path = tmp_path / "a.pt"
    write(state, path)
    content = path.read_bytes()
    for size in (*range(1, len(content), 23), len(content) - 1):
        path.write_bytes(content[:size])
        refusal(path)


@pytest.mark.parametrize("write", [legacy, save_file])
def test_flipped_bits_in_other_formats_never_escape_as_another_error(
    state: State, tmp_path: Path, write: Callable[..., None]
) -> None:
    path = tmp_path / "a.pt"
    write(state, path)
    content = path.read_bytes()
    refused = 0
    for position in range(0, len(content), 3):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            read_state(path)
        except UserError:
            refused += 1
    assert refused > 100


# Loading into a network ---------------------------------------------------------------------------------------------


def mismatch(model: nn.Module, state: State) -> str:
    """The message of the refusal, after which the network is as it was."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError, match=r"^weights\.pt: does not fit ResNet: ") as caught:
        load_state(model, state, where="weights.pt")
    assert same(dict(model.state_dict()), before)
    return str(caught.value).partition("ResNet: ")[2]


def weights(name: str = "resnet8", *, classes: int = 10) -> State:
    torch.manual_seed(7)
    return {key: value.clone() for key, value in build(name, classes=classes).state_dict().items()}


def test_a_fitting_state_is_copied() -> None:
    model, given = build("resnet8", classes=10), weights()
    given["bn1.num_batches_tracked"] = torch.tensor(5)
    load_state(model, given, where="weights.pt")
    assert same(dict(model.state_dict()), given)
    given["conv1.weight"].zero_()
    assert bool(model.state_dict()["conv1.weight"].any())


def test_half_precision_weights_are_widened() -> None:
    model, given = build("resnet8", classes=10), weights()
    halves = {k: v.bfloat16() if v.is_floating_point() else v for k, v in given.items()}
    load_state(model, halves, where="weights.pt")
    assert model.state_dict()["conv1.weight"].dtype == torch.float32
    assert torch.equal(model.state_dict()["conv1.weight"], given["conv1.weight"].bfloat16().float())


def test_counters_may_be_missing_all_together() -> None:
    model = build("resnet8", classes=10)
    model.get_buffer("bn1.num_batches_tracked").fill_(9)
    without = {k: v for k, v in weights().items() if "num_batches" not in k}
    load_state(model, without, where="weights.pt")
    assert torch.equal(model.state_dict()["conv1.weight"], without["conv1.weight"])
    assert int(model.state_dict()["bn1.num_batches_tracked"]) == 0
    one = without | {"bn1.num_batches_tracked": torch.tensor(3)}
    assert mismatch(model, one) == "6 missing (first 'layer1.0.bn1.num_batches_tracked')"


def test_missing_unexpected_and_misshaped_keys_are_named_and_counted() -> None:
    given = weights()
    del given["conv1.weight"], given["layer3.0.bn2.running_var"]
    given["head.weight"] = torch.zeros(1)
    given["bn1.bias"] = torch.zeros(17)
    assert mismatch(build("resnet8", classes=10), given) == (
        "2 missing (first 'conv1.weight'); 1 unexpected (first 'head.weight'); "
        "1 of another shape (first 'bn1.bias': (17,) for (16,))"
    )


def test_another_number_of_classes_is_said() -> None:
    assert mismatch(build("resnet8", classes=10), weights(classes=100)) == (
        "it is made for 100 classes, the network has 10; "
        "2 of another shape (first 'linear.weight': (100, 64) for (10, 64))"
    )


def test_another_width_is_not_called_another_number_of_classes() -> None:
    assert "classes" not in mismatch(build("resnet8", classes=10), weights("resnet18", classes=100))


def test_classes_are_counted_at_the_last_linear_layer() -> None:
    def net(hidden: int, classes: int) -> nn.Module:
        return nn.Sequential(nn.Linear(2, hidden), nn.Linear(hidden, classes))

    with pytest.raises(UserError, match="Sequential: it is made for 5 classes, the network has 4; 2 of another shape"):
        load_state(net(3, 4), net(3, 5).state_dict(), where="a")
    with pytest.raises(UserError, match=r"Sequential: 3 of another shape \(first '0.weight': \(6, 2\) for \(3, 2\)\)"):
        load_state(net(3, 4), net(6, 4).state_dict(), where="a")


def test_whole_numbers_are_not_taken_for_weights() -> None:
    given = weights() | {"bn1.bias": torch.zeros(16, dtype=torch.int8)}
    assert mismatch(build("resnet8", classes=10), given) == (
        "1 of another type (first 'bn1.bias': torch.int8 for torch.float32)"
    )


def test_the_unused_block_of_trades_checkpoints_is_left_out_of_wide_networks_only() -> None:
    given = weights("wrn_16_4")
    given |= {k.replace("block1", "sub_block1"): v for k, v in given.items() if k.startswith("block1")}
    model = build("wrn_16_4", classes=10)
    load_state(model, given, where="weights.pt")
    assert torch.equal(model.state_dict()["fc.weight"], given["fc.weight"])
    extra = weights() | {"sub_block1.layer.0.bn1.bias": torch.zeros(1)}
    assert mismatch(build("resnet8", classes=10), extra) == "1 unexpected (first 'sub_block1.layer.0.bn1.bias')"


def test_a_network_without_a_linear_layer_is_refused_all_the_same() -> None:
    with pytest.raises(UserError, match=r"^a: does not fit Conv2d: 1 unexpected \(first 'x'\)$"):
        load_state(nn.Conv2d(1, 1, 1, bias=False), {"weight": torch.ones(1, 1, 1, 1), "x": torch.ones(1)}, where="a")


# The package --------------------------------------------------------------------------------------------------------


def test_torch_load_is_called_once_and_with_weights_only() -> None:
    package = Path(robusteval.__file__).parent
    calls = []
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "torch.serialization.load"):
                only = [k.value for k in node.keywords if k.arg == "weights_only"]
                calls.append((path.relative_to(package).as_posix(), [ast.unparse(value) for value in only]))
            if isinstance(node, ast.ImportFrom) and node.module in ("torch", "torch.serialization"):
                assert "load" not in [alias.name for alias in node.names], path
    assert calls == [("models/weights.py", ["True"])]
