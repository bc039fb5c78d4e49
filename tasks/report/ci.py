"""What a CI job shows of a run: JUnit XML, a comment for the pull request, GitHub's step summary.

Functions of what report.json holds, and of the link to the job. Called by the command line.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from tasks.report.facts import Document
from tasks.report.formatting import accuracy_line, badge, duration, gate_rows, headline
from tasks.report.markdown import comparison_section, markdown, plain, table
from tasks.values import Check

# What XML 1.0 cannot hold, escaped or not.
NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(told: Document) -> bytes:
    """junit.xml: each of the gate's rows is a test case, and a failed one's message is its sentence.

    The form that Jenkins, GitLab and others read: https://github.com/testmoapp/junitxml.
    """
    checks = told.decision.checks
    seconds = f"{sum(value for _, value in told.seconds):.3f}"
    counts = {
        "tests": str(len(checks)),
        "failures": str(sum(not check.passed for check in checks)),
        "errors": "0",
        "time": seconds,
    }
    root = ElementTree.Element("testsuites", {"name": "retrain", **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": _xml(f"gate of {told.model}"), "skipped": "0", **counts})
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _measured(told).items():
        ElementTree.SubElement(properties, "property", {"name": name, "value": _xml(value)})
    for check, row in zip(checks, gate_rows(told.decision), strict=True):
        case = {"classname": _xml(f"{told.model}.gate"), "name": _xml(check.name), "time": "0"}
        element = ElementTree.SubElement(suite, "testcase", case)
        text = _xml(f"{row['check']} is {row['value']} and needs {row['needs']}: {row['because']}")
        if check.passed:
            ElementTree.SubElement(element, "system-out").text = text
        else:
            failure = ElementTree.SubElement(element, "failure", {"message": _xml(check.sentence), "type": "gate"})
            failure.text = text
    ElementTree.indent(root)
    written: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def _measured(told: Document) -> dict[str, str]:
    return {
        "accuracy": f"{told.evaluation.accuracy:.6f}",
        "loss": f"{told.evaluation.loss:.6f}",
        "verdict": told.decision.verdict,
        "weights": told.trained.weights_digest,
        "code": told.provenance.code,
    }


def _xml(text: str) -> str:
    return NOT_XML.sub("\ufffd", text)


def comment(told: Document, link: str) -> str:
    """comment.md, for a pull request: verdict, gate, what changed against the champion, where to read on.

    Args:
        told: What report.json holds.
        link: An address that shows the whole report, or the job that has it; "" where there is none.
    """
    return "\n\n".join([*_head(told), *_changes(told), *([f"[The whole report]({link})"] if link else [])]) + "\n"


def summary(told: Document) -> str:
    """Markdown for GitHub's step summary: the comment's content, the times, and the report folded in."""
    times = table([{"step": name, "seconds": duration(value)} for name, value in told.seconds])
    folded = f"<details><summary>The whole report</summary>\n\n{markdown(told)}\n</details>"
    return "\n\n".join([*_head(told), *_changes(told), times, folded]) + "\n"


def failed(error: str) -> str:
    """Markdown for GitHub's step summary of a run that ended with an error instead of a verdict."""
    return f"## 💥 retrain failed\n\n{plain(error)}\n"


def _head(told: Document) -> list[str]:
    decision = told.decision
    mark = "❌" if decision.verdict == "reject" else "⚠️" if decision.override else "✅"
    return [
        f"## {mark} {plain(told.model)}: {plain(badge(decision))}",
        f"{accuracy_line(decision).capitalize()}. {plain(headline(decision))}",
        table([_marked(check, row) for check, row in zip(decision.checks, gate_rows(decision), strict=True)]),
    ]


def _marked(check: Check, row: dict[str, str]) -> dict[str, str]:
    return {"": "✅" if check.passed else "❌"} | {name: text for name, text in row.items() if name != "result"}


def _changes(told: Document) -> list[str]:
    """The comparison with the champion, below the verdict."""
    return [f"#{comparison_section(told.comparison)}"] if told.comparison else []
