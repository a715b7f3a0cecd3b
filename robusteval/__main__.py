"""The program: ``robusteval`` and ``python -m robusteval``.

Nothing heavy is imported before signals are taken care of: most of a command's first half second is imports.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

_UNTOUCHED = (signal.default_int_handler, signal.SIG_DFL)


class Terminated(KeyboardInterrupt):
    """SIGTERM: whatever stops for Ctrl-C stops for it, too."""


def main() -> int:
    """The exit code of the process's command line; 130 after Ctrl-C and 143 after SIGTERM, by the shells' convention.

    A signal that is ignored when the process starts stays ignored: shells start background jobs so.
    """
    ours = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) in _UNTOUCHED]
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    def handle(handler: object) -> None:
        for number in ours:
            signal.signal(number, handler)  # type: ignore[arg-type]  # its type is private to the stub

    handle(_leave)
    from robusteval.cli import main as command

    try:
        handle(stop)
        code = command()
    except KeyboardInterrupt:  # the command takes care of its own; this one came in between
        _leave(received[-1], None)
    finally:
        handle(_leave)  # a traceback of the interpreter's own end is no use to anybody
    return 128 + received[-1] if received and code == 128 + signal.SIGINT else code


def _leave(number: int, frame: FrameType | None) -> None:
    """Ends the process at once: there is nothing to tidy up, and what is raised in an import may be swallowed."""
    os.write(2, b"interrupted\n")
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
