"""The pytest plugin: the fixture in other people's test suites, and none of it where it is not used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = "pytester"

PACKAGE = Path(__file__).resolve().parents[2]
TESTS = """
import os
import pytest
import torch
from torch import nn

BROKEN = "BROKEN" in os.environ

class Net(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.linear = nn.Linear(48, 4)

    def forward(self, x):
        return self.linear(x.flatten(1))

torch.manual_seed(0)
X, Y = torch.rand(200, 3, 4, 4), torch.arange(200) % 4
GOOD, BAD = Net(1), Net(2)
optimizer = torch.optim.Adam(GOOD.parameters(), lr=0.05)
for _ in range(60):
    optimizer.zero_grad()
    nn.functional.cross_entropy(GOOD(X), Y).backward()
    optimizer.step()

pytestmark = pytest.mark.robusteval(baseline="b.json", data=(X, Y), tasks="clean", limit=160)

def test_network(robusteval_check):
    assert robusteval_check(BAD if BROKEN else GOOD).compared == 1

def test_tolerated(robusteval_check):
    robusteval_check(BAD if BROKEN else GOOD, tolerance={"clean": 0.99})

def test_two_seeds(robusteval_check):
    robusteval_check([GOOD, BAD], limit=100)

def test_images(robusteval_check):
    robusteval_check(GOOD, limit=50 if BROKEN else 160)

def test_file(robusteval_check):
    robusteval_check(GOOD, baseline="none.json" if BROKEN else "b.json")

def test_name(robusteval_check):
    robusteval_check(GOOD, name="new" if BROKEN else "old")

def test_argument(robusteval_check):
    robusteval_check(GOOD, **({"tolerence": 0.1} if BROKEN else {}))

def test_run(robusteval_check):
    robusteval_check(os.environ["RUN"], baseline="run.json")
"""
PLAIN = "def test_of_its_own():\n    pass\n\ndef test_fixture(robusteval_check):\n    pass\n"


def run(pytester, monkeypatch, *arguments):
    """The result of pytest in a process of its own, with the plugin loaded once, whether it is installed or not."""
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE))
    plugin = ("-p", "no:robusteval", "-p", "robusteval.pytest_plugin", "-p", "no:cacheprovider")
    return pytester.runpytest_subprocess(*plugin, "-W", "error", "--strict-markers", *arguments)


def test_networks_and_runs_against_a_baseline(pytester, monkeypatch, toy):
    pytester.makepyfile(test_it=TESTS)
    monkeypatch.setenv("RUN", str(next(one for one in (toy.done / "runs").iterdir() if "standard" in one.name)))
    run(pytester, monkeypatch, "--robusteval-update").assert_outcomes(skipped=8)
    run(pytester, monkeypatch).assert_outcomes(passed=8)
    monkeypatch.setenv("BROKEN", "1")
    broken = run(pytester, monkeypatch, "--tb=short")
    broken.assert_outcomes(failed=5, passed=3)
    for told in (
        "*arrays/Net/test_network main clean_accuracy: fell by *",
        "red: 1 regression. 1 number was compared;*",
        "*test images was 160 and is 50; `--update` makes a new baseline",
        "*none.json: no baseline; `pytest --robusteval-update` writes it",
        "*no arrays/Net/new; `pytest --robusteval-update` adds it",
        "*unknown argument 'tolerence'; did you mean 'tolerance'*",
    ):
        broken.stdout.fnmatch_lines([told])
    broken.stdout.no_fnmatch_line("*UserError*")  # a message each, no tracebacks


def test_the_marker_chooses_the_tests_that_use_the_fixture(pytester, monkeypatch):
    pytester.makepyfile(test_plain=PLAIN)
    run(pytester, monkeypatch, "-m", "not robusteval").assert_outcomes(passed=1, deselected=1)


@pytest.mark.parametrize("several", [["-n", "2"], ["--dist", "load", "--tx", "2*popen"]])
def test_baselines_are_not_written_by_several_processes(pytester, monkeypatch, several):
    """Each worker of pytest-xdist would write what it had read before the others wrote."""
    pytester.makepyfile(test_plain=PLAIN)
    refused = run(pytester, monkeypatch, "--robusteval-update", *several)
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    told = "ERROR: --robusteval-update: processes would overwrite what others of them write; allowed with it: -n 0"
    refused.stderr.fnmatch_lines([told])
    run(pytester, monkeypatch, "--robusteval-update", "-n", "0").assert_outcomes(passed=2)
    run(pytester, monkeypatch, *several).assert_outcomes(passed=2)


@pytest.mark.parametrize("arguments", [["--markers"], ["test_nothing.py"]])
def test_loading_it_costs_nothing(tmp_path, arguments):
    """As installed: a distribution with the entry point; warnings are errors, and torch is not imported."""
    info = tmp_path / "robusteval-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: robusteval\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[pytest11]\nrobusteval = robusteval.pytest_plugin\n")
    (info / "RECORD").write_text("")
    (tmp_path / "test_nothing.py").write_text(
        "import sys\ndef test_nothing(request):\n"
        "    assert 'robusteval.pytest_plugin' in sys.modules\n"
        "    assert not {'torch', 'numpy', 'pydantic', 'robusteval.check'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", "-q", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{PACKAGE}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    expected = (
        "@pytest.mark.robusteval(**arguments): compares a network or run" if "--markers" in arguments else "1 passed"
    )
    assert expected in done.stdout
