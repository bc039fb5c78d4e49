"""The report in a real browser: it asks for nothing, complains of nothing, fits a phone, and no text lies on another.

Needs Chromium or Chrome, and fails without one: `make test-page`.
"""

from __future__ import annotations

import re
import shutil
import string
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tasks.report import with_changes
from tasks.report.batches import render_batches
from tasks.report.changes import changes
from tasks.report.facts import manifest_facts
from tasks.report.model_page import render
from tasks.report.version_comparison import Pair, html
from tests.tasks.report.examples import Example, example, own, with_champion
from tests.tasks.report.runs import lines
from tests.tasks.report.test_batches import DOCUMENT, REFUSED, pictures

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def difference() -> bytes:
    """The page of `retrain compare` for two versions that differ in much."""
    sample = with_champion(wrong=300, champion_wrong=200)
    old, new = manifest_facts(example(200, epochs=9).facts), manifest_facts(sample.facts)
    pair = Pair("mnist", "version 1", "version 2", old | {"data": {"train": "0" * 64}}, new, sample.facts.comparison)
    return html(pair, sample.images.reshape(-1, 28, 28))


def names(count: int) -> tuple[str, ...]:
    """Names of classes of up to 100 characters; one in three has no space where a line could end."""
    long = ("word " * 19, "Donaudampfschifffahrt" * 4, "<b>short</b>")
    return tuple(f"{long[number % 3]}{number}" for number in range(count))


def own_difference() -> bytes:
    """The page of `retrain compare` for two versions of somebody's own data, of which one has other classes."""
    sample = own(names(40), (20, 60, 3), champion=True)
    new = manifest_facts(sample.facts)
    old = new | {"data": new["data"] | {"classes": list(names(40)[2:]), "shape": [20, 30, 3]}}
    pair = Pair("letters", "version 1", "version 2", old, new, sample.facts.comparison)
    return html(pair, sample.images.reshape(-1, 20, 60, 3))


def changed(**facts: Any) -> bytes:
    """A report that says what changed since the champion."""
    sample = with_champion()
    old = manifest_facts(example(epochs=9).facts) | facts
    return with_changes(sample.render(), changes(7, old, manifest_facts(sample.facts))).html


PAGES: dict[str, Callable[[], bytes]] = {
    "passed": lambda: example().render().html,
    "rejected, beside a champion": lambda: with_champion(wrong=300, champion_wrong=200).render().html,
    "perfect, one epoch": lambda: example(wrong=0, epochs=1).render().html,
    "a hundred epochs, validated": lambda: example(epochs=100, validation=True).render().html,
    "two versions": difference,
    "changed since the champion": lambda: changed(data={"train": "0" * 64}),
    "one bin, one mistake": lambda: one_bin().render().html,
    "two classes, photographs": lambda: own(names(2), (96, 256, 3), 60, champion=True).render().html,
    "26 letters": lambda: own(tuple(string.ascii_uppercase), champion=True).render().html,
    "30 long names": lambda: own(names(30), (16, 16)).render().html,
    "300 classes in colour": lambda: own(names(300), (32, 32, 3), 9, champion=True).render().html,
    "two versions, own data": own_difference,
    "a model": lambda: render("mnist", lines(60)),
    "refused batches": lambda: refused(),
}


def refused() -> bytes:
    """The report of a run whose new batches were refused, with pictures."""
    shown = tuple(range(30))
    verdict = REFUSED.model_copy(update={"offending": {"labels": shown}, "guesses": {"labels": ("crane",) * 30}})
    document = DOCUMENT.model_copy(update={"batches": (*DOCUMENT.batches, verdict)})
    return render_batches(document, {"day-8": pictures()})["report.html"]


def one_bin() -> Example:
    """A model that is as sure of every image, and wrong once."""
    sample = example(wrong=1)
    return sample._replace(probabilities=np.where(sample.probabilities > 0.4, 0.95, 0.005).astype(np.float32))


