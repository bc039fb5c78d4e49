"""Classes with names, many classes, images of any shape: in every form of the report."""

from __future__ import annotations

import io
import re
import string
from base64 import b64decode
from html import unescape

import numpy as np
import pytest
import yaml
from hypothesis import example as case
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tasks.gate.comparison import compare
from tasks.report import ci, figures, html, markdown, version_comparison
from tasks.report.changes import changes
from tasks.report.facts import Document, manifest_facts
from tasks.report.formatting import changed_parts, changes_sentence, confusion_rows, listed_classes
from tasks.report.model_card import model_card
from tasks.report.version_comparison import Pair
from tests.tasks.report.examples import Example, drawn_once, own, predicted, rendered, with_champion
from tests.tasks.report.test_report import Page, words_of

ANIMALS = ("alpaca", "badger", "crane")
LETTERS = tuple(string.ascii_uppercase)
MANY = tuple(f"species {number}" for number in range(300))

# What Markdown, HTML, YAML, XML, matplotlib or a terminal could take for something else, and what no font has.
HOSTILE = (
    "</td><script>alert(1)</script>",
    "a | b `c` **d** [e](javascript:1)",
    "$\\frac{1}$ --- : #",
    "数字 \U0001fae0",
)


def pair(sample: Example) -> Pair:
    recorded = manifest_facts(sample.facts)
    return Pair("letters", "version 3", "version 4", recorded, recorded, sample.facts.comparison)


def forms(sample: Example) -> dict[str, str]:
    """Each form in which somebody reads the classes, as text."""
    report, document = sample.render(), sample.document
    return {
        "report.html": words_of(Page(report.html).text),
        "report.md": report.markdown.decode(),
        "run page": report.run_page.decode(),
        "model card": model_card(document).decode(),
        "comment.md": ci.comment(document, "", ""),
        "compare": version_comparison.markdown(pair(sample)),
        "compare --html": words_of(Page(version_comparison.html(pair(sample), None)).text),
    }


def test_every_form_names_the_classes() -> None:
    sample = own(ANIMALS, champion=True)
    for name, text in forms(sample).items():
        assert all(animal in text for animal in ANIMALS), name
    page = sample.page()
    assert re.search(r'title="test image \d+, badger taken for (alpaca|crane)"', page)
    assert re.search(r'title="test image \d+, crane; the champion: crane, [\d.> ]+ %; the candidate: ', page)
    assert '<th scope="col" title="badger">' in page
    assert "20 images of class alpaca" in page
    assert "Class crane is recognised worst" in forms(sample)["model card"]


def test_a_report_of_an_earlier_version_has_the_numbers_of_the_classes() -> None:
    sample = with_champion()
    unnamed = sample.with_candidate(prepared=sample.facts.candidate.prepared.model_copy(update={"classes": ()}))
    old, new = unnamed.render(), sample.render()
    assert (old.html, old.markdown, old.run_page) == (new.html, new.markdown, new.run_page)
    assert "shape" not in manifest_facts(unnamed.facts)["data"], "it did not record the names either"
    assert model_card(unnamed.document) == model_card(sample.document)


@settings(max_examples=4, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=3, max_size=9),
        min_size=3,
        max_size=8,  # their number tells nothing here, and is what drawing them takes
    )
)
@case(list(HOSTILE))
def test_whatever_a_name_holds_it_stays_a_text(texts: list[str]) -> None:
    names = tuple(dict.fromkeys(text.strip() or "blank" for text in texts))
    if len(names) < 3 or max(map(len, names)) < 3:
        return
    sample = own(names, champion=True)
    harmless = own(tuple(f"{number:0{len(name)}}" for number, name in enumerate(names)), champion=True)

    def tags(one: Example) -> list[str]:
        document = one.document.model_copy(update={"mistakes": one.document.mistakes[:1]})
        return [tag for tag, _ in Page(html.render(document, one.images)).elements if tag not in {"path", "use"}]

    with drawn_once():
        assert tags(sample) == tags(harmless)
    text, card = markdown.markdown(sample.document), model_card(sample.document).decode()
    for written in (text, card, version_comparison.markdown(pair(sample))):
        assert "<script" not in written.replace("\\<script", "")
        for table in re.findall(r"(?:^\|.*\n?)+", written, re.MULTILINE):
            assert len({re.sub(r"\\.", "", line).count("|") for line in table.splitlines()}) == 1
    assert yaml.safe_load(card.split("---\n")[1])["pipeline_tag"] == "image-classification"
    assert all(png.startswith(b"\x89PNG") for png in figures.pictures(sample.document).values())


