"""The report in a real browser: it asks for nothing, complains of nothing, fits a phone, and no text lies on another.

Needs Chromium or Chrome, and fails without one: `make test-page`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tasks.publish import manifest_facts
from tasks.report.version_comparison import Pair, html
from tests.tasks.report.examples import example, with_champion

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def difference() -> bytes:
    """The page of `retrain compare` for two versions that differ in much."""
    sample = with_champion(wrong=300, champion_wrong=200)
    old, new = manifest_facts(example(200, epochs=9).facts), manifest_facts(sample.facts)
    pair = Pair("mnist", 1, 2, old | {"data": {"train": "0" * 64}}, new, sample.facts.comparison)
    return html(pair, sample.images)


PAGES: dict[str, Callable[[], bytes]] = {
    "passed": lambda: example().render().html,
    "rejected, beside a champion": lambda: with_champion(wrong=300, champion_wrong=200).render().html,
    "perfect, one epoch": lambda: example(wrong=0, epochs=1).render().html,
    "a hundred epochs, validated": lambda: example(epochs=100, validation=True).render().html,
    "two versions": difference,
}

# Every piece of text with the boxes that it is drawn in, as far as they can be seen. Text in a part that scrolls ends
# where that part does.
TEXTS = """() => {
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; node = walker.nextNode();) {
    const text = node.textContent.trim(), parent = node.parentElement;
    if (!text || !parent.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    if (parent.closest("metadata, style, title, defs")) continue;
    const scrolls = parent.closest(".wide")?.getBoundingClientRect();
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) {
      const right = scrolls ? Math.min(box.right, scrolls.right) : box.right;
      if (right - box.left > 1 && box.height > 1) texts.push([text.slice(0, 60), box.left, box.top, right, box.bottom]);
    }
  }
  return texts;
}"""

Text = tuple[str, float, float, float, float]

# A line's box is higher than its letters, and matplotlib's labels sit close: less than this does not touch.
SLACK = 3.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next((result for name in BROWSERS if (result := shutil.which(name))), None)
    assert path, f"no browser: none of {', '.join(BROWSERS)} is installed (Debian: apt-get install chromium)"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


@pytest.fixture(scope="module", params=list(PAGES))
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_bytes(PAGES[request.param]())
    return path


def opened(browser: Browser, path: Path, width: int, scheme: Any = "light") -> tuple[Page, list[str]]:
    """The tab, with every `details` open, and whatever it asked for or complained about."""
    tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    events: list[str] = []
    tab.on("console", lambda message: events.append(f"console: {message.text}"))
    tab.on("pageerror", lambda error: events.append(f"error: {error}"))
    tab.on("request", lambda request: events.append(f"request: {request.url[:100]}"))
    tab.goto(path.as_uri())
    tab.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    return tab, [event for event in events if not event.startswith(("request: data:", f"request: {path.as_uri()}"))]


def overlaps(texts: list[Text]) -> list[tuple[str, str]]:
    """Which of these lie on each other."""
    result = []
    ordered = sorted(texts, key=lambda text: text[2])
    for place, (name, left, top, right, bottom) in enumerate(ordered):
        for other, other_left, other_top, other_right, other_bottom in ordered[place + 1 :]:
            if other_top > bottom:
                break
            across = min(right, other_right) - max(left, other_left)
            down = min(bottom, other_bottom) - max(top, other_top)
            if across > SLACK and down > SLACK:
                result.append((name, other))
    return result


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 820, 390, 320])
def test_the_page_is_quiet_fits_and_can_be_read(browser: Browser, report: Path, width: int, scheme: str) -> None:
    tab, events = opened(browser, report, width, scheme)
    assert events == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    texts: list[Text] = tab.evaluate(TEXTS)
    assert len(texts) > 100
    assert [text for text in texts if text[1] < 0 or text[3] > width + 0.5] == []
    assert overlaps(texts) == []
    tab.close()


def test_no_drawing_and_no_picture_is_empty(browser: Browser, report: Path) -> None:
    tab, _ = opened(browser, report, 390)
    sizes = tab.evaluate(
        "[...document.querySelectorAll('svg, img')].map(each => each.getBoundingClientRect().toJSON())"
    )
    assert all(size["width"] > 20 and size["height"] > 20 for size in sizes)
    assert tab.evaluate("[...document.images].every(each => each.complete && each.naturalWidth == 28)")
    for drawing in tab.query_selector_all("svg"):
        box = drawing.bounding_box()
        line = drawing.query_selector("[style*='var(--accent)']")
        drawn = line and line.bounding_box()
        assert box
        assert drawn
        assert drawn["x"] >= box["x"] - 1
        assert drawn["y"] >= box["y"] - 1
    tab.close()


def test_dark_is_dark_and_light_is_light(browser: Browser, report: Path) -> None:
    """Of both, ink and paper are far apart: the contrast that WCAG asks of text is 4.5."""
    for scheme in ("light", "dark"):
        tab, _ = opened(browser, report, 390, scheme)
        paper, ink, soft = tab.evaluate(
            """() => {
              const style = getComputedStyle(document.querySelector("section"));
              const soft = getComputedStyle(document.querySelector("th"));
              return [style.backgroundColor, style.color, soft.color].map(text => text.match(/\\d+/g).map(Number));
            }"""
        )
        assert (luminance(paper) < 0.5) == (scheme == "dark")
        assert contrast(paper, ink) > 10
        assert contrast(paper, soft) > 4.5
        tab.close()


@pytest.mark.parametrize(
    ("style", "seen"),
    [
        (".tiles { display: block; } .tiles div { position: absolute; }", "overlap"),
        ("h1 { width: 600px; } h1 { white-space: nowrap; }", "too wide"),
        ("body { background: url(https://example.org/picture.png); }", "refused"),
    ],
)
def test_these_tests_see_what_they_look_for(browser: Browser, tmp_path: Path, style: str, seen: str) -> None:
    path = tmp_path / "report.html"
    html = example().render().html
    path.write_bytes(html.replace(b"</style>", style.encode() + b"</style>"))
    tab, events = opened(browser, path, 390)
    result = {
        "overlap": bool(overlaps(tab.evaluate(TEXTS))),
        "too wide": tab.evaluate("document.documentElement.scrollWidth") > 390,
        "refused": any("Content Security Policy" in event for event in events),
    }
    assert [name for name, there in result.items() if there] == [seen]
    tab.close()


def luminance(colour: list[int]) -> float:
    """Relative luminance, as WCAG 2 defines it."""
    parts = [value / 255 for value in colour]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in parts]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: list[int], other: list[int]) -> float:
    """The contrast ratio of two colours, 1 to 21, as WCAG 2 defines it."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)