# Every piece of text with the boxes that it is drawn in, as far as they can be seen. Text in a part that scrolls or
# cuts it ends where that part does.
TEXTS = """() => {
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; node = walker.nextNode();) {
    const text = node.textContent.trim(), parent = node.parentElement;
    if (!text || !parent.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    if (parent.closest("metadata, style, title, defs, caption")) continue;
    const cuts = [];
    for (let each = parent; each; each = each.parentElement)
      if (getComputedStyle(each).overflowX != "visible") cuts.push(each.getBoundingClientRect());
    const least = side => Math.min(...cuts.map(cut => cut[side]));
    const most = side => Math.max(...cuts.map(cut => cut[side]));
    const range = document.createRange();
    range.selectNodeContents(node);
    const before = [];  // a line that ends with "…" has two boxes: one with the rest, and one without
    for (const box of range.getClientRects()) {
      const right = Math.min(box.right, least("right")), left = Math.max(box.left, most("left"));
      const bottom = Math.min(box.bottom, least("bottom")), top = Math.max(box.top, most("top"));
      const on = each => each.x < right - 1 && each.right > left + 1 && each.y < bottom - 5 && each.bottom > top + 5;
      const again = before.some(on);
      before.push(box);
      if (!again && right - left > 1 && bottom - top > 1) texts.push([text.slice(0, 60), left, top, right, bottom]);
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


# A model's page draws itself.
DRAWN = "document.querySelector('table') && [...document.querySelectorAll('.chart')].every(each => each.firstChild)"


def opened(browser: Browser, path: Path, width: int, scheme: Any = "light") -> tuple[Page, list[str]]:
    """The tab, with every `details` open, and whatever it asked for or complained about."""
    tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    events: list[str] = []
    tab.on("console", lambda message: events.append(f"console: {message.text}"))
    tab.on("pageerror", lambda error: events.append(f"error: {error}"))
    tab.on("request", lambda request: events.append(f"request: {request.url[:100]}"))
    tab.goto(path.as_uri())
    for _ in range(200):  # `wait_for_function` asks by `eval`, which the page's security policy forbids
        if tab.evaluate(DRAWN):
            break
        tab.wait_for_timeout(50)
    else:
        raise AssertionError("the charts are not drawn after ten seconds")
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
@pytest.mark.parametrize("width", [1920, 1280, 820, 390, 320])
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
    assert tab.evaluate("[...document.images].every(each => each.complete && each.naturalWidth >= 16)")
    for drawing in tab.query_selector_all("svg"):
        box = drawing.bounding_box()
        line = drawing.query_selector("[style*='var(--accent)']")
        drawn = line and line.bounding_box()
        assert box
        assert drawn
        assert drawn["x"] >= box["x"] - 1
        assert drawn["y"] >= box["y"] - 1
    tab.close()


# The colour of each text, bar, mark and line, and of what it lies on: blended as the browser does, down to the page.
COLOURS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = text => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, alpha, below) => [0, 1, 2].map(i => top[i] * alpha + below[i] * (1 - alpha));
  const chain = element => element ? [...chain(element.parentElement), element] : [];
  const opacity = element => chain(element).reduce((all, each) => all * getComputedStyle(each).opacity, 1);
  const ground = element => chain(element).reduce((below, each) => {
    const colour = rgba(getComputedStyle(each).backgroundColor);
    return over(colour, colour[3] * opacity(each), below);
  }, [255, 255, 255]);
  const pair = (name, colour, element, below) => [name, over(colour, colour[3] * opacity(element), below), below];
  const texts = [], graphics = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; node = walker.nextNode();) {
    const parent = node.parentElement, name = node.textContent.trim(), style = getComputedStyle(parent);
    if (!name || parent.closest("metadata, style, title, defs, caption")) continue;
    const colour = rgba(parent.closest("svg") ? style.fill : style.color);
    texts.push(pair(name.slice(0, 40), colour, parent, ground(parent)));
  }
  for (const bar of document.querySelectorAll(".columns i, .times i, .gauge .value, .gauge .limit")) {
    const colour = rgba(getComputedStyle(bar).backgroundColor);
    graphics.push(pair(`${bar.parentElement.className} ${bar.className}`, colour, bar, ground(bar.parentElement)));
  }
  for (const key of document.querySelectorAll(".key:not(.dashed)"))
    graphics.push(pair("key", rgba(getComputedStyle(key, "::before").backgroundColor), key, ground(key)));
  for (const line of document.querySelectorAll("svg [style*='var(--']")) {
    const style = getComputedStyle(line), colour = rgba(style.stroke === "none" ? style.fill : style.stroke);
    graphics.push(pair("line", colour, line, ground(line.closest("svg"))));
  }
  return {texts, graphics};
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_and_every_mark_has_the_contrast_that_wcag_asks_for(
    browser: Browser, report: Path, scheme: str
) -> None:
    tab, _ = opened(browser, report, 1280, scheme)
    colours = tab.evaluate(COLOURS)
    assert len(colours["texts"]) > 100
    for kind, least in (("texts", 4.5), ("graphics", 3.0)):
        ratios = {(name, round(contrast(ink, paper), 2)) for name, ink, paper in colours[kind]}
        assert {ratio for ratio in ratios if ratio[1] < least} == set()
    tab.close()


# Rules of axe-core that a page like this can break, each with the elements that break it.
RULES = """() => {
  const all = selector => [...document.querySelectorAll(selector)];
  const empty = element => !element.textContent.trim();
  const skips = (level, place, levels) => level - (levels[place - 1] || 0) > 1;
  const broken = {
    "no language": document.documentElement.lang ? [] : [document.documentElement],
    "no title": document.title ? [] : [document.head],
    "not one h1": all("h1").length == 1 ? [] : [document.body],
    "not one main": all("main").length == 1 ? [] : [document.body],
    "a level of headings is skipped":
      all("h1, h2, h3, h4").map(each => Number(each.tagName[1])).some(skips) ? [document.body] : [],
    "an empty heading": all("h1, h2, h3, h4").filter(empty),
    "a drawing without role and name": all("svg").filter(each => each.getAttribute("role") != "img" || !each.ariaLabel),
    "a role without a name": all("[role=img], [role=region]").filter(each => !each.ariaLabel),
    "a picture without a text": all("img").filter(each => !each.alt),
    "a table without a caption": all("table").filter(each => !each.caption || empty(each.caption)),
    "a header without scope": all("th").filter(each => !each.scope),
    "an empty header": all("th").filter(empty),
    "a row without a header": all("tbody tr").filter(each => !each.querySelector("th[scope=row]")),
    "a link without a text": all("a").filter(empty),
    "a part that scrolls and no key reaches": all(".wide").filter(each => each.tabIndex != 0),
    "a list of something else": all("ul > :not(li), dl > :not(dt, dd, div)"),
    "an id twice": all("[id]").filter(each => all(`[id="${each.id}"]`).length > 1),
  };
  const first = ([rule, elements]) => elements.length ? [`${rule}: ${elements[0].outerHTML.slice(0, 120)}`] : [];
  return Object.entries(broken).flatMap(first);
}"""


def test_the_page_is_read_without_seeing_it(browser: Browser, report: Path) -> None:
    tab, _ = opened(browser, report, 1280)
    assert tab.evaluate(RULES) == []
    tab.close()


# In print: how high the page is on A4 between its margins, and whether all that is painted is printed.
ON_PAPER = """() => {
  const style = getComputedStyle(document.querySelector("section"));
  const exact = [...document.querySelectorAll("*")].every(each => getComputedStyle(each).printColorAdjust == "exact");
  return {colours: [style.color, style.backgroundColor], exact, height: document.documentElement.scrollHeight};
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_paper_nothing_is_lost_and_no_page_is_empty(browser: Browser, report: Path, scheme: str) -> None:
    tab, _ = opened(browser, report, 703, scheme)
    pictures = tab.evaluate("document.images.length")
    tab.emulate_media(media="print", color_scheme=cast(Any, scheme))
    seen = tab.evaluate(ON_PAPER)
    assert seen["colours"] == ["rgb(27, 31, 36)", "rgb(255, 255, 255)"], "paper is white"
    assert seen["exact"]
    tab.evaluate("document.querySelectorAll('details').forEach(each => each.open = false)")
    pages = printed(tab.pdf(format="A4"))
    assert len(pages) <= seen["height"] / 1030 * 1.3 + 1
    assert min(page.count(b"Tj") + page.count(b"TJ") for page in pages[:-1] or pages) > 20, "a page is all but empty"
    assert sum(page.count(b" Do\n") for page in pages) >= pictures
    if tab.query_selector(".gauge"):
        track = b".9255 .9373 .949 rg"  # only backgrounds have this colour
        assert any(track in page for page in pages), "backgrounds are printed"
    if tab.query_selector("details"):
        assert (
            tab.evaluate("getComputedStyle(document.querySelector('details'), '::details-content').contentVisibility")
            == "visible"
        )
    tab.close()


def printed(pdf: bytes) -> list[bytes]:
    """What each page of a PDF of Chromium's draws, as PDF operators."""
    objects = dict(re.findall(rb"\n(\d+) 0 obj\n(.*?)\nendobj", pdf, re.DOTALL))
    pages = [each for each in objects.values() if b"/Type /Page\n" in each]
    streams = [objects[re.search(rb"/Contents (\d+) 0 R", page)[1]] for page in pages]  # type: ignore[index]
    return [zlib.decompress(stream.partition(b"stream\n")[2].removesuffix(b"\nendstream")) for stream in streams]


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
