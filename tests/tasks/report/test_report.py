from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.gate.comparison import compare
from tasks.report import ci, html
from tasks.report.facts import MISTAKES, Document, Facts
from tasks.report.figures import calibration_svgs, curve_svgs
from tasks.report.model_card import model_card
from tests.tasks.report.examples import CLASSES, Example, drawn_once, example, predicted, rendered, with_champion

VOID = {"meta", "link", "img", "br"}
NOTHING = np.zeros((0, 784), np.uint8)


class Page(HTMLParser):
    """A page's elements, the text that it shows, every address in it; refuses elements not closed in order."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html.decode())
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] not in (["style"], ["title"]):
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def classed(self, name: str) -> int:
        return sum(name in (attributes.get("class") or "").split() for _, attributes in self.elements)

    def addresses(self) -> set[str]:
        return {
            value or ""
            for _, attributes in self.elements
            for name, value in attributes.items()
            if name in {"src", "href", "xlink:href", "srcset", "action", "data", "poster"}
        }


def words_of(text: str) -> str:
    return " ".join(text.split())


def with_sentence(document: Document, sentence: str) -> Document:
    checks = tuple(check.model_copy(update={"sentence": sentence}) for check in document.decision.checks)
    return document.model_copy(update={"decision": document.decision.model_copy(update={"checks": checks})})


def without_pictures(sample: Example) -> Document:
    return sample.document.model_copy(update={"mistakes": ()})


@pytest.fixture(scope="module")
def usual() -> Example:
    return example()


@pytest.fixture(scope="module")
def harmless(usual: Example) -> Page:
    return Page(html.render(without_pictures(usual), NOTHING))


def test_the_same_input_gives_the_same_bytes(usual: Example) -> None:
    assert usual.render() == rendered()


def test_equal_facts_read_back_from_json_give_the_same_bytes(usual: Example) -> None:
    """Dictionaries may come back in another order, as they do from a cached result."""
    again = Facts.model_validate_json(json.dumps(usual.facts.model_dump(mode="json"), sort_keys=True))
    assert usual._replace(facts=again).render() == rendered()


def test_another_process_gives_the_same_bytes() -> None:
    script = (
        "import hashlib\nfrom tests.tasks.report.examples import example\n"
        "print(hashlib.sha256(b''.join(example(validation=True).render())).hexdigest())"
    )
    root = Path(html.__file__).parents[2]

    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    output = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, cwd=root
    ).stdout
    assert output.strip() == hashlib.sha256(b"".join(rendered(validation=True))).hexdigest()


def test_the_page_asks_for_nothing_outside_itself() -> None:
    page = Page(rendered().html)
    assert all(address.startswith(("data:", "#")) for address in page.addresses())
    assert not page.named("script")
    policy = next(meta["content"] for meta in page.named("meta") if meta.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert b"@import" not in rendered().html


@pytest.mark.parametrize("validation", [False, True])
def test_ids_are_unique_and_every_reference_has_its_target(validation: bool) -> None:
    report = rendered(validation=validation).html.decode()
    ids = [attributes["id"] for _, attributes in Page(report.encode()).elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    references = {address[1:] for address in Page(report.encode()).addresses() if address.startswith("#")}
    references |= {part.split(")")[0] for part in report.split("url(#")[1:]}
    assert references
    assert references <= set(ids)


def test_the_verdict_comes_first() -> None:
    text = Page(rendered().html).text
    places = [
        text.index(part) for part in ("Passed the gate", "90.00 %", "Gate\n", "Learning curves", "Where it comes from")
    ]
    assert places == sorted(places)


def test_a_rejected_model_is_called_so_everywhere() -> None:
    report = rendered(wrong=200)
    assert "Rejected by the gate" in Page(report.html).text
    assert "# mnist: Rejected by the gate: accuracy, accuracy lower bound" in report.markdown.decode()
    assert json.loads(report.data)["decision"]["verdict"] == "reject"
    for form in (report.html, report.markdown, report.run_page):
        assert b"Accuracy is 0.5000 and needs 0.8500; accuracy lower bound is 0.4590 and needs 0.8500; " in form
        assert b"Passed the gate" not in form


def test_every_row_of_the_gate_is_on_every_form(usual: Example) -> None:
    report = rendered()
    for check in usual.facts.decision.checks:
        for form in (Page(report.html).text, report.markdown.decode(), report.run_page.decode()):
            assert check.sentence in form
            assert check.name in form


@settings(max_examples=10, deadline=None)
@given(st.text(min_size=1))
@hypothesis.example("</td><script>alert(1)</script>")
@hypothesis.example('"><img src=x onerror=alert(1)>&amp;&lt;')
def test_hostile_text_stays_text(usual: Example, harmless: Page, hostile: str) -> None:
    with drawn_once():
        report = html.render(with_sentence(without_pictures(usual), hostile), NOTHING)
    # The page has the elements that it always has, and the sentence is among its text.
    assert Page(report).elements == harmless.elements
    assert words_of(hostile.replace("\0", "\ufffd")) in words_of(Page(report).text.replace("\0", "\ufffd"))


def test_both_curves_are_drawn(usual: Example) -> None:
    drawn = curve_svgs(usual.facts.candidate.trained.history)
    # In each, the line; its marks are one symbol, used at each epoch.
    assert [svg.count("fill: none; stroke: var(--accent)") for svg in drawn.values()] == [1, 1]
    assert all(svg in rendered().html.decode() for svg in drawn.values())


def test_calibration_is_told_in_every_form_and_drawn(usual: Example) -> None:
    report, result = rendered(), usual.document.calibration
    for form in (Page(report.html).text, report.markdown.decode(), report.run_page.decode()):
        assert f"Expected calibration error {result.error:.4f}" in form
        assert "15 equally wide bins" in form
    drawn = calibration_svgs(result)
    assert all(svg in report.html.decode() for svg in drawn.values())
    # The curve and an interval for each bin; a column for each bin.
    assert drawn["reliability"].count("fill: none; stroke: var(--accent)") == 1 + len(result.bins)
    assert drawn["confidence"].count("fill: var(--accent)") == len(result.bins)


def test_the_champion_is_met_only_where_there_is_one() -> None:
    report = with_champion(wrong=40, champion_wrong=10).render()
    for form in (Page(report.html).text, report.markdown.decode(), report.run_page.decode()):
        assert "Compared with the champion, version 7" in form
        assert "Accuracy −0.0750, 95 % interval −0.1" in form
        assert "won: only the candidate is right" in form
    assert "The 20 surest of 40." in report.html.decode()
    assert "All 10." in report.html.decode()
    assert len(json.loads(report.data)["comparison"]["lost"]["images"]) == 20
    assert b"Compared" not in rendered().html + rendered().markdown


def test_a_champion_that_says_the_same_shows_no_pictures() -> None:
    sample = example()
    same = compare(1, sample.labels, sample.probabilities, sample.probabilities)
    page = sample._replace(facts=sample.facts.model_copy(update={"comparison": same})).render().html.decode()
    assert "Two equally good models would differ this much in 100.00 % of cases" in page
    assert "what the candidate takes it for" not in page


@pytest.mark.parametrize("validation", [False, True])
def test_validation_is_drawn_and_told_where_there_is_any(validation: bool) -> None:
    report = rendered(validation=validation)
    assert (b"stroke: var(--second)" in report.html) is validation
    assert ("validation 0.9333" in Page(report.html).text) is validation
    assert (b"validation accuracy" in report.markdown) is validation
    assert (b"| validation |" in report.markdown) is validation


@pytest.mark.parametrize("epochs", [1, 2, 100])
def test_every_epoch_is_told(epochs: int) -> None:
    report = rendered(epochs=epochs)
    assert len(json.loads(report.data)["trained"]["history"]) == epochs
    assert f"| {epochs} ".encode() in report.markdown
    assert f"{epochs} epoch{'s' if epochs > 1 else ''}, batch".encode() in report.html
    assert report.html.count(b"1.5 s</td>") == epochs


def test_one_epoch_is_told_in_words_and_no_chart_has_one_dot() -> None:
    report = rendered(epochs=1, validation=True)
    text = words_of(Page(report.html).text)
    assert "1 epoch: loss 1.0000, accuracy 0.9000, validation loss 1.5000, validation accuracy 0.8000" in text
    assert "Learning curves" not in text + report.run_page.decode()
    certain = example()
    certain = certain._replace(probabilities=np.where(certain.probabilities > 0.4, 0.95, 0.005).astype(np.float32))
    page = Page(certain.render().html)
    assert "All the images are in one, 0.933 to 1.000: mean probability 0.9500" in page.text
    assert len(page.named("svg")) == 2, "the two learning curves"


def test_one_of_something_is_no_plural() -> None:
    one = re.compile(r"(?<![\d.,/])1 (epochs|images|test images|seeds|mistakes|things|parameters|bins)\b")
    report = predicted(np.array([1], np.uint8), np.array([0], np.uint8), epochs=1).render()
    document = Document.model_validate_json(report.data)
    document = document.model_copy(update={"trained": document.trained.model_copy(update={"parameters": 1})})
    forms = [
        words_of(Page(report.html).text),
        report.html.decode(),
        report.markdown.decode(),
        ci.comment(document, "", ""),
    ]
    for form in (*forms, ci.summary(document, ""), model_card(document).decode(), ci.junit(document).decode()):
        sentences = [check.sentence for check in document.decision.checks]  # the gate's own
        for sentence in sentences:
            form = form.replace(sentence, "")
        assert one.findall(form) == []
    assert "1 train image" in report.html.decode()
    assert "1 of 1 test image is wrong" in model_card(document).decode()


@pytest.mark.parametrize(("wrong", "shown"), [(0, 0), (1, 1), (29, 29), (30, 30), (200, MISTAKES)])
def test_the_surest_mistakes_are_shown(wrong: int, shown: int) -> None:
    report = rendered(wrong=wrong)
    pictures = [image for image in Page(report.html).named("img") if (image["src"] or "").startswith("data:image/png")]
    mistakes = json.loads(report.data)["mistakes"]
    assert len(pictures) == len(mistakes) == shown
    # The example's model grows surer from image to image.
    assert [mistake["image"] for mistake in mistakes] == list(range(wrong - 1, wrong - 1 - shown, -1))
    assert all(mistake["guess"] == (mistake["truth"] + 1) % CLASSES for mistake in mistakes)


def test_a_perfect_model_has_no_mistakes_and_no_weakest_class() -> None:
    page = Page(rendered(wrong=0).html)
    assert "No mistakes" in page.text
    assert "The model got every test image right." in page.text
    assert not page.classed("lowest")


def test_a_model_that_says_one_class_only_is_told_so() -> None:
    labels = np.arange(200, dtype=np.uint8) % CLASSES
    report = predicted(np.full(200, 3, np.uint8), labels).render()
    data = json.loads(report.data)
    assert data["decision"]["verdict"] == "reject"
    assert [row[3] for row in data["evaluation"]["confusion"]] == [20] * CLASSES
    assert Page(report.html).classed("lowest") == CLASSES - 1
    assert all(mistake["guess"] == 3 for mistake in data["mistakes"])


def test_provenance_is_complete_on_the_page_and_in_words() -> None:
    report = rendered()
    for form in (words_of(Page(report.html).text), report.markdown.decode()):
        for part in ("abc123", "seed 0", "a processor", "oneDNN with AVX2", "Python 3.11.7", "a" * 64, "b" * 64):
            assert part in form
        for part in ("Keras 3.15.1, SHA-256", "Test labels, SHA-256", "Model file, SHA-256", "2.2 min"):
            assert part in form


def test_square_images_are_the_same_as_flat_ones(usual: Example) -> None:
    assert usual._replace(images=usual.images.reshape(-1, 28, 28)).render() == rendered()


def test_the_json_holds_all_the_facts(usual: Example) -> None:
    document = Document.model_validate_json(rendered().data)
    assert document == usual.document
    assert len(document.mistakes) == MISTAKES
    facts = dict(usual.facts)
    expected = dict(facts.pop("candidate")) | facts
    assert {name: getattr(document, name) for name in expected} == expected


def test_the_forms_are_small_enough_to_be_kept_and_shown() -> None:
    report = rendered(wrong=200, epochs=100, validation=True)
    assert len(report.html) < 500_000
    assert len(report.run_page) < 200_000


def test_reports_cost_nothing_until_one_is_drawn() -> None:
    heavy = {"matplotlib", "jinja2", "PIL", "prefect", "tensorflow", "sklearn"}
    script = f"import sys, tasks.report, tasks.report.formatting; print(sorted({heavy} & set(sys.modules)))"
    root = Path(html.__file__).parents[2]
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root).stdout
    assert output.strip() == "[]"
