"""English sentences of a small grammar and their German translations, made without a file.

Each English sentence has one translation, so that a model can in principle be right everywhere.
What is hard about them: numbers in words swap their digits (*twenty-four*, *vierundzwanzig*),
articles and adjectives agree in gender, case and number, participles and infinitives come last,
separable verbs fall apart in a main clause, and the verb of a subordinate clause ends it.
"""

from __future__ import annotations

from random import Random
from typing import Literal, NamedTuple

from trainables.data.lexicon import (
    AUXILIARIES,
    CONJUNCTIONS,
    GIVING,
    MATRIX,
    OF_PEOPLE,
    OF_THINGS,
    PEOPLE,
    PREPOSITIONS,
    STEMS,
    TENS,
    THINGS,
    TIMES,
    UNITS,
    VERBS,
    Auxiliary,
    Noun,
    Verb,
)

Case = Literal["nominative", "accusative", "dative"]
_PLURAL = "p"

# Endings by gender (m, f, n) and plural (p).
_DER: dict[Case, dict[str, str]] = {
    "nominative": {"m": "er", "f": "e", "n": "es", _PLURAL: "e"},
    "accusative": {"m": "en", "f": "e", "n": "es", _PLURAL: "e"},
    "dative": {"m": "em", "f": "er", "n": "em", _PLURAL: "en"},
}
_DEFINITE: dict[Case, dict[str, str]] = {
    "nominative": {"m": "der", "f": "die", "n": "das", _PLURAL: "die"},
    "accusative": {"m": "den", "f": "die", "n": "das", _PLURAL: "die"},
    "dative": {"m": "dem", "f": "der", "n": "dem", _PLURAL: "den"},
}


class Phrase(NamedTuple):
    """A noun phrase: English, German by case, and whether it is plural."""

    english: str
    german: dict[Case, str]
    plural: bool


class Clause(NamedTuple):
    """A clause: English, and the German words around its finite verb.

    ``middle`` stands between subject and the end; ``last`` is a participle, an infinitive or the
    prefix of a separable verb; ``joined`` is the end of a subordinate clause, finite verb and all.
    """

    english: str
    subject: str
    finite: str
    middle: str
    last: str
    joined: str

    def main(self) -> str:
        """The finite verb in the second place, behind the subject."""
        return _words(self.subject, self.finite, self.middle, self.last)

    def inverted(self) -> str:
        """The same behind something else that comes first."""
        return _words(self.finite, self.subject, self.middle, self.last)

    def subordinate(self) -> str:
        """The finite verb at the end."""
        return _words(self.subject, self.middle, self.joined)


def sentence_pairs(count: int, seed: int) -> list[tuple[str, str]]:
    """So many different sentences with their translations, drawn by the seed."""
    draw = Random(seed)
    found: dict[str, str] = {}
    while len(found) < count:
        english, german = _sentence(draw)
        found[f"{_capital(english)}."] = f"{_capital(german)}."
    return list(found.items())