def test_emphasis_and_references_in_a_name_are_escaped_and_an_underscore_inside_is_not() -> None:
    sample = own(("__init__", "snake_case", "&lt; &", "~~x~~"))
    text = markdown.markdown(sample.document)
    for escaped in ("\\_\\_init\\_\\_", "snake_case", "\\&lt; &", "\\~\\~x\\~\\~"):
        assert f"| {escaped} " in text


def test_thirty_classes_have_a_matrix_and_of_more_the_frequent_confusions_and_the_weakest_are_listed() -> None:
    few, many = own(MANY[:30], each=9).render(), own(MANY, each=9)
    assert 'class="confusion long large"' in few.html.decode()
    assert "Confusion matrix" in few.run_page.decode()
    assert "Most frequent confusions" not in few.markdown.decode()
    report, document = many.render(), many.document
    page = Page(report.html)
    assert not page.classed("confusion")
    for text in (words_of(page.text), report.markdown.decode(), report.run_page.decode()):
        assert "Most frequent confusions" in text
        assert "The 30 weakest of 300; all are in report.json." in text
        assert "Confusion matrix" not in text
    assert "The 30 weakest of 300" in model_card(document).decode()
    listed = [score.recall for score in listed_classes(document)]
    assert listed == sorted(score.recall for score in document.evaluation.classes)[:30]
    assert len(document.evaluation.classes) == 300
    assert len(report.html) < 400_000


def test_the_most_frequent_confusion_comes_first() -> None:
    labels = np.zeros(400, np.uint16)
    labels[:300] = np.arange(300)
    guesses = labels.copy()
    guesses[300:310], guesses[310:313], guesses[313:316] = 299, 256, 7
    document = predicted(guesses, labels, classes=MANY).document
    assert [tuple(row.values()) for row in confusion_rows(document)] == [
        ("species 0", "species 299", "10"),
        ("species 0", "species 7", "3"),
        ("species 0", "species 256", "3"),
    ]
    assert "All 3 pairs of classes." in markdown.markdown(document)
    perfect = predicted(labels, labels, classes=MANY).document
    assert "## Most frequent confusions\n\nThere are none." in markdown.markdown(perfect)


def test_of_many_classes_those_that_lost_most_are_compared() -> None:
    labels = np.arange(600, dtype=np.uint16) % 300
    worse = labels.copy()
    worse[[299, 599, 298]] = 0
    good, bad = (predicted(each, labels, classes=MANY).probabilities for each in (labels, worse))
    comparison = compare(7, labels, good, bad)
    assert (comparison.lost.count, comparison.won.count) == (3, 0), "labels above 255 are compared too"
    section = markdown.comparison_section(comparison, MANY)
    rows = section.partition("The 30 of 300 classes that lost most.")[2].strip().splitlines()
    assert [line.split("|")[1].strip() for line in rows[2:5]] == ["species 299", "species 298", "species 0"]
    assert len(rows) == 32


@pytest.mark.parametrize(("names", "bars"), [(LETTERS, 26), (MANY[:30], 30), (MANY[:50], 50), (MANY, 100)])
def test_bars_too_narrow_for_texts_are_told_in_a_sentence(names: tuple[str, ...], bars: int) -> None:
    page = own(names, each=9).page()
    (first, _) = re.findall(r'<div class="columns many"[^>]*>(.*?)</div>\n', page)
    assert first.count("<i ") == bars
    assert f"{len(names):,} classes" in page
    assert f"from 9 images of class {names[0]} to 3 images of class {names[6]}" in page


@pytest.mark.parametrize(
    ("shape", "size"),
    [((16, 16), (16, 16)), ((20, 60), (60, 20)), ((256, 256, 3), (64, 64)), ((512, 128, 3), (16, 64))],
)
def test_a_tile_has_the_form_of_its_image_and_at_most_64_pixels_a_side(
    shape: tuple[int, ...], size: tuple[int, int]
) -> None:
    sample = own(ANIMALS, shape)
    report = sample.page()
    tiles = re.findall(r'<img src="data:image/png;base64,([^"]*)" width="(\d+)" height="(\d+)"', report)
    assert len(tiles) == len(sample.document.mistakes)
    for data, width, height in tiles:
        picture = Image.open(io.BytesIO(b64decode(data)))
        assert picture.size == size == (int(width), int(height))
        assert picture.mode == ("RGB" if len(shape) == 3 else "L")
    if shape == (16, 16):
        first = sample.document.mistakes[0].image
        shown = np.asarray(Image.open(io.BytesIO(b64decode(tiles[0][0]))))
        np.testing.assert_array_equal(shown, sample.images[first].reshape(shape))


