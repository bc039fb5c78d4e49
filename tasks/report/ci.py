"""What a CI job shows of a run: JUnit XML, a comment for the pull request, GitHub's step summary.

Functions of the document in report.json and of the link to the job. Called by the command line; imports neither Prefect
nor a drawing library.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from tasks.report.facts import Document
from tasks.report.formatting import accuracy_line, badge, duration, gate_rows, headline, plain, table
from tasks.report.markdown import comparison_section, markdown
from tasks.values import Check

# Characters that XML 1.0 excludes, escaped or not.
NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(document: Document) -> bytes:
    """junit.xml, UTF-8: each row of the gate is a test case; the message of a failure is the row's sentence.

    In the form that Jenkins, GitLab and others read: https://github.com/testmoapp/junitxml.
    """
    checks = document.decision.checks
    seconds = f"{sum(value for _, value in document.seconds):.3f}"
    counts = {
        "tests": str(len(checks)),
        "failures": str(sum(not check.passed for check in checks)),
        "errors": "0",
        "time": seconds,
    }
    root = ElementTree.Element("testsuites", {"name": "retrain", **counts})
    attributes = {"name": _xml(f"gate of {document.model}"), "skipped": "0", **counts}
    suite = ElementTree.SubElement(root, "testsuite", attributes)
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(document).items():
        ElementTree.SubElement(properties, "property", {"name": name, "value": _xml(value)})
    for check, row in zip(checks, gate_rows(document.decision), strict=True):
        case = {"classname": _xml(f"{document.model}.gate"), "name": _xml(check.name), "time": "0"}
        element = ElementTree.SubElement(suite, "testcase", case)
        text = _xml(f"{row['check']} is {row['value']} and needs {row['needs']}: {row['because']}")
        if check.passed:
            ElementTree.SubElement(element, "system-out").text = text
        else:
            failure = ElementTree.SubElement(element, "failure", {"message": _xml(check.sentence), "type": "gate"})
            failure.text = text
    ElementTree.indent(root)
    xml: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return xml + b"\n"


def _properties(document: Document) -> dict[str, str]:
    return {
        "accuracy": f"{document.evaluation.accuracy:.6f}",
        "loss": f"{document.evaluation.loss:.6f}",
        "verdict": document.decision.verdict,
        "weights": document.trained.weights_digest,
        "code": document.provenance.code,
    }


def _xml(text: str) -> str:
    return NOT_XML.sub("\ufffd", text)


def comment(document: Document, link: str) -> str:
    """comment.md, for a pull request: verdict, gate, what changed against the champion, a link.

    Args:
        document: The content of report.json.
        link: The address of the report, or of the job that has it; "" for none.
    """
    more = [f"[The whole report]({link})"] if link else []
    return "\n\n".join([*_head(document), *_changes(document), *more]) + "\n"


def summary(document: Document) -> str:
    """Markdown for GitHub's step summary: the content of the comment, the times of the steps, the report folded in."""
    times = table([{"step": name, "seconds": duration(value)} for name, value in document.seconds])
    folded = f"<details><summary>The whole report</summary>\n\n{markdown(document)}\n</details>"
    return "\n\n".join([*_head(document), *_changes(document), times, folded]) + "\n"


def error_summary(error: str) -> str:
    """Markdown for GitHub's step summary of a run that ended with an error instead of a verdict."""
    return f"## 💥 retrain failed\n\n{plain(error)}\n"


def _head(document: Document) -> list[str]:
    decision = document.decision
    mark = "❌" if decision.verdict == "reject" else "⚠️" if decision.override else "✅"
    return [
        f"## {mark} {plain(document.model)}: {plain(badge(decision))}",
        f"{accuracy_line(decision).capitalize()}. {plain(headline(decision))}",
        table([_marked(check, row) for check, row in zip(decision.checks, gate_rows(decision), strict=True)]),
    ]


def _marked(check: Check, row: dict[str, str]) -> dict[str, str]:
    return {"": "✅" if check.passed else "❌"} | {name: text for name, text in row.items() if name != "result"}


def _changes(document: Document) -> list[str]:
    """The comparison with the champion, a heading level lower than in the report."""
    return [f"#{comparison_section(document.comparison)}"] if document.comparison else []
