"""Three forms of one report: a terminal's lines, JSON of a fixed schema, a page that loads nothing."""

import base64
import json
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from hfaudio.data.datasets import RowCheck
from hfaudio.data.doctor import Report, split_facts
from hfaudio.data.doctor_audio import SHAPE_SIZE, Clip
from hfaudio.data.doctor_checks import Finding
from hfaudio.data.doctor_measures import Example, SplitMeasures
from hfaudio.data.doctor_report import WIDTH, table, to_html, to_json, to_text

CLIP = Clip("flac", 16_000, 1, 2.0, 0.1, 0.1, -20.0, 32_000, 0, 1, 0.5, bytes(SHAPE_SIZE))


@pytest.fixture(scope="module")
def report() -> Report:
    splits = {}
    for name in ("train", "validation"):
        split = SplitMeasures(name, RowCheck())
        for number in range(20):
            clip = replace(CLIP, seconds=1 + number / 5, fingerprint=number)
            split.add({"id": f"{name}-{number}", "text": f"<b>word & {number % 15}", "speaker": "x"}, clip)
        splits[name] = split_facts(split)
    long = "a rule that is explained in more words than fit in one line of a terminal, even one of a hundred columns"
    examples = tuple(Example("train", f"id-{number}", "<script>alert('x')</script>") for number in range(10))
    findings = (
        Finding("unreadable", "fine", "none", "a rule", "a remedy"),
        Finding("copies_across", "fix", "5 <i>of</i> 20", long, "a remedy", examples),
        Finding("clipping", "look", "2 of 20", "a rule", "a remedy", examples[:1], accepted=True),
    )
    return Report("a <dataset>", {"normalizer": "basic", "max_rows": None}, splits, findings)


def test_the_terminal_has_its_width_and_the_worst_comes_first(report: Report) -> None:
    lines = to_text(report).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert lines[0] == "a <dataset>: something must be fixed before training"
    fix, look, fine = (
        next(i for i, line in enumerate(lines) if line.startswith(word)) for word in ("fix", "look", "fine")
    )
    assert fix < look < fine
    assert lines[look] == "look  clipping (accepted): 2 of 20"
    assert lines[fine] == "fine  unreadable"
    assert sum("id-" in line for line in lines) == 4  # three of ten, and the one of "clipping"


def test_many_splits_go_on_below() -> None:
    rows = [["", *(f"split {number} {'x' * 20}" for number in range(7))], ["rows", *"1234567"]]
    lines = table(rows)
    assert max(map(len, lines)) <= WIDTH
    assert sum(line.count("split") for line in lines) == 7
    assert [line for line in lines if line.startswith("rows")][-1].split() == ["rows", "7"]


def test_json_has_the_keys_of_schema_1(report: Report) -> None:
    read = json.loads(to_json(report))
    assert read == report.as_dict() | {"findings": [asdict_of(finding) for finding in report.findings]}
    assert list(read) == ["schema", "verdict", "dataset", "settings", "splits", "findings"]
    assert (read["schema"], read["verdict"]) == (1, "fix")
    assert set(read["findings"][0]) == {"name", "severity", "value", "rule", "remedy", "examples", "accepted"}
    assert set(read["findings"][1]["examples"][0]) == {"split", "id", "detail"}
    assert list(read["splits"]["train"]) == [
        "rows",
        "usable_rows",
        "skipped",
        "hours",
        "seconds",
        "seconds_histogram",
        "characters_per_second",
        "characters_per_second_histogram",
        "silence",
        "clipping",
        "sample_rates",
        "channels",
        "encodings",
        "speakers",
        "different_transcripts",
        "most_frequent_transcripts",
        "alphabet",
    ]
    most = read["splits"]["train"]["most_frequent_transcripts"]
    assert sorted(row["text"] for row in most) == [f"word {number}" for number in range(5)]  # of 20 rows with 15 texts
    assert {row["rows"] for row in most} == {2}


def asdict_of(finding: Finding) -> dict:
    return json.loads(json.dumps(vars(finding) | {"examples": [vars(example) for example in finding.examples]}))


class Page(HTMLParser):
    """Open tags, references to elsewhere, pictures and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_loads_nothing(report: Report) -> None:
    html = to_html(report)
    page = Page(html)
    assert page.open == []
    assert not page.tags & {"script", "link", "iframe", "b>word"}
    assert "http:" not in html and "https:" not in html and "url(" not in html
    assert len(page.addresses) == 2
    for address in page.addresses:
        head, _, content = address.partition(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(content).startswith(b"\x89PNG")


def test_the_page_says_all_of_every_finding(report: Report) -> None:
    text = Page(to_html(report)).text
    for finding in report.findings:
        for part in (finding.name, finding.value, finding.rule, finding.remedy, *(e.id for e in finding.examples)):
            assert part in text
    assert "<script>alert('x')</script>" in text  # as text


def test_a_report_on_nothing_readable_can_be_written() -> None:
    split = SplitMeasures("test", RowCheck())
    split.add({"id": "1", "text": None}, "corrupt")
    empty = Report("d", {}, {"test": split_facts(split)}, ())
    assert json.loads(to_json(empty))["splits"]["test"]["seconds"] is None
    assert "corrupt" not in to_text(empty)
    assert Page(to_html(empty)).open == []


def test_numbers_are_plain_json(report: Report) -> None:
    assert not any(isinstance(value, np.generic) for value in report.splits["train"].values())
