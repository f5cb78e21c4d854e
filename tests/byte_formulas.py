"""Stored bytes of every method as its docstring states them, in plain arithmetic.

Independent of ``layout``: each formula sees the shape of a weight, (m, n) or (m, c, kh, kw), and
the knobs of the resolved method, and nothing else of the package.
"""

import math
from types import SimpleNamespace

from chain_values import VALUES, halves, sizes, up

from compression.methods.chain import Chain

WIDTHS = {"float16": 2, "bfloat16": 2, "float32": 4}


def groups(n, size):
    """Groups in a row of n entries; size 0 is the row."""
    return up(n, size) if size else 1


# Fewer bits


def rtn(shape, k):
    """``ceil(bits m n / 8) + b m g``, and ``ceil(bits m g / 8)`` more when asymmetric."""
    m, n = sizes(shape)
    g = groups(n, k.group_size)
    zeros = up(k.bits * m * g, 8) if k.mode == "asymmetric" else 0
    return up(k.bits * m * n, 8) + WIDTHS[k.scale_dtype] * m * g + zeros


def awq(shape, k):
    """As rtn, and ``b n`` for s unless alpha is 0."""
    return rtn(shape, k) + (WIDTHS[k.scale_dtype] * sizes(shape)[1] if k.alpha else 0)


def hqq(shape, k):
    """``ceil(bits m n / 8) + 2 b m g``."""
    m, n = sizes(shape)
    return up(k.bits * m * n, 8) + 2 * WIDTHS[k.scale_dtype] * m * groups(n, k.group_size)


def int1(shape, k):
    """``p (ceil(m n / 8) + b m ceil(n / group_size))``."""
    m, n = sizes(shape)
    g = {"none": 0, "row": 1, "group": up(n, k.group_size)}[k.scale]
    return k.passes * (up(m * n, 8) + WIDTHS[k.scale_dtype] * m * g)


def sign(shape, k):
    """``ceil(m n / 8) + min(4 z, ceil(m n / 8))``."""
    m, n = sizes(shape)
    return up(m * n, 8) + min(4 * k.zeros, up(m * n, 8))


def ternary(shape, k):
    """``ceil(m n / 5) + b m g``."""
    m, n = sizes(shape)
    return up(m * n, 5) + WIDTHS[k.scale_dtype] * m * groups(n, k.group_size)


def codebook(shape, k):
    """``ceil(m n / 2) + b m g``; double: one byte a scale, and b for every 256 of them."""
    m, n = sizes(shape)
    scales, b = m * groups(n, k.group_size), WIDTHS[k.scale_dtype]
    return up(m * n, 2) + (scales + b * up(scales, 256) if k.double else b * scales)


# Fewer weights


