"""The record step: keep decision and report of every run, published or not. Called by the flow.

The publish step takes the completed report from here. Not cached: each run has a folder of its own, `runs/<run>/`.
"""

from __future__ import annotations

import platform
import shlex
from pathlib import Path

from tasks.caching.keys import canonical
from tasks.caching.steps import Run, step
from tasks.gate.baselines import Baseline, Baselines
from tasks.model_page import row_of
from tasks.report import Rendered, with_changes
from tasks.report.changes import at, changes
from tasks.report.facts import Facts, manifest_facts
from tasks.report.formatting import accuracy_line, verdict_line
from tasks.report.step import report_files
from tasks.running.prefect_artifacts import show_markdown
from tasks.values import Decision, Record, Reports

# So many things that changed are named.
NAMED = 3


@step(cached=False)
def record(facts: Facts, decision: Decision, reports: Reports, baselines: Baselines, run: Run) -> Record:
    """Write decision and report to `runs/<run>/`, and show the report on the run's page."""
    rendered = complete(facts, decision, reports, baselines.champion, run)
    files = report_files(rendered) | {"decision.json": canonical(decision.model_dump(mode="json"))}
    for path, data in files.items():
        run.store.put(f"runs/{run.id}/{path}", data)
    address = run.store.address(f"runs/{run.id}/report.html")
    model = facts.candidate.model_name
    compare = shlex.join(["retrain", "compare", run.id, "--store", run.store.url, "--model", model])
    text = f"{rendered.run_page.decode()}\n{more(address, compare)}"
    show_markdown("report", run.series, text, f"{verdict_line(decision)}; {accuracy_line(decision)}")
    return Record(
        report=address,
        compare=compare,
        before=_before(facts, baselines.champion),
        model=model,
        row=row_of(run.id, facts, decision),
    )


def _before(facts: Facts, champion: Baseline | None) -> str:
    """The champion with its accuracy, and the names of what differs from it; "" without one."""
    if champion is None:
        return ""
    accuracy = at(champion.facts, "metrics").get("accuracy")
    known = f" with {accuracy:.4f}" if isinstance(accuracy, float) else ""
    differences = changes(champion.version, champion.facts, manifest_facts(facts)).differences
    names = list(dict.fromkeys(each.name for each in differences))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    changed = f"; since then changed: {', '.join(names[:NAMED])}{more}" if names else "; nothing else changed"
    return f"{champion.name}{known}{changed}"


def complete(facts: Facts, decision: Decision, reports: Reports, champion: Baseline | None, run: Run) -> Rendered:
    """The rendered report, and in each form what changed since the champion, if there is one.

    That is added here, where it costs nothing. In the step, a run in which nothing changed would draw everything again.

    Args:
        facts: The candidate's.
        decision: The gate's in this run; that of `facts` may be the one that the model was published with.
        reports: What the step has rendered from the facts.
        champion: The champion, with the facts in its manifest.
        run: The run, with its store.
    """
    artifacts = (reports.html, reports.markdown, reports.data, reports.run_page)
    rendered = Rendered(*map(run.artifacts.get, artifacts))
    if champion is None:
        return rendered
    candidate = manifest_facts(facts.model_copy(update={"decision": decision}))
    return with_changes(rendered, changes(champion.version, champion.facts, candidate))


def more(address: str, compare: str = "") -> str:
    """What the run's page lacks, and how to see it. No browser follows a link from there to a file or to s3://."""
    if address.startswith("s3://"):
        how, what = "fetch it, with the store's AWS settings", shlex.join(["aws", "s3", "cp", address, "."])
    else:
        how, what = f"paste this into a browser on {platform.node()}", Path(address).as_uri()
    return f"## More\n\nreport.html also has the pictures; {how}:\n\n```text\n{what}\n```\n" + (
        f"\nWhat differs from the champion:\n\n```text\n{compare}\n```\n" if compare else ""
    )
