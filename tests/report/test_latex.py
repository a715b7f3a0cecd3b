"""The LaTeX tables go through LaTeX itself: with an article and booktabs, as their first line promises, alone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

PDFLATEX = shutil.which("pdflatex")
pytestmark = pytest.mark.skipif(PDFLATEX is None, reason="no LaTeX is installed")

PAPER = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{leaderboard.tex}\end{document}"


def typeset(folder: Path) -> str:
    """What LaTeX says of a paper that shows the tables in the folder, at the first error of which it stops."""
    (folder / "paper.tex").write_text(PAPER, "utf-8")
    command = [str(PDFLATEX), "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    assert found.returncode == 0, found.stdout[-2000:]
    return found.stdout


@pytest.mark.parametrize("report", ["full_report", "hostile_report"])
def test_tables_can_be_typeset(report: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Every table arrives in the paper, whatever the names in it, and no character is missing from the fonts."""
    shutil.copy(request.getfixturevalue(report) / "leaderboard.tex", tmp_path)
    said = typeset(tmp_path)
    assert "Missing character" not in (tmp_path / "paper.log").read_text("utf-8", errors="replace")
    assert "Output written on paper.pdf" in said


def test_a_mistake_is_noticed(tmp_path: Path) -> None:
    """A name that is not escaped does not pass."""
    (tmp_path / "leaderboard.tex").write_text("entprop_k", "utf-8")
    with pytest.raises(AssertionError, match=r"Missing \$ inserted"):
        typeset(tmp_path)
