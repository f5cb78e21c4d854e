"""How values of a metric are written: fractions in percent and points, all else as it is."""

from __future__ import annotations

from trainables.record import Direction, Objective

__all__ = ["counted", "difference", "label", "margin_of", "name", "value"]


def value(y: Objective, number: float) -> str:
    """A value: ``97.35%``, ``31.42``."""
    return f"{100 * number:.2f}%" if y.is_fraction else f"{number:.4g} {y.unit}".strip()


def difference(y: Objective, number: float | None, unit: bool = True) -> str:
    """A difference: ``0.42 pp`` of a fraction, else ``0.31`` in the metric's unit; '' for None."""
    if number is None:
        return ""
    text, of = (f"{100 * number:.2f}", "pp") if y.is_fraction else (f"{number:.3g}", y.unit)
    return f"{text} {of}".strip() if unit else text


def margin_of(y: Objective, margin: float, short: bool = False) -> str:
    """A margin: ``1 point`` (``1 pp``) of a fraction, else ``1%``, a share of dense's value."""
    if not y.is_fraction:
        return f"{100 * margin:g}%"
    return f"{100 * margin:g} {'pp' if short else 'point'}"


def name(y: Objective) -> str:
    """The metric in words: ``balanced accuracy``."""
    return y.name.removeprefix("val_").replace("_", " ")


def label(y: Objective) -> str:
    """The metric for an axis."""
    unit = "" if y.is_fraction or not y.unit else f", {y.unit}"
    return name(y) + unit + (" (lower is better)" if y.direction is Direction.MINIMIZE else "")


def counted(count: int, noun: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
