"""The page in headless Chromium, from disk with the network off: what people do with it works."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import browsers
import pytest
import synthetic_study as synthetic
from charted_study import charted
from colour_blindness import contrast
from pyarrow import fs

from analysis.columns import front
from analysis.report import write_report
from trainables.record import Choice

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(180),
    pytest.mark.skipif(bool(browsers.missing()), reason=browsers.missing() or "there is one"),
]
WIDTHS = (400, 1280, 1920)
HOSTILE = "<img src=x onerror=alert(1)></script>\"'`&amp;😀" + "n" * 300
PLOT = "document.getElementById('front-plot')"
SHOWN = f"{PLOT}.data.filter((t) => t.customdata).flatMap((t) => t.customdata)"


def report(study, folder: Path) -> Path:
    paths = write_report(study, fs.LocalFileSystem(), str(folder), formats=("html",))
    assert paths.html
    return Path(paths.html)


def scored(study):
    rows = [*front(study.rows), *study.rows[:4]]
    checks = {row.record.trial_id: synthetic.verification(row.record, 5) for row in rows}
    return replace(study, verifications=checks)


def named(study, name: str):
    """The study, its first method named so."""

    def renamed(row):
        trial = row.record.trial
        rule = trial.layers[0]
        if row.role != "search" or rule.methods[0].name != "int1":
            return row
        rule = replace(rule, methods=(Choice(name),))
        return replace(row, record=replace(row.record, trial=replace(trial, layers=(rule,))))

    rows = tuple(map(renamed, study.rows))
    return replace(study, name=name, rows=rows, info={**study.info, "name": name, "task": name})


@pytest.fixture(scope="module")
def started():
    with browsers.browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return report(scored(charted(80)), tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def tab(started, page):
    """One tab for all that leaves it as it was; its end says whether the console had an error."""
    with browsers.opened(started, page) as tab:
        yield tab


def see_all(tab) -> None:
    """Scroll through, so that every chart is drawn."""
    count = tab.locator("#charts section").count()
    for at in range(count):
        tab.locator("#charts section").nth(at).scroll_into_view_if_needed()
        tab.wait_for_selector(f"#charts section:nth-child({at + 1}) .main-svg")
    tab.evaluate("scrollTo(0, 0)")


def becomes(tab, expression: str) -> None:
    browsers.until(lambda: tab.evaluate(expression))


def rows_shown(tab) -> set[int]:
    return set(tab.evaluate(SHOWN))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_without_an_error_at_every_width(started, page, width, scheme):
    with browsers.opened(started, page, width, scheme) as tab:
        see_all(tab)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        drawn = tab.evaluate("[...document.querySelectorAll('.plot')].map((p) => p.clientWidth)")
        assert min(drawn) > 200
        inside = "(p) => p.querySelector('.main-svg').clientWidth <= p.clientWidth + 1"
        assert tab.evaluate(f"[...document.querySelectorAll('.plot')].every({inside})")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(started, page, scheme):
    with browsers.opened(started, page, 1280, scheme) as tab:
        see_all(tab)
        pairs = tab.evaluate(
            """() => {
                const hex = (text) => {
                    const [r, g, b, a] = text.match(/[\\d.]+/g).map(Number);
                    if (a === 0) return null;
                    return "#" + [r, g, b].map((v) => v.toString(16).padStart(2, "0")).join("");
                };
                const ground = (node) => {
                    for (let at = node; at; at = at.parentElement) {
                        const found = hex(getComputedStyle(at).backgroundColor);
                        if (found) return found;
                    }
                    return "#ffffff";
                };
                const found = new Set();
                const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
                while (walk.nextNode()) {
                    const node = walk.currentNode.parentElement;
                    const skipped = node.closest("script, noscript, [hidden], .heatmaplayer");
                    if (!walk.currentNode.data.trim() || skipped) continue;
                    const svg = node.closest("svg");
                    const style = getComputedStyle(node);
                    const ink = hex(svg ? style.fill : style.color);
                    found.add(`${ink} ${ground(svg ? svg.parentElement : node)}`);
                }
                return [...found].map((pair) => pair.split(" "));
            }"""
        )
    assert len(pairs) >= 2
    for ink, ground in pairs:
        assert contrast(ink, ground) >= 4.5, (ink, ground)


def point_on_screen(tab, row: int):
    """Where the mark of a row is in the window."""
    return tab.evaluate(
        f"""(row) => {{
            const plot = {PLOT};
            plot.scrollIntoView({{ block: "center" }});
            const trace = plot.data.find((one) => one.customdata?.includes(row));
            const at = trace.customdata.indexOf(row);
            const {{ xaxis, yaxis }} = plot._fullLayout;
            const box = plot.getBoundingClientRect();
            const x = box.left + xaxis._offset + xaxis.d2p(trace.x[at]);
            return [x, box.top + yaxis._offset + yaxis.d2p(trace.y[at])];
        }}""",
        row,
    )


def test_hover_tells_the_whole_setting_and_a_click_keeps_it(tab):
    trained = "setting(row).some(([word, value]) => word === 'optimizer' && value)"
    row = tab.evaluate(f"front.at('front').find((row) => {trained})")
    x, y = point_on_screen(tab, row)
    tab.mouse.move(x - 30, y - 30)
    tab.mouse.move(x, y, steps=4)
    tab.wait_for_selector("#tooltip:not([hidden])")
    said = tab.inner_text("#tooltip")
    assert tab.evaluate(f"front.value('trial_id', {row})") in said
    asked = tab.evaluate(f"setting({row}).filter(([, value]) => value !== '' && value !== null)")
    words = {word for word, _ in asked}
    assert {"method", "optimizer", "lr schedule", "batch size", "epochs", "seed"} <= words
    for word, value in asked:
        assert f"{word}\n{value}" in said
    tab.mouse.click(x, y)
    tab.wait_for_selector("#front-picked dl")
    assert tab.evaluate(f"front.value('trial_id', {row})") in tab.inner_text("#front-picked")
    tab.mouse.move(5, 5)
    tab.wait_for_selector("#tooltip", state="hidden")


@pytest.mark.parametrize("facet", ["method", "init", "adapter", "rank"])
def test_chips_filter_by_keyboard_too(tab, facet):
    before = rows_shown(tab)
    chip = tab.locator(f"#front-filters [aria-label='show by {facet}'] .chip").nth(1)
    value = tab.evaluate(f"front.kinds['{facet}'][1]")
    gone = set(
        tab.evaluate(
            "([facet, value]) => front.rows.filter((row) => front.value(facet, row) === value"
            " && front.value('place', row) !== 'baseline')",
            [facet, value],
        )
    )
    chip.press("Enter")
    assert chip.get_attribute("aria-pressed") == "false"
    becomes(tab, f"new Set({SHOWN}).size < {len(before)}")
    assert rows_shown(tab) == before - gone
    chip.press("Enter")
    becomes(tab, f"new Set({SHOWN}).size === {len(before)}")


def test_kinds_are_switched_off_and_on(tab):
    before = rows_shown(tab)
    chip = tab.locator("#front-kinds .chip", has_text="dominated").first
    chip.click()
    becomes(tab, f"new Set({SHOWN}).size < {len(before)}")
    chip.click()
    becomes(tab, f"new Set({SHOWN}).size === {len(before)}")


def test_axes_switch_and_keep_the_numbers(tab):
    box = tab.locator("#front-choices label", has_text="against").locator("select")
    names = tab.evaluate("front.x.map((axis) => axis.name)")
    assert {"ratio", "file_bytes", "layer_ratio", "macs"} <= set(names)
    for name in [*names[1:], names[0]]:
        box.select_option(name)
        becomes(tab, f"{PLOT}.layout.uirevision.startsWith('{name} ')")
        same = """(name) => %s.data.filter((trace) => trace.customdata).every((trace) =>
            trace.customdata.every((row, at) => trace.x[at] === front.value(name, row)))"""
        assert tab.evaluate(same % PLOT, name)


def test_scales_switch(tab):
    box = tab.locator("#front-choices label", has_text="scale").locator("select")
    start = box.input_value()
    for scale in ("", "log", start):
        box.select_option(scale)
        expected = "log" if scale else "linear"
        becomes(tab, f"{PLOT}._fullLayout.yaxis.type === '{expected}'")


def test_a_drag_zooms_and_a_double_click_goes_back(tab):
    ends = f"JSON.stringify({PLOT}._fullLayout.xaxis.range)"
    tab.locator("#front-plot").scroll_into_view_if_needed()
    before = tab.evaluate(ends)
    box = tab.locator("#front-plot .nsewdrag").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(x, y)
    tab.mouse.down()
    tab.mouse.move(x + 120, y + 90, steps=5)
    tab.mouse.up()
    becomes(tab, f"{ends} !== '{before}'")
    tab.wait_for_timeout(400)  # else the next click would be the second of a double one
    tab.mouse.dblclick(x, y)
    becomes(tab, f"{ends} === '{before}'")


def test_the_table_sorts_by_mouse_and_by_keyboard(tab):
    head = tab.locator("#table th", has_text="file bytes")
    at = tab.evaluate("page.table.columns.findIndex((one) => one.head === 'file bytes')")

    def shown():
        cells = tab.locator(f"#table tbody td:nth-child({at + 1})").all_inner_texts()
        return [int(cell.replace(",", "")) for cell in cells]

    everything = shown()
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert shown() == sorted(everything)
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert shown() == sorted(everything, reverse=True)


def test_legends_of_charts_switch_series(tab):
    see_all(tab)
    section = tab.locator("#charts section", has=tab.locator(".chips .chip")).first
    chip = section.locator(".chip").first
    name = chip.inner_text()
    drawn = """(section) => [...section.querySelectorAll('.plot')]
        .flatMap((plot) => plot.data.map((trace) => trace.series.name))"""
    assert name in section.evaluate(drawn)
    chip.click()
    browsers.until(lambda: name not in section.evaluate(drawn))
    chip.click()


def test_plots_follow_the_window(started, page):
    width = f"{PLOT}.querySelector('.main-svg').clientWidth"
    with browsers.opened(started, page, 1280) as tab:
        wide = tab.evaluate(width)
        tab.set_viewport_size({"width": 700, "height": 900})
        becomes(tab, f"{width} < {wide} - 300")


def test_hostile_names_break_nothing_and_are_seen(started, tmp_path):
    page = report(scored(named(charted(60), HOSTILE)), tmp_path)
    for width in (400, 1280):
        with browsers.opened(started, page, width) as tab:
            see_all(tab)
            assert tab.inner_text("h1") == HOSTILE
            assert tab.locator("img").count() == 0
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            texts = tab.locator("#table td:first-child").all_inner_texts()
            assert any(HOSTILE in text for text in texts)


def test_lesser_is_better_is_drawn_upside_down(started, tmp_path):
    from trainables.record import Direction, Objective

    loss = Objective("nll", Direction.MINIMIZE, "nats")
    page = report(synthetic.turned(synthetic.study(), loss, lambda a: 2 - a), tmp_path)
    with browsers.opened(started, page) as tab:
        low, high = tab.evaluate(f"{PLOT}._fullLayout.yaxis.range")
        assert low > high


INKED = """(plot) => {
    const { width, height } = plot.canvas;
    const ink = plot.canvas.getContext("2d").getImageData(0, 0, width, height).data;
    const { xaxis, yaxis } = plot._fullLayout;
    const sharp = width / xaxis._length;
    const places = plot.data.filter((trace) => trace.cloud).flatMap(({ x, y }) =>
        x.map((_, i) => [xaxis.d2p(x[i]), yaxis.d2p(y[i])].map((at) => Math.floor(at * sharp))));
    const inside = places.filter(([a, b]) => a > 0 && b > 0 && a < width - 1 && b < height - 1);
    return [inside.filter(([a, b]) => ink[4 * (b * width + a) + 3] > 0).length, inside.length];
}"""


def test_very_many_trials_are_all_drawn_where_they_are(started, tmp_path):
    page = report(charted(2500), tmp_path)
    with browsers.opened(started, page) as tab:
        plot = tab.locator("#front-plot")
        everything = rows_shown(tab)
        assert len(everything) > 2000
        inked, inside = plot.evaluate(INKED)
        assert inked == inside > 1500
        ends = f"JSON.stringify({PLOT}._fullLayout.xaxis.range)"
        before = tab.evaluate(ends)
        plot.scroll_into_view_if_needed()
        box = plot.locator(".nsewdrag").first.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        tab.mouse.move(x, y)
        tab.mouse.down()
        tab.mouse.move(x + 150, y + 110, steps=5)
        tab.mouse.up()
        becomes(tab, f"{ends} !== '{before}'")
        zoomed, near = plot.evaluate(INKED)
        assert 0 < near < inside
        assert zoomed == near


def test_one_of_very_many_is_told_and_filtered(started, tmp_path):
    page = report(charted(2500), tmp_path)
    with browsers.opened(started, page) as tab:
        row = tab.evaluate(f"{PLOT}.data.find((trace) => trace.cloud).customdata[0]")
        x, y = point_on_screen(tab, row)
        tab.mouse.move(x - 30, y - 30)
        tab.mouse.move(x, y, steps=4)
        tab.wait_for_selector("#tooltip:not([hidden])")
        tab.mouse.click(x, y)
        tab.wait_for_selector("#front-picked dl")
        before = tab.locator("#front-plot").evaluate(INKED)[1]
        tab.locator("#front-filters .chip").first.click()
        browsers.until(lambda: tab.locator("#front-plot").evaluate(INKED)[1] < before)
        inked, inside = tab.locator("#front-plot").evaluate(INKED)
        assert inked == inside
