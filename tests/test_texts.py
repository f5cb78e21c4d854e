"""Texts: read, cleaned, split without leaks, batched by length."""

import pickle
import sys
import types

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from text_examples import csv_file, encoder, reviews

from compression.registry import InvalidSetting
from trainables.data import corpora, texts
from trainables.data.duplicates import THRESHOLD, find_duplicates, normalised
from trainables.data.text_tables import Source, check_columns, class_counts, documents, read
from trainables.models.language import tokenizer


def split_of(lengths, pad=7):
    """Texts of these lengths whose tokens count up from 100."""
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    tokens = torch.arange(100, 100 + int(offsets[-1]), dtype=torch.int32)
    return texts.TextSplit(tokens, offsets, torch.arange(len(lengths)), pad)


lengths = st.lists(st.integers(1, 20), min_size=1, max_size=40)


@given(lengths)
def test_inputs_are_the_tokens_padded_to_the_longest(lengths):
    split = split_of(lengths)
    rows = torch.randperm(len(lengths))
    found = split.inputs(rows)
    assert found["input_ids"].shape == (len(lengths), max(lengths))
    for row, ids, mask in zip(rows, found["input_ids"], found["attention_mask"], strict=True):
        own = split.tokens[split.offsets[row] : split.offsets[row + 1]]
        assert torch.equal(ids[: len(own)], own.long())
        assert (ids[len(own) :] == 7).all()
        assert mask.sum() == mask[: len(own)].sum() == len(own)


