"""The report in a browser: charts, sorting, filters, addresses, widths, colours, hostile texts, the keyboard."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

import fleet as made_up
from browser.opened import Open, Opened
from phiforge.reporting import Fleet, report_html
from phiforge.reporting.charts import charts
from unit.reporting import samples
from unit.reporting.test_rendering import EVIL, hostile

PAGE = "/made-up-mini-instruct/cpu-x64-desktop"
PREDICTED = "/made-up-mini-instruct/qnn-phone"


def _column(opened: Opened, index: int) -> list[str]:
    """The order keys of the rows that are shown."""
    found: list[str] = opened.page.evaluate(
        "(index) => [...document.querySelectorAll('#matrix tbody tr:not([hidden])')].map((row) => "
        "row.cells[index].dataset.order ?? row.cells[index].textContent.trim())",
        index,
    )
    return found


def _wide(opened: Opened) -> list[Any]:
    """What is wider than the screen: the page, or an element that is not inside of a box that scrolls."""
    found: list[Any] = opened.page.evaluate(
        """() => {
          const most = document.documentElement.clientWidth + 0.5;
          const wide = [...document.querySelectorAll('.page.open *, header *, footer *')].filter((item) =>
            !item.closest('.scroll > *') && !item.closest('svg') && item.getBoundingClientRect().right > most);
          const whole = document.documentElement.scrollWidth;
          const page = whole > most ? [`page ${whole}`] : [];
          return [...page, ...wide.map((item) => item.outerHTML.slice(0, 80))];
        }"""
    )
    return found


@pytest.mark.parametrize("route", [PAGE, PREDICTED])
def test_every_chart_has_marks(opening: Open, path: Path, fleet: Fleet, route: str) -> None:
    entry = next(entry for entry in fleet.entries if f"/{entry.key}" == route)
    wanted = [chart for found in charts(entry.report).values() for chart in found]
    with opening(path, route=route) as opened:
        opened.drawn()
        found = opened.page.evaluate(
            """() => [...document.querySelectorAll('.page.open .chart')].map((chart) => {
              const marks = [...chart.querySelectorAll('.mark-symbol path, .mark-rule line, .mark-rect path, ' +
                '.mark-line path')].filter((mark) => !mark.closest('.role-axis, .role-legend'));
              const box = chart.querySelector('svg').getBoundingClientRect();
              return [chart.getAttribute('aria-label'), marks.length, box.width, box.height];
            })"""
        )
        assert sorted(name for name, *_ in found) == sorted(f"Chart: {chart.title}" for chart in wanted)
        for name, marks, width, height in found:
            assert marks >= 1, name
            assert width > 250 and height > 60, name
        assert opened.problems == []


def test_each_line_of_a_chart_is_drawn(opening: Open, path: Path) -> None:
    with opening(path, route=PAGE) as opened:
        opened.drawn()
        lines = opened.page.evaluate(
            """() => Object.fromEntries([...document.querySelectorAll('.page.open .chart')].map((chart) => [
              chart.getAttribute('aria-label'),
              [...chart.querySelectorAll('.mark-line:not(.role-legend-symbol) path')].filter((line) =>
                !line.closest('.role-legend') && line.getTotalLength() > 50).length]))"""
        )
    assert lines["Chart: Time to first token by prompt length"] == 3
    assert lines["Chart: Decode speed by prompt length"] == 3
    assert lines["Chart: Time of a token by context position"] == 2
    assert lines["Chart: Memory over time"] == 2


def test_names_of_cliffs_do_not_cover_each_other(opening: Open, path: Path) -> None:
    with opening(path, route=PAGE, width=360) as opened:
        opened.drawn()
        lines = opened.page.evaluate(
            """() => [...document.querySelectorAll(
              '.page.open [aria-label="Chart: Time of a token by context position"] .mark-text tspan')]
              .filter((line) => line.textContent.length > 1)
              .map((line) => [line.textContent, line.getBoundingClientRect().y, line.getBoundingClientRect().left])"""
        )
    heights = sorted(height for _, height, _ in lines)
    assert [text for text, *_ in lines if " at 4,096" in text] == ["stall at 4,096: longrope", "step at 4,096"]
    assert all(after - before > 8 for before, after in pairwise(heights))
    assert all(left >= 0 for *_, left in lines)


def test_nothing_is_asked_from_outside(opening: Open, path: Path) -> None:
    with opening(path) as opened:
        for route in ("/", PAGE, PREDICTED):
            opened.go(route)
            opened.drawn()
        opened.page.wait_for_timeout(300)
        assert opened.requests
        assert {url.split("#")[0] for url in opened.requests} == {path.as_uri()}
        assert opened.problems == []


@pytest.mark.parametrize("width", [360, 768, 1100, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen(opening: Open, path: Path, width: int, scheme: str) -> None:
    with opening(path, width=width, scheme=scheme) as opened:
        for route in ("/", PAGE, PREDICTED):
            opened.go(route)
            opened.drawn()
            assert _wide(opened) == [], route


def test_a_reason_is_never_cut_off(opening: Open, path: Path) -> None:
    """The table of budgets once ran out of its box at 1,100 px."""
    with opening(path, width=1100, route=PAGE) as opened:
        cut = opened.page.evaluate(
            "(id) => { const box = document.getElementById(id).querySelector('.scroll');"
            " return box.scrollWidth - box.clientWidth; }",
            f"{PAGE}/budgets",
        )
    assert cut <= 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_told_from_its_ground(opening: Open, path: Path, scheme: str) -> None:
    """WCAG 2.2, 1.4.3: a contrast of at least 4.5 for every text, also after the toggle."""
    script = """() => {
      const light = (text) => {
        const [r, g, b, a] = text.match(/[\\d.]+/g).map(Number);
        if (a === 0) return null;
        const line = (value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
        return [0.2126, 0.7152, 0.0722].reduce((sum, share, i) => sum + share * line([r, g, b][i] / 255), 0);
      };
      const ground = (item) => light(getComputedStyle(item).backgroundColor) ?? ground(item.parentElement);
      return [...document.querySelectorAll('.page.open *, header *')].filter((item) =>
        [...item.childNodes].some((node) => node.nodeType === 3 && node.data.trim()) && item.checkVisibility() &&
        !item.closest('svg')).map((item) => {
          const [a, b] = [light(getComputedStyle(item).color), ground(item)].sort((x, y) => y - x);
          return [(a + 0.05) / (b + 0.05), item.outerHTML.slice(0, 80)];
        }).filter(([ratio]) => ratio < 4.5);
    }"""
    with opening(path, scheme=scheme) as opened:
        for route in ("/", PAGE, PREDICTED):
            opened.go(route)
            assert opened.page.evaluate(script) == []
            opened.page.click("#theme")
            assert opened.page.evaluate(script) == []


def test_the_toggle_changes_the_colours_and_the_charts(opening: Open, path: Path) -> None:
    colours = """[
      getComputedStyle(document.body).backgroundColor,
      getComputedStyle(document.querySelector('.page.open .chart .mark-line path')).stroke,
    ]"""
    with opening(path, route=PAGE) as opened:
        opened.drawn()
        before = opened.page.evaluate(colours)
        opened.page.get_by_role("button", name="Dark colours").click()
        after = opened.page.evaluate(colours)
        assert before[0] == "rgb(255, 255, 255)"
        assert all(one != other for one, other in zip(before, after, strict=True))
        opened.page.get_by_role("button", name="Light colours").click()
        assert opened.page.evaluate(colours) == before


def test_sorting_by_click_both_ways_in_every_column(opening: Open, path: Path) -> None:
    with opening(path) as opened:
        heads = opened.page.locator("#matrix thead th")
        assert heads.count() == 10
        for column in range(10):
            for wanted in ("ascending", "descending"):
                heads.nth(column).get_by_role("button").click()
                expect(heads.nth(column)).to_have_attribute("aria-sort", wanted)
                expect(opened.page.locator("#matrix thead th:not([aria-sort=none])")).to_have_count(1)
                found = _column(opened, column)
                known = [key for key in found if key != ""]
                assert found[len(known) :] == [""] * (len(found) - len(known))  # absent numbers last
                keys: list[Any] = [float(key) for key in known] if _is_number(known) else known
                assert keys == sorted(keys, reverse=wanted == "descending"), column
                assert len(set(known)) > 1


def _is_number(keys: list[str]) -> bool:
    return all(key.replace(".", "", 1).replace("e-", "").isdigit() for key in keys)


def test_sorting_and_following_by_keyboard(opening: Open, path: Path) -> None:
    with opening(path) as opened:
        button = opened.page.locator("#matrix thead button").nth(4)
        for _ in range(30):
            opened.page.keyboard.press("Tab")
            if button.evaluate("(item) => item === document.activeElement"):
                break
        outline = button.evaluate("(item) => getComputedStyle(item).outlineStyle")
        assert outline == "solid"  # what has the focus is seen to have it
        opened.page.keyboard.press("Enter")
        first = _column(opened, 4)
        opened.page.keyboard.press("Space")
        assert _column(opened, 4)[0] != first[0]
        link = opened.page.locator("#matrix tbody tr:first-child th a")
        link.focus()
        opened.page.keyboard.press("Enter")
        expect(opened.heading).to_have_text(re.compile("^made-up-"))


def test_filters(opening: Open, path: Path, fleet: Fleet) -> None:
    outcomes = [entry.report.verdict.outcome.value for entry in fleet.entries]
    with opening(path) as opened:
        page = opened.page
        page.get_by_label("Verdict").select_option("pass")
        assert len(_column(opened, 0)) == outcomes.count("pass")
        assert page.locator("#count").inner_text() == f"{outcomes.count('pass')} of {len(outcomes)} shown"
        page.get_by_label("Verdict").select_option("")
        page.get_by_label("Kind of evidence").select_option("emulated")
        assert len(_column(opened, 0)) == 4
        page.get_by_label("Model").select_option("made-up-mini-instruct")
        assert len(_column(opened, 0)) == 2
        page.get_by_role("button", name="Show all").click()
        page.wait_for_selector("#count:text-is('24 of 24 shown')")
        page.get_by_role("searchbox", name="Text").fill("REASONING webgpu")
        assert len(_column(opened, 0)) == 2
        page.get_by_role("searchbox", name="Text").fill("no such thing")
        assert _column(opened, 0) == []


def test_the_back_button_and_addresses(opening: Open, path: Path) -> None:
    with opening(path) as opened:
        page = opened.page
        page.locator(f'#matrix th a[href="#{PAGE}"]').click()
        expect(opened.heading).to_have_text("made-up-mini-instruct on Made-up x64 desktop CPU")
        page.get_by_role("link", name="measured").first.click()
        expect(page).to_have_url(re.compile("/evidence-"))
        expect(page.locator("tr:target")).to_have_count(1)
        expect(page.locator("tr:target")).to_be_visible()
        page.go_back()
        expect(page.locator("tr:target")).to_have_count(0)
        page.go_back()
        expect(opened.heading).to_have_text("Models and devices")
        page.go_forward()
        expect(opened.heading).to_have_text("made-up-mini-instruct on Made-up x64 desktop CPU")
        opened.go("/no/such/place", page="/")
        expect(opened.heading).to_have_text("Models and devices")


def test_a_report_of_one_variant_opens_at_its_page(opening: Open, tmp_path: Path) -> None:
    file = tmp_path / "one.html"
    file.write_text(report_html(samples.fleet()), encoding="utf-8", newline="\n")
    with opening(file) as opened:
        expect(opened.heading).to_have_text(samples.report().title)
        opened.page.get_by_role("link", name="All models and devices").click()
        expect(opened.heading).to_have_text("Models and devices")


def test_hostile_texts_are_shown_and_never_run(opening: Open, tmp_path: Path) -> None:
    file = tmp_path / "hostile.html"
    file.write_text(report_html(hostile(samples.report())), encoding="utf-8", newline="\n")
    with opening(file, width=360) as opened:
        opened.drawn()
        assert EVIL in opened.page.locator(".page.open h1").inner_text()
        charts = opened.page.evaluate("[...document.querySelectorAll('.chart text')].map((text) => text.textContent)")
        assert any("<script>" in text for text in charts)
        assert opened.page.locator("body script").count() == 3
        assert opened.problems == []
        assert _wide(opened) == []


def test_a_script_that_slips_in_does_not_run(opening: Open, path: Path, tmp_path: Path) -> None:
    """What escaping would have missed, the policy stops: neither an element nor an attribute runs."""
    text = path.read_text(encoding="utf-8")
    evil = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">"
    file = tmp_path / "slipped.html"
    file.write_text(text.replace("</main>", f"{evil}</main>", 1), encoding="utf-8", newline="\n")
    with opening(file) as opened:
        assert opened.told("Content Security Policy")
        opened.page.wait_for_timeout(200)
        assert opened.page.title() != "run"
        assert {url.split("#")[0] for url in opened.requests} == {file.as_uri()}


def test_without_scripts_all_pages_stand_below_one_another(opening: Open, path: Path, fleet: Fleet) -> None:
    with opening(path, scripts=False, width=768) as opened:
        page = opened.page
        assert page.locator("article.page >> visible=true").count() == len(fleet.entries) + 1
        assert page.get_by_text("Charts, sorting and filters need scripts").is_visible()
        assert page.locator("form >> visible=true").count() == 0
        page.locator(f'#matrix th a[href="#{PAGE}"]').click()
        expect(page.locator(f'[id="{PAGE}"] h1')).to_be_in_viewport()


def test_every_control_has_a_name_and_headings_are_in_order(opening: Open, path: Path) -> None:
    with opening(path, route=PAGE) as opened:
        opened.drawn()
        nameless = opened.page.evaluate(
            """() => [...document.querySelectorAll('a, button, input, select, summary, [role=img], [role=region]')]
              .filter((item) => !(item.textContent.trim() || item.getAttribute('aria-label') || item.labels?.length))
              .map((item) => item.outerHTML.slice(0, 80))"""
        )
        assert nameless == []
        assert opened.page.evaluate("document.documentElement.lang") == "en"
        levels = opened.page.evaluate(
            "[...document.querySelectorAll('.page.open :is(h1,h2,h3)')].map((h) => h.tagName)"
        )
        assert levels[0] == "H1" and set(levels[1:]) == {"H2"}
        ids = opened.page.evaluate("[...document.querySelectorAll('[id]')].map((item) => item.id)")
        assert len(ids) == len(set(ids))


def test_a_printed_page_is_light_and_complete(opening: Open, path: Path) -> None:
    with opening(path, scheme="dark", route=PAGE) as opened:
        opened.drawn()
        opened.page.emulate_media(media="print", color_scheme="dark")
        assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not opened.page.locator("#theme").is_visible()
        assert opened.page.locator(".page.open svg").count() == 13


def test_60_devices_with_full_evidence_open_quickly(opening: Open, tmp_path: Path) -> None:
    """The target is two seconds on a quiet machine, which tests/bench/report.py measures; here other work runs too.

    So what counts is the processor time of the page's process.
    """
    fleet = made_up.fleet()
    assert len(fleet.entries) == 60
    file = tmp_path / "report.html"
    file.write_text(report_html(fleet), encoding="utf-8", newline="\n")
    assert file.stat().st_size < 5_000_000
    with opening(file) as opened:
        assert opened.processor_seconds() < 4
        assert opened.page.locator("#matrix tbody tr").count() == 60
