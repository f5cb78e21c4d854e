"""Our counter-based generator: known answers, and what is built on it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compression import philox

# From the test vectors of Random123, philox4x32 with 10 rounds: counter, key, words.
KNOWN = [
    (
        "00000000 00000000 00000000 00000000",
        "00000000 00000000",
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    ),
    (
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def hexes(text):
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected):
    found = philox.philox(np.array([hexes(counter)], dtype=np.uint32), tuple(hexes(key)))
    assert found.tolist() == [hexes(expected)]


def test_counters_are_independent_of_their_neighbours():
    counters = np.array([hexes(counter) for counter, _, _ in KNOWN] * 2, dtype=np.uint32)
    together = philox.philox(counters, (1, 2))
    apart = [philox.philox(row[None], (1, 2))[0] for row in counters]
    assert np.array_equal(together, np.stack(apart))


@given(st.text(max_size=20), st.integers(0, 50), st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_a_shorter_stream_is_the_start_of_a_longer_one(stream, count, more):
    assert np.array_equal(philox.words(stream, count), philox.words(stream, count + more)[:count])


def test_streams_of_other_names_differ():
    drawn = [philox.words(name, 64) for name in ("a", "b", "a ", "")]
    for i, one in enumerate(drawn):
        assert not any((one == other).mean() > 0.1 for other in drawn[:i])


@pytest.mark.parametrize("bound", [1.0, 0.25, math.sqrt(3)])
def test_uniform_is_symmetric_within_its_bound(bound):
    drawn = philox.uniform("u", (100, 200), bound)
    assert drawn.dtype == torch.float32
    assert drawn.abs().max() < bound
    assert drawn.abs().max() > 0.999 * bound
    deviation = bound / math.sqrt(3 * drawn.numel())
    assert abs(drawn.double().mean()) < 4 * deviation
    assert drawn.double().var() == pytest.approx(bound**2 / 3, rel=0.03)


def test_uniform_is_on_its_grid_exactly():
    odd = philox.uniform("u", (1000,)).double() * 2**24
    assert torch.equal(odd, odd.round())
    assert (odd.long() % 2 == 1).all()


@pytest.mark.parametrize("sparsity", [1.0, 3.0, 8.0])
def test_ternary_has_its_sparsity_and_variance_1(sparsity):
    drawn = philox.ternary("t", (200, 200), sparsity)
    assert set(drawn.unique().tolist()) <= {0.0, *(s * np.float32(sparsity**0.5) for s in (-1, 1))}
    share = (drawn != 0).double().mean()
    deviation = math.sqrt(1 / (sparsity * drawn.numel()))
    assert abs(share - 1 / sparsity) <= 4 * deviation + 1e-9
    assert abs(drawn.double().mean()) < 4 / math.sqrt(drawn.numel())


@given(st.integers(0, 200), st.integers(0, 200), st.text(max_size=5))
@settings(max_examples=50, deadline=None)
def test_a_subset_has_no_repeats(count, more, stream):
    found = philox.subset(stream, count, count + more)
    assert found.dtype == torch.int64
    assert found.shape == (count,)
    assert len(set(found.tolist())) == count
    assert all(0 <= value < count + more for value in found.tolist())


def test_a_subset_of_all_is_a_permutation_and_no_sorted_one():
    found = philox.subset("s", 100, 100)
    assert torch.equal(found.sort().values, torch.arange(100))
    assert not torch.equal(found, torch.arange(100))


def test_every_number_is_as_likely_in_a_subset():
    counts = torch.zeros(20)
    for i in range(400):
        counts[philox.subset(f"s{i}", 5, 20)] += 1
    # 400 draws with a chance of 1/4 each: deviation sqrt(400 * 3/16) = 8.7.
    assert (counts - 100).abs().max() < 5 * 8.7


@given(st.integers(0, 60), st.integers(4, 2**32 // 60), st.text(max_size=5))
@settings(max_examples=50, deadline=None)
def test_a_small_subset_is_the_first_draws_without_repeats(count, times, stream):
    of = count * times
    drawn = philox.words(stream, 8 * count + 8).tolist()
    wide = [(high << 32) | low for high, low in zip(drawn[::2], drawn[1::2], strict=True)]
    expected = list(dict.fromkeys(word * of >> 64 for word in wide))[:count]
    assert philox.subset(stream, count, of).tolist() == expected


def test_a_small_subset_goes_on_until_there_are_enough(monkeypatch):
    """Where the first draws are all the same number."""
    real = philox.words

    def stuck(stream, count):
        found = real(stream, count).copy()
        found[:120] = 7
        return found

    monkeypatch.setattr(philox, "words", stuck)
    found = philox.subset("s", 20, 1000).tolist()
    assert found[0] == 0
    assert len(set(found)) == 20


@pytest.mark.parametrize(("count", "of"), [(4, 2**32), (4, 2**32 - 1), (0, 0), (1, 4)])
def test_subsets_of_the_widest_ranges(count, of):
    found = philox.subset("s", count, of).tolist()
    assert len(set(found)) == count
    assert all(0 <= value < of for value in found)
    if of > 2**31:
        assert max(found) > 2**28  # four draws, all in the lowest sixteenth


def test_the_stream_of_subsets_stays_as_files_have_it():
    """Files hold a checksum of such numbers: other ones are another format."""
    assert philox.subset("paretune", 6, 2**20).tolist() == [
        496732,
        174877,
        588808,
        94263,
        941764,
        847953,
    ]
    assert philox.subset("paretune", 6, 10).tolist() == [8, 3, 1, 7, 9, 6]


def test_a_few_of_many_cost_the_few(monkeypatch):
    asked, real = [], philox.words

    def counted(stream, count):
        asked.append(count)
        return real(stream, count)

    monkeypatch.setattr(philox, "words", counted)
    philox.subset("s", 1000, 2**30)
    assert sum(asked) < 4 * 1000


@pytest.mark.parametrize(("count", "of"), [(3, 2), (-1, 2)])
def test_too_large_a_subset_is_refused(count, of):
    with pytest.raises(ValueError, match=f"{count} different integers below {of}"):
        philox.subset("s", count, of)


def test_integers_that_two_words_cannot_reach_are_refused():
    with pytest.raises(ValueError, match=r"above 2\^32"):
        philox.subset("s", 1, 2**32 + 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int32])
def test_a_checksum_is_of_bytes_whatever_the_dtype(dtype):
    one = torch.arange(6).to(dtype)
    assert torch.equal(philox.checksum([one]), philox.checksum([one.view(torch.uint8)]))
    assert torch.equal(philox.checksum([one[0]]), philox.checksum([one[:1]]))  # no dimension
    assert torch.equal(philox.checksum([one[::2]]), philox.checksum([one[::2].clone()]))


def test_a_checksum_sees_a_changed_bit_and_the_order():
    one, other = philox.uniform("1", (5,)), philox.uniform("2", (5,))
    found = philox.checksum([one, other])
    assert found.shape == (8,)
    assert found.dtype == torch.uint8
    assert torch.equal(found, philox.checksum([one.clone(), other.clone()]))
    assert not torch.equal(found, philox.checksum([other, one]))
    changed = one.clone()
    changed[2] = torch.nextafter(changed[2], torch.tensor(9.0))
    assert not torch.equal(found, philox.checksum([changed, other]))
