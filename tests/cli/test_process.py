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


# A shell starts background jobs with Ctrl-C ignored, and children inherit that: the tests may be such a job.
ATTENTIVE = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("module", ["robusteval.errors", "cyclopts", "rich.console", "robusteval.cli", "torch.nn"])
def test_a_signal_during_imports_ends_with_one_line(module, number):
    """At once when Python says that a module has been imported: those of the command line, then those of a command."""
    command = [sys.executable, "-X", "importtime", *ROBUSTEVAL[1:], "ls", "methods"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, preexec_fn=ATTENTIVE
    ) as process:
        said = []
        for line in process.stderr:
            if not line.startswith("import time:"):
                said.append(line)
            elif line.rpartition("|")[2].strip() == module:
                process.send_signal(number)
        out = process.stdout.read()
    assert (said, out) == (["interrupted\n"], "")
    assert process.returncode == SIGNALS[number]


def test_the_installed_program_and_the_module_are_one():
    import tomllib

    project = Path(robusteval.__file__).parent.parent / "pyproject.toml"
    scripts = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["scripts"]
    assert scripts == {"robusteval": "robusteval.__main__:main"}


def test_a_signal_that_is_ignored_from_the_start_stays_ignored():
    code = (
        "import os, signal, sys\n"
        "from robusteval.__main__ import main\n"
        "sys.argv = ['robusteval', '--version']\n"
        "main()\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.exit(7)"
    )
    deaf = functools.partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=ENVIRONMENT, preexec_fn=deaf
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, f"{__version__}\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_training_with_one_line(tmp_path, number):
    arguments = ["train", "standard", "--limit", "64", "--out", "out", "--set", "training.epochs=10000"]
    settings = ["--set", "training.batch_size=64", "--device", "cpu", "--threads", "1"]
    command = [*ROBUSTEVAL, *arguments, *settings]
    with subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, preexec_fn=ATTENTIVE
    ) as process:
        try:
            while not list(tmp_path.glob("out/runs/*/run.json")):
                assert process.poll() is None
                time.sleep(0.1)
            time.sleep(1)
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == SIGNALS[number]
    assert err == "interrupted: the same command resumes where it stopped\n"
