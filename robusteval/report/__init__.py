"""Run folders in, tables, figures and a page out; torch is never imported here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robusteval.report.files.tables import terminal_table
    from robusteval.report.page.html import write_report

__all__ = ["terminal_table", "write_report"]


def __getattr__(name: str) -> Any:
    """What is exported, imported when first asked for: parts of the package need neither pandas nor matplotlib."""
    if name == "write_report":
        from robusteval.report.page.html import write_report

        return write_report
    if name == "terminal_table":
        from robusteval.report.files.tables import terminal_table

        return terminal_table
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