@given(lengths, st.integers(1, 7), st.integers(0, 9))
def test_every_text_is_in_one_batch(lengths, size, seed):
    split = split_of(lengths)
    for generator in (None, torch.Generator().manual_seed(seed)):
        batches = list(split.order(size, generator))
        assert sorted(torch.cat(batches).tolist()) == list(range(len(lengths)))
        assert len(batches) == -(-len(lengths) // size)
        assert sorted(map(len, batches)) == sorted(map(len, torch.arange(len(split)).split(size)))


def test_batches_hold_like_lengths_in_an_order_of_their_own():
    draw = torch.Generator().manual_seed(0)
    split = split_of(torch.randint(1, 60, (640,), generator=draw).tolist())
    padded = sum(
        len(rows) * int(split.lengths[rows].max())
        for rows in split.order(16, torch.Generator().manual_seed(1))
    )
    assert padded < 1.1 * int(split.lengths.sum())
    orders = [
        torch.cat(list(split.order(16, torch.Generator().manual_seed(seed)))) for seed in (1, 1, 2)
    ]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    means = [split.lengths[rows].float().mean() for rows in split.order(16, draw)]
    assert means != sorted(means)


@given(lengths)
def test_taken_texts_are_those_texts(lengths):
    split = split_of(lengths)
    rows = np.random.default_rng(0).permutation(len(lengths))[: len(lengths) // 2 + 1]
    taken = split.take(rows)
    one, two = split.inputs(torch.from_numpy(rows)), taken.inputs(torch.arange(len(rows)))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert torch.equal(taken.labels, split.labels[rows])


def test_a_split_is_small_to_send():
    split = split_of([50] * 1000)
    assert len(pickle.dumps(split)) < 4 * 50_000 + 8 * 2_001 + 4_000
    assert split_of([5, 6]).digest != split_of([6, 5]).digest != split_of([6, 5], pad=0).digest


@given(st.lists(st.integers(0, 2), min_size=60, max_size=200), st.integers(0, 5))
def test_parts_are_disjoint_whole_and_stratified(drawn, seed):
    labels = np.array(drawn + [0, 1, 2] * 10)
    parts = texts.stratified(labels, seed)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    for part, share in zip(parts, texts.FRACTIONS, strict=True):
        counts = np.bincount(labels[part], minlength=3)
        assert (abs(counts - share * np.bincount(labels)) <= 1).all()
        assert (counts > 0).all()


def test_classes_that_are_too_rare_to_split_are_named_together():
    with pytest.raises(InvalidSetting, match="class 1 has 3 texts, class 2 has 9 texts: a split"):
        texts.stratified(np.repeat([0, 1, 2], [50, 3, 9]), 0)


# Duplicates


def test_equal_words_are_exact_duplicates():
    assert normalised("  Naïve\tCAFÉ -- №5!\n") == "naïve café no5"
    found = find_duplicates(["Good dress.", "bad dress", "good  DRESS!!", "good dress shirt"])
    assert found.keep.tolist() == [True, True, False, True]
    assert (found.exact, found.near) == (1, 0)


def words(count, seed):
    return [f"w{i}" for i in np.random.default_rng(seed).integers(0, 500, count)]


def jaccard(one, two):
    a, b = ({tuple(t[i : i + 3]) for i in range(len(t) - 2)} for t in (one, two))
    return len(a & b) / len(a | b)


def test_near_duplicates_are_found_down_to_the_threshold_and_no_further():
    kept, above = 0, 0
    for seed in range(200):
        base = words(60, seed)
        other = list(base)
        for place in range(3, 3 + 6 * (seed % 4), 6):
            other[place] = "other"
        found = find_duplicates([" ".join(base), " ".join(other)])
        similar = jaccard(base, other) >= THRESHOLD
        above += similar
        kept += similar and bool(found.keep[1])
        assert similar or found.keep[1]
    assert above > 90
    assert kept <= 1  # 0.02% are missed at the threshold


def test_pairs_are_found_among_many_that_are_alike():
    """In a band with others of like, but not too like words, pairs need not be neighbours."""
    made, pairs = [], 0
    for seed in range(20):
        base = words(160, seed)
        slots = np.random.default_rng(seed).permutation(range(3, 159, 3))
        for end in ("this", "that"):
            for number, places in enumerate(np.split(slots[:51], 17)):
                own = list(base)
                for place in places:
                    own[place] = f"own{number}"
                made.append([*own[:-1], end])
        one, two, twin = made[-34], made[-33], made[-17]
        assert jaccard(one, two) < THRESHOLD < jaccard(one, twin)
        pairs += 17
    found = find_duplicates([" ".join(one) for one in made])
    assert (found.exact, found.near) == (0, pairs)


def test_the_first_of_a_chain_of_likenesses_stays():
    base, other = words(60, 0), words(60, 1)
    drifting = [base[:place] + other[place:] for place in (60, 57, 54, 51)]
    assert jaccard(drifting[0], drifting[3]) < THRESHOLD < jaccard(drifting[2], drifting[3])
    found = find_duplicates([" ".join(one) for one in drifting])
    assert found.keep.tolist() == [True, False, False, False]
    assert found.near == 3


def test_texts_of_few_words_are_told_apart():
    found = find_duplicates(["a", "b", "a b", "b a", "a b c"])
    assert found.keep.all()
    assert find_duplicates([]).keep.tolist() == []


# Tables


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_tables_of_any_kind_give_the_same(kind, tmp_path):
    rows = reviews(60)
    columns = {"text": [t for t, _ in rows], "label": [n for _, n in rows], "more": [0] * 60}
    file = tmp_path / f"table.{kind}"
    if kind == "parquet":
        parquet.write_table(pa.table(columns), file)
    else:
        lines = zip(*columns.values(), strict=True)
        mark = "," if kind == "csv" else "\t"
        file.write_text("\n".join(mark.join(map(str, line)) for line in [columns, *lines]))
    found = read(Source(str(file), "text", "label"))
    assert list(zip(found.texts, found.labels.tolist(), strict=True)) == rows
    assert found.notes == ()
    assert class_counts(Source(str(file), "text", "label")) == {"0": 18, "1": 42}


def table(tmp_path, **columns):
    file = tmp_path / "table.parquet"
    parquet.write_table(pa.table(columns), file)
    return str(file)


def test_several_columns_are_joined(tmp_path):
    data = table(tmp_path, a=["x", None, "y"] * 9, b=["1", "2", ""] * 9, label=[0, 1, 0] * 9)
    assert read(Source(data, "a, b", "label")).texts == ["x\n1", "2", "y"]


def test_words_are_classes_in_their_order(tmp_path):
    data = table(tmp_path, text=[f"t {i}" for i in range(6)], label=["no", "yes", "if"] * 2)
    assert read(Source(data, "text", "label")).labels.tolist() == [1, 2, 0] * 2
    assert list(class_counts(Source(data, "text", "label"))) == ["if", "no", "yes"]


def test_empty_texts_and_duplicates_are_left_out_and_said(tmp_path):
    texts_ = [f"text number {i} of them" for i in range(40)]
    texts_[3], texts_[17], texts_[20] = None, "  ", "Text number 5, of them!"
    found = read(Source(table(tmp_path, text=texts_, label=[0, 1] * 20), "text", "label"))
    assert len(found.texts) == len(found.labels) == 37
    assert "2 of 40 texts are empty (rows 4, 18); left out" in found.notes[0]
    assert "1 texts left out that repeat" in found.notes[1]
    assert "0 near-duplicates" in found.notes[1]
    assert found.labels.tolist() == [i % 2 for i in range(40) if i not in (3, 17, 20)]


def test_too_many_empty_texts_are_an_error(tmp_path):
    data = table(tmp_path, text=["a", "", "", "b"] * 5, label=[0, 1] * 10)
    with pytest.raises(
        InvalidSetting,
        match=r"10 of 20 texts are empty \(rows 2, 3, 6, 7, 10, \.\.\.\), more than 10%",
    ):
        read(Source(data, "text", "label"))


def test_documents_need_no_label(tmp_path):
    data = table(tmp_path, text=["one two three", "One, two; three", "four"])
    assert documents(Source(data, "text"))[0] == ["one two three", "four"]


BAD = {
    "labels are missing": ([0, None, 1, None] * 5, 0, r"10 labels are missing .*rows 2, 4, 6"),
    "out of range": ([0, 1, 2, -1] * 5, 2, r"10 labels .* not in 0 to 1: 2 in row 3, -1 in row 4"),
    "no integers": (["a", "b"] * 10, 2, r"20 labels in 'label' are not in 0 to 1: 'a' in row 1"),
    "fractions": ([0.5, 1.0] * 10, 0, "holds fractions"),
    "one class": ([1] * 20, 0, "has one value only, 1"),
    "no classes": (list(range(20)), 0, "has 20 different values in 20 rows"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_labels_are_named_and_counted(case, tmp_path):
    labels, classes, message = BAD[case]
    data = table(tmp_path, text=[f"t{i}" for i in range(20)], label=labels)
    for ask in (read, class_counts):
        with pytest.raises(InvalidSetting, match=message):
            ask(Source(data, "text", "label", classes))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("ask", [read, class_counts, check_columns])
def test_wrong_columns_are_all_named(ask, kind, tmp_path):
    if kind == "parquet":
        data = table(tmp_path, text=["a", "b"] * 4, label=[0, 1] * 4)
    else:
        data = str(csv_file(tmp_path / "table.csv", [("a", 0), ("b", 1)] * 4))
    with pytest.raises(InvalidSetting) as error:
        ask(Source(data, "txt, label", "goal"))
    assert "no column 'txt'; did you mean 'text'?" in error.value.errors[0]
    assert "no column 'goal'; columns: text, label" in error.value.errors[1]
    assert "column 'label' holds int64 values, not text" in error.value.errors[2]


def test_text_of_any_arrow_type_is_text(tmp_path):
    words_ = [f"text {i}" for i in range(8)]
    columns = [pa.array(words_, kind) for kind in (pa.large_string(), pa.string())]
    columns.append(pa.array(words_).dictionary_encode())
    for column in columns:
        data = table(tmp_path, text=column, label=[0, 1] * 4)
        assert read(Source(data, "text", "label")).texts == words_
    data = table(tmp_path, text=[[word] for word in words_], label=[0, 1] * 4)
    with pytest.raises(InvalidSetting, match="column 'text' holds list<.*> values, not text"):
        class_counts(Source(data, "text", "label"))


def test_a_missing_or_broken_file_is_a_sentence(tmp_path):
    right = csv_file(tmp_path / "reviews.csv", reviews(20))
    with pytest.raises(InvalidSetting, match=r"no file .*did you mean '.*reviews\.csv'"):
        read(Source(str(tmp_path / "review.csv"), "text", "label"))
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(InvalidSetting, match="cannot be read as a table"):
        read(Source(str(tmp_path / "cut.parquet"), "text", "label"))
    right.write_text("")
    with pytest.raises(InvalidSetting, match="cannot be read as a table"):
        read(Source(str(right), "text", "label"))


def test_a_hub_data_set_is_asked_for_by_its_name(monkeypatch):
    asked = []
    made = pa.table({"text": [f"t{i}" for i in range(6)], "label": [0, 1] * 3})

    def load_dataset(name, split):
        asked.append((name, split))
        if name == "gone":
            raise ConnectionError("no network")
        return types.SimpleNamespace(data=types.SimpleNamespace(table=made))

    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(InvalidSetting, match="pip install datasets"):
            read(Source("some/set", "text", "label"))
    fake = types.ModuleType("datasets")
    fake.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: fake)
    assert len(read(Source("some/set:test", "text", "label")).texts) == 6
    with pytest.raises(InvalidSetting, match="cannot be had from the hub: no network"):
        read(Source("gone", "text", "label"))
    assert asked == [("some/set", "test"), ("gone", "train")]


# Tokens


def test_long_texts_lose_their_end_and_are_counted(tmp_path):
    folder = encoder(tmp_path / "bert")
    made = tokenizer(folder)
    short, long = "apple pear", " ".join(["apple"] * 30)
    found = texts.tokenise(made, str(tmp_path), [short, long], np.array([0, 1]), 8)
    assert found.cut == 1
    assert found.texts.lengths.tolist() == [4, 8]
    ids = found.texts.inputs(torch.tensor([1]))["input_ids"][0]
    assert ids[0] == made.cls_token_id
    assert ids[-1] == made.sep_token_id


# Running text


def text_of(lines):
    return "\n".join(f"line {i} of the text, {i * 7919 % 100003}" for i in range(lines))


def test_the_parts_of_a_text_are_all_of_it_in_order(tmp_path):
    (tmp_path / "a.txt").write_text(text_of(500))
    corpus = corpora.read(str(tmp_path / "a.txt"), "text")
    assert "".join(corpus.parts) == text_of(500)
    assert len(corpus.parts) == corpora.PARTS
    assert all(part.endswith("\n") for part in corpus.parts[:-1])
    parts = corpora.divided(corpus, 0)
    assert list(map(len, parts)) == [80, 10, 10]
    assert set().union(*parts) == set(corpus.parts)
    assert corpora.divided(corpus, 0) == parts != corpora.divided(corpus, 1)


def test_a_text_is_cut_between_paragraphs(tmp_path):
    paragraphs = [text_of(3 + i % 4) for i in range(200)]
    (tmp_path / "a.txt").write_text("\n\n".join(paragraphs))
    corpus = corpora.read(str(tmp_path / "a.txt"), "text")
    assert "".join(corpus.parts) == "\n\n".join(paragraphs)
    assert 80 <= len(corpus.parts) <= corpora.PARTS
    for part in corpus.parts:
        assert part.removesuffix("\n\n").split("\n\n")[0] in paragraphs
    (tmp_path / "a.txt").write_text("no line ends in this text " * 100)
    assert len(corpora.read(str(tmp_path / "a.txt"), "text").parts) == corpora.PARTS


@st.composite
def documents_of(draw):
    sizes = draw(st.lists(st.integers(1, 400), min_size=corpora.DOCUMENTS, max_size=80))
    return [f"{number} " + "a" * size for number, size in enumerate(sizes)]


@given(documents_of(), st.integers(0, 3))
def test_a_document_is_in_one_split(found, seed):
    parts = corpora._parts(found)
    assert "".join(parts) == "\n\n".join(found)
    assert len(parts) <= corpora.PARTS
    inside = [part.removesuffix("\n\n").split("\n\n") for part in parts]
    assert [document for part in inside for document in part] == found
    if len(parts) < 3:
        return
    splits = corpora.divided(corpora.Corpus(parts), seed)
    assert sorted(part for split in splits for part in split) == sorted(parts)
    assert all(splits)
    longest, total = max(map(len, parts)), sum(map(len, parts))
    for held in splits[1:]:  # nearer to its share than half of a part, if there are enough parts
        size = sum(map(len, held))
        assert size <= corpora.HELD_OUT * total + longest / 2 or len(held) == 1


def test_python_topics_stay_whole():
    from pydoc_data.topics import topics

    corpus = corpora.read(corpora.PYTHON_DOCS, "text")
    assert all(any(topic in part for part in corpus.parts) for topic in topics.values())
    for seed in range(5):
        sizes = [sum(map(len, parts)) for parts in corpora.divided(corpus, seed)]
        assert sizes[1] / sum(sizes) == pytest.approx(0.1, abs=0.051)
        assert sizes[2] / sum(sizes) == pytest.approx(0.1, abs=0.051)


def test_rows_of_a_table_stay_whole_and_are_cleaned_later(tmp_path, monkeypatch):
    rows = [f"row {i} has a few words {'and more ' * (i % 7)}" for i in range(300)]
    data = table(tmp_path, text=rows, number=list(range(300)))
    corpus = corpora.read(data, "text")
    lines = [line for part in corpus.parts for line in part.strip().split("\n\n")]
    assert lines == documents(Source(data, "text"))[0]

    def costly(texts):
        raise AssertionError("compared in a check")

    monkeypatch.setattr("trainables.data.text_tables.find_duplicates", costly)
    corpora.check(data, "text")
    with pytest.raises(InvalidSetting, match="did you mean 'text'"):
        corpora.check(data, "texts")
    with pytest.raises(InvalidSetting, match="'number' holds int64 values"):
        corpora.check(data, "number")


def test_groups_of_blocks_are_the_parts(tmp_path):
    (tmp_path / "a.txt").write_text(text_of(300))
    train, *_ = corpora.divided(corpora.read(str(tmp_path / "a.txt"), "text"), 0)
    split = corpora.blocks(corpora.byte_pairs(train, 300), train, 8, "training")
    assert set(split.groups.tolist()) == set(range(len(train)))
    assert (split.groups.diff() >= 0).all()
    again = pickle.loads(pickle.dumps(corpora.first(split, 9)))
    assert torch.equal(again.groups, split.groups[:9])
    assert len(again.groups) == len(again.labels) == 9


def test_blocks_overlap_nowhere_and_know_their_bytes(tmp_path):
    (tmp_path / "a.txt").write_text(text_of(300) + "\nübermäßig größer\n" * 30)
    train, validation, _ = corpora.divided(corpora.read(str(tmp_path / "a.txt"), "text"), 0)
    tokenizer = corpora.byte_pairs(train, 300)
    split = corpora.blocks(tokenizer, validation, 8, "validation")
    tokens = corpora.tokens_of(split.labels)
    assert torch.equal(split.tensors["input_ids"], tokens)
    at = 0
    for part in validation:
        ids = tokenizer.encode(part).ids
        count = len(ids) // 8
        assert tokens[at : at + count].flatten().tolist() == ids[: count * 8]
        at += count
    assert at == len(tokens)
    for size, row in zip(split.labels[:, 0].tolist(), tokens.tolist(), strict=True):
        assert abs(size - len(tokenizer.decode(row[1:]).encode())) <= 4  # a character cut in two


def test_the_small_tokenizer_knows_the_training_text_alone(tmp_path):
    train = ["abab " * 50]
    one = corpora.byte_pairs(train, 270)
    assert one.get_vocab_size() <= 270
    assert one.decode(one.encode("größer xyz").ids) == "größer xyz"
    assert one.to_str() == corpora.byte_pairs(train, 270).to_str()


def test_python_docs_are_enough_text():
    corpus = corpora.read(corpora.PYTHON_DOCS, "text")
    assert sum(map(len, corpus.parts)) > 300_000


def test_running_text_that_is_not_there_or_too_short(tmp_path):
    (tmp_path / "a.txt").write_text("a short text")
    with pytest.raises(
        InvalidSetting, match=r"no file or folder '.*b\.txt'; did you mean '.*a\.txt'"
    ):
        corpora.read(str(tmp_path / "b.txt"), "text")
    short = corpora.divided(corpora.read(str(tmp_path / "a.txt"), "text"), 0)
    with pytest.raises(InvalidSetting, match="training text, in 1 parts, has none of 64 tokens"):
        corpora.blocks(corpora.byte_pairs(short[0], 300), short[0], 64, "training")
    (tmp_path / "a.txt").write_text("short")
    with pytest.raises(InvalidSetting, match="is too short: training, validation and test need"):
        corpora.read(str(tmp_path / "a.txt"), "text")
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(InvalidSetting, match="holds no text"):
        corpora.read(str(tmp_path), "text")
    (tmp_path / "a.txt").write_bytes(b"abc\xff")
    with pytest.raises(InvalidSetting, match="no UTF-8 text: byte 3"):
        corpora.read(str(tmp_path), "text")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidSetting, match=r"no \.txt file"):
        corpora.read(str(tmp_path / "empty"), "text")
