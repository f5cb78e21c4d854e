"""What each method leaves in floating point for the next of a chain: its matrices, by name.

As in ``byte_formulas``, from the shape of a weight and the knobs of the resolved method alone.
"""

import math


def up(number, divisor):
    """``ceil(number / divisor)`` of whole numbers."""
    return -(-number // divisor)


def sizes(shape):
    """M and n of ``W.flatten(1)``."""
    return shape[0], math.prod(shape[1:])


def halves(shape):
    """``m1 n1`` and ``m2 n2``, m1 and n2 the greatest divisors up to the square roots."""
    m, n = sizes(shape)
    m1, n2 = (max(d for d in range(1, x + 1) if d * d <= x and x % d == 0) for x in (m, n))
    return m1 * (n // n2), (m // m1) * n2


def _factors(shape, k):
    (m, n), r = sizes(shape), min(k.rank, *sizes(shape))
    return {"left": (m, r), "right": (r, n)}


def _cur(shape, k):
    return dict(zip(("columns", "rows"), _factors(shape, k).values(), strict=True))


def _block_svd(shape, k):
    m, n = sizes(shape)
    h, w = min(k.tile, m), min(k.tile, n)
    tiles, r = up(m, h) * up(n, w), min(k.rank, h, w)
    return {"left": (tiles * h, r), "right": (tiles * r, w)}


def _kronecker(shape, k):
    first, second = halves(shape)
    r = min(k.rank, first, second)
    return {"left": (first, r), "right": (r, second)}


def _tucker2(shape, k):
    out, into, *area = shape
    p, q = k.rank_out, k.rank_in
    return {"out": (out, p), "core": (p, q * math.prod(area)), "into": (q, into)}


def _cp(shape, k):
    dims = (*shape, 1, 1)[:4]
    r = min(k.rank, math.prod(dims) // max(dims))
    return {name: (d, r) for name, d in zip(("out", "into", "high", "wide"), dims, strict=True)}


def _svd_cascade(shape, k):
    m, n = sizes(shape)
    r = min(k.pairs * min(k.rank, m, n), m, n)
    return {"left_weight": (r, m), "right_weight": (r, n)}


def _dsformer(shape, k):
    m, n = sizes(shape)
    inner = min(k.rank, m, n)
    return {"left": (m, inner), "values": (max(1, round(k.keep * inner)), n)}


def _unstructured(shape, k):
    """In as few equal runs as none is over 128 values, the last filled up."""
    kept = min(k.kept, math.prod(shape))
    runs = up(kept, 128)
    return {"values": (runs, up(kept, runs))}


def _n_m(shape, k):
    m, n = sizes(shape)
    return {"values": (m, up(n, k.m) * k.n)}


def _patterned(shape, k):
    return (_n_m if k.pattern == "n_m" else _unstructured)(shape, k)


def _block_sparse(shape, k):
    m, n = sizes(shape)
    return {"values": (up(m, k.tile_rows), up(n, k.tile_cols) * k.keep)}


VALUES = {
    **dict.fromkeys(("svd", "acip", "whitened_svd", "afm", "utilized_rank"), _factors),
    **dict.fromkeys(("magnitude", "lamp", "global_magnitude", "chita"), _unstructured),
    **dict.fromkeys(("wanda", "sparsegpt", "admm", "awp"), _patterned),
    "cur": _cur,
    "block_svd": _block_svd,
    "kronecker": _kronecker,
    "tucker2": _tucker2,
    "cp": _cp,
    "svd_cascade": _svd_cascade,
    "dsformer": _dsformer,
    "n_m": _n_m,
    "block_sparse": _block_sparse,
}
