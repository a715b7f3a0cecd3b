"""``eval``: one JSON measurement a line, the numbers those of a straight computation."""

import json
import os
from pathlib import Path

import pytest
import torch

from robusteval.data import load
from robusteval.models import build
from robusteval.models.weights import load_state, read_state
from robusteval.stats import wilson
from robusteval.store import load_run

# Read before the tests' own environment takes their place.
DATA, CHECKPOINTS = os.environ.get("ROBUSTEVAL_DATA"), os.environ.get("ROBUSTEVAL_CHECKPOINTS")
KEYS = ["task", "metric", "value", "n", "unit", "low", "high", "where", "trust", "reasons", "note"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Somebody's checkpoint: wrapped, prefixed, in PyTorch's format."""
    torch.manual_seed(0)
    network = build("resnet8", classes=10, normalize="imagenet")
    path = tmp_path_factory.mktemp("weights") / "model.th"
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, path)
    return path


def straight_accuracy(checkpoint: Path, normalize: str, n: int) -> float:
    network = build("resnet8", classes=10, normalize=normalize).eval()
    load_state(network, read_state(checkpoint), where="here")
    images = load("cifar10-sample", "test").first(n)
    with torch.no_grad():
        right = network(images.images.float() / 255).argmax(1) == images.labels
    return float(right.float().mean())


def test_json_lines_on_standard_output_and_nothing_else(cli, checkpoint):
    code, out, err = cli(
        "eval", "resnet8", "--checkpoint", checkpoint, "--normalize", "imagenet", "--limit", "60",
        "--tasks", "clean,pgd", "--set", "pgd.steps=1", "--set", "pgd.epsilon=0", "--set", "pgd.checked=0", "--json",
    )  # fmt: skip
    assert (code, err) == (0, "")
    clean, pgd, *passes = (json.loads(line) for line in out.splitlines())
    assert all(list(one) == KEYS for one in (clean, pgd, *passes))
    expected = straight_accuracy(checkpoint, "imagenet", 60)
    low, high = wilson(expected * 60, 60)
    assert clean == {
        "task": "clean",
        "metric": "accuracy",
        "value": pytest.approx(expected),
        "n": 60,
        "unit": "fraction",
        "low": pytest.approx(low),
        "high": pytest.approx(high),
        "where": {"branch": "main"},
        "trust": clean["trust"],
        "reasons": clean["reasons"],
        "note": "",
    }
    assert (pgd["value"], pgd["where"]["epsilon"], pgd["where"]["steps"]) == (pytest.approx(expected), "0", 1)


def test_the_normalisation_is_the_data_sets_unless_said(cli, checkpoint):
    _, out, _ = cli("eval", "resnet8", "--checkpoint", checkpoint, "--limit", "200", "--json")
    assert json.loads(out)["value"] == pytest.approx(straight_accuracy(checkpoint, "cifar10", 200))


def test_corruptions_give_a_line_per_cell_and_their_mean(cli, checkpoint):
    arguments = ["--tasks", "corruption", "--set", 'corruption.names=["fog", "contrast"]', "--limit", "40"]
    _, out, _ = cli("eval", "resnet8", "--checkpoint", checkpoint, *arguments, "--json")
    *cells, mean = (json.loads(line) for line in out.splitlines())
    assert [(cell["where"]["corruption"], cell["where"]["severity"]) for cell in cells] == [
        (name, severity) for name in ("fog", "contrast") for severity in range(1, 6)
    ]
    assert mean["metric"] == "mean_accuracy"
    assert mean["value"] == pytest.approx(sum(cell["value"] for cell in cells) / 10)


def test_a_table_for_people(cli, checkpoint):
    code, out, err = cli("eval", "resnet8", "--checkpoint", checkpoint, "--normalize", "imagenet", "--limit", "60")
    assert (code, err) == (0, "")
    head, row = out.splitlines()
    assert head.split() == ["TASK", "METRIC", "VALUE", "LOW", "HIGH", "N", "TRUST", "WHERE"]
    assert row.split()[:4] == ["clean", "accuracy", f"{100 * straight_accuracy(checkpoint, 'imagenet', 60):.2f}", "%"]


def test_the_deployed_weights_of_a_run_score_as_recorded(cli, finished):
    (folder,) = finished.glob("runs/*standard*")
    _, out, _ = cli("eval", "resnet8", "--checkpoint", folder / "deployed.safetensors", "--limit", "64", "--json")
    _, shown, _ = cli("show", folder.name, "--out", finished)
    assert f"{100 * json.loads(out)['value']:.2f} %" in shown.splitlines()[-1]


def test_every_branch_of_a_runs_weights_is_judged(cli, finished):
    (folder,) = finished.glob("runs/*entprop*")
    _, out, _ = cli("eval", "resnet8", "--checkpoint", folder / "weights.safetensors", "--limit", "64", "--json")
    judged = {line["where"]["branch"]: line["value"] for line in map(json.loads, out.splitlines())}
    stored = {m.where["branch"]: m.value for task in load_run(folder).tasks for m in task.measurements}
    assert judged == stored
    assert set(judged) == {"main", "aux"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "clean,pdg"], "eval: unknown task 'pdg'; did you mean 'pgd'"),
        (["--tasks", ""], "--tasks: names no task; allowed: clean, corruption, "),
        (["--set", "pgd.steps=3"], "unknown task 'pgd'; allowed: clean"),
        (["--normalize", "cifar"], "unknown normalisation 'cifar'"),
        (["--resize", "64"], "resnet8: takes images of any size as they are"),
    ],
)
def test_mistakes(cli, checkpoint, arguments, message):
    code, out, err = cli("eval", "resnet8", "--checkpoint", checkpoint, *arguments)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.data
def test_a_published_checkpoint_scores_its_published_error(cli):
    if not DATA or not CHECKPOINTS:
        pytest.skip("ROBUSTEVAL_DATA or ROBUSTEVAL_CHECKPOINTS is not set")
    path = Path(CHECKPOINTS) / "akamaster_resnet20-12fca82f.th"
    code, out, _ = cli(
        "eval", "resnet20", "--checkpoint", path, "--dataset", "cifar10", "--data-dir", DATA,
        "--normalize", "imagenet", "--json",
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["value"] == 1 - 0.0827


def test_of_a_runs_weights_the_deployed_branch_is_known(cli, tmp_path):
    """Tasks about the deployed branch look at the one that the run deploys, which is not always main."""
    settings = ["--set", "steps=1", "--set", "training.epochs=1", "--set", "training.batch_size=32"]
    code, out, _ = cli("train", "arat", "--limit", "64", "--out", tmp_path, *settings)
    assert code == 0
    weights = Path(out.strip()).with_name("weights.safetensors")
    options = ["--set", "bn_bank.adapt=[8]", "--set", 'bn_bank.names=["fog"]', "--limit", "16", "--json"]
    code, out, err = cli("eval", "resnet8", "--checkpoint", weights, "--tasks", "clean,bn_bank", *options)
    assert code == 0, err
    found = [json.loads(line) for line in out.splitlines()]
    assert {one["where"]["branch"] for one in found if one["task"] == "clean"} == {"main", "adv"}
    assert {one["where"]["branch"] for one in found if one["task"] == "bn_bank"} == {"adv"}


def test_branches_of_other_layouts_are_recognised_and_said(cli, tmp_path):
    torch.manual_seed(0)
    state = build("resnet8", classes=10).state_dict()
    norms = {key.rpartition(".")[0] for key in state if key.endswith("running_mean")}
    theirs = dict(state)
    for norm in norms:
        for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            value = state[f"{norm}.{leaf}"]
            theirs[f"{norm}.aux_bn.{leaf}"] = value if leaf != "bias" else value + 0.7
    path = tmp_path / "fast.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in theirs.items()}}, path)
    code, out, err = cli("eval", "resnet8", "--checkpoint", path, "--limit", "40", "--json")
    assert (code, err) == (
        0,
        "fast.pth: BatchNorm branches in the layout of fast_advprop: main = the layer itself, aux = .aux_bn\n",
    )
    found = {one["where"]["branch"]: one["value"] for one in map(json.loads, out.splitlines())}
    moved = {k: v + 0.7 if k.endswith("bias") and k.rpartition(".")[0] in norms else v for k, v in state.items()}
    assert found == {"main": pytest.approx(of_state(state)), "aux": pytest.approx(of_state(moved))}


def of_state(state) -> float:
    network = build("resnet8", classes=10).eval()
    network.load_state_dict(state)
    images = load("cifar10-sample", "test").first(40)
    with torch.no_grad():
        return float((network(images.images.float() / 255).argmax(1) == images.labels).float().mean())


def test_the_statistics_in_a_checkpoint_are_used_and_said(cli, tmp_path):
    torch.manual_seed(0)
    state = build("resnet8", classes=10).state_dict()
    path = tmp_path / "model.pth"
    torch.save(state, path)
    expected = straight_accuracy(path, "imagenet", 100)
    own = {"normalize.mean": torch.tensor([0.485, 0.456, 0.406]), "normalize.std": torch.tensor([0.229, 0.224, 0.225])}
    torch.save(state | own, path)
    code, out, err = cli("eval", "resnet8", "--checkpoint", path, "--limit", "100", "--json")
    assert code == 0
    assert json.loads(out)["value"] == pytest.approx(expected)
    assert "pixels are normalised with the checkpoint's own statistics: mean 0.485 0.456 0.406" in err
    code, _, err = cli("eval", "resnet8", "--checkpoint", path, "--normalize", "cifar10")
    assert code == 2
    assert "--normalize cifar10: " in err


def test_a_network_of_torchvision(cli, tmp_path):
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    network = squeezenet1_1(num_classes=10)
    path = tmp_path / "squeeze.pth"
    torch.save(network.state_dict(), path)
    arguments = ["--checkpoint", path, "--limit", "30", "--json", "--normalize", "imagenet"]
    settings = ["--tasks", "clean,pgd", "--set", "pgd.steps=1", "--set", "pgd.checked=0"]
    code, out, err = cli("eval", "torchvision:squeezenet1_1", *arguments, "--resize", "64", *settings)
    assert (code, err) == (0, "")
    clean, pgd, *_ = map(json.loads, out.splitlines())
    images = load("cifar10-sample", "test").first(30)
    x = torch.nn.functional.interpolate(images.images.float() / 255, size=(64, 64), mode="bilinear")
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        right = network.eval()((x - mean[:, None, None]) / std[:, None, None]).argmax(1) == images.labels
    assert clean["value"] == pytest.approx(float(right.float().mean()))
    assert pgd["value"] <= clean["value"]
    code, _, err = cli("eval", "torchvision:squeezenet1", *arguments)
    assert (code, "unknown network 'squeezenet1'; did you mean 'squeezenet1_" in err) == (2, True)


def test_verbose_tells_each_number_beside_the_result_and_quiet_nothing(cli, checkpoint):
    arguments = ["eval", "resnet8", "--checkpoint", checkpoint, "--limit", "40", "--normalize", "cifar10"]
    code, out, err = cli(*arguments, "--verbose")
    assert code == 0
    value = 100 * straight_accuracy(checkpoint, "cifar10", 40)
    assert err.startswith(f"clean accuracy {value:.2f} % (")
    assert err.endswith(") branch=main\n")
    assert cli(*arguments, "--quiet") == (0, out, "")
