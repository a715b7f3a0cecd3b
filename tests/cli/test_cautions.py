"""What is said before numbers that might be taken for others, and mistakes in corrupted images' files."""

from __future__ import annotations

import pytest

from robusteval.corruptions import adapter


def suite(tmp_path, names):
    path = tmp_path / "small.toml"
    path.write_text(
        'name = "small"\ndatasets = ["cifar10-sample"]\narchitectures = ["resnet8"]\nseeds = [0]\n'
        '[training]\nepochs = 1\nbatch_size = 32\n[[methods]]\nname = "standard"\n'
        f'[[tasks]]\nname = "corruption"\nnames = {names}\nseverities = [1]\nlimit = 4\n'
    )
    return path


@pytest.mark.parametrize(
    ("names", "said"), [('["imagecorruptions:fog", "imagecorruptions:contrast"]', 1), ('["fog"]', 0)]
)
def test_a_run_says_once_that_strengths_are_others(cli, tmp_path, names, said):
    pytest.importorskip("imagecorruptions", reason="its own corruptions are measured")
    code, out, err = cli("run", suite(tmp_path, names), "--limit", "32", "--out", "out")
    assert code == 0, out + err
    assert err.count(f"caution: {adapter.NOTE}\n") == said
