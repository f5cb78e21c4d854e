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
from analysis.plot_style import SHADES
from analysis.report import write_report
from trainables.record import Choice, Direction, Objective

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
                    const skipped = node.closest("script, noscript, [hidden], .textpoint");
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


CELLS = """() => [...document.querySelectorAll("#chart-map .plot")].flatMap((plot) => {
    const [map, labels] = plot.data;
    const texts = [...plot.querySelectorAll(".textpoint text")].filter((one) => one.textContent);
    const hex = (ink) =>
        "#" + ink.match(/\\d+/g).map((v) => (+v).toString(16).padStart(2, "0")).join("");
    return texts.map((one, at) => {
        const i = labels.text.map((text, j) => [text, j]).filter(([text]) => text)[at][1];
        const share = (map.z[labels.y[i]][labels.x[i]] - map.zmin) / (map.zmax - map.zmin);
        return [one.textContent, hex(getComputedStyle(one).fill), share];
    });
})"""


def shade(share: float) -> str:
    """As the library draws it: between the nearest two of the palette's, by each channel."""
    ends = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in SHADES]
    at = min(int(share * (len(ends) - 1)), len(ends) - 2)
    part = share * (len(ends) - 1) - at
    mixed = [a + part * (b - a) for a, b in zip(ends[at], ends[at + 1], strict=True)]
    return "#" + "".join(f"{round(v):02x}" for v in mixed)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_labels_in_cells_can_be_read_and_are_percent(started, page, scheme):
    with browsers.opened(started, page, 1280, scheme) as tab:
        see_all(tab)
        cells = tab.evaluate(CELLS)
    assert len(cells) > 10
    for text, ink, share in cells:
        assert contrast(ink, shade(share)) >= 4.5, (text, ink, share)
    assert any(text.endswith("%") for text, _, _ in cells)


FITTING = """() => [...document.querySelectorAll("#chart-map .plot")].map((plot) => {
    const cell = plot._fullLayout.xaxis._length / plot.data[0].z[0].length;
    const texts = [...plot.querySelectorAll(".textpoint text")].filter((one) => one.textContent);
    return [cell, Math.max(0, ...texts.map((one) => one.getBoundingClientRect().width))];
})"""


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("inits", [3, 9])
def test_cells_have_labels_only_where_they_fit(started, tmp_path, width, inits):
    study = charted(150)
    rows = []
    for row in study.rows:
        rule = row.record.trial.layers[0]
        if row.record.trial.epochs:
            rule = replace(rule, init=Choice(f"init{row.number % inits}"))
        trial = replace(row.record.trial, layers=(rule,))
        rows.append(replace(row, record=replace(row.record, trial=trial)))
    page = report(replace(study, rows=tuple(rows)), tmp_path)
    with browsers.opened(started, page, width) as tab:
        see_all(tab)
        for cell, label in tab.evaluate(FITTING):
            assert label < cell
            assert bool(label) == (width > 400 or inits < 9)


def test_panels_share_their_axes(tab):
    see_all(tab)
    for name in ("rank", "curves"):
        ends = tab.evaluate(
            """(name) => [...document.querySelectorAll(`#chart-${name} .plot`)].map((plot) =>
                JSON.stringify([plot._fullLayout.xaxis.range, plot._fullLayout.yaxis.range]))""",
            name,
        )
        assert len(ends) > 1
        assert len(set(ends)) == 1, name


MARK = """(chart) => {
    const plot = document.querySelector(`#chart-${chart} .plot`);
    plot.scrollIntoView({ block: "center" });
    const trace = plot.data.find((one) => one.series?.trials);
    const at = trace.x.length - 1;
    const { xaxis, yaxis } = plot._fullLayout;
    const box = plot.getBoundingClientRect();
    const x = box.left + xaxis._offset + xaxis.d2p(trace.x[at]);
    const y = box.top + yaxis._offset + yaxis.d2p(trace.y[at]);
    return [x, y];
}"""


@pytest.mark.parametrize("chart", ["rank", "curves"])
def test_hover_over_a_chart_tells_the_whole_setting_too(tab, chart):
    see_all(tab)
    x, y = tab.evaluate(MARK, chart)
    tab.mouse.move(x - 30, y - 5)
    tab.mouse.move(x, y, steps=4)
    tab.wait_for_selector("#tooltip:not([hidden])")
    said = tab.inner_text("#tooltip")
    trial = said.split("\ntrial\n")[1].split("\n")[0]  # marks may lie on each other
    row = tab.evaluate(f"front.rows.find((row) => front.value('trial_id', row) === '{trial}')")
    asked = tab.evaluate(f"setting({row}).filter(([, value]) => value !== '' && value !== null)")
    assert {"method", "optimizer", "batch size"} <= {word for word, _ in asked}
    for word, value in asked:
        assert f"{word}\n{value}" in said
    tab.mouse.move(5, 5)
    tab.wait_for_selector("#tooltip", state="hidden")


def test_the_first_column_of_the_table_stays_in_view(started, page):
    with browsers.opened(started, page, 400) as tab:
        box = tab.locator("#table")
        cell = tab.locator("#table tbody td:first-child").first
        before = cell.bounding_box()["x"]
        box.evaluate("(one) => one.scrollTo(400, 0)")
        assert abs(cell.bounding_box()["x"] - before) < 1
        assert cell.bounding_box()["width"] < 200


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


