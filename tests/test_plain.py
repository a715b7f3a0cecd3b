"""One branch as an ordinary checkpoint: any tool's strict load takes it, and its logits are the branch's."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from robusteval.branches import add_branches, keep_branch
from robusteval.errors import UserError
from robusteval.method import attach
from robusteval.models import build
from robusteval.plain import branch_state


def model() -> nn.Module:
    torch.manual_seed(0)
    network = build("resnet8", classes=10)
    add_branches(network, ["aux", "third"])
    with torch.no_grad():
        for tensor in network.state_dict().values():  # without the constants of the normalisation
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.1)
    attach(network, predictor=nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    return network


@pytest.mark.parametrize("branch", ["main", "aux", "third"])
def test_a_branchs_state_fits_the_plain_network(branch):
    network = model()
    state = branch_state(network.state_dict(), branch, where="here")
    plain = build("resnet8", classes=10)
    plain.load_state_dict(state, strict=True)
    del network._modules["training_only"]
    expected = keep_branch(network, branch).eval()
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(plain.eval()(x), expected(x))


def test_an_unknown_branch_is_refused():
    with pytest.raises(UserError, match=r"^here: unknown branch 'axu'; did you mean 'aux'"):
        branch_state(model().state_dict(), "axu", where="here")


def test_the_command(tmp_path, capsys):
    from robusteval.cli import main
    from robusteval.store import find_runs, read_tensors

    settings = ["--set", "training.epochs=1", "--set", "training.batch_size=32", "--limit", "64"]
    assert main(["train", "entprop", "--out", str(tmp_path / "out"), *settings]) == 0
    (run,) = find_runs(tmp_path / "out")
    deployed, _ = read_tensors(run.folder, "deployed.safetensors")
    capsys.readouterr()
    arguments = ["export", str(run.folder), "--format"]
    assert main([*arguments, "safetensors", "--out", str(tmp_path / "a.safetensors")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'a.safetensors'}: branch main\n"
    written = load_file(tmp_path / "a.safetensors")
    assert main([*arguments, "torch", "--out", str(tmp_path / "a.pt"), "--branch", "aux"]) == 0
    other = torch.load(tmp_path / "a.pt", weights_only=True)["state_dict"]
    assert written.keys() == other.keys() == deployed.keys()
    assert all(torch.equal(written[key], deployed[key]) for key in deployed)
    assert any(not torch.equal(other[key], deployed[key]) for key in deployed)
    for wrong, message in (
        (["export", str(tmp_path), "--out", str(tmp_path / "b")], "is no run's folder"),
        ([*arguments, "torch", "--out", str(tmp_path / "a.pt")], "a.pt: exists; allowed: a file that does not"),
        ([*arguments, "torch", "--out", str(tmp_path / "b.pt"), "--name", "x"], "--name: is for --format robustbench"),
        ([*arguments, "robustbench", "--out", str(tmp_path)], "RobustBench has no data set cifar10-sample"),
    ):
        assert main(wrong) == 2
        assert message in capsys.readouterr().err
