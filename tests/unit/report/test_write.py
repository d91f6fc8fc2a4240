"""The written report: complete, escaped, linked, and readable where data are missing."""

import re
import subprocess
import tomllib
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from prsmed.errors import DataError
from prsmed.report import CasePicture, write_report
from prsmed.report.page import Plot, number
from prsmed.report.sections import build_page
from prsmed.report.write import html_of, markdown_of
from prsmed.types import NOT_A_MEDICAL_DEVICE
from tests.unit.report.evaluations import made_up_content, made_up_pictures, made_up_rows

ROWS = made_up_rows(60)
LENGTHS = ("short", "long")
CONTENT = made_up_content(ROWS)
PLOTS = {name: Plot(f"plots/{name}.png", name, name) for name in ("dice", "confusion", "reliability")}
BLOCKS = [name for name in CONTENT if name != "schema_version"]
EVIL = '<script>alert("1")</script> | [x](javascript:alert) `a`\n\n# b <img src=x onerror=y>'


class Tags(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def every(self, name: str) -> list[dict[str, Any]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def _texts(content: dict[str, Any], pictures=()) -> tuple[Tags, str]:
    """Both forms of the page, without the time of drawing."""
    page = build_page(content, PLOTS, pictures)
    return Tags(html_of(page)), markdown_of(page)


def test_the_files_and_what_they_link_to(tmp_path):
    written = write_report(tmp_path, CONTENT, ROWS, made_up_pictures(tmp_path, ROWS))
    names = [path.relative_to(tmp_path).as_posix() for path in written]
    assert names == ["report.html", "report.md", "plots/dice.png", "plots/confusion.png", "plots/reliability.png"]
    html, markdown = Tags(written[0].read_text("utf-8")), written[1].read_text("utf-8")
    linked = [attributes["src"] for attributes in html.every("img")]
    assert len(linked) == 3 + 9
    assert re.findall(r"\]\(<([^>]+)>\)", markdown) == linked
    assert all((tmp_path / path).is_file() for path in linked)
    anchors = {attributes["id"] for _, attributes in html.tags if "id" in attributes}
    assert {attributes["href"].removeprefix("#") for attributes in html.every("a")} <= anchors


def test_the_page_stands_alone_and_can_be_read_aloud(tmp_path):
    html, markdown = _texts(CONTENT, made_up_pictures(tmp_path, ROWS))
    assert not html.every("script") and not html.every("link")
    assert all(attributes["alt"] for attributes in html.every("img"))
    assert len(html.every("caption")) == len(html.every("table")) > 10
    assert all(attributes["scope"] in ("col", "row") for attributes in html.every("th"))
    for text in (html.text, markdown):
        assert NOT_A_MEDICAL_DEVICE in text[: text.index("Macro lesion Dice")]
        assert CONTENT["data_fingerprint"] in text


def _marked(value: Any, marks: list[str]) -> Any:
    """The same content with another number in each place."""
    if isinstance(value, dict):
        kept = ("schema_version", "settings")  # the second is told in words
        return {key: part if key in kept else _marked(part, marks) for key, part in value.items()}
    if isinstance(value, list):
        return [_marked(part, marks) for part in value]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    mark = 20000 + len(marks) if isinstance(value, int) else 1 + len(marks) / 1000
    marks.append(number(mark))
    return mark


def test_every_number_is_in_both_files():
    parts = ("overall", "lesions", "organs", "modalities", "negatives")
    rows = [row for row in ROWS if row.modality in ("ct", "dermoscopy")]
    content = made_up_content(rows)
    content["baselines"] = {"oracle": {part: content["baselines"]["oracle"][part] for part in parts}}
    marks: list[str] = []
    content = _marked(content, marks)
    html, markdown = _texts(content)
    assert len(marks) == len(set(marks)) > 1000
    for text in (html.text, markdown):
        assert set(marks) <= set(re.findall(r"\d+(?:\.\d+)?", text))


def test_own_questions_have_their_section():
    rows = [replace(row, query_length=LENGTHS[row.index % 2], decoder_box_iou=0.123 + row.index / 1e4) for row in ROWS]
    content = made_up_content(rows)
    markdown = _texts(content)[1]
    section = markdown.partition("Scores by kind and length of question")[2].partition("\n## ")[0]
    for kind in ("attribute/short", "location/long"):
        block = content["queries"][kind]
        assert kind.replace("/", ", ") in section
        assert f"{block['decoder_box_iou']:.3f} [" in section and f"{block['ciou']:.3f}" in section
    assert "Scores by kind and length" not in _texts(CONTENT)[1]


def test_without_a_zone_to_name_there_is_no_section_of_positions():
    assert "\n## Position\n" in _texts(CONTENT)[1]
    unjudged = {**CONTENT["position"], "overall": {**CONTENT["position"]["overall"], "n": 0}}
    assert "\n## Position\n" not in _texts({**CONTENT, "position": unjudged})[1]


def test_the_settings_are_told_in_words():
    for line in (
        "NSD tolerance: 2 mm where the size of a pixel is known, else 3 px",
        "Thresholds: mask 0.5, presence 0.25",
        "Zone rule: posmed",
        "Intervals: 95%, 100 draws of patients",
    ):
        assert f"\n- {line}\n" in _texts(CONTENT)[1]


def test_numbers_carry_their_interval():
    block = CONTENT["modalities"]["mri"]["lesions"]
    low, high = (f"{end:.3f}" for end in block["intervals"]["dice"])
    html, markdown = _texts(CONTENT)
    assert f"{block['dice']:.3f} [{low}, {high}]" in markdown
    assert f"{block['dice']:.3f} [{low}, {high}]" in " ".join(html.text.split())


def test_untrusted_texts_stay_texts():
    content = made_up_content(ROWS, model=EVIL)
    content["targets"] = {EVIL: content["targets"]["mri/brain tumour"]}
    content["position"]["constant_label_sets"] = [EVIL]
    content["gates"] = {EVIL: {**CONTENT["gates"]["blank_image"], "meaning": EVIL, "details": {EVIL: EVIL}}}
    html, markdown = _texts(content, [CasePicture("pictures/a.png", EVIL, "best", "mri", 0.5)])
    assert not html.every("script")
    assert len(html.every("img")) == 3 + 1
    assert html.text.count('<script>alert("1")</script>') > 8
    assert "<script" not in markdown and "<img" not in markdown
    assert not re.search(r"(?<!\\)\]\(javascript", markdown)
    assert not re.search(r"^# b", markdown, re.MULTILINE)
    for table in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("gone", ["missing", "none"])
def test_without_a_block_the_rest_is_there(name, gone):
    content = {key: part for key, part in CONTENT.items() if key != name}
    if gone == "none":
        content[name] = None
    html, markdown = _texts(content)
    for text in (html.text, markdown):
        assert NOT_A_MEDICAL_DEVICE in text
        assert "How to read this" in text


def test_an_empty_evaluation(tmp_path):
    html, markdown = (path.read_text("utf-8") for path in write_report(tmp_path / "new", {}, [], []))
    assert "<h1>Evaluation of model</h1>" in html and markdown.startswith("# Evaluation of model\n")
    assert "<img" not in html and not (tmp_path / "new" / "plots").exists()
    assert "None" not in markdown and "nan" not in markdown


def test_what_was_not_measured_is_a_dash_not_zero():
    content = {**CONTENT, "overall": {**CONTENT["overall"], "zone_accuracy": None, "zone_n": 0}}
    _, markdown = _texts(content)
    assert "| Zone accuracy | \N{EN DASH} |  | n = 0 images with one finding |" in markdown


def test_gates_say_their_verdict_in_words():
    html, markdown = _texts(CONTENT)
    assert "| Gates passed | 1 of 3 |  | 1 not measured |" in markdown
    assert "| flip consistency | pass | 0.875 | ≥ 0.700 | 24 |" in markdown
    assert "| blank image | fail | 0.417 | ≤ 0.100 | 12 |" in markdown
    assert "| absent target | not measured | \N{EN DASH} | ≥ 0.800 | 0 |" in markdown
    assert [cell["class"] for cell in html.every("td") if cell["class"] in ("pass", "fail", "open")] == [
        "pass",
        "fail",
        "open",
    ]


def test_the_printed_numbers_come_with_their_caveat():
    """Values of the paper's results table and of its later project page, in per cent there."""
    _, markdown = _texts(CONTENT)
    assert "cannot be compared row by row" in markdown
    ultrasound = next(line for line in markdown.splitlines() if "| breast |" in line)
    assert ultrasound.endswith("| breast | 113 | 0.817 | 0.729 | 0.929 |")


def test_a_picture_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="write the pictures before the report"):
        write_report(tmp_path, CONTENT, ROWS, [CasePicture("pictures/gone.png", "", "best", "ct", 0.5)])


def test_templates_are_packaged(repository):
    """The wheel takes everything of prsmed/ that git does not ignore."""
    wheel = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]
    assert "prsmed" in wheel["wheel"]["only-include"]
    folder = repository / "prsmed" / "report"
    data = [str(path) for path in folder.iterdir() if path.suffix in (".j2", ".css", ".json")]
    assert len(data) == 5
    ignored = subprocess.run(["git", "-C", str(repository), "check-ignore", *data], capture_output=True, check=False)
    assert ignored.returncode == 1, ignored
