"""The page in a headless Chromium: it fits, reports no errors, sorts tables, and needs no script."""

import pytest

from tests.transfer.report.browser import browser, find_browser
from tests.transfer.report.full_page import write_full
from transfer.report.render import write_report

pytestmark = pytest.mark.skipif(
    find_browser() is None, reason="Chromium is not installed (Debian: apt install chromium)"
)
WIDTHS = (390, 1280)
FIRST_TABLE = "document.querySelector('#summary ~ div table')"
LABELS = f"[...{FIRST_TABLE}.tBodies[0].rows].map(row => row.cells[0].firstChild.textContent)"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    return write_report([write_full(folder)], folder / "report")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_and_reports_no_errors(chromium, page, width, dark):
    chromium.open(page, width=width, dark=dark)
    chromium.value("document.querySelectorAll('details').forEach(item => { item.open = true })")
    assert chromium.value("document.documentElement.scrollWidth") <= width
    assert chromium.complaints() == []
    ground = chromium.value("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(21, 24, 28)" if dark else "rgb(255, 255, 255)")


@pytest.mark.parametrize("width", WIDTHS)
def test_no_text_is_cut_off(chromium, page, width):
    """Whatever is wider than its box can be scrolled."""
    chromium.open(page, width=width)
    chromium.value("document.querySelectorAll('details').forEach(item => { item.open = true })")
    cut = chromium.value(
        f"""[...document.querySelectorAll("h1, h2, h3, p, li, dd, summary, nav, .verdict, figcaption")]
        .filter(item => item.getBoundingClientRect().right > {width} && !item.closest(".wide"))
        .map(item => item.outerHTML.slice(0, 200))"""
    )
    assert cut == []


def test_a_click_on_a_heading_sorts_the_table_and_another_reverses_it(chromium, page):
    chromium.open(page, width=1280)
    before = chromium.value(LABELS)
    floor = [label for label in before if "random" in label or "published" in label]
    assert before[-len(floor) :] == floor
    order = {}
    for _ in range(2):
        chromium.value(f"{FIRST_TABLE}.tHead.querySelector('button').click()")
        state = chromium.value(f"{FIRST_TABLE}.tHead.querySelector('th').getAttribute('aria-sort')")
        order[state] = chromium.value(LABELS)
    networks = sorted(label for label in before if label not in floor)
    assert order["ascending"] == [*networks, *floor]
    assert order["descending"] == [*networks[::-1], *floor]
    assert chromium.complaints() == []


def test_no_link_is_inside_a_button(chromium, page):
    chromium.open(page, width=1280)
    assert chromium.value("document.querySelectorAll('th button').length") > 20
    assert chromium.value("document.querySelectorAll('th sup a').length") > 0
    assert chromium.value("document.querySelectorAll('button a').length") == 0


def test_numbers_are_sorted_by_value_and_missing_ones_come_last(chromium, page):
    chromium.open(page, width=1280)
    column = (
        f"[...{FIRST_TABLE}.tBodies[0].querySelectorAll('tr:not(.fixed)')]"
        ".map(row => parseFloat(row.cells[1].textContent))"
    )
    chromium.value(f"{FIRST_TABLE}.tHead.querySelectorAll('button')[1].click()")
    values = chromium.value(column)
    known = [value for value in values if value is not None]
    assert len(known) > 0
    assert known == sorted(known, reverse=True)
    assert values[: len(known)] == known


def test_everything_but_sorting_works_without_a_script(chromium, page):
    chromium.open(page, width=1280)
    with_script = chromium.value("document.body.innerText.replace(/\\s|↕/g, '')")
    assert chromium.value("document.querySelectorAll('th button').length") > 0
    chromium.open(page, width=1280, script=False)
    assert chromium.value("document.querySelectorAll('button').length") == 0
    assert chromium.value("document.body.innerText.replace(/\\s|↕/g, '')") == with_script
    chromium.value("document.querySelectorAll('summary').forEach(item => item.click())")
    assert chromium.value("document.querySelectorAll('details[open]').length") > 0


def test_the_printed_page_shows_figures_in_closed_details(chromium, page):
    chromium.open(page, width=700)
    closed = (
        "document.querySelector('details.figure:not([open]) figure, details.run:not([open]) dl')"
    )
    assert chromium.value(f"{closed}.checkVisibility()") is False
    chromium.call("Emulation.setEmulatedMedia", media="print")
    assert chromium.value(f"{closed}.checkVisibility()") is True
    assert chromium.value("getComputedStyle(document.querySelector('nav')).display") == "none"
    chromium.call("Emulation.setEmulatedMedia", media="")