def number(value: int) -> tuple[str, str]:
    """2 to 99 in words, English and German."""
    if value < len(UNITS):
        return UNITS[value]
    (tens, zehner), (unit, einer) = TENS[value // 10], UNITS[value % 10]
    if not value % 10:
        return tens, zehner
    return f"{tens}-{unit}", f"{'ein' if unit == 'one' else einer}und{zehner}"


def adjective_ending(determiner: str, case: Case, form: str) -> str:
    """Of an adjective behind ``der`` or ``dieser`` (weak), an ``ein``-word (mixed) or a number.

    ``form`` is the gender m, f or n, or p for the plural.
    """
    if determiner == "number":
        return _DER[case][form]
    if case == "dative" or form == _PLURAL or (case == "accusative" and form == "m"):
        return "en"
    return _DER[case][form] if determiner == "ein" else "e"


def article(word: str, case: Case, form: str) -> str:
    """``der``, ``dieser``, or ``ein``, ``mein``, ``kein`` in a case and form."""
    if word == "der":
        return _DEFINITE[case][form]
    if word == "dies":
        return word + _DER[case][form]
    bare = (case == "nominative" and form in "mn") or (case == "accusative" and form == "n")
    return word if bare else word + _DER[case][form]


def _phrase(draw: Random, nouns: tuple[Noun, ...], case: Case | None = None) -> Phrase:
    """A noun with determiner, and perhaps an adjective; only this case where one is named."""
    noun, plural = draw.choice(nouns), draw.random() < 0.35
    form = _PLURAL if plural else noun.gender
    word, determiner, stem = _determiner(draw, plural)
    known = OF_PEOPLE if nouns is PEOPLE else OF_THINGS
    adjective = draw.choice(known) if draw.random() < 0.45 else None
    english = _words(word, adjective[0] if adjective else "", noun.english(plural))
    if word == "a" and english[2] in "aeiou":
        english = f"an{english[1:]}"

    def german(case: Case) -> str:
        start = stem if determiner == "number" else article(stem, case, form)
        ending = adjective_ending(determiner, case, form)
        described = f"{adjective[1]}{ending}" if adjective else ""
        return _words(start, described, noun.german(plural, dative=case == "dative"))

    cases: tuple[Case, ...] = (case,) if case else ("nominative", "accusative", "dative")
    return Phrase(english, {c: german(c) for c in cases}, plural)


def _determiner(draw: Random, plural: bool) -> tuple[str, str, str]:
    """English word, declension of what follows, German stem."""
    if plural and draw.random() < 0.4:
        english, german = number(draw.randint(2, 99))
        return english, "number", german
    word = draw.choice(("the", "the", "these" if plural else "this", "my", "no" if plural else "a"))
    return word, "der" if word in ("the", "this", "these") else "ein", STEMS[word]


def _clause(draw: Random) -> Clause:
    subject = _phrase(draw, PEOPLE, "nominative")
    giving = draw.random() < 0.3
    verb = draw.choice(GIVING if giving else VERBS)
    given = _phrase(draw, THINGS, "accusative")
    receiver = _phrase(draw, PEOPLE, "dative") if giving else Phrase("", {"dative": ""}, False)
    aside = _aside(draw) if draw.random() < 0.3 else ("", "")
    english, finite, last, joined = _predicate(draw, verb, subject.plural)
    particle = verb.particle if joined else ""
    objects = _words(receiver.english, given.english)
    middle = _words(receiver.german["dative"], given.german["accusative"], aside[1])
    spoken = _words(subject.english, english, particle, objects, aside[0])
    return Clause(spoken, subject.german["nominative"], finite, middle, last, joined)


def _aside(draw: Random) -> tuple[str, str]:
    preposition = draw.choice(PREPOSITIONS)
    case: Case = "dative" if preposition.dative else "accusative"
    phrase = _phrase(draw, PEOPLE if preposition.people else THINGS, case)
    return f"{preposition.english} {phrase.english}", f"{preposition.german} {phrase.german[case]}"


def _predicate(draw: Random, verb: Verb, plural: bool) -> tuple[str, str, str, str]:
    """English verb; German finite verb, what comes last, and the end of a subordinate clause."""
    kind = draw.choice(("present", "past", "auxiliary"))
    if kind == "present":
        finite = verb.present(plural)
        return verb.english(plural), finite, verb.prefix, verb.prefix + finite
    if kind == "past":
        has = "haben" if plural else "hat"
        return verb.past, has, verb.participle, f"{verb.participle} {has}"
    auxiliary: Auxiliary = draw.choice(AUXILIARIES)
    finite, infinitive = auxiliary.german(plural), verb.prefix + verb.infinitive
    return f"{auxiliary.english} {verb.base}", finite, infinitive, f"{infinitive} {finite}"


def _sentence(draw: Random) -> tuple[str, str]:
    clause, kind = _clause(draw), draw.random()
    if kind < 0.35:
        return clause.english, clause.main()
    if kind < 0.6:
        time, zeit = draw.choice(TIMES)
        return f"{time} {clause.english}", f"{zeit} {clause.inverted()}"
    if kind < 0.8:
        speaker = _phrase(draw, PEOPLE, "nominative")
        verb = draw.choice(MATRIX)
        english = f"{speaker.english} {verb.english(speaker.plural)} that {clause.english}"
        matrix = f"{speaker.german['nominative']} {verb.present(speaker.plural)}"
        return english, f"{matrix}, dass {clause.subordinate()}"
    word, wort = draw.choice(CONJUNCTIONS)
    other = _clause(draw)
    if kind < 0.9:
        english = f"{clause.english} {word} {other.english}"
        return english, f"{clause.main()}, {wort} {other.subordinate()}"
    english = f"{word} {other.english}, {clause.english}"
    return english, f"{wort} {other.subordinate()}, {clause.inverted()}"


def _words(*parts: str) -> str:
    return " ".join(filter(None, parts))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