def positions(cells, kept, coding):
    """``ceil(N / 8)``, or ``ceil(k l / 8) + ceil((k + floor((N - 1) / 2^l)) / 8)``, l the best."""
    low = (up(kept * b, 8) + up(kept + (cells - 1) // 2**b, 8) for b in range(1, 17))
    return smaller(coding, bitmap=up(cells, 8), indices=min(low))


def smaller(coding, **codings):
    """The coding that was asked for, or whichever is smaller."""
    return min(codings.values()) if coding == "auto" else codings[coding]


def unstructured(shape, k):
    """``b k + min(ceil(N / 8), i)``."""
    cells = math.prod(shape)
    kept = min(k.kept, cells)
    return WIDTHS[k.value_dtype] * kept + positions(cells, kept, k.coding)


def n_m(shape, k):
    """``b T n + ceil(T ceil(log2 C(m, n)) / 8)``; beyond m = 16 as T n of T m cells."""
    rows, columns = sizes(shape)
    tiles = rows * up(columns, k.m)
    if k.m > 16:
        indices = positions(tiles * k.m, tiles * k.n, k.coding)
    elif k.coding == "bitmap":
        indices = up(tiles * k.m, 8)
    else:
        indices = up(tiles * (math.comb(k.m, k.n) - 1).bit_length(), 8)
    return WIDTHS[k.value_dtype] * tiles * k.n + indices


def patterned(shape, k):
    """As magnitude for k values, or as n_m."""
    return (n_m if k.pattern == "n_m" else unstructured)(shape, k)


def block_sparse(shape, k):
    """``b T keep + ceil(T keep ceil(log2 t) / 8)``."""
    m, n = sizes(shape)
    kept = up(m, k.tile_rows) * up(n, k.tile_cols) * k.keep
    bits = (k.tile_rows * k.tile_cols - 1).bit_length()
    return WIDTHS[k.value_dtype] * kept + up(kept * bits, 8)


# Products of smaller matrices


def factors(shape, k):
    """``b r (m + n)``, r at most min(m, n)."""
    m, n = sizes(shape)
    return WIDTHS[k.factor_dtype] * min(k.rank, m, n) * (m + n)


def cur(shape, k):
    """``b r (m + n) + 4 r^2``."""
    return factors(shape, k) + 4 * min(k.rank, *sizes(shape)) ** 2


def block_svd(shape, k):
    """``b T r (h + w)``."""
    m, n = sizes(shape)
    h, w = min(k.tile, m), min(k.tile, n)
    return WIDTHS[k.factor_dtype] * up(m, h) * up(n, w) * min(k.rank, h, w) * (h + w)


def kronecker(shape, k):
    """``b r (m1 n1 + m2 n2)``."""
    first, second = halves(shape)
    return WIDTHS[k.factor_dtype] * min(k.rank, first, second) * (first + second)


def tucker2(shape, k):
    """``b (out p + p q k + q in)``."""
    out, into, *area = shape
    p, q = k.rank_out, k.rank_in
    return WIDTHS[k.factor_dtype] * (out * p + p * q * math.prod(area) + q * into)


def cp(shape, k):
    """``b r (out + in + kh + kw)``, r at most out in kh kw over the greatest of them."""
    dims = (*shape, 1, 1)[:4]
    return WIDTHS[k.factor_dtype] * min(k.rank, math.prod(dims) // max(dims)) * sum(dims)


def svd_cascade(shape, k):
    """``K (m + n) bits / 8`` in floats; codes and float16 scales of both factors quantised."""
    m, n = sizes(shape)
    rows = k.pairs * min(k.rank, m, n)
    if k.factor_bits >= 16:
        return min(rows, m, n) * (m + n) * k.factor_bits // 8
    codes = up(k.factor_bits * rows * m, 8) + up(k.factor_bits * rows * n, 8)
    return codes + 2 * rows * (groups(m, k.group_size) + groups(n, k.group_size))


def dsformer(shape, k):
    """``b (m k + c n) + ceil(ceil(n / block) c ceil(log2 k) / 8)``; no indices where c = k."""
    m, n = sizes(shape)
    inner = min(k.rank, m, n)
    c = max(1, round(k.keep * inner))
    indices = up(up(n, k.block) * c * (inner - 1).bit_length(), 8) if c < inner else 0
    return WIDTHS[k.factor_dtype] * (m * inner + c * n) + indices


# As it is


def none(shape, k):
    """``4 m n``; of a structural method, for the m outputs and n inputs that stay."""
    return 4 * math.prod(shape)


def cast(shape, k):
    """``2 m n``."""
    return 2 * math.prod(shape)


def nothing(shape, k):
    """0."""
    return 0


FORMULAS = {
    "none": none,
    "cast": cast,
    **dict.fromkeys(("rtn", "gptq", "yaqa"), rtn),
    "awq": awq,
    "hqq": hqq,
    "int1": int1,
    "sign": sign,
    "ternary": ternary,
    **dict.fromkeys(("nf4", "fp4"), codebook),
    **dict.fromkeys(("magnitude", "lamp", "global_magnitude", "chita"), unstructured),
    **dict.fromkeys(("wanda", "sparsegpt", "admm", "awp"), patterned),
    "n_m": n_m,
    "block_sparse": block_sparse,
    "acip": lambda shape, k: factors(shape, k) + 4 * min(k.rank, *sizes(shape)),
    **dict.fromkeys(("svd", "whitened_svd", "afm", "utilized_rank", "welore"), factors),
    "cur": cur,
    "block_svd": block_svd,
    "kronecker": kronecker,
    "tucker2": tucker2,
    "cp": cp,
    "svd_cascade": svd_cascade,
    "drop_base": nothing,
    "dsformer": dsformer,
    **dict.fromkeys(("channels", "loraprune", "drop_blocks"), none),
}
DELEGATING = {"dlp": ("wanda", "magnitude", "sparsegpt")}
"""Methods that are stored as another one, whose formula holds of what they resolve to."""


def formula(method, shape, coding="auto"):
    """Bytes of a weight under a resolved method, or a chain; ``coding`` is what was asked for.

    A sparse method resolved has chosen how it tells positions: the formula chooses by itself.
    """
    if isinstance(method, Chain):
        return chained(method, shape)
    knobs = {name: getattr(method, name) for name in method.knobs()}
    return FORMULAS[method.name](shape, SimpleNamespace(**{**knobs, "coding": coding}))


def chained(method, shape):
    """Those of the first without its floating-point values, and of each matrix of these after."""
    first, total = method.first, formula(method.first, shape)
    for slot, matrix in VALUES[first.name](shape, first).items():
        after = method.then[slot if slot in method.then else ""]
        count = min(math.prod(matrix), getattr(first, "kept", 0) or math.inf)
        total += formula(after, matrix) - width(first) * count
    return total


def width(first):
    """Bytes of a value that a method leaves in floating point."""
    if hasattr(first, "factor_bits"):
        return first.factor_bits // 8
    return WIDTHS[first.value_dtype if hasattr(first, "value_dtype") else first.factor_dtype]
