"""Generated trials, outcomes and records, for property tests."""

from hypothesis import strategies as st

from trainables.record import (
    NONE,
    PRECISIONS,
    Bounds,
    Choice,
    Drop,
    Fingerprint,
    LayerRule,
    Origin,
    Outcome,
    Paired,
    Parts,
    Record,
    Report,
    Size,
    Status,
    Trial,
    Verification,
)

words = st.text("abcdefghij_", min_size=1, max_size=8)
texts = st.text(max_size=12)
finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(1e-12, 1e12)
counts = st.integers(0, 2**60)
scalars = st.booleans() | st.integers(-(2**60), 2**60) | finite | texts
choices = st.builds(Choice, words, st.dictionaries(words, scalars, max_size=3))
metrics = st.dictionaries(words, finite, min_size=1, max_size=3)
fingerprints = st.builds(Fingerprint, texts, texts, texts)
parts = st.builds(Parts, *[counts] * 6)
some_bytes = st.builds(Parts, st.integers(1, 2**60), *[counts] * 5)
sizes = st.builds(Size, some_bytes, parts, some_bytes, parts, counts, counts)
reports = st.builds(Report, st.integers(0, 999), metrics, st.none() | finite, finite)
adapters = choices.filter(lambda choice: choice != NONE)
chains = st.lists(choices, min_size=1, max_size=2).map(tuple)
rules = st.builds(
    LayerRule, chains, choices, adapters, st.integers(1, 99), st.none() | positive, words
) | st.builds(LayerRule, chains, pattern=words)


@st.composite
def trials(draw):
    epochs = draw(st.integers(0, 99))
    low = 1 if epochs else 0
    return Trial(
        task=draw(choices),
        layers=tuple(draw(st.lists(rules, min_size=1, max_size=3))),
        recipe=draw(choices),
        optimizer=draw(adapters if epochs else choices),
        lr_schedule=draw(choices),
        losses=tuple(draw(st.lists(choices, max_size=2))),
        hooks=tuple(draw(st.lists(choices, max_size=2))),
        rest=draw(choices),
        lr=draw(positive if epochs else st.floats(0, 1)),
        batch_size=draw(st.integers(low, 4096)),
        epochs=epochs,
        seed=draw(st.integers(0, 2**60)),
        precision=draw(st.sampled_from(PRECISIONS)),
    )


@st.composite
def outcomes(draw):
    status = draw(st.sampled_from(Status))
    failed = status in (Status.FAILED, Status.OUT_OF_MEMORY)
    val = st.fixed_dictionaries({} if failed else {"val": metrics}, optional={"train": metrics})
    return Outcome(
        status=status,
        epochs_done=draw(st.integers(0, 99)),
        best_epoch=draw(st.none() | st.integers(0, 99)),
        metrics=draw(val),
        size=draw(st.none() | sizes if failed else sizes),
        macs=draw(st.none() | counts),
        seconds=draw(st.none() | finite),
        peak_memory=draw(st.none() | counts),
        sha256=draw(st.none() | texts),
        probe=draw(st.none() | texts),
        curve=tuple(draw(st.lists(reports, max_size=3))),
        notes=tuple(draw(st.lists(texts, max_size=2))),
        error=draw(st.text(min_size=1)) if failed else None,
    )


labels = st.dictionaries(texts, texts, max_size=2)
origins = st.builds(
    Origin, fingerprints, texts, st.none() | st.booleans(), labels, texts, labels, texts
)
records = st.builds(Record, trials(), outcomes(), origins)
paired = st.builds(Paired, st.just(100), st.integers(0, 50), st.integers(0, 50), counts)
bounds = st.tuples(finite, finite, finite).map(lambda v: Bounds(v[0], *sorted(v[1:])))
drops = st.integers(1, 2**40).flatmap(
    lambda n: st.builds(
        Drop,
        words,
        st.just(n),
        bounds,
        st.none() | bounds,
        texts,
        st.none() | st.integers(1, n),
    )
)
verifications = st.builds(
    Verification,
    words,
    words,
    counts,
    metrics,
    st.dictionaries(words, paired, max_size=2),
    st.none() | finite,
    st.none() | counts,
    st.lists(counts, max_size=3).map(tuple),
    st.lists(texts, max_size=2).map(tuple),
    st.sampled_from(Verification.AGREEMENTS),
    drops=st.dictionaries(words, drops, max_size=2),
)
