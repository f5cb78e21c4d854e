"""Plain values of a config as people write them: times, shares, numbers of trials and GPUs."""

from __future__ import annotations

import re
from typing import Any

from compression.byte_amounts import NUMBER, parse_bytes
from compression.registry import UnknownName
from trainables.record import PRECISIONS

__all__ = ["parse_bytes"]

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(value: object) -> float | None:
    """Seconds from ``90``, ``90s``, ``30m``, ``1.5h`` or ``1d``.

    Raises:
        ValueError: anything else.
    """
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", str(value))
    if not found or not float(found[1]):
        raise ValueError(f"expected a time above 0 such as 90s, 30m or 2h, got {value!r}")
    return float(found[1]) * _SECONDS[found[2]]


def parse_wait(value: object) -> float:
    """Seconds as by :func:`parse_duration`; 0 is not to wait.

    Raises:
        ValueError: anything else.
    """
    found = 0.0 if str(value) in ("0", "0s", "0.0") else parse_duration(value)
    if found is None:
        raise ValueError("expected a time such as 90s or 5m, or 0; got nothing")
    return found


def parse_interval(value: object) -> float:
    """Seconds as by :func:`parse_duration`, never nothing.

    Raises:
        ValueError: anything else.
    """
    found = parse_duration(value)
    if found is None:
        raise ValueError("expected a time above 0 such as 5s or 1m, got nothing; 365d is never")
    return found


def parse_quota(value: object) -> float | None:
    """Bytes above 0, as :func:`parse_bytes` reads them.

    Raises:
        ValueError: anything else.
    """
    if value is None:
        return None
    if not (amount := parse_bytes(value)):
        raise ValueError("expected more than 0 bytes, such as 2 GB")
    return amount


def parse_fraction(value: object) -> float:
    """A fraction from ``0.01`` or ``1pp``.

    Raises:
        ValueError: anything else, or a number outside [0, 1].
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?(?:e-?\d+)?)\s*(pp)?", str(value))
    if not found or not 0 <= (fraction := float(found[1]) / (100 if found[2] else 1)) <= 1:
        raise ValueError(f"expected a fraction from 0 to 1 such as 0.01, or 1pp, got {value!r}")
    return fraction


def parse_percent(value: object) -> float:
    """A share from ``0.01`` or ``1%``.

    Raises:
        ValueError: anything else, or a number outside [0, 1].
    """
    found = re.fullmatch(rf"({NUMBER})\s*(%)?", str(value))
    if not found or not 0 <= (share := float(found[1]) / (100 if found[2] else 1)) <= 1:
        raise ValueError(f"expected a share from 0 to 1 such as 0.01, or 1%, got {value!r}")
    return share


def parse_price(value: object) -> float | None:
    """An amount of money above 0, without a currency.

    Raises:
        ValueError: anything else.
    """
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 < value < float("inf"):  # type: ignore[operator]
        raise ValueError(f"expected an amount above 0 without a currency, got {value!r}")
    return float(value)  # type: ignore[arg-type]


def parse_concurrency(value: Any) -> Any:
    """A number of trials at once, or ``auto``.

    Raises:
        ValueError: anything else.
    """
    if value != "auto" and (type(value) is not int or value < 1):
        raise ValueError(f"expected a number of trials above 0, or auto, got {value!r}")
    return value


def parse_gpus(value: Any) -> Any:
    """GPUs of a trial: none, a fraction of one, several, or ``auto``.

    Raises:
        ValueError: anything else.
    """
    fits = type(value) in (int, float) and (0.001 <= value < 1 or (value >= 0 and value % 1 == 0))
    if value != "auto" and not fits:
        raise ValueError(
            "expected 0, a fraction of a GPU from 0.001 on, a whole number of them, or auto, got "
            f"{value!r}"
        )
    return value if value == "auto" else float(value)


def parse_precision(value: object) -> str:
    """The precision of training steps.

    Raises:
        UnknownName: anything that is none.
    """
    if not isinstance(value, str) or value not in PRECISIONS:
        raise UnknownName("precision", str(value), PRECISIONS)
    return value
