"""Settings of a conditional space as arrays: drawn, changed and read without a loop over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compression.registry import IntRange, Scalar, Values
from study.space.params import Param, Trained

Codes = NDArray[np.float64]
ABSENT = -1.0


class Encoding:
    """A row a setting, a column a parameter, in the order in which each follows its conditions.

    A code is a choice's place in its list, or where a value lies in its range, from 0 to 1, on the
    range's own scale; :data:`ABSENT` where the parameter does not exist.
    """

    def __init__(self, params: Mapping[str, Param]) -> None:
        self.params = dict(params)
        self.names = list(self.params)
        self._at = {name: place for place, name in enumerate(self.names)}
        self._choices = {
            name: param.corners()
            for name, param in self.params.items()
            if isinstance(param.domain, Values) or len(param.corners()) == 1
        }

    def draw(self, rng: np.random.Generator, rows: int) -> Codes:
        """Settings drawn as random search draws them, (rows, parameters)."""
        return self._filled(np.full((rows, len(self.names)), np.nan), rng)

    def spread(self, rng: np.random.Generator, rows: int) -> Codes:
        """Settings that have each parameter's values about equally often (a Latin hypercube)."""
        codes = np.full((rows, len(self.names)), np.nan)
        for place, name in enumerate(self.names):
            quantiles = (rng.permutation(rows) + rng.random(rows)) / rows
            codes[:, place] = self._at_quantiles(name, quantiles)
        return self._filled(codes, rng)

    def changed(self, codes: Codes, rng: np.random.Generator, share: float) -> Codes:
        """Neighbours: each parameter is drawn anew with this probability, one of them surely.

        What thereby comes to exist is drawn, what no longer exists goes.
        """
        anew = rng.random(codes.shape) < share
        exists = codes != ABSENT
        # Of what is there, one parameter a row by the largest of random keys.
        keys = np.where(exists & self._several(), rng.random(codes.shape), -1.0)
        anew[np.arange(len(codes)), keys.argmax(axis=1)] = True
        return self._filled(np.where(anew | ~exists, np.nan, codes), rng)

    def encode(self, settings: Sequence[Mapping[str, Scalar]]) -> Codes:
        """Codes of settings, (n, parameters); what can have one value only need not be given."""
        codes = np.full((len(settings), len(self.names)), ABSENT)
        for row, params in zip(codes, settings, strict=True):
            for name, value in params.items():
                if (place := self._at.get(name)) is not None:
                    row[place] = self._code(name, value)
        for name, choices in self._choices.items():
            if len(choices) == 1:
                codes[:, self._at[name]] = np.where(self._exists(name, codes), 0.0, ABSENT)
        return codes

    def decode(self, row: Codes) -> dict[str, Scalar]:
        """The inverse of :meth:`encode`, up to the rounding of logarithms."""
        return {
            name: self._value(name, float(code))
            for name, code in zip(self.names, row, strict=True)
            if code != ABSENT
        }

    def features(self, codes: Codes) -> Codes:
        """What a model is given, (n, features): words one by one, numbers as they are ordered."""
        columns = []
        for place, name in enumerate(self.names):
            column, choices = codes[:, place], self._choices.get(name)
            if choices is not None and len(choices) == 1:
                continue
            if choices is None or all(type(v) in (int, float) for v in choices):
                columns.append(column)
            else:
                columns += [(column == code).astype(float) for code in range(len(choices))]
        return np.stack(columns, axis=1) if columns else np.zeros((len(codes), 1))

    def _filled(self, codes: Codes, rng: np.random.Generator) -> Codes:
        """Draw what is NaN and exists, clear what does not exist."""
        for place, name in enumerate(self.names):
            exists = self._exists(name, codes)
            column = codes[:, place]
            drawn = self._drawn(name, rng, len(codes))
            codes[:, place] = np.where(exists, np.where(np.isnan(column), drawn, column), ABSENT)
        return codes

    def _exists(self, name: str, codes: Codes) -> NDArray[np.bool_]:
        param, exists = self.params[name], np.ones(len(codes), dtype=np.bool_)
        if isinstance(param, Trained):
            return self._any_adapter(param.adapters, codes)
        for key, values in param.when.items():
            if key in self._at:
                exists &= _one_of(codes[:, self._at[key]], self._known(key, values))
        for key, values in param.unless.items():
            if key in self._at:
                exists &= ~_one_of(codes[:, self._at[key]], self._known(key, values))
        return exists

    def _any_adapter(self, keys: tuple[str, ...], codes: Codes) -> NDArray[np.bool_]:
        found = np.zeros(len(codes), dtype=np.bool_)
        for key in keys:
            found |= ~_one_of(codes[:, self._at[key]], [ABSENT, *self._known(key, ("none",))])
        return found

    def _known(self, name: str, values: tuple[Scalar, ...]) -> list[float]:
        """Codes of those of the values that the parameter can have."""
        choices = self._choices.get(name)
        if choices is None:
            return [self._code(name, value) for value in values]
        return [float(choices.index(value)) for value in values if value in choices]

    def _several(self) -> NDArray[np.bool_]:
        return np.array([len(self._choices.get(name, (0, 1))) > 1 for name in self.names])

    def _drawn(self, name: str, rng: np.random.Generator, rows: int) -> Codes:
        return self._at_quantiles(name, rng.random(rows))

    def _at_quantiles(self, name: str, quantiles: Codes) -> Codes:
        """Codes of values as likely as each other, from numbers in [0, 1)."""
        choices = self._choices.get(name)
        if choices is not None:
            return np.floor(quantiles * len(choices))
        domain: Any = self.params[name].domain
        if isinstance(domain, IntRange) and not domain.log:
            span = domain.high - domain.low
            return np.floor(quantiles * (span + 1)) / span
        return quantiles

    def _code(self, name: str, value: Scalar) -> float:
        choices = self._choices.get(name)
        if choices is not None:
            return float(choices.index(value))
        domain: Any = self.params[name].domain
        low, high, at = float(domain.low), float(domain.high), float(value)
        if domain.log:
            low, high, at = np.log(low), np.log(high), np.log(at)
        return float((at - low) / (high - low))

    def _value(self, name: str, code: float) -> Scalar:
        choices = self._choices.get(name)
        if choices is not None:
            return choices[int(code)]
        domain: Any = self.params[name].domain
        low, high = float(domain.low), float(domain.high)
        if domain.log:
            at = float(np.exp(np.log(low) + code * (np.log(high) - np.log(low))))
        else:
            at = low + code * (high - low)
        at = min(max(at, low), high)
        return round(at) if isinstance(domain, IntRange) else at


def _one_of(column: Codes, values: Sequence[float]) -> NDArray[np.bool_]:
    """As ``np.isin``, which takes many times as long for the few values that there are."""
    found = np.zeros(len(column), dtype=np.bool_)
    for value in values:
        found |= column == value
    return found