def test_training_images_that_were_left_out_are_told_where_the_data_are() -> None:
    for name, text in forms(own(ANIMALS, champion=True)).items():
        told = "12 training images stood in the test split too and were left out." in text
        assert told == (name in {"report.html", "report.md", "run page", "model card"}), name
    assert b"stood in the test split" not in rendered().html + rendered().markdown


def test_classes_and_shape_are_facts_and_what_was_not_recorded_is_no_change() -> None:
    sample = own(LETTERS)
    new = manifest_facts(sample.facts)
    assert (new["data"]["classes"], new["data"]["shape"]) == (list(LETTERS), [32, 32])
    before = new | {"data": {name: value for name, value in new["data"].items() if name not in {"classes", "shape"}}}
    result = changes(3, before, new)
    assert (result.differences, result.unrecorded) == ((), ("Images", "Classes"))
    assert changes_sentence(result) == "Nothing changed of what both have recorded."
    other = new | {"data": new["data"] | {"classes": list(MANY) + list(LETTERS[1:]), "shape": [28, 28]}}
    told = dict(changed_parts(changes(3, new, other)))
    assert told["Images"] == "shape 32 × 32 → 28 × 28"
    assert told["Classes"].startswith("A is gone, species 0 is new, species 1 is new, ")
    assert told["Classes"].endswith(", and 271 more")
    rows = version_comparison.sections(Pair("letters", "v1", "v2", new, other))["Classes"]
    assert rows[:2] == [{"": "A", "v1": "has it", "v2": "–"}, {"": "species 0", "v1": "–", "v2": "has it"}]
    assert (len(rows), rows[-1][""]) == (31, "and 271 more")


@pytest.mark.parametrize("classes", [None, 7, "AB", [1, 2], ["only one"], {"a": "b"}])
def test_names_that_another_writer_recorded_otherwise_are_not_believed(classes: object) -> None:
    sample = own(ANIMALS, champion=True)
    recorded = manifest_facts(sample.facts)
    recorded["data"] = recorded["data"] | {"classes": classes}
    text = version_comparison.markdown(
        Pair("letters", "version 3", "version 4", recorded, recorded, sample.facts.comparison)
    )
    assert re.search(r"^\| 2 +\| ", text, re.MULTILINE)


def test_a_card_of_other_data_says_what_they_are_and_claims_no_licence() -> None:
    sample = own(MANY, (32, 48, 3), each=9)
    _, header, text = model_card(sample.document).decode().split("---\n", 2)
    fields = yaml.safe_load(header)
    assert not {"license", "datasets"} & fields.keys()
    assert fields["tags"] == ["keras", "image-classification", "letters"]
    assert "# letters: a classifier of 300 classes\n" in text
    assert "Dense(512, relu) → Dense(300, softmax) on 4608 values, 407,050 parameters." in text
    assert "species 29 and 270 more. Trained on" in text
    assert "32 × 48 pixels in colour (RGB)" in text
    assert "digit" not in text
    assert "mnist" not in text.replace("https://mirror.example/mnist/", "")
    own_network = sample.facts.candidate.recipe.model_copy(update={"network": "nets.small:build"})
    text = model_card(sample.with_candidate(recipe=own_network).document).decode()
    assert "The network of `nets.small:build`, 407,050 parameters." in text
    assert "- **Network**: nets.small:build" in text


@pytest.mark.parametrize("inputs", [(28, 28, 3), (28, 28, 3, 1), (28 * 28 * 3,)])
def test_the_code_on_a_card_gives_the_network_what_it_takes(
    inputs: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Model:
        input_shape = (None, *inputs)

        def predict(self, images: np.ndarray, verbose: int) -> np.ndarray:
            assert images.shape == (1, *inputs)
            return np.zeros((1, 3), np.float32)

    text = model_card(own(ANIMALS, (28, 28, 3)).document).decode()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.setattr("tasks.learning.model_file.load", lambda data: Model())
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda path: b"")
    exec(unescape(code), {})


def test_the_same_names_give_the_same_bytes_read_back() -> None:
    report = own(HOSTILE, champion=True).render()
    document = Document.model_validate_json(report.data)
    assert markdown.markdown(document).encode() == report.markdown
    assert document.prepared.classes == HOSTILE
