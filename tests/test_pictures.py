"""Charts as pictures and tables: what is drawn is the data, in its scales, whatever names are."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import pyarrow as pa
import pytest
from charted_study import again, charted
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from analysis.charts import CHARTS
from analysis.charts.chart import Chart, Mark, Panel, Scale, Series
from analysis.charts.looks import looks
from analysis.charts.pictures import draw
from analysis.charts.tables import as_csv, as_parquet
from analysis.figure_files import png, svg
from analysis.findings import findings

HOSTILE = "</script><b>_$x_1$ &amp; \"'😀\n" + "y" * 300
NUMBERS = st.floats(-1e6, 1e6)


def one(mark: Mark, x=(1.0, 2.0, 4.0), y=(0.5, 0.25, 0.75), scales=(), **more) -> Chart:
    x_scale, y_scale = scales or (Scale("across"), Scale("up"))
    series = Series("name", mark, x, y, **more)
    return Chart("title", "note", [Panel("panel", x_scale, y_scale, [series])])


def axes_of(chart: Chart):
    return draw(chart).axes[0]


def test_points_stand_where_the_data_says():
    axes = axes_of(one(Mark.POINTS))
    offsets = axes.collections[-1].get_offsets()
    assert np.array_equal(offsets, [(1, 0.5), (2, 0.25), (4, 0.75)])


@pytest.mark.parametrize("mark", [Mark.LINE, Mark.STEP])
def test_lines_go_through_the_data_and_steps_hold_it(mark):
    line = axes_of(one(mark)).lines[0]
    assert np.array_equal(line.get_xydata(), [(1, 0.5), (2, 0.25), (4, 0.75)])
    held = line.get_drawstyle()
    assert held == ("steps-post" if mark is Mark.STEP else "default")


def test_whiskers_have_the_ends_of_the_data_and_none_where_there_is_none():
    axes = axes_of(one(Mark.POINTS, low=(0.4, None, 0.7), high=(0.6, None, 0.8)))
    ends = [path.vertices[:, 1].tolist() for c in axes.collections[:-1] for path in c.get_paths()]
    assert ends == [[0.4, 0.6], [0.7, 0.8]]


@pytest.mark.parametrize("length", [40, 300])
def test_a_legend_tells_apart_names_that_differ_at_their_end(length):
    names = [f"{'a study of a network and its seed '.ljust(length - 1, 'n')}{i}" for i in range(2)]
    found = [Series(name, Mark.STEP, (1.0, 2.0), (0.5, 0.25)) for name in names]
    figure = draw(Chart("title", "note", [Panel("panel", Scale("x"), Scale("y"), found)]))
    (legend,) = figure.legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown[0] != shown[1]
    if length == 40:
        assert [text.split() for text in shown] == [name.split() for name in names]
    figure.draw_without_rendering()
    box = legend.get_window_extent()
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert box.y0 >= figure.bbox.y0


def test_bars_lie_where_names_stand_at_the_side():
    chart = one(Mark.BARS, x=(0.5, 0.2), y=("first", "second"))
    axes = axes_of(chart)
    assert [bar.get_width() for bar in axes.patches] == [0.5, 0.2]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    upright = axes_of(one(Mark.BARS, x=("first", "second"), y=(0.5, 0.2)))
    assert [bar.get_height() for bar in upright.patches] == [0.5, 0.2]


def test_a_band_is_between_its_edges():
    axes = axes_of(one(Mark.BAND, low=(0.1, 0.2, 0.3), high=(0.9, 0.8, 0.7)))
    ys = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (ys.min(), ys.max()) == (0.1, 0.9)


def test_cells_that_are_empty_are_not_drawn():
    x, y = ("a", "b", "a", "b"), ("m", "m", "n", "n")
    axes = axes_of(one(Mark.CELLS, x, y, shade=(0.5, None, 0.0, 1.0)))
    assert len(axes.patches) == 3
    assert sorted(text.get_text() for text in axes.texts) == ["0", "0.5", "1"]
    blank = axes_of(one(Mark.CELLS, x, y, shade=(None,) * 4))
    assert not blank.patches


def test_scales_are_as_asked():
    scales = Scale("x", log=True, reversed=True), Scale("y", percent=True)
    axes = axes_of(one(Mark.POINTS, scales=scales))
    assert axes.get_xscale() == "log"
    assert axes.get_xlim()[0] > axes.get_xlim()[1]
    assert axes.yaxis.get_major_formatter()(0.975, 0) == "97.5%"


@pytest.mark.parametrize("high", [1.5, 8.0, 900.0, 1e7])
def test_a_logarithmic_axis_has_some_ticks_and_not_too_many(high):
    axes = axes_of(one(Mark.POINTS, x=(1.0, math.sqrt(high), high), scales=(
        Scale("x", log=True), Scale("y"))))  # fmt: skip
    low, top = axes.get_xlim()
    ticks = [tick for tick in axes.xaxis.get_majorticklocs() if low <= tick <= top]
    assert 2 <= len(ticks) <= 12


def test_a_name_has_one_look_in_all_panels_and_others_have_others():
    names = [f"n{i}" for i in range(20)]
    panels = [
        Panel(p, Scale("x"), Scale("y"), [Series(n, Mark.LINE, [1], [1]) for n in some])
        for p, some in (("a", names), ("b", names[::-1]))
    ]
    found = looks(Chart("t", "n", panels))
    assert len({(look.colour, look.shape) for look in found.values()}) == len(names)


@settings(max_examples=6)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=9), st.sampled_from(list(Mark)))
def test_any_numbers_are_drawn_and_written_down_as_they_are(pairs, mark):
    x, y = zip(*pairs, strict=True)
    shade = y if mark is Mark.CELLS else ()
    if mark is Mark.CELLS:
        x, y = tuple(map(str, x)), tuple(map(str, y))
    chart = one(mark, x, y, low=() if shade else y, high=() if shade else y, shade=shade)
    assert png(draw(chart)).startswith(b"\x89PNG")
    rows = list(chart.rows())
    written = csv.DictReader(io.StringIO(as_csv(rows).decode()))
    kept = parquet.read_table(pa.BufferReader(as_parquet(rows))).to_pylist()
    for row, line, copy in zip(rows, written, kept, strict=True):
        assert copy == row
        if not shade:
            assert (float(line["x"]), float(line["y"])) == (row["x"], row["y"])


@pytest.mark.parametrize("mark", Mark)
def test_names_are_text_and_nothing_else(mark):
    shade = (1.0, 2.0, 3.0) if mark is Mark.CELLS else ()
    names = ("a", HOSTILE, "_b")
    x = names if mark in (Mark.CELLS, Mark.BARS) else (1.0, 2.0, 3.0)
    y = (HOSTILE, "b", "c") if shade else (1.0, 2.0, 3.0)
    ends: dict = {} if shade or x is names else {"low": x, "high": x}
    series = [Series(n, mark, x, y, shade=shade, texts=names, **ends) for n in names]
    scale = Scale(HOSTILE)
    chart = Chart(HOSTILE, HOSTILE, [Panel(HOSTILE, scale, scale, series)])
    assert b"<b>" not in svg(draw(chart))
    assert png(draw(chart)) == png(draw(chart))
    texts = [row["text"] for row in csv.DictReader(io.StringIO(as_csv(chart.rows()).decode()))]
    assert texts == list(names) * 3


@pytest.fixture(scope="module")
def found():
    return findings(again(charted(40)))


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_is_a_picture_that_repeats(name, found):
    chart = CHARTS[name](found)
    assert chart is not None
    figure = draw(chart)
    assert len(figure.axes) >= len(chart.panels)
    assert svg(draw(chart)) == svg(figure)
    assert len(parquet.read_table(pa.BufferReader(as_parquet(chart.rows())))) == len(
        list(chart.rows())
    )
