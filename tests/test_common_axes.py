"""Panels that share their axes, and inks that are read on their shades."""

from __future__ import annotations

import pytest
from charted_study import charted
from colour_blindness import contrast
from hypothesis import given
from hypothesis import strategies as st

from analysis.charts import CHARTS, pictures
from analysis.charts.chart import Chart, Mark, Panel, Scale, Series
from analysis.charts.common import in_common
from analysis.findings import findings
from analysis.plot_style import SHADES, ink_on, shades_of


def chart(*values, log=False, mark=Mark.LINE):
    series = [Series("s", mark, [1.0, 4.0][: len(y)], y) for y in values]
    panels = [Panel("p", Scale("x", log=log), Scale("y"), [one]) for one in series]
    return Chart("title", "note", panels, columns=2)


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=2), min_size=2, max_size=6))
def test_all_values_that_are_not_far_out_lie_within(values):
    made = in_common(chart(*values))
    low, high = made.ranges["y"]
    flat = [v for panel in values for v in panel]
    outside = sum(not low <= v <= high for v in flat)
    assert outside < len(flat) / 2
    assert "Beyond" in made.note or not outside
    assert low < high


def test_one_far_value_does_not_press_all_others_together():
    near = [[0.9, 0.91], [0.92, 0.93], [0.94, 0.95], [0.9, 0.96]]
    plain = in_common(chart(*near)).ranges
    far = in_common(chart(*near, [1e6]))
    assert far.ranges["y"] == pytest.approx(plain["y"], abs=0.02)
    assert far.note.endswith("Beyond the common axis: 1 value.")
    assert in_common(chart(*near)).note == "note"


def test_log_axes_are_padded_by_a_factor_and_one_panel_needs_nothing():
    low, high = in_common(chart([1.0, 2.0], [2.0, 3.0], log=True)).ranges["x"]
    assert 0 < low < 1
    assert high > 4
    assert not in_common(chart([1.0, 2.0])).ranges


@pytest.mark.parametrize("name", ["rank", "curves"])
def test_panels_of_pictures_have_the_same_ends(name):
    made = CHARTS[name](findings(charted(80)))
    axes = pictures.draw(made).axes
    assert len(axes) > 1
    assert len({(one.get_xlim(), one.get_ylim()) for one in axes}) == 1


@given(st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_ink_is_read_on_every_shade(values):
    for value, shade in zip(values, shades_of(values), strict=True):
        assert (value is None) == (shade is None)
        if shade is not None:
            assert contrast(ink_on(shade), shade) >= 4.5


def test_shades_go_from_the_least_to_the_most():
    assert shades_of([3.0, None, 1.0]) == [SHADES[-1], None, SHADES[0]]
    assert shades_of([0.0, 1.0, 2.0, 3.0]) == list(SHADES)


def test_a_map_of_fractions_is_in_percent():
    drawn = pictures.draw(CHARTS["map"](findings(charted(80))))
    first, second, *_ = drawn.axes
    assert all(text.get_text().endswith("%") for text in first.texts)
    assert not any("%" in text.get_text() for text in second.texts)
