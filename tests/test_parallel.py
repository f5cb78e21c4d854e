"""The synthetic translations: what they promise of their German, and of their splits."""

import re
from collections import defaultdict

import pytest
import translation_examples

from compression.registry import InvalidSetting
from trainables.data import lexicon, pairs
from trainables.data.parallel import adjective_ending, article, number, sentence_pairs

FORMS = ("m", "f", "n", "p")


def test_a_seed_is_a_text_and_another_seed_another():
    assert sentence_pairs(300, 5) == sentence_pairs(300, 5)
    assert sentence_pairs(300, 5)[:100] == sentence_pairs(100, 5)
    assert len(set(sentence_pairs(300, 5)) & set(sentence_pairs(300, 6))) < 3


def test_each_sentence_has_one_translation():
    known = defaultdict(set)
    for seed in range(4):
        for english, german in sentence_pairs(5000, seed):
            known[english].add(german)
    assert all(len(found) == 1 for found in known.values())
    assert len({german for found in known.values() for german in found}) > 0.95 * len(known)


@pytest.mark.parametrize("seed", [0, 1])
def test_synthetic_splits_share_no_sentence(seed):
    parts = pairs.divided(pairs.SYNTHETIC, "source", "target", seed)
    assert tuple(len(part.sources) for part in parts) == pairs.SIZES
    found = [set(part.sources) for part in parts]
    assert sum(map(len, found)) == len(set.union(*found)) == sum(pairs.SIZES)


def test_numbers_turn_around():
    words = {
        2: ("two", "zwei"),
        12: ("twelve", "zwölf"),
        16: ("sixteen", "sechzehn"),
        20: ("twenty", "zwanzig"),
        21: ("twenty-one", "einundzwanzig"),
        24: ("twenty-four", "vierundzwanzig"),
        66: ("sixty-six", "sechsundsechzig"),
        77: ("seventy-seven", "siebenundsiebzig"),
        99: ("ninety-nine", "neunundneunzig"),
    }
    assert {value: number(value) for value in words} == words
    for side in range(2):
        assert len({number(value)[side] for value in range(2, 100)}) == 98


@pytest.mark.parametrize(
    ("case", "der", "ein", "dies"),
    [
        ("nominative", "der die das die", "ein eine ein eine", "dieser diese dieses diese"),
        ("accusative", "den die das die", "einen eine ein eine", "diesen diese dieses diese"),
        ("dative", "dem der dem den", "einem einer einem einen", "diesem dieser diesem diesen"),
    ],
)
def test_articles_are_those_of_the_grammar(case, der, ein, dies):
    for word, forms in (("der", der), ("ein", ein), ("dies", dies)):
        assert [article(word, case, form) for form in FORMS] == forms.split()


@pytest.mark.parametrize(
    ("case", "weak", "mixed", "strong"),
    [
        ("nominative", "e e e en", "er e es en", "e"),
        ("accusative", "en e e en", "en e es en", "e"),
        ("dative", "en en en en", "en en en en", "en"),
    ],
)
def test_adjectives_end_as_their_determiner_asks(case, weak, mixed, strong):
    assert [adjective_ending("der", case, form) for form in FORMS] == weak.split()
    assert [adjective_ending("ein", case, form) for form in FORMS] == mixed.split()
    assert adjective_ending("number", case, "p") == strong


def test_a_dative_plural_ends_in_n_unless_it_ends_in_s():
    for noun in lexicon.PEOPLE + lexicon.THINGS:
        assert noun.german(True, dative=True)[-1] in "ns"
        assert noun.german(False, dative=True) == noun.einzahl


