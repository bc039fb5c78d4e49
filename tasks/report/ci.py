"""What a CI job shows of a run: JUnit XML, a comment for the pull request, GitHub's step summary.

Functions of the document in report.json and of the link to the job. Called by the command line; imports neither Prefect
nor a drawing library.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from tasks.errors import RetrainError
from tasks.report.facts import Document
from tasks.report.formatting import accuracy_line, badge, duration, gate_rows, headline, plain, table
from tasks.report.markdown import changes_section, comparison_section, markdown
from tasks.values import Check, Outcome

# Characters that XML 1.0 excludes, escaped or not.
NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# In bytes of UTF-8. GitHub drops a longer step summary, and refuses a comment of more characters.
SUMMARY_LIMIT = 1024 * 1024
COMMENT_LIMIT = 65_536

# What a text ends with that was cut.
CUT = "\n\n… cut here: see the report of this job.\n"


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
    attributes = {"name": _xml(f"gate of {document.model_name}"), "skipped": "0", **counts}
    suite = ElementTree.SubElement(root, "testsuite", attributes)
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(document).items():
        ElementTree.SubElement(properties, "property", {"name": name, "value": _xml(value)})
    for check, row in zip(checks, gate_rows(document.decision), strict=True):
        case = {"classname": _xml(f"{document.model_name}.gate"), "name": _xml(check.name), "time": "0"}
        element = ElementTree.SubElement(suite, "testcase", case)
        text = _xml(f"{row['check']} is {row['value']} and needs {row['needs']}: {row['because']}")
        if check.passed:
            ElementTree.SubElement(element, "system-out").text = text
        else:
            failure = ElementTree.SubElement(element, "failure", {"message": _xml(check.sentence), "type": "gate"})
            failure.text = text
    return _document(root)


def error_junit(error: RetrainError) -> bytes:
    """junit.xml of a run that ended with an error instead of a verdict: one test case, with the error."""
    counts = {"tests": "1", "failures": "0", "errors": "1", "time": "0"}
    root = ElementTree.Element("testsuites", {"name": "retrain", **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": "retrain", "skipped": "0", **counts})
    case = ElementTree.SubElement(suite, "testcase", {"classname": "retrain", "name": "run", "time": "0"})
    text, kind = _xml(str(error)), type(error).__name__
    ElementTree.SubElement(case, "error", {"message": text, "type": kind}).text = text
    return _document(root)


def _document(root: ElementTree.Element) -> bytes:
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


def comment(document: Document, outcome: str, link: str) -> str:
    """comment.md, for a pull request: verdict, gate, what changed against the champion, a link.

    Args:
        document: The content of report.json.
        outcome: What `outcome_line` says; "" for nothing.
        link: The address of the report, or of the job that has it; "" for none.
    """
    return _with_link([*_head(document, outcome), *_changes(document)], "The whole report", link)


def error_comment(error: RetrainError, link: str) -> str:
    """comment.md of a run that ended with an error instead of a verdict; `link` as for `comment`."""
    return _with_link([error_summary(error).strip()], "The job", link)


def _with_link(sections: list[str], title: str, link: str) -> str:
    end = f"\n\n[{title}]({link})\n" if link else "\n"
    return cut("\n\n".join(sections), COMMENT_LIMIT - len(end)) + end


def summary(document: Document, outcome: str, limit: int = SUMMARY_LIMIT) -> str:
    """Markdown for GitHub's step summary: the content of the comment, the times of the steps, the report folded in.

    The report is cut where all of it would take more bytes than `limit`.
    """
    times = table([{"step": name, "seconds": duration(value)} for name, value in document.seconds])
    head, report = "\n\n".join([*_head(document, outcome), *_changes(document), times]), markdown(document)
    start, end = f"{head}\n\n<details><summary>The whole report</summary>\n\n", "\n</details>\n"
    room = limit - len(start.encode(errors="replace")) - len(end)
    return f"{start}{cut(report, room)}{end}" if room > len(CUT) * 2 else cut(f"{head}\n\n{report}", limit)


def error_summary(error: RetrainError) -> str:
    """Markdown for GitHub's step summary of a run that ended with an error instead of a verdict."""
    return f"## 💥 retrain failed\n\n{plain(str(error))}\n"


def cut(text: str, limit: int) -> str:
    """The text, or as many of its lines as fit into so many bytes of UTF-8, and a line that says so."""
    data = text.encode(errors="replace")
    if len(data) <= limit:
        return text
    room = limit - len(CUT.encode())
    if room <= 0:
        return ""
    kept = data[:room].decode(errors="ignore")
    return (kept[: kept.rfind("\n")] if "\n" in kept else kept) + CUT


def outcome_line(outcome: Outcome) -> str:
    """What became of the model, and whether it was compared with any other: Markdown."""
    version = outcome.receipt.version if outcome.receipt else 0
    became = {
        "published": f"Published as version {version}.",
        "waiting": f"Version {version} waits for approval: `retrain approve {version}`.",
        "already published": f"Unchanged: version {version} is this model already.",
        "passed": "Nothing was published: this run only judges.",
        "rejected": "Nothing was published.",
    }[outcome.verdict]
    compared = any(check.loss for check in outcome.decision.checks)
    return became if compared else f"{became} **Nothing was compared: there is no champion yet.**"


def _head(document: Document, outcome: str) -> list[str]:
    decision = document.decision
    mark = "❌" if decision.verdict == "reject" else "⚠️" if decision.override else "✅"
    return [
        f"## {mark} {plain(document.model_name)}: {plain(badge(decision))}",
        f"{accuracy_line(decision).capitalize()}. {plain(headline(decision))}",
        *([outcome] if outcome else []),
        table([_marked(check, row) for check, row in zip(decision.checks, gate_rows(decision), strict=True)]),
    ]


def _marked(check: Check, row: dict[str, str]) -> dict[str, str]:
    return {"": "✅" if check.passed else "❌"} | {name: text for name, text in row.items() if name != "result"}


def _changes(document: Document) -> list[str]:
    """What changed since the champion, and the comparison with it, a heading level lower than in the report."""
    changes, comparison = document.changes, document.comparison
    return [
        *([f"#{changes_section(changes)}"] if changes else []),
        *([f"#{comparison_section(comparison, document.prepared.classes)}"] if comparison else []),
    ]
