"""What the tests of sparse methods share."""

import math

import torch

from compression.methods import METHODS

BY_INPUTS = ["wanda", "sparsegpt", "admm", "awp"]
UNSTRUCTURED = ["magnitude", "lamp", "global_magnitude", "chita", *BY_INPUTS]


def build(name, **args):
    return METHODS.build(name, args)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def output_error(weight, packed, stats):
    """``tr(E H E^T)``, and of each row, by its group."""
    moment = stats.inputs.second_moment
    change = (weight - packed.dense()).reshape(len(moment), -1, moment.shape[1]).double()
    return (change @ moment.double() * change).sum(2).flatten()


def formula(rows, columns, count):
    """Position bytes of k unstructured values, as the docstrings say."""
    cells = rows * columns
    coded = min(
        math.ceil(count * low / 8) + math.ceil((count + (cells - 1) // 2**low) / 8)
        for low in range(1, 17)
    )
    return min(math.ceil(cells / 8), coded)
