"""Dense packing of small integers into bytes, vectorised.

Codes lie end to end, least significant bit first, with no padding but that of the last byte:
``bytes = ceil(n * bits / 8)``. Eight codes of ``bits`` bits are exactly ``bits`` bytes, which is
the group that both directions work on.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_BITS = 16


def packed_bytes(count: int, bits: int) -> int:
    """Length of ``count`` packed codes: ``ceil(count * bits / 8)``."""
    return -(-count * bits // 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack integers in [0, 2**bits) tightly.

    Args:
        codes: integer tensor (n,).
        bits: 1 to 16.

    Returns:
        uint8 tensor (ceil(n * bits / 8),).

    Raises:
        ValueError: a code does not fit in ``bits``, or ``bits`` is out of range.
    """
    _check_bits(bits)
    codes = codes.to(torch.int64)
    if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >> bits):
        raise ValueError(f"codes must lie in [0, {2**bits}) to be packed in {bits} bits")
    if bits > 8:
        return torch.cat([pack(codes & 255, 8), pack(codes >> 8, bits - 8)])
    count = codes.numel()
    groups = torch.nn.functional.pad(codes, (0, -count % 8)).view(-1, 8)
    words = (groups << _steps(8, bits, codes)).sum(1, keepdim=True)
    octets = (words >> _steps(bits, 8, codes)) & 255
    return octets.flatten()[: packed_bytes(count, bits)].to(torch.uint8)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The inverse of :func:`pack`.

    Args:
        packed: uint8 tensor (ceil(count * bits / 8),).
        bits: 1 to 16.
        count: number of codes.

    Returns:
        int64 tensor (count,).

    Raises:
        ValueError: ``packed`` has another length than ``count`` codes need.
    """
    _check_bits(bits)
    if packed.shape != (packed_bytes(count, bits),):
        raise ValueError(
            f"{count} codes of {bits} bits are {packed_bytes(count, bits)} bytes, "
            f"got a tensor of shape {tuple(packed.shape)}"
        )
    if bits > 8:
        return unpack(packed[:count], 8, count) | unpack(packed[count:], bits - 8, count) << 8
    if 8 % bits == 0:  # no code lies in two bytes
        steps = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
        parts: Tensor = (packed[:, None] >> steps) & (2**bits - 1)
        return parts.flatten()[:count].to(torch.int64)
    octets = packed.to(torch.int64)
    octets = torch.nn.functional.pad(octets, (0, -octets.numel() % bits)).view(-1, bits)
    words = (octets << _steps(bits, 8, octets)).sum(1, keepdim=True)
    codes: Tensor = (words >> _steps(8, bits, octets)) & (2**bits - 1)
    return codes.flatten()[:count]


def unpack_part(packed: Tensor, bits: int, start: int, stop: int) -> Tensor:
    """Codes ``start`` to ``stop`` of packed ones, of bits up to 8: int64 tensor (stop - start,)."""
    first = start // 8 * 8  # eight codes are whole bytes
    own = packed[first * bits // 8 : packed_bytes(stop, bits)]
    return unpack(own, bits, stop - first)[start - first :]


def ones_in(packed: Tensor, stop: int) -> int:
    """How many of the first ``stop`` bits are set."""
    whole = _ones(packed.device)[packed[: stop // 8].to(torch.int32)].sum()
    return int(whole) + int(unpack_part(packed, 1, stop // 8 * 8, stop).sum())


def nth_zero(packed: Tensor, number: int, length: int) -> int:
    """Where the bits after the ``number``-th zero begin; ``length``, if there are fewer zeros."""
    if not number:
        return 0
    zeros = (8 - _ones(packed.device)[packed.to(torch.int32)]).cumsum(0)
    byte = int(torch.searchsorted(zeros, number))
    if byte == len(packed):
        return length
    before = int(zeros[byte - 1]) if byte else 0
    bits = unpack(packed[byte : byte + 1], 1, 8)
    within = int(((1 - bits).cumsum(0) < number - before).sum())
    return min(8 * byte + within + 1, length)


def _ones(device: torch.device) -> Tensor:
    """How many bits of each byte are set, (256,)."""
    return unpack(torch.arange(256, dtype=torch.uint8, device=device), 1, 2048).view(256, 8).sum(1)


def _steps(count: int, step: int, like: Tensor) -> Tensor:
    return torch.arange(0, count * step, step, device=like.device)


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(f"bits must be from 1 to {MAX_BITS}, got {bits}")


def trit_bytes(count: int) -> int:
    """Length of ``count`` packed base-3 digits: ``ceil(count / 5)``."""
    return -(-count // 5)


def pack_trits(trits: Tensor) -> Tensor:
    """Pack integers in {0, 1, 2} five to a byte, the first as the least digit: 3**5 = 243.

    Args:
        trits: integer tensor (n,).

    Returns:
        uint8 tensor (ceil(n / 5),).

    Raises:
        ValueError: something is not 0, 1 or 2.
    """
    if trits.numel() and (int(trits.min()) < 0 or int(trits.max()) > 2):
        raise ValueError("base-3 digits must be 0, 1 or 2")
    digits = torch.nn.functional.pad(trits.to(torch.uint8), (0, -trits.numel() % 5)).view(-1, 5)
    byte = digits[:, 4].clone()
    for place in (3, 2, 1, 0):
        byte.mul_(3).add_(digits[:, place])
    return byte


def unpack_trits(packed: Tensor, count: int) -> Tensor:
    """The inverse of :func:`pack_trits`: uint8 tensor (count,).

    Raises:
        ValueError: ``packed`` has another length than ``count`` digits need, or a byte over 242.
    """
    if packed.shape != (trit_bytes(count),):
        raise ValueError(
            f"{count} base-3 digits are {trit_bytes(count)} bytes, "
            f"got a tensor of shape {tuple(packed.shape)}"
        )
    if packed.numel() and int(packed.max()) > 242:
        raise ValueError("a byte of five base-3 digits is over 242")
    places = 3 ** torch.arange(5, device=packed.device)
    digits = (torch.arange(243, device=packed.device)[:, None] // places % 3).to(torch.uint8)
    return digits[packed.to(torch.int32)].flatten()[:count]
