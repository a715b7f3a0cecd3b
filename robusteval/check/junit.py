"""The gate's findings as JUnit XML, which GitHub actions, GitLab, Jenkins and others show as tests."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from robusteval.check.gate import Finding, Gate
from robusteval.manifest import replace
from robusteval.report.text import clean


def junit(gate: Gate, suite: str) -> str:
    """A test case a number and cost: regressions are failures, what cannot be compared is an error.

    Args:
        gate: the findings.
        suite: the name of the test suite.
    """
    failures = [finding for finding in gate.errors if _fell(finding)]
    counts = {
        "tests": str(len(gate.findings)),
        "failures": str(len(failures)),
        "errors": str(len(gate.errors) - len(failures)),
        "skipped": "0",
        "time": "0",
    }
    root = ElementTree.Element("testsuites", counts)
    tests = ElementTree.SubElement(root, "testsuite", {"name": clean(f"robusteval check {suite}"), **counts})
    for finding in gate.findings:
        name = f"{finding.branch} {finding.subject}" if finding.branch else finding.subject
        case = {"classname": clean(finding.cell), "name": clean(name), "time": "0"}
        element = ElementTree.SubElement(tests, "testcase", case)
        if finding.weight == "error":
            kind = "failure" if _fell(finding) else "error"
            message = clean(f"{finding.name}: {finding.text}")
            inner = ElementTree.SubElement(element, kind, {"type": finding.verdict, "message": message})
            inner.text = message
        elif finding.text:
            ElementTree.SubElement(element, "system-out").text = clean(f"{finding.verdict}: {finding.text}")
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def write_junit(path: Path, gate: Gate, suite: str) -> None:
    """Writes the file, whole or not at all."""
    replace(path, junit(gate, suite).encode())


def _fell(finding: Finding) -> bool:
    """Whether the number or cost itself is at fault, and not that it is missing."""
    return finding.verdict not in ("missing", "not comparable")