def test_verbs_stand_where_german_has_them():
    text = sentence_pairs(6000, 2)
    subordinate = re.compile(r", dass ([^,.]+)[,.]")
    last = {clause.split()[-1] for _, german in text for clause in subordinate.findall(german)}
    finite = {verb.einzahl for verb in lexicon.VERBS if not verb.prefix}
    assert {"hat", "haben", "wird", "müssen", "mitbringt", "wegwirft", *finite} <= last
    prefixes = {verb.prefix for verb in lexicon.VERBS if verb.prefix}
    mains = [german[:-1].split() for english, german in text if "," not in german]
    apart = [words for words in mains if words[-1] in prefixes]
    assert {words[-1] for words in apart} == prefixes
    assert not any(words[-1] in ("hat", "haben", "wird", "werden") for words in mains)
    for english, german in text:
        if english.startswith("Today "):
            verb, subject = german.split()[1:3]
            assert verb[0].islower()
            assert subject[0].islower()  # the subject's determiner, behind the verb
    assert not any(re.search(r"\ba [aeiou]|\ban [^aeiou]", english) for english, _ in text)


# Pairs of one's own


def test_a_file_is_cleaned_and_split_without_a_common_source(tmp_path):
    rows = sentence_pairs(200, 3)
    rows = [*rows, (rows[0][0], "Anders."), ("Nothing.", ""), (f" {rows[5][0]} ", rows[5][1])]
    file = str(translation_examples.table(tmp_path / "own.csv", rows, ("en", "de")))
    every = pairs.read(file, "en", "de")
    assert len(set(every.sources)) == len(every.sources) <= 200
    assert "Anders." not in every.targets
    assert len(every.notes) == 2
    assert "1 of 203 pairs lack a text" in every.notes[0]
    for seed in (0, 1):
        parts = pairs.divided(file, "en", "de", seed)
        found = [set(part.sources) for part in parts]
        assert set.union(*found) == set(every.sources)
        assert sum(map(len, found)) == len(every.sources)
        assert len(parts[1].sources) == pytest.approx(len(every.sources) / 10, abs=1)
        known = dict(zip(every.sources, every.targets, strict=True))
        for part in parts:
            assert all(known[s] == t for s, t in zip(part.sources, part.targets, strict=True))
    assert pairs.divided(file, "en", "de", 0)[2] != pairs.divided(file, "en", "de", 1)[2]


def test_a_parquet_file_is_read_as_the_csv_file_is(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    rows = sentence_pairs(60, 3)
    columns = zip(("source", "target"), map(list, zip(*rows, strict=True)), strict=True)
    parquet.write_table(pa.table(dict(columns)), tmp_path / "own.parquet")
    written = translation_examples.table(tmp_path / "own.csv", rows)
    tables = (tmp_path / "own.parquet", written)
    assert len({str(pairs.read(str(file), "source", "target")) for file in tables}) == 1


def test_what_is_wrong_with_a_file_is_said(tmp_path):
    few = str(translation_examples.table(tmp_path / "few.csv", sentence_pairs(20, 3)))
    with pytest.raises(InvalidSetting, match="has [0-9]+ different pairs, a split needs 30"):
        pairs.read(few, "source", "target")
    with pytest.raises(InvalidSetting, match=r"no file '.*fwe.csv'; did you mean '.*few.csv'"):
        pairs.check(few.replace("few", "fwe"), "source", "target")
    with pytest.raises(InvalidSetting) as error:
        pairs.check(few, "sorce", "targt")
    assert [e.split("; ")[1] for e in error.value.errors] == [
        "did you mean 'source'?",
        "did you mean 'target'?",
    ]
    half = [(s, t if i % 2 else "") for i, (s, t) in enumerate(sentence_pairs(100, 3))]
    empty = str(translation_examples.table(tmp_path / "empty.csv", half))
    with pytest.raises(InvalidSetting, match="50 of 100 pairs lack a text, more than 10%"):
        pairs.read(empty, "source", "target")


def test_texts_come_back_from_their_bytes():
    import torch

    texts = ["Größe", "a", "Ein langer Satz, mit Umlauten: äöüß.", ""]
    labels = torch.from_numpy(pairs.text_bytes(texts))
    assert [pairs.bytes_text(row) for row in labels] == texts


def test_the_small_model_s_tokenizer_knows_no_text_of_a_file():
    """It is one for all seeds, so whatever it had of a file could be of test."""
    tokenizer = pairs.subwords(600)
    again = pairs.subwords(600)
    assert tokenizer.backend_tokenizer.to_str() == again.backend_tokenizer.to_str()
    text = "Zwölf Boxkämpfer jagen Viktor – 東京 🙂"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text
