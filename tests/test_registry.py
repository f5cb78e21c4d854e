"""Plugins check themselves, registries find them, and every registered plugin keeps the rules."""

import dataclasses
import pickle

import pytest

from compression.adapters import ADAPTERS
from compression.edits import EDITS
from compression.inits import INITS
from compression.methods import METHODS
from compression.registry import (
    FloatRange,
    IntRange,
    InvalidSetting,
    Plugin,
    Registry,
    Text,
    UnknownName,
    Values,
    knob,
)

PLUGINS = [(registry, name) for registry in (METHODS, INITS, ADAPTERS, EDITS) for name in registry]
NAMES = [f"{registry.kind} {name}" for registry, name in PLUGINS]


def points(domain):
    """Some values of a domain, its ends among them."""
    if isinstance(domain, Values):
        return domain.values
    return () if domain is None else (domain.low, domain.high)


@pytest.fixture
def things():
    registry = Registry("thing", Plugin)

    @registry.register("plain")
    class Plain(Plugin):
        """Has nothing to set."""

    @registry.register("tuned")
    class Tuned(Plugin):
        """Has knobs.

        And a second paragraph.
        """

        mode: str = knob("fast", Values(("fast", "slow")))
        steps: int = knob(3, IntRange(1, 10), Values((3, 5)), when={"mode": ("slow",)})
        share: float = knob(0.5, FloatRange(0.0, 1.0))

    return registry


# The contract: a new plugin meets these with no new line here.


@pytest.mark.parametrize(("registry", "name"), PLUGINS, ids=NAMES)
def test_every_plugin_builds_shows_help_and_survives_a_round_trip(registry, name):
    plugin = registry.build(name)
    assert registry[name].name == plugin.name == name
    assert plugin.args() == {}
    assert registry.help(name)
    assert pickle.loads(pickle.dumps(plugin)) == plugin
    assert hash(plugin) == hash(registry.build(name))
    with pytest.raises(dataclasses.FrozenInstanceError):
        plugin.anything = 1


@pytest.mark.parametrize(("registry", "name"), PLUGINS, ids=NAMES)
def test_every_searched_value_is_valid_where_it_applies(registry, name):
    cls = registry[name]
    for key, meta in cls.knobs().items():
        default = getattr(registry.build(name), key)
        assert meta.valid.problem(default) is None
        for value in points(meta.search):
            assert meta.valid.problem(value) is None
            needed = {other: values[0] for other, values in meta.when.items()}
            plugin = registry.build(name, {**needed, key: value})
            assert registry.build(name, plugin.args()) == plugin


@pytest.mark.parametrize(("registry", "name"), PLUGINS, ids=NAMES)
def test_every_plugin_refuses_an_unknown_knob(registry, name):
    with pytest.raises(InvalidSetting, match="unknown knob 'nonsense'"):
        registry.build(name, {"nonsense": 1})


# The registry itself.


def test_lookup_and_iteration(things):
    assert list(things) == ["plain", "tuned"]
    assert len(things) == 2
    assert "tuned" in things
    assert "other" not in things
    assert things.help("tuned") == "Has knobs."


def test_unknown_names_get_the_closest_or_all(things):
    with pytest.raises(UnknownName, match="unknown thing 'tunde'; did you mean 'tuned'"):
        things["tunde"]
    with pytest.raises(UnknownName, match="unknown thing 'xyz'; known: plain, tuned"):
        things.build("xyz")


def test_all_errors_of_a_plugin_come_at_once(things):
    with pytest.raises(InvalidSetting) as caught:
        things.build("tuned", {"mode": "brisk", "share": 2.0, "stpes": 1})
    assert len(caught.value.errors) == 3
    assert "did you mean 'steps'" in caught.value.errors[0]


def test_a_knob_without_effect_is_refused(things):
    with pytest.raises(InvalidSetting, match="tuned.steps: has no effect here.*mode is slow"):
        things.build("tuned", {"steps": 5})
    assert things.build("tuned", {"mode": "slow", "steps": 5}).steps == 5


def test_args_are_what_differs_from_the_defaults(things):
    plugin = things.build("tuned", {"mode": "slow", "share": 0.5})
    assert plugin.args() == {"mode": "slow"}
    assert plugin.replace(share=0.25).args() == {"mode": "slow", "share": 0.25}
    with pytest.raises(InvalidSetting):
        plugin.replace(share=7.0)


@pytest.mark.parametrize(
    ("domain", "good", "bad"),
    [
        (Values((1, 2)), [1, 2], [3, 1.0, True, "1"]),
        (IntRange(1, 4), [1, 4], [0, 5, 2.0, True, "2"]),
        (FloatRange(0.0, 1.0), [0, 1, 0.5], [-0.1, 1.1, float("nan"), float("inf"), True, "x"]),
        (Text("[ab]+", "some of a and b"), ["a", "ba"], ["", "abc", "a\n", 1, None, True]),
    ],
)
def test_domains(domain, good, bad):
    assert [domain.problem(value) for value in good] == [None] * len(good)
    assert all("expected" in domain.problem(value) for value in bad)


@pytest.mark.parametrize("name", ["", "Upper", "1st", "with-dash", "a b"])
def test_malformed_names_are_refused_at_import(things, name):
    with pytest.raises(InvalidSetting, match="must match"):

        @things.register(name)
        class Bad(Plugin):
            """Bad."""


def test_bad_classes_are_refused_at_import(things):
    with pytest.raises(InvalidSetting, match="registered twice"):

        @things.register("plain")
        class Again(Plugin):
            """Again."""

    with pytest.raises(InvalidSetting, match="needs a docstring"):

        @things.register("mute")
        class Mute(Plugin):
            pass

    with pytest.raises(InvalidSetting, match="must derive from Plugin"):

        @things.register("stranger")
        class Stranger:
            """Not a plugin."""

    with pytest.raises(InvalidSetting, match="'size' must be declared with knob"):

        @things.register("bare")
        class Bare(Plugin):
            """Has a bare field."""

            size: int = 3

    with pytest.raises(InvalidSetting, match=r"'size' depends on unknown \['mood'\]"):

        @things.register("moody")
        class Moody(Plugin):
            """Depends on nothing there."""

            size: int = knob(3, IntRange(1, 5), when={"mood": ("good",)})

    assert list(things) == ["plain", "tuned"]


@pytest.mark.parametrize("error", [InvalidSetting(["a", "b"]), UnknownName("method", "x", ["y"])])
def test_errors_survive_pickling(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert again.errors == error.errors
    assert str(again) == str(error)
