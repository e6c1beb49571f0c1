"""The report: what goes in is checked, what comes out is whole, honest and needs nothing else."""

from __future__ import annotations

import base64
import copy
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from arra.errors import InputError
from arra.report import PARTS, Pictures, check_report, labels, write_report
from arra.report import page as report_page
from arra.report.charts import Series, course, line_chart, ticks
from arra.report.grid import draw_grid
from arra.report.heat import heat_grid, heat_map


def interval(value: float, room: float = 0.03) -> dict[str, float]:
    return {"value": value, "low": value - room, "high": value + room}


def accuracy(value: float) -> dict[str, Any]:
    return {part: interval(value) for part in PARTS}


def arm(value: float) -> dict[str, Any]:
    return {
        "prompt_accuracy": accuracy(value),
        "frechet": {**interval(4.0), "floor": 1.25, "encoder": "a reader", "n": 256},
        "held_out_bits": 2.391,
        "step_seconds": interval(0.181, 0.01),
        "more": {"MS-SSIM": 0.3},
    }


def make_report() -> dict[str, Any]:
    history = [{"step": step, "losses": {"next_token": 5 - step / 50}} for step in range(0, 200, 2)]
    return {
        "seconds": {"codec": 58.0, "train_baseline": 150.0},
        "arms": {"baseline": arm(0.70), "aligned": arm(0.74)},
        "reader_error": accuracy(0.06),
        "versions": {"torch": "2.13.0"},
        "machine": {"cpu": "a processor", "cores": 2},
        "settings": {"codec": {"bits": 10}, "guidance": 2.0},
        "history": {"baseline": history, "aligned": history},
        "prompts": 256,
        "trained": [{"name": "codec", "what": "small", "parameters": 1234567, "steps": 600}],
    }


def make_pictures(n: int = 3, side: int = 8) -> Pictures:
    rng = np.random.default_rng(0)

    def some() -> np.ndarray:
        return rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8)

    return Pictures(
        captions=[f"a red <{index}> & a blue 7" for index in range(n)],
        arms={"baseline": some(), "aligned": some()},
        real=some(),
        right={"aligned": [index % 2 == 0 for index in range(n)]},
        read={"aligned": ["red 3"] * n},
        originals=some(),
        reconstructions=some(),
    )


