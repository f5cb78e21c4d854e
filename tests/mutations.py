"""Hostile files: valid ones with their structure lied about, or with bytes changed at random."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import random
import re
from collections.abc import Callable
from typing import Any

Mutation = Callable[[random.Random, bytes], bytes]

_DEEP, _DIGITS = "@deep@", "@digits@"  # what no Python value spells
_NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 2, 7, 255, 2**31, 2**40, 2**63, 2**64, -(2**63), 10**30, 0.0, -0.5,
    1e-320, 1e308, math.nan, math.inf, -math.inf, "", "a", "none", "*", "\ud800", "\x00", "\x1b[2J",
    "../../x", "/etc/passwd", "x" * 3000, [], {}, [[]], [1, "a", None], {"a": {}}, _DEEP, _DIGITS,
]  # fmt: skip
_DTYPES = "BOOL U8 I8 F8_E5M2 F8_E4M3 I16 U16 F16 BF16 I32 U32 F32 F64 I64 U64 C64 X".split()
_CHECKSUM = re.compile(rb'\{\\"sha256\\":\\"([0-9a-f]{64})\\"')


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Each container in a JSON tree with each key or index in it."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        found.append((value, key))
        if isinstance(inner, dict | list):
            found += _places(inner)
    return found


def mutate_tree(rng: random.Random, tree: Any) -> Any:
    """A JSON tree with one to three places changed."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = _places(tree) if isinstance(tree, dict | list) else []
        if not places or rng.random() < 0.01:
            return copy.deepcopy(rng.choice(_NASTY))
        where, key = rng.choice(places)
        how = rng.randrange(6)
        if how == 0:
            del where[key]
        elif how == 1:
            other, at = rng.choice(places)
            if at in other if isinstance(other, dict) else at < len(other):
                where[key] = copy.deepcopy(other[at])
        elif how == 2 and isinstance(where, dict):
            where[rng.choice(["a", "", "shape", "\x00", "rank", "layers"])] = where.pop(key)
        elif how == 3 and isinstance(where[key], int | float):
            where[key] = where[key] * rng.choice((-1, 0, 2, 2**20, 0.5)) + rng.choice((0, 1, -1))
        else:
            where[key] = copy.deepcopy(rng.choice(_NASTY))
    return tree


def spell(rng: random.Random, tree: Any) -> str:
    """JSON of a tree, now and then with a key twice."""
    text = json.dumps(tree, separators=(",", ":"), ensure_ascii=rng.random() < 0.7)
    text = text.replace(f'"{_DIGITS}"', "9" * 10_000)
    depth = rng.choice((50, 900, 1_100, 100_000))
    text = text.replace(f'"{_DEEP}"', "[" * depth + "]" * depth)
    keys = re.findall(r'"\w+":', text) if rng.random() < 0.05 else []
    if keys:
        key = rng.choice(keys)
        text = text.replace(key, f"{key}null,{key}", 1)
    return text


def encode(text: str) -> bytes:
    """UTF-8, lone surrogates too."""
    return text.encode("utf-8", "surrogatepass")


def mutate_json(rng: random.Random, data: bytes) -> bytes:
    """A JSON document, changed in its tree."""
    return encode(spell(rng, mutate_tree(rng, json.loads(data))))


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """Bytes flipped, cut out, doubled, overwritten or cut off."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(found) + 1)
        end = min(len(found), at + rng.choice((1, 2, 8, 64)))
        how = rng.randrange(6)
        if how == 0 and at < len(found):
            found[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            del found[at:end]
        elif how == 2:
            found[at:at] = found[at:end]
        elif how == 3:
            found[at:end] = rng.randbytes(end - at)
        elif how == 4:
            found[at:end] = bytes([rng.choice((0, 255, 10, 34))]) * (end - at)
        elif rng.random() < 0.3:
            del found[at:]
    return bytes(found)


def _lie(rng: random.Random, header: dict[str, Any]) -> None:
    """Change what a safetensors header says of one tensor."""
    names = [name for name in header if name != "__metadata__"]
    if not names:
        return
    name, other = rng.choice(names), rng.choice(names)
    entry, how = header[name], rng.randrange(7)
    if how == 0:
        entry["dtype"] = rng.choice(_DTYPES)
    elif how == 1 and entry["shape"]:
        at = rng.randrange(len(entry["shape"]))
        entry["shape"][at] = rng.choice((0, 1, -1, 2**31, 2**62, 2**64, entry["shape"][at] + 1))
    elif how == 2:
        entry["shape"] = rng.choice(([], [1] * 70, entry["shape"][::-1], [2**32, 2**32, 0]))
    elif how == 3:
        entry["data_offsets"] = list(header[other]["data_offsets"])
    elif how == 4:
        entry["data_offsets"][rng.randrange(2)] = rng.choice((0, -1, 2**40, 2**64))
    elif how == 5:
        header[name + rng.choice(("", ".x", "_", "\x1b"))] = header.pop(name)
    else:
        header[name], header[other] = header[other], header[name]


def mutate_safetensors(entry: str) -> Mutation:
    """Lies in the header of a file, or in the JSON of its metadata ``entry``; checksum made anew.

    Without a right checksum nothing but the checksum would be tested.
    """

    def mutate(rng: random.Random, data: bytes) -> bytes:
        length = int.from_bytes(data[:8], "little")
        header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
        how = rng.random()
        if how < 0.5:
            inner = json.loads(header["__metadata__"][entry])
            header["__metadata__"][entry] = spell(rng, mutate_tree(rng, inner))
        elif how < 0.8:
            for _ in range(rng.choice((1, 1, 2))):
                _lie(rng, header)
        elif how < 0.9:
            header = mutate_tree(rng, header)
        else:
            body = mutate_bytes(rng, body)
        text = encode(spell(rng, header))
        text += b" " * (-len(text) % 8)
        length = len(text) if rng.random() < 0.97 else rng.choice((0, 1, 2**40, 2**64 - 1))
        return signed(length.to_bytes(8, "little") + text + body)

    return mutate


def signed(data: bytes) -> bytes:
    """The file with the checksum of :mod:`compression.container` that its bytes have."""
    if not (found := _CHECKSUM.search(data)):
        return data
    start, stop = found.span(1)
    blank = data[:start] + b"0" * 64 + data[stop:]
    return data[:start] + hashlib.sha256(blank).hexdigest().encode() + data[stop:]


def either(structured: Mutation, share: float = 0.7) -> Mutation:
    """Mostly lies, sometimes noise."""

    def mutate(rng: random.Random, data: bytes) -> bytes:
        return (structured if rng.random() < share else mutate_bytes)(rng, data)

    return mutate
