"""The command line as a process: how it starts, where its output goes, how it ends."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import robusteval
from robusteval import __version__

ROBUSTEVAL = [sys.executable, "-m", "robusteval"]
# Found from other folders too, where the package is not installed.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(robusteval.__file__).parent.parent)}


def test_no_command_imports_torch_before_it_computes():
    code = (
        "import sys\n"
        "from robusteval.cli import main\n"
        "for arguments in ('--help', 'run --help', '--version', 'ls suites', 'ls runs', 'nothing', 'run quikc',\n"
        "                  'ls runs --json', 'tag x --add y', 'gc', 'gc --out .', 'open'):\n"
        "    main(arguments.split())\n"
        "heavy = {'torch', 'torchvision', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_is_quick():
    """Half a second at most; processor time, because the machine may be busy."""
    code = (
        "import sys, time\n"
        "from robusteval.cli import main\n"
        "main(['--help'])\n"
        "print(time.process_time(), file=sys.stderr)"
    )
    times = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr)
        for _ in range(3)
    ]
    assert min(times) < 0.5


def test_version_goes_to_standard_output():
    done = subprocess.run([*ROBUSTEVAL, "--version"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"{__version__}\n", "")


def test_a_mistake_is_one_line_and_code_2(tmp_path):
    done = subprocess.run(
        [*ROBUSTEVAL, "run", "quikc"], capture_output=True, text=True, check=False, cwd=tmp_path, env=ENVIRONMENT
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: suite: unknown suite 'quikc'; did you mean 'quick'?")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_goes_away_is_no_error():
    command = f"{sys.executable} -m robusteval ls suites | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode in (0, 141)


@pytest.mark.slow
def test_control_c_ends_with_code_130_and_one_line(tmp_path):
    arguments = ["train", "standard", "--limit", "64", "--out", "out", "--set", "training.epochs=10000"]
    settings = ["--set", "training.batch_size=64", "--device", "cpu", "--threads", "1"]
    command = [*ROBUSTEVAL, *arguments, *settings]
    # A shell starts background jobs with Ctrl-C ignored, and children inherit that: the tests may be such a job.
    normal = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, preexec_fn=normal
    ) as process:
        try:
            while not list(tmp_path.glob("out/runs/*/run.json")):
                assert process.poll() is None
                time.sleep(0.1)
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert err == "interrupted: the same command resumes where it stopped\n"
