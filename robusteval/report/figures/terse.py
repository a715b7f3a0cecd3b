"""Numbers, paths and styles of SVG in few characters."""

from __future__ import annotations

import re
from functools import lru_cache

NUMBER = re.compile(r"-?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?")
"""A number in a path or a transformation."""

_COMMAND = re.compile("([A-Za-z])([^A-Za-z]*)")


@lru_cache(1 << 16)
def short(value: float, digits: int) -> str:
    """A number with so many decimals at most.

    >>> short(3.04, 1), short(-0.04, 1), short(0.55, 2)
    ('3', '0', '.55')
    """
    text = f"{value:.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:.0f}"
    if text in ("-0", ""):
        return "0"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def terse_path(d: str, digits: int) -> str:
    """The same path in fewer characters: relative but for its starts, each point rounded for itself.

    >>> terse_path("M 0 0 L 0 3.04 L 2 3 C 1 1 2 2 3 -3 L 9 9 L 8 10 z", 1)
    'M0 0v3h2c-1-2 0-1 1-6l6 12-1 1z'
    """
    made: list[str] = []
    x = y = 0.0
    last = ""
    for letter, rest in _COMMAND.findall(d):
        values = [round(float(number), digits) for number in rest.split()]
        assert letter in "MLCQzZ", "matplotlib writes absolute points"
        if letter == "L":
            across, up = short(values[0] - x, digits), short(values[1] - y, digits)
            if across == "0" and up == "0":
                x, y = values
                continue
            command, joined = ("v", up) if across == "0" else ("h", across) if up == "0" else ("l", f"{across} {up}")
        elif letter == "M":
            command, joined = letter, f"{short(values[0], digits)} {short(values[1], digits)}"
        else:
            command = letter.lower()
            joined = " ".join(short(value - (y if i % 2 else x), digits) for i, value in enumerate(values))
        if values:
            x, y = values[-2:]
        joined = joined.replace(" -", "-")
        # A command that repeats is said once.
        again = command == last and command in "lhvcq"
        made.append((joined if joined[0] == "-" else f" {joined}") if again else command + joined)
        last = command
    return "".join(made)


def overlaid(below: str, above: str) -> str:
    """Both styles; where they disagree the one above holds."""
    parts = [part.split(":", 1) for style in (below, above) for part in style.split(";") if ":" in part]
    return "; ".join(f"{name}: {value}" for name, value in {a.strip(): b.strip() for a, b in parts}.items())


def tight(style: str) -> str:
    """A style without spaces that say nothing."""
    return re.sub(r"\s*([:;,])\s*", r"\1", style)
