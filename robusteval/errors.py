"""The one error that is meant for users: *where: what is wrong; nearest; allowed*."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user gave is wrong; the command line prints it in one line and exits with 2."""


def unknown(where: str, what: str, name: str, allowed: Iterable[str]) -> UserError:
    """The error for a name that is not in a list, with the nearest name that is.

    Args:
        where: what holds the name, e.g. ``suite.toml`` or ``--only``.
        what: the kind of thing that is named, e.g. ``method``.
        name: the name that was given.
        allowed: the names that would have been right.

    >>> print(unknown("--only", "method", "entrop", ["standard", "entprop"]))
    --only: unknown method 'entrop'; did you mean 'entprop'?; allowed: entprop, standard
    >>> print(unknown("--tag", "tag", "x", []))
    --tag: unknown tag 'x'; allowed: none
    """
    names = sorted(allowed)
    nearest = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return UserError(f"{where}: unknown {what} {name!r}{hint}; allowed: {', '.join(names) or 'none'}")
