"""The page in a browser: opened from a file, read, sorted, filtered, printed, attacked."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
PATIENCE_MS = 120_000


class Opened:
    """A page with everything that went wrong while it was open."""

    def __init__(self, page, path: Path) -> None:
        self.page = page
        self.console: list[str] = []
        self.requests: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda m: self.console.append(f"{m.type}: {m.text}"))
        page.on("pageerror", lambda e: self.console.append(str(e)))
        page.on("request", lambda r: self.requests.append(r.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-cells=ready]")

    def drawn(self) -> Opened:
        self.page.wait_for_selector("html[data-drawn=all]")
        return self

    def all(self) -> Opened:
        """The page with every part opened, as a reader would by clicking on each."""
        for part in self.page.locator("main > details > summary").all():
            part.click()
        return self.drawn()

    @property
    def outside(self) -> list[str]:
        return [u for u in self.requests if not u.startswith(("file:", "data:", "blob:"))]

    def column(self, title: str) -> list[str]:
        titles = self.page.locator("#table thead th button > span:first-child").all_inner_texts()
        at = titles.index(title) + 1
        return self.page.locator(f"#table tbody tr:not(.spacer) > *:nth-child({at})").all_inner_texts()


@pytest.fixture
def opened(page):
    return lambda path: Opened(page, path)


def downloaded(page, selector: str) -> str:
    with page.expect_download() as waiting:
        page.click(selector)
    return Path(waiting.value.path()).read_text(encoding="utf-8")


def test_opens_from_a_file_without_error_or_request_and_every_figure_has_marks(opened, ordinary):
    at = opened(ordinary).all()
    figures = at.page.locator(".figure")
    assert figures.count() >= 7
    for i in range(figures.count()):
        # Points, lines, bars, or the cells of a map.
        marks = figures.nth(i).locator(".mark-symbol path, .mark-rect path, .mark-line path")
        assert marks.count() > 0, figures.nth(i).get_attribute("id")
        assert figures.nth(i).locator("figcaption").inner_text()
        # Nothing of a figure is cut off at its right edge.
        svg = figures.nth(i).locator(".plot svg")
        right = svg.evaluate(
            "s => Math.max(...[...s.querySelectorAll('path, text')].map((e) => e.getBoundingClientRect().right))"
        )
        assert right <= svg.bounding_box()["x"] + svg.bounding_box()["width"] + 1
    assert at.console == []
    assert at.outside == []


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800)])
def test_the_first_screen_has_the_answer_and_the_evidence_is_one_click_away(opened, ordinary, page, width, height):
    page.set_viewport_size({"width": width, "height": height})
    at = opened(ordinary).drawn()
    headline = at.page.locator("h1").bounding_box()
    rows = [row.bounding_box() for row in at.page.locator(".answer tbody tr").all()]
    assert len(rows) == 2
    assert headline["y"] + headline["height"] < rows[0]["y"]
    assert rows[-1]["y"] + rows[-1]["height"] < height
    assert at.page.locator("#figure-pareto_frontier svg").is_visible()
    if width == 1280:
        assert at.page.locator("#figure-pareto_frontier .plot").bounding_box()["y"] < height / 2
    assert not at.page.locator("#table").is_visible()
    at.page.locator(".answer tbody tr").nth(1).locator("a").click()
    assert at.page.locator("#table").is_visible()
    assert set(at.column("B")) == {"8"}
    assert at.page.inner_text("#count") == "4 of 8 cells"


def test_everything_is_drawn_before_the_page_has_loaded(page, ordinary):
    """So that `chromium --print-to-pdf` has every figure without waiting for anything."""
    page.goto(ordinary.as_uri(), wait_until="load")
    drawn, figures, rows = page.evaluate(
        "[document.querySelectorAll('.plot svg').length, document.querySelectorAll('.plot').length, "
        "document.querySelectorAll('#table tbody tr').length]"
    )
    assert drawn == figures >= 7
    assert rows == 8


def test_all_panels_are_in_the_appendix_and_drawn_for_whoever_prints_at_once(page, many_panels):
    page.goto(many_panels.as_uri(), wait_until="load")
    empty = "[...document.querySelectorAll('.plot')].filter((p) => !p.querySelector('svg')).map((p) => p.dataset.plot)"
    assert page.evaluate(empty) == []
    page.click("#panels > summary")
    page.wait_for_timeout(500)
    appendix = page.locator("#panels .figure")
    assert appendix.count() >= 1
    for i in range(appendix.count()):
        name = appendix.nth(i).locator(".plot").get_attribute("data-plot").removeprefix("plot-")
        shown = page.locator(f"#figure-{name}")
        panels = [
            f.locator("svg .role-title-text, svg .role-column-title, svg .cell .background").count()
            for f in (shown, appendix.nth(i))
        ]
        assert appendix.nth(i).locator(".mark-symbol path, .mark-rect path, .mark-line path").count() > 0
        assert panels[1] > panels[0] > 0
    names = [
        page.locator(f"{part} [data-plot=plot-latency_vs_steps] .role-legend-label text").all_text_contents()
        for part in ("#answer", "#panels")
    ]
    assert names[0] == ["tiny-llama (autoregressive)", "tiny-llada, one block"]
    assert names[1] == [*names[0], "tiny-llada, block 16"]


def test_hovering_shows_a_value_with_its_unit_and_interval(opened, ordinary):
    at = opened(ordinary).all()
    figure = at.page.locator("#figure-latency_vs_steps")
    figure.scroll_into_view_if_needed()
    figure.locator(".mark-symbol.role-mark path").nth(1).hover(force=True)
    label = at.page.locator("#vg-tooltip-element.visible")
    label.wait_for()
    assert "latency" in label.text_content()
    assert "95% interval" in label.text_content()


def test_a_name_in_a_legend_hides_its_marks_and_shows_them_again(opened, ordinary):
    at = opened(ordinary).all()
    figure = at.page.locator("#figure-latency_vs_steps")
    marks = figure.locator(".mark-symbol.role-mark path")
    before = marks.count()
    name = figure.locator(".role-legend-label text", has_text="tiny-llada")
    name.click()
    at.page.wait_for_function(
        "n => document.querySelectorAll('#figure-latency_vs_steps .mark-symbol.role-mark path').length < n", arg=before
    )
    name.click()
    at.page.wait_for_function(
        "n => document.querySelectorAll('#figure-latency_vs_steps .mark-symbol.role-mark path').length === n",
        arg=before,
    )


def test_csv_of_a_figure_and_of_the_cells(opened, ordinary):
    at = opened(ordinary).all()
    rows = list(csv.DictReader(io.StringIO(downloaded(at.page, "#figure-latency_vs_steps .csv"))))
    assert {r["kind"] for r in rows} == {"curve", "baseline", "break_even", "fit"}
    cells = list(csv.reader(io.StringIO(downloaded(at.page, "#cells-csv"))))
    assert len(cells) == 1 + 8
    assert {"latency [ms]", "latency_low [ms]", "latency_high [ms]"} <= set(cells[0])


def median(text: str) -> float:
    """The number before its interval."""
    return float(text.split(maxsplit=1)[0].replace(",", ""))


def test_sorting_by_mouse(opened, ordinary):
    at = opened(ordinary).all()
    header = at.page.locator("th", has=at.page.get_by_text("latency", exact=True))
    header.locator("button").click()
    up = [median(v) for v in at.column("latency")]
    assert header.get_attribute("aria-sort") == "ascending"
    assert up == sorted(up)
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    assert [median(v) for v in at.column("latency")] == up[::-1]
    # Unknown is last in both directions.
    steps = at.page.locator("#table th", has=at.page.get_by_text("K", exact=True)).locator("button").first
    steps.click()
    assert at.column("K")[-1] == "–"
    steps.click()
    assert at.column("K")[-1] == "–"


def test_sorting_and_filtering_by_keyboard_alone(opened, ordinary):
    at = opened(ordinary)
    at.page.focus("#cells > summary")
    at.page.keyboard.press("Enter")
    at.page.focus("#find")
    at.page.keyboard.type("llama")
    assert at.page.inner_text("#count") == "2 of 8 cells"
    at.page.keyboard.press("Tab")
    assert at.page.evaluate("document.activeElement.type") == "reset"
    at.page.keyboard.press("Enter")
    at.page.locator("#count", has_text="8 of 8 cells").wait_for()
    at.page.focus("#find")
    at.page.keyboard.type("B=8")
    assert set(at.column("B")) == {"8"}
    at.page.focus("#table thead th:nth-child(2) button")
    at.page.keyboard.press("Enter")
    assert at.page.locator("#table thead th:nth-child(2)").get_attribute("aria-sort") == "ascending"
    assert at.column("K") == ["4", "16", "64", "–"]
    assert at.page.inner_text("#count") == "4 of 8 cells"


def test_the_filter_understands_names_of_columns(opened, ordinary):
    at = opened(ordinary).all()
    # G is the same everywhere, so it has no column; a link that names it still finds its cells.
    for terms, found in (("steps=16", 2), ("K=16 b=8", 1), ("shown=slower tiny", 3), ("G=64 K=4", 2), ("steps=17", 0)):
        at.page.fill("#find", terms)
        assert at.page.inner_text("#count") == f"{found} of 8 cells", terms


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible_in_light_and_dark(opened, ordinary, page, scheme):
    page.emulate_media(color_scheme=scheme)
    at = opened(ordinary).drawn()
    assert at.page.evaluate("document.documentElement.dataset.theme") == scheme
    for _ in range(2):  # as it opens, and with all its parts open
        results = Axe().run(page)
        assert results.violations_count == 0, results.generate_report()
        at.all()


def test_the_theme_button_wins_over_the_system_and_figures_follow(opened, ordinary, page):
    page.emulate_media(color_scheme="light")
    at = opened(ordinary).drawn()
    background = "() => getComputedStyle(document.querySelector('.plot svg')).backgroundColor"
    assert at.page.evaluate(background) == "rgb(255, 255, 255)"
    at.page.click("#theme")
    at.page.locator("html[data-theme=dark]").wait_for()
    at.page.wait_for_function(f"({background})() === 'rgb(21, 25, 30)'")
    assert at.page.inner_text("#theme") == "Light"


@pytest.mark.parametrize("width", [390, 768, 1440])
def test_nothing_sticks_out_or_is_cut_at_any_width(opened, ordinary, many_panels, page, width):
    page.set_viewport_size({"width": width, "height": 800})
    for path in (ordinary, many_panels):
        at = opened(path).drawn()
        assert at.page.evaluate("document.documentElement.scrollWidth") <= width
        at.all()
        assert at.page.evaluate("document.documentElement.scrollWidth") <= width
        assert [text for text in at.page.locator(".plot text").all_text_contents() if "…" in text] == []
        cut = "names => names.filter((n) => n.scrollWidth > n.clientWidth).map((n) => n.textContent)"
        assert at.page.eval_on_selector_all("#table tbody th", cut) == []


def test_prints_with_figures_and_table_and_without_controls(opened, ordinary, tmp_path):
    at = opened(ordinary).drawn()
    at.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    at.page.emulate_media(media="print", color_scheme="dark")
    at.page.wait_for_timeout(1500)
    assert at.page.evaluate("document.documentElement.dataset.theme") == "light"
    assert not at.page.locator("#filters").is_visible()
    assert not at.page.locator("#theme").is_visible()
    assert at.page.locator("#table tbody tr").count() == 8
    assert at.page.locator(".plot svg").first.bounding_box()["width"] <= 700
    assert at.page.locator("details:not([open])").count() == 0
    assert at.page.locator("details details > summary:visible").count() == 0
    # Chromium repeats the head of a table on every sheet only where no button has a box in it.
    assert at.page.eval_on_selector("#table thead button", "b => getComputedStyle(b).display") == "contents"
    # A figure stands on one page with its caption, and all of its legend is there.
    at.page.set_viewport_size({"width": 690, "height": 900})
    heights = at.page.eval_on_selector_all(".figure", "all => all.map((f) => f.getBoundingClientRect().height)")
    assert max(heights) <= 949, heights  # Letter, 279 mm less margins of 14
    names = at.page.locator("#figure-latency_vs_steps .role-legend-label text").all_text_contents()
    assert names == ["tiny-llama (autoregressive)", "tiny-llada"]
    # Turned pages of A4, 297 mm less margins of 12, are 1031 pixels; a wider table would shrink the whole document.
    at.page.set_viewport_size({"width": 690, "height": 900})
    assert at.page.evaluate("document.querySelector('#table').scrollWidth") <= 1031
    at.page.evaluate("document.querySelector('#cells').remove()")
    assert at.page.evaluate("document.documentElement.scrollWidth") <= 690
    path = tmp_path / "page.pdf"
    at.page.pdf(path=path, format="A4")
    assert path.stat().st_size > 50_000


def test_attacks_are_inert(opened, hostile, page):
    dialogs = []
    page.on("dialog", lambda d: (dialogs.append(d.message), d.dismiss()))
    at = opened(hostile).all()
    at.page.wait_for_timeout(300)
    assert at.page.evaluate("window.attacked") is None
    assert dialogs == []
    assert at.console == []  # not even stopped by the policy: there was nothing to stop
    assert at.outside == []
    assert at.page.locator("img, svg[onload], a[href^=javascript]").count() == 0
    assert at.page.locator("#table").get_by_text("<script>").count() > 0
    at.page.fill("#find", "<img src=x onerror=")
    assert at.page.locator("#table tbody tr").count() > 0
    for selector in ("#cells-csv", "#figure-latency_vs_steps .csv"):
        for row in csv.reader(io.StringIO(downloaded(at.page, selector))):
            for field in row:
                assert not field.startswith(("=", "+", "@", "\t")), field
    assert at.page.evaluate("window.attacked") is None


def test_the_policy_stops_a_script_that_got_in(page, hostile, tmp_path):
    """The second line of defence, tried by itself: markup planted into the page does not run."""
    html = hostile.read_text(encoding="utf-8").replace("<main", "<script>window.attacked = 1</script><main", 1)
    planted = tmp_path / "planted.html"
    planted.write_text(html, encoding="utf-8")
    at = Opened(page, planted)
    assert at.page.evaluate("window.attacked") is None
    assert any("Content Security Policy" in line for line in at.console)


def test_five_thousand_cells(opened, large, capsys):
    """Opening time is printed and not asserted: it is the machine's as much as the page's."""
    assert large.stat().st_size < 6e6
    at = opened(large)
    marks = "JSON.stringify(performance.getEntriesByType('mark').map((m) => [m.name, m.startTime]))"
    ready = dict(json.loads(at.page.evaluate(marks)))["cells ready"]
    at.page.click("#cells > summary")
    assert at.page.inner_text("#count") == "5,025 of 5,025 cells"
    assert at.page.locator("#table tbody tr").count() == 5025
    at.page.fill("#find", "block 7")
    assert at.page.inner_text("#count") == "250 of 5,025 cells"
    assert at.page.locator("#table tbody tr").count() == 250
    assert at.console == []
    with capsys.disabled():
        print(f"\n5,025 cells: {large.stat().st_size / 1e6:.2f} MB, table ready after {ready:.0f} ms")
