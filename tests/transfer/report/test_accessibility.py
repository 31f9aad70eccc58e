"""The page can be read by everybody: contrast, headings, tables, text alternatives and links."""

import re
from pathlib import Path

import pytest

import transfer.report
from tests.transfer.report.full_page import write_full
from tests.transfer.report.parsed_page import Page
from transfer.drawing import svg
from transfer.report.render import write_report

STYLE = (Path(transfer.report.__path__[0]) / "templates" / "style.css").read_text()
TEXT = ("ink", "soft", "link", "good", "bad", "warn")
GROUNDS = ("page", "tint", "floor")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page with every section."""
    folder = tmp_path_factory.mktemp("page")
    return Page(write_report([write_full(folder)], folder / "report").read_text())


# ---- Colors


def schemes():
    """The CSS variables of the light, the dark and the printed page."""
    blocks = re.findall(r":root \{(.*?)\}", STYLE, flags=re.DOTALL)
    found = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) for block in blocks]
    assert len(found) == 3
    return dict(zip(("light", "dark", "print"), found, strict=True))


def luminance(color):
    """Relative luminance as WCAG 2.2 defines it."""
    values = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_the_contrast_of_black_and_white_is_21():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_every_text_color_has_a_contrast_of_4_5_on_every_background(scheme):
    colors = schemes()[scheme]
    low = {
        (text, ground): round(found, 2)
        for text in TEXT
        for ground in GROUNDS
        if (found := contrast(colors[text], colors[ground])) < 4.5
    }
    assert low == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_lines_of_plots_have_a_contrast_of_3(scheme):
    ground = schemes()[scheme]["page"]
    for color in (svg.BLUE, svg.ORANGE, svg.GREEN, svg.PURPLE, svg.GRAY):
        assert contrast(color, ground) >= 3, color


def test_all_colors_of_the_style_are_variables():
    rules = re.sub(r":root \{.*?\}", "", STYLE, flags=re.DOTALL)
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b|\brgb|\bhsl", rules) == []


def test_text_in_figures_has_the_color_of_the_page(page):
    texts = [e.attributes["style"] for e in page.all("text") if "style" in e.attributes]
    filled = {found for style in texts for found in re.findall(r"fill:([^;]*)", style)}
    assert len(texts) > 50
    assert filled == {"currentColor"}


# ---- Structure


def test_the_language_and_one_main_heading_are_stated(page):
    assert [e.attributes["lang"] for e in page.all("html")] == ["en"]
    assert [e.text for e in page.all("h1")] == ["Transfer report"]
    assert len(page.all("main")) == len(page.all("nav")) == 1


def test_headings_never_skip_a_level(page):
    levels = [int(e.tag[1]) for e in page.all("h1", "h2", "h3", "h4", "h5")]
    assert len(levels) > 20
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


def test_every_heading_cell_of_a_table_states_its_scope(page):
    cells = page.all("th")
    assert len(cells) > 100
    assert {e.attributes.get("scope") for e in cells} == {"col", "row", "colgroup"}


def test_every_table_has_a_caption_and_a_heading_in_each_row(page):
    for table in page.all("table"):
        captions = [e for e in table.children if e.tag == "caption"]
        assert [bool(e.name) for e in captions] == [True]
        (body,) = (e for e in table.children if e.tag == "tbody")
        for row in body.children:
            assert any(cell.attributes.get("scope") == "row" for cell in row.children), row.text


def test_every_picture_and_figure_has_a_text_alternative(page):
    pictures = page.all("img")
    hidden = [e for e in page.all("svg") if e.attributes.get("aria-hidden") == "true"]
    assert {e.parent.attributes["class"] for e in hidden} <= {"estimate", "estimate axis"}
    figures = [e for e in page.all("svg") if e not in hidden]
    assert pictures
    assert len(figures) > 5
    assert all(e.attributes.get("alt") for e in pictures)
    assert all(e.attributes.get("role") == "img" and e.name for e in figures)


def test_what_scrolls_can_be_reached_and_is_named(page):
    scrolling = [e for e in page.elements if "wide" in (e.attributes.get("class") or "").split()]
    assert len(scrolling) > 10
    for element in scrolling:
        assert element.attributes.get("tabindex") == "0"
        assert element.attributes.get("role") == "region"
        assert element.attributes.get("aria-label")


def test_the_skip_link_and_all_other_links_have_a_target(page):
    ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    links = [e.attributes["href"] for e in page.all("a")]
    assert links[0] == "#content"
    assert len(links) > 10
    assert {link[0] for link in links} == {"#"}
    assert {link[1:] for link in links} <= set(ids)
    assert all(e.name for e in page.all("a"))


def test_the_page_may_load_nothing_and_run_only_its_own_script(page):
    (policy,) = (
        e.attributes["content"]
        for e in page.all("meta")
        if e.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert re.fullmatch(r"'sha256-[\w+/]{43}='", rules["script-src"])
    assert "connect-src" not in rules


def test_motion_is_only_used_if_the_reader_has_not_asked_for_less():
    outside = re.sub(r"@media \(prefers-reduced-motion: no-preference\) \{.*?\} \}", "", STYLE)
    assert "scroll-behavior" in STYLE
    assert not re.search(r"scroll-behavior|transition|animation", outside)


def test_the_focus_is_visible():
    assert re.search(r":focus-visible \{ outline: 2px solid var\(--link\)", STYLE)
    assert "outline: none" not in STYLE
