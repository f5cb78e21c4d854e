"""Random numbers that are the same on every machine and in every version: Philox4x32-10.

Counter-based: number i of a stream is a function of (key, i) alone. Only integer arithmetic and
exact scaling by powers of two go into them, so that they agree bit for bit everywhere. What is
rebuilt from them need not be stored.

Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_ROUNDS = 10


def philox(counters: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Ten rounds: (k, 4) uint32 for counters (k, 4) uint32 and a key of two 32-bit words."""
    c0, c1, c2, c3 = (counters[:, i].astype(np.uint64) for i in range(4))
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c2 = (p1 >> _HALF) ^ c1 ^ np.uint64(k0), (p0 >> _HALF) ^ c3 ^ np.uint64(k1)
        c1, c3 = p1 & _LOW, p0 & _LOW
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def words(stream: str, count: int) -> np.ndarray:
    """The first ``count`` uint32 words of the stream of a name."""
    digest = hashlib.sha256(stream.encode()).digest()
    key = int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")
    blocks = -(-count // 4)
    counters = np.zeros((blocks, 4), dtype=np.uint32)
    counters[:, 0] = np.arange(blocks, dtype=np.uint64) & _LOW
    counters[:, 1] = np.arange(blocks, dtype=np.uint64) >> _HALF
    return philox(counters, key).ravel()[:count]


def uniform(stream: str, shape: tuple[int, ...], bound: float = 1.0) -> Tensor:
    """float32 of ``shape``, uniform over the 2^24 odd multiples of ``bound / 2^24`` below it.

    Their mean is 0 and their variance ``bound^2 / 3``, but for one part in 2^48.
    """
    drawn = (words(stream, math.prod(shape)) >> np.uint32(8)).astype(np.int64)
    centred = (2 * drawn - (2**24 - 1)).astype(np.float32)  # exact: below 2^24
    scaled = centred * np.float32(2.0**-24) * np.float32(bound)
    return torch.from_numpy(scaled.reshape(shape))


def ternary(stream: str, shape: tuple[int, ...], sparsity: float) -> Tensor:
    """float32 of ``shape``: 0, or with a chance of ``1 / (2 sparsity)`` each +-``sqrt(sparsity)``.

    Their mean is 0 and their variance 1, but for the rounding of chances to 2^-32.
    """
    drawn = words(stream, math.prod(shape)).astype(np.int64)
    edge = int(2**31 / sparsity)
    signs = (drawn >= 2**32 - edge).astype(np.float32) - (drawn < edge).astype(np.float32)
    return torch.from_numpy((signs * np.float32(math.sqrt(sparsity))).reshape(shape))


def subset(stream: str, count: int, of: int) -> Tensor:
    """``count`` different integers below ``of``, int64 (count,), in a random order.

    A few of many are drawn one by one, repeats left out: that costs ``O(count)`` words. Above a
    quarter it is the first of a permutation, which costs ``O(of)``.

    Raises:
        ValueError: there are not so many, or ``of`` is above 2^32.
    """
    if not 0 <= count <= of:
        raise ValueError(f"{count} different integers below {of}")
    if of > 2**32:
        raise ValueError(f"integers below {of}, which is above 2^32")
    if 4 * count > of:
        return torch.from_numpy(np.argsort(_pairs(stream, of), kind="stable")[:count])
    draws = count + count // 4 + 16  # at a quarter of all, 1.15 count are needed on average
    while len(found := _distinct(stream, draws, of)) < count:
        draws *= 2
    return torch.from_numpy(found[:count])


def _distinct(stream: str, draws: int, of: int) -> np.ndarray:
    """What so many draws below ``of`` give, int64, each number where it comes first.

    A draw is ``floor(w of / 2^64)`` of a 64-bit word w: chances differ by less than 2^-32 of them.
    """
    wide, below = _pairs(stream, draws), np.uint64(of)
    # Below 2^64 throughout, as of is at most 2^32.
    drawn = ((wide >> _HALF) * below + ((wide & _LOW) * below >> _HALF)) >> _HALF
    first = np.unique(drawn, return_index=True)[1]
    found: np.ndarray = drawn[np.sort(first)].astype(np.int64)
    return found


def _pairs(stream: str, count: int) -> np.ndarray:
    """The first ``count`` uint64 of a stream, each of two words, the higher half first."""
    high, low = words(stream, 2 * count).reshape(count, 2).astype(np.uint64).T
    found: np.ndarray = (high << _HALF) | low
    return found


def checksum(tensors: list[Tensor]) -> Tensor:
    """8 bytes of the SHA-256 of tensors, uint8 (8,): to see that they were rebuilt as they were."""
    found = hashlib.sha256()
    for tensor in tensors:
        whole = tensor.detach().cpu().contiguous().flatten()
        found.update(whole.view(torch.uint8).numpy().data)  # numpy has no bfloat16
    return torch.frombuffer(bytearray(found.digest()[:8]), dtype=torch.uint8)
