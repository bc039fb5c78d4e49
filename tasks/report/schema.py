"""The JSON Schema of report.json: generated from `Document`, kept in this folder, published beside each report.

    python -m tasks.report.schema > tasks/report/report.schema.json    # after a change of any value in a report

A test compares the file with `generate`. The schema refuses unknown fields, so it fits only reports of its own version
of the code: readers use the one beside the report.
"""

from __future__ import annotations

import json
import sys
from importlib.resources import files
from typing import Any

from tasks.report.facts import Document

FILE = "report.schema.json"


def schema() -> bytes:
    """The schema as it is kept in this folder, and published."""
    return files("tasks.report").joinpath(FILE).read_bytes()


def generate() -> bytes:
    """The schema of `Document`, keys sorted."""
    generated: dict[str, Any] = Document.model_json_schema(mode="serialization")
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A retraining's report"}
    return (json.dumps({**generated, **head}, indent=1, sort_keys=True) + "\n").encode()


if __name__ == "__main__":
    sys.stdout.buffer.write(generate())
