"""A flipped bit in any file of a finished run is found, and said in one line."""

import shutil

import pytest


@pytest.fixture
def copied(finished, tmp_path):
    """An output folder that a test may damage, and its suite."""
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    return out, finished.parent / "two.toml"


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


FILES = ["weights.safetensors", "deployed.safetensors", "run.json", "history.json", "tasks/*.json", "tasks/*.npz"]


@pytest.mark.parametrize("pattern", FILES)
def test_run_finds_it_before_it_says_done(cli, copied, pattern):
    out, suite = copied
    path = next(out.glob(f"runs/*standard*/{pattern}"))
    flip(path)
    code, _, err = cli("run", suite, "--out", out, "--limit", "64")
    assert code == 2
    assert err.count("\n") == 1
    assert f"{path}: damaged" in err


def test_eval_finds_it_in_weights_of_a_run(cli, copied):
    out, _ = copied
    path = next(out.glob("runs/*entprop*/weights.safetensors"))
    flip(path)
    code, stdout, err = cli("eval", "resnet8", "--checkpoint", path, "--limit", "64")
    assert (code, stdout) == (2, "")
    assert f"{path}: damaged" in err


MISTAKES = ["pgd_at.epsilon=8", "advprop.epsilon=8", "entprop.epsilon=8", "pgd_at.step_size=2"]


@pytest.mark.parametrize("setting", MISTAKES)
def test_radii_in_grey_levels_are_refused_with_the_way_to_write_them(cli, setting, tmp_path):
    method, change = setting.split(".")
    code, _, err = cli("train", method, "--out", tmp_path / "out", "--set", change)
    assert code == 2
    assert "more than the whole pixel range" in err
    assert '"8/255"' in err
    assert not (tmp_path / "out").exists()
