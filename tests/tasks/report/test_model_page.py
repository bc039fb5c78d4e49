"""The page of a model: everything is in it, nothing of a text is markup, and thousands of runs fit."""

from __future__ import annotations

import base64
import json
import re
import zlib
from typing import Any

from tasks.report.model_page import render
from tests.tasks.report.runs import lines, rows


def data_of(page: bytes) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.decode(), re.DOTALL)
    assert found
    content: dict[str, Any] = json.loads(found[1])
    return content


def test_the_runs_are_in_it_and_the_same_runs_give_the_same_bytes() -> None:
    data = data_of(render("mnist", lines(30)))
    assert zlib.decompress(base64.b64decode(data["runs"])).decode() == lines(30)
    assert data["fields"] == list(type(rows(1)[0]).model_fields)
    assert data["base"] == "../../"
    assert render("mnist", lines(30)) == render("mnist", lines(30))


def test_an_address_cannot_end_the_script() -> None:
    page = render("mnist", "", "file:///a</script><script>alert(1)</script>/")
    assert data_of(page)["base"] == "file:///a</script><script>alert(1)</script>/"
    assert page.count(b"<script") == 2


def test_thousands_of_runs_are_a_small_page() -> None:
    assert len(render("mnist", lines(6000))) <= 480_000
    assert len(render("mnist", lines(5000))) <= 400_000
