"""What the report on the run's page says about the rest: an address that can be copied, and commands that work."""

from __future__ import annotations

import platform

from tasks.record import more


def test_a_report_in_a_bucket_is_fetched_and_one_in_a_folder_is_pasted_into_a_browser_there() -> None:
    s3 = more("s3://models/prod/runs/a/report.html", "retrain compare a")
    assert "```text\naws s3 cp s3://models/prod/runs/a/report.html .\n```" in s3
    assert "```text\nretrain compare a\n```" in s3
    folder = more("/data/my store/runs/a/report.html", "retrain compare a")
    assert "```text\nfile:///data/my%20store/runs/a/report.html\n```" in folder
    assert f"on {platform.node()}" in folder
