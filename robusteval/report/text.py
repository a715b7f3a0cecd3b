"""Numbers and hostile names as short texts; percent appears from here on only."""

from __future__ import annotations

from typing import Literal

from robusteval.wording import clean as clean

MISSING = "\N{EN DASH}"
"""What stands where there is no number. Never 0."""

TIMES = "\N{MULTIPLICATION SIGN}"

Unit = Literal["fraction", "number"]
"""Of a measurement: what is shown in percent, and what is shown as it is."""


def percent(value: float | None) -> str:
    """A fraction in percent, one decimal, without the sign.

    >>> percent(0.5), percent(None)
    ('50.0', '–')
    """
    return MISSING if value is None else f"{100 * value:.1f}"


def quantity(value: float | None, unit: Unit) -> str:
    """A measurement: fractions in percent, without the sign; other numbers with four significant digits.

    >>> quantity(0.12345, "fraction"), quantity(0.12345, "number"), quantity(None, "number")
    ('12.3', '0.1235', '–')
    """
    return percent(value) if unit == "fraction" else number(value, 4)


def span(low: float | None, high: float | None, unit: Unit = "fraction") -> str:
    """An interval, fractions in percent; empty without one.

    >>> span(0.481, 0.55), span(-0.5, 2.25, "number")
    ('48.1–55.0', '-0.5 to 2.25')
    """
    if low is None or high is None:
        return ""
    ends = quantity(low, unit), quantity(high, unit)
    return (" to " if low < 0 else MISSING).join(ends)


def points(difference: float) -> str:
    """A difference of fractions in percentage points, with its sign.

    >>> points(0.0123), points(-0.0123), points(0.0)
    ('+1.2', '−1.2', '0.0')
    """
    text = f"{100 * abs(difference):.1f}"
    sign = "" if text == "0.0" else "+" if difference > 0 else "\N{MINUS SIGN}"
    return sign + text


def number(value: float | None, digits: int = 3) -> str:
    """A plain number with so many significant digits, never in exponent form below a million.

    >>> number(5.3333), number(1.0), number(0.1), number(214.4), number(None)
    ('5.33', '1', '0.1', '214', '–')
    """
    if value is None:
        return MISSING
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e" in text and 1 <= abs(value) < 1e6 else text


def factor(value: float | None) -> str:
    """A ratio.

    >>> factor(5.3333), factor(1.0)
    ('5.33×', '1.00×')
    """
    return MISSING if value is None else f"{value:.2f}{TIMES}"


def scaled(value: float | None, unit: str) -> str:
    """A count with an SI prefix and three significant digits.

    >>> scaled(8.11e13, "FLOP"), scaled(272474, "")
    ('81.1 TFLOP', '272 k')
    """
    if value is None:
        return MISSING
    for size, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return f"{number(value / size)} {prefix}{unit}"
    return f"{number(value)} {unit}".rstrip()


def mebibytes(value: float | None) -> str:
    """Bytes in MiB or GiB.

    >>> mebibytes(3 * 2**29), mebibytes(2**21)
    ('1.5 GiB', '2 MiB')
    """
    if value is None:
        return MISSING
    return f"{number(value / 2**30)} GiB" if value >= 2**30 else f"{number(value / 2**20)} MiB"


def duration(seconds: float | None) -> str:
    """Seconds, minutes or hours, in two units at most.

    >>> duration(7.25), duration(59.96), duration(200), duration(7300)
    ('7.2 s', '1m 00s', '3m 20s', '2h 02m')
    """
    if seconds is None:
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if seconds < 3599.5:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes}m {rest:02d}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}h {minutes:02d}m"
