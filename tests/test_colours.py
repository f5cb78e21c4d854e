"""Colours of pictures and page: told apart by all eyes, and text that can be read."""

from __future__ import annotations

import re
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from colour_blindness import MATRICES, apart, contrast, lab

from analysis.plot_style import GREY, INK, PALE, PALETTE, SHADES

SEEN_AT_A_GLANCE = 10
READABLE = 4.5  # WCAG 2.2, text of normal size
CSS = (Path(__file__).parents[1] / "analysis/page/page.css").read_text()


@pytest.mark.parametrize("sight", MATRICES)
def test_any_two_colours_are_told_apart(sight):
    for a, b in combinations((*PALETTE, PALE), 2):
        assert apart(a, b, sight) >= SEEN_AT_A_GLANCE, (a, b)


@pytest.mark.parametrize("sight", MATRICES)
def test_shades_grow_darker_with_the_value(sight):
    lightness = [lab(shade, sight)[0] for shade in SHADES]
    assert all(a - b >= SEEN_AT_A_GLANCE for a, b in pairwise(lightness))


def test_the_simulation_leaves_grey_as_it_is():
    for sight in MATRICES:
        assert apart("#777777", "#777777", sight) == 0
        assert abs(lab("#777777", sight)[0] - lab("#777777")[0]) < 0.5
    assert apart("#D55E00", "#009E73", "deuteranopia") < apart("#D55E00", "#009E73", "normal")


def test_text_of_pictures_can_be_read():
    assert min(contrast(ink, "#FFFFFF") for ink in (INK, GREY)) >= READABLE


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_of_the_page_can_be_read(theme):
    blocks = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#\w{6})", blocks[theme]))
    for text in ("ink", "quiet", "accent"):
        for ground in ("paper", "soft"):
            assert contrast(colours[text], colours[ground]) >= READABLE, (text, ground)
