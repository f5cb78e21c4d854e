"""Lines that a terminal of 80 columns and a log can show, and what is said of long work."""

import time

from hypothesis import given
from hypothesis import strategies as st

from analysis.telling import told, wrapped

WORDS = st.lists(st.text(st.characters(codec="ascii", categories="LNP"), min_size=1, max_size=99))


@given(WORDS)
def test_no_word_is_lost_and_no_line_is_longer_than_need_be(words):
    text = wrapped(" ".join(words))
    assert text.split() == words
    for line in text.splitlines():
        assert len(line) <= 80 or len(line.split()) == 1


def test_lines_stay_lines():
    assert wrapped("one\ntwo") == "one\ntwo"
    assert wrapped("") == ""


def test_what_is_over_soon_is_not_said():
    said = []
    with told(said.append, "loading", first=5.0):
        pass
    assert said == []


def test_what_lasts_is_said_and_said_again():
    said = []
    with told(said.append, "loading", first=0.01, again=0.01):
        until = time.monotonic() + 5
        while len(said) < 3 and time.monotonic() < until:
            time.sleep(0.01)
    assert said[0] == "loading"
    assert said[1] == "loading: 0 s so far"
    count = len(said)
    time.sleep(0.1)
    assert len(said) == count >= 3