def test_latency_is_an_axis_where_it_was_timed(started, tmp_path):
    study = scored(charted(60))
    some = list(study.verifications)[:3]
    checks = {
        i: replace(one, latency_ms=2.0 + some.index(i) if i in some else None)
        for i, one in study.verifications.items()
    }
    page = report(replace(study, verifications=checks), tmp_path)
    with browsers.opened(started, page) as tab:
        box = tab.locator("#front-choices label", has_text="against").locator("select")
        assert "latency_ms" not in tab.evaluate("front.x.map((axis) => axis.name)")
        box.select_option("verified_latency_ms")
        becomes(tab, f"{PLOT}.layout.uirevision.startsWith('verified_latency_ms ')")
        ids = {tab.evaluate(f"front.value('trial_id', {row})") for row in rows_shown(tab)}
        assert ids == set(some)
        count = tab.evaluate("front.rows.length - front.at('baseline').length")
        tried = len([i for i in some if i in tab.evaluate("page.table.ids")])
        note = tab.inner_text("#front-note")
        assert f"{count - tried} of {count} trials have no verified_latency_ms" in note


def test_a_wide_range_of_what_shall_be_small_begins_with_a_log_scale(started, tmp_path):
    loss = Objective("nll", Direction.MINIMIZE, "nats")
    for low, high, scale in ((0.1, 66.0, "log"), (1.0, 2.0, "linear")):
        turned = synthetic.turned(
            synthetic.study(), loss, lambda a, low=low, high=high: low * (high / low) ** (1 - a)
        )
        page = report(turned, tmp_path / scale)
        with browsers.opened(started, page) as tab:
            assert tab.evaluate(f"{PLOT}._fullLayout.yaxis.type") == scale


def test_the_certified_point_is_marked_on_every_axis(started, tmp_path):
    page = report(synthetic.study(), tmp_path)
    with browsers.opened(started, page) as tab:
        row, text = tab.evaluate("[front.certified.row, front.certified.text]")
        for name in tab.evaluate("front.x.map((axis) => axis.name)"):
            box = tab.locator("#front-choices label", has_text="against").locator("select")
            box.select_option(name)
            becomes(tab, f"{PLOT}.layout.uirevision.startsWith('{name} ')")
            line = tab.evaluate(f"{PLOT}.layout.shapes.find((one) => one.type === 'line').x0")
            assert line == tab.evaluate(f"front.value('{name}', {row})")
            assert text in tab.evaluate(f"{PLOT}.layout.annotations[0].text")


BELOW = """(plot) => {
    const lowest = plot.querySelector(".nsewdrag").getBoundingClientRect().height;
    const { yaxis } = plot._fullLayout;
    const some = plot.data.filter((one) => ["completed", "stopped"].includes(one.kind));
    return some.flatMap((one) => one.y).filter((y) => yaxis.d2p(y) > lowest).length;
}"""


@pytest.mark.parametrize("minimised", [False, True])
def test_what_lies_below_the_axis_is_counted_there(started, tmp_path, minimised):
    study = charted(100)
    if minimised:
        loss = Objective("nll", Direction.MINIMIZE, "nats")
        study = synthetic.turned(study, loss, lambda a: 2 - a)
    with browsers.opened(started, report(study, tmp_path)) as tab:
        plot, told = (
            tab.locator("#front-plot"),
            "document.getElementById('front-below').textContent",
        )
        zoom = "Plotly.relayout(plot, { 'yaxis.range': [a + 0.7 * (b - a), b] })"
        plot.evaluate(f"(plot) => {{ const [a, b] = plot._fullLayout.yaxis.range; {zoom}; }}")
        becomes(tab, f"{told} !== ''")
        below = plot.evaluate(BELOW)
        assert below > 5
        becomes(tab, f"{told} === '▾ {below} more below'")
        chips = tab.locator("#front-kinds .chip", has_text="dominated")
        for at in range(chips.count()):
            chips.nth(at).click()
        becomes(tab, f"{told} === ''")


OVERLAPS = """() => {
    const boxes = [...document.querySelectorAll("#front-plot .textpoint text")]
        .filter((one) => one.textContent).map((one) => one.getBoundingClientRect());
    const meet = (p, q) => p.left < q.right - 1 && q.left < p.right - 1
        && p.top < q.bottom - 3 && q.top < p.bottom - 3;
    return [boxes.length, boxes.filter((p, i) => boxes.some((q, j) => i < j && meet(p, q))).length];
}"""


@pytest.mark.parametrize("width", [400, 1280])
def test_names_of_baselines_do_not_hide_each_other(started, page, width):
    with browsers.opened(started, page, width) as tab:
        for name in tab.evaluate("front.x.map((axis) => axis.name)"):
            box = tab.locator("#front-choices label", has_text="against").locator("select")
            box.select_option(name)
            becomes(tab, f"{PLOT}.layout.uirevision.startsWith('{name} ')")
            assert tab.evaluate(OVERLAPS) == [4, 0], name


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