class Page(HTMLParser):
    """What a page is made of: its tags with attributes, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.text = re.sub(r"[ \n]+", " ", " ".join(self.words))  # no-break spaces stay

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "path", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    assert write_report(folder, make_report(), make_pictures()) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def page(written) -> Page:
    return Page((written / "report.html").read_text(encoding="utf-8"))


def test_the_json_is_the_report(written):
    assert json.loads((written / "report.json").read_text()) == make_report()
    assert sorted(path.name for path in written.iterdir()) == [
        "grid.png",
        "report.html",
        "report.json",
    ]


def test_the_page_is_well_formed_and_needs_nothing_else(page, written):
    assert page.open == []
    text = (written / "report.html").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in text
    assert not page.all("script")
    assert not page.all("link")
    assert not re.search(r"https?://|url\(|@import", text)
    sources = [image["src"] or "" for image in page.all("img")]
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)


def test_the_page_is_accessible(page):
    assert page.all("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in page.all("img"))
    assert all(cell.get("scope") in ("row", "col") for cell in page.all("th"))
    for drawing in page.all("svg"):
        named = drawing.get("role") == "img" and drawing.get("aria-label")
        hidden = drawing.get("aria-hidden") == "true"
        inner = "x" in drawing  # the clipped part of a drawing that has a name itself
        assert named or hidden or inner


def test_every_picture_on_the_page_is_the_one_that_was_given(page):
    given = make_pictures()
    found = []
    for image in page.all("img"):
        assert image["src"] is not None
        data = base64.b64decode(image["src"].split(",")[1])
        found.append((image["alt"], np.asarray(Image.open(io.BytesIO(data)))))
    expected = []
    for index, caption in enumerate(given.captions):
        assert given.real is not None
        expected += [
            (f"real scene: {caption}", given.real[index]),
            (f"drawn without alignment: {caption}", given.arms["baseline"][index]),
            (f"drawn with alignment: {caption}", given.arms["aligned"][index]),
        ]
    for (alt, picture), (wanted_alt, wanted) in zip(found, expected, strict=False):
        assert alt == wanted_alt
        np.testing.assert_array_equal(picture, wanted)
    assert given.reconstructions is not None
    np.testing.assert_array_equal(found[-1][1], given.reconstructions[-1])
    assert len(found) == len(expected) + 2 * len(given.captions)


def test_the_page_says_what_was_measured(page):
    for words in (
        "a red <1> & a blue 7",
        "✓ right",
        "✗ wrong",
        "red 3",
        "70.0\u00a0% (67.0 to 73.0)",
        "Fréchet distance (a reader)",
        "1.25",
        "2.391",
        "0.181 (0.171 to 0.191)",
        "MS-SSIM",
        "codec.bits",
        "1,234,567",
        "2 min 30 s",
        "3 min 28 s",
        "a processor",
        "2.13.0",
    ):
        assert words in page.text, words


def test_prompts_beyond_the_first_are_there_but_folded(tmp_path):
    many = make_pictures(n=40, side=2)
    text = report_page.render_page(make_report(), many)
    assert "16 more prompts" in text
    assert Page(text).text.count("a blue 7") == 40


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ({"value": 0.04, "low": -0.01, "high": 0.09}, "chance explains"),
        ({"value": 0.04, "low": 0.01, "high": 0.09}, "alignment helped"),
        ({"value": -0.04, "low": -0.07, "high": -0.01}, "alignment hurt"),
        ({"value": 0.04, "low": None, "high": None}, "does not say"),
        (None, "chance explains"),
    ],
)
def test_the_headline_says_no_more_than_the_interval(difference, words):
    report = make_report()
    if difference is not None:
        report["differences"] = {"all": difference}
    sentence = report_page.headline(report)
    assert words in sentence
    assert "74\u00a0% of 256 held-out prompts" in sentence
    assert "70\u00a0%" in sentence


def test_without_a_paired_difference_only_separate_intervals_count():
    report = make_report()
    report["arms"]["aligned"]["prompt_accuracy"]["all"] = interval(0.90)
    assert "alignment helped" in report_page.headline(report)
    report["arms"]["aligned"]["prompt_accuracy"]["all"] = interval(0.40)
    assert "alignment hurt" in report_page.headline(report)


def test_what_could_not_be_measured_is_null_and_a_dash(tmp_path):
    report = make_report()
    gap = {"value": math.nan, "low": math.inf, "high": None}
    report["arms"]["baseline"]["frechet"].update(gap)
    for name in ("baseline", "aligned"):
        report["arms"][name]["prompt_accuracy"]["all"] = dict(gap)
    report["history"]["baseline"][3]["losses"]["next_token"] = math.nan
    page = Page(write_report(tmp_path, report, make_pictures()).read_text(encoding="utf-8"))
    values = json.loads((tmp_path / "report.json").read_text())
    assert values["arms"]["baseline"]["frechet"]["value"] is None
    assert "did not measure" in page.text
    assert "nan" not in page.text.lower().split()


def test_a_total_is_no_stage():
    report = make_report()
    report["seconds"]["total"] = 300.0
    text = Page(report_page.render_page(report, make_pictures())).text
    assert "5 min 00 s" in text
    assert "total" not in text
    assert "3 min 28 s" not in text


def test_more_arms_than_two_have_their_columns(tmp_path):
    report = make_report()
    report["arms"]["shuffled"] = {**arm(0.5), "label": "a control"}
    pictures = make_pictures()
    assert labels(report, pictures)["shuffled"] == "a control"
    page = Page(report_page.render_page(report, pictures))
    assert "a control" in page.text
    assert "50.0\u00a0% (47.0 to 53.0)" in page.text


def _paths(value: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, item in value.items():
        found.append((*prefix, key))
        if isinstance(item, dict):
            found += _paths(item, (*prefix, key))
    return found


REQUIRED = [
    path
    for path in _paths(make_report())
    if path[0] in ("arms", "reader_error") and "more" not in path
] + [(key,) for key in ("seconds", "versions", "machine", "settings", "history")]


@pytest.mark.parametrize("path", REQUIRED, ids=".".join)
def test_a_missing_key_is_named(path):
    report = make_report()
    inner = report
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    with pytest.raises(InputError, match=re.escape(".".join(("report", *path)) + ": missing")):
        check_report(report)


@pytest.mark.parametrize("wrong", ["0.7", True, [0.7]])
def test_a_value_of_a_wrong_type_is_named(wrong):
    report = copy.deepcopy(make_report())
    report["arms"]["aligned"]["prompt_accuracy"]["digit"]["value"] = wrong
    with pytest.raises(InputError, match=r"aligned\.prompt_accuracy\.digit\.value"):
        check_report(report)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"real": np.zeros((3, 8, 8, 3), np.float32)}, "real.*float32"),
        ({"real": np.zeros((2, 8, 8, 3), np.uint8)}, "real"),
        ({"arms": {"aligned": np.zeros((3, 8, 8), np.uint8)}}, "aligned"),
        ({"right": {"aligned": [True]}}, "right"),
        ({"originals": None}, "belong together"),
    ],
)
def test_pictures_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, change, message):
    pictures = Pictures(**{**vars(make_pictures()), **change})
    with pytest.raises(InputError, match=message):
        write_report(tmp_path / "run", make_report(), pictures)
    assert not (tmp_path / "run").exists()


def test_the_grid_shows_every_picture_enlarged_by_whole_pixels():
    pictures = make_pictures(n=4, side=8)
    grid = np.asarray(draw_grid(pictures, labels(make_report(), pictures), across=2, most=3))
    scale = 16  # the least that makes eight pixels at least 128
    shown = [pictures.real, pictures.arms["baseline"], pictures.arms["aligned"]]
    for index in range(4):
        for array in shown:
            assert array is not None
            big = array[index].repeat(scale, axis=0).repeat(scale, axis=1)
            corners = np.argwhere((grid == big[0, 0]).all(axis=-1))
            h, w, _ = big.shape
            hit = any(np.array_equal(grid[y : y + h, x : x + w], big) for y, x in corners)
            assert hit == (index < 3)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_inside_and_even(low, length):
    high = low + length
    found = ticks(low, high, 5)
    slack = 1e-6 * (abs(low) + length)
    assert all(low - slack <= value <= high + slack for value in found)
    gaps = np.diff(found)
    if high > low and len(gaps):
        assert np.allclose(gaps, gaps[0], atol=slack)
        leading = gaps[0] / 10 ** math.floor(math.log10(gaps[0]) + 1e-6)
        assert min(abs(leading - nice) for nice in (1, 2, 5, 10)) < 0.05 or slack > 0.01 * gaps[0]
        assert len(found) <= 7


def test_a_chart_draws_points_where_they_belong():
    drawing = line_chart([Series("a", [0, 10], [0.0, 1.0])], "loss", "step")
    (x0, y0), (x1, y1) = (
        tuple(float(number) for number in pair.split())
        for pair in re.findall(r"[ML ]?([\d.]+ [\d.]+)", drawing.split('class="line')[1])[:2]
    )
    assert x0 < x1
    assert y0 > y1, "larger losses are higher up"


def test_a_chart_of_nothing_is_nothing_and_gaps_are_left_out():
    assert line_chart([], "loss", "step") == ""
    assert line_chart([Series("a", [0, 1], [math.nan, math.inf])], "loss", "step") == ""
    with_gap = line_chart([Series("a", [0, 1, 2], [3.0, math.nan, 1.0])], "loss", "step")
    assert with_gap == line_chart([Series("a", [0, 2], [3.0, 1.0])], "loss", "step")
    assert "<circle" in line_chart([Series("a", [5], [2.0])], "loss", "step")


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=200))
def test_smoothing_stays_within_the_values(values):
    smoothed = course(values)
    assert len(smoothed) == len(values)
    assert min(values) - 1e-6 <= min(smoothed)
    assert max(smoothed) <= max(values) + 1e-6
    if len(values) <= 40:
        assert smoothed == values


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.84, "0.8 s"), (42, "42 s"), (59.6, "1 min 00 s"), (185.2, "3 min 05 s"), (None, "–")],
)
def test_durations_are_for_people(seconds, words):
    assert report_page.duration(seconds) == words


# --- squares of one hue ---------------------------------------------------------------------------


def test_a_heat_map_shows_every_value_that_there_is():
    values = np.array([[0.0, 0.5, 1.0], [np.nan, 2.0, -1.0]])
    svg = heat_map(values, ["1", "<2>"], 1.0, 'by "layer"', "place", "layer")
    root = ElementTree.fromstring(svg)
    squares = [node for node in root.iter() if node.get("class") == "heat"]
    shades = [float(node.get("fill-opacity")) for node in squares]
    assert shades == [0.05, 0.525, 1.0, 1.0, 0.05]  # what is above the top or below 0 is cut
    below, above = squares[0], squares[3]
    assert float(below.get("y")) > float(above.get("y"))
    assert root.get("aria-label") == 'by "layer"'


def test_many_columns_are_averaged_side_by_side():
    values = np.arange(128.0)[None]
    values[0, 0] = np.nan
    svg = ElementTree.fromstring(heat_map(values, ["1"], 127.0, "", "", ""))
    found = [float(node.text) for node in svg.iter("title")]
    assert found == [1.0, *(np.arange(1, 64) * 2 + 0.5)]


def test_a_heat_grid_lies_as_the_picture_does():
    svg = ElementTree.fromstring(heat_grid(np.array([[0.0, 1.0], [0.5, 0.25]]), 1.0, "t"))
    found = {(float(n.get("x")), float(n.get("y"))): float(n[0].text) for n in svg.iter("rect")}
    assert found == {(0, 0): 0.0, (50, 0): 1.0, (0, 50): 0.5, (50, 50): 0.25}


def test_a_short_line_is_cut_unless_all_of_it_is_to_be_seen():
    series = [Series("a", range(5), [0.1, 0.9, 0.2, 0.3, 0.2])]
    tops = []
    for whole in (False, True):
        svg = ElementTree.fromstring(line_chart(series, "t", "x", outliers=whole))
        (line,) = [n for n in svg.iter("path") if n.get("class") == "line arm-0"]
        (box,) = [n for n in svg.iter("svg") if n.get("y") is not None]
        tops.append(min(map(float, line.get("d")[1:].split()[1::2])) - float(box.get("y")))
    assert tops[0] < 0 <= tops[1]
