"""The command line. Nothing here imports torch before a command that computes has been chosen."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter

from robusteval import __version__
from robusteval.cli.browse import ls
from robusteval.cli.check import check
from robusteval.cli.compare import compare
from robusteval.cli.data import data
from robusteval.cli.doctor import doctor
from robusteval.cli.evaluate import evaluate
from robusteval.cli.export import export
from robusteval.cli.gc import gc
from robusteval.cli.output import note
from robusteval.cli.run import run, train
from robusteval.cli.show import show
from robusteval.cli.summary import open_report, report
from robusteval.cli.tag import tag
from robusteval.cli.work import INTERRUPTED
from robusteval.errors import UserError

app = App(
    name="robusteval",
    help="Trains and judges disentangled-BatchNorm methods for robust image classification.\n\n"
    "`robusteval run` without an argument trains five methods on embedded images, judges them and writes a report.",
    version=__version__,
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
)
app.command(run)
app.command(train)
app.command(evaluate, name="eval")
app.command(report)
app.command(compare)
app.command(check)
app.command(ls)
app.command(show)
app.command(tag)
app.command(gc)
app.command(open_report, name="open")
app.command(export)
app.command(data, name="data")
app.command(doctor)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of a command line.

    0 done, 1 a cell or check failed or a run cannot be read, 2 a mistake in what was asked, 130 Ctrl-C.

    Args:
        arguments: without the program's name; None takes the process's.
    """
    try:
        code = app(
            sys.argv[1:] if arguments is None else list(arguments),
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (UserError, CycloptsError) as error:
        note(f"error: {' '.join(str(error).split())}")
        return 2
    except KeyboardInterrupt:
        note("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`| head`): not our failure, but Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
