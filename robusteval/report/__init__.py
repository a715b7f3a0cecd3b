"""Run folders in, tables, figures and a page out; torch is never imported here."""

from __future__ import annotations

from robusteval.report.html import write_report
from robusteval.report.tables import terminal_table

__all__ = ["terminal_table", "write_report"]
