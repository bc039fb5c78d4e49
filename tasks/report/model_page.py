"""The page of a model: one file that needs no other, light and dark, for desktop and phone.

The runs are in it compressed, as thousands of them would make megabytes; the page's own script draws them. Pure.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import zlib
from importlib.resources import files

from tasks.values import RunRow


def render(model: str, lines: str, base: str = "../../") -> bytes:
    """The page as HTML.

    Args:
        model: The model's name.
        lines: The model's runs, oldest first, a JSON array of each one's fields (`tasks.registry.runs`).
        base: The address of the store, as links need it; empty: no browser can follow one.
    """
    folder = files("tasks.report")
    template, style, script = (
        folder.joinpath(name).read_text("utf-8") for name in ("model_page.html", "style.css", "model_page.js")
    )
    runs = base64.b64encode(zlib.compress(lines.encode())).decode()
    data = {"model": model, "base": base, "fields": list(RunRow.model_fields), "runs": runs}
    places = {
        "MODEL": html.escape(model),
        "STYLE": style,
        "DATA": json.dumps(data).replace("<", "\\u003c"),
        "SCRIPT": script,
        "SCRIPT-SHA256": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    before, *parts = template.split("{{")
    for part in parts:
        name, _, rest = part.partition("}}")
        before += places[name] + rest
    return before.encode()
