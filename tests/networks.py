"""Small networks and rules that the compression tests share."""

import contextlib
import math

import torch
from torch import nn

from compression.adapters import ADAPTERS
from compression.calibration import Calibration
from compression.inits import INITS
from compression.kinds import EVERY_LAYER
from compression.methods import METHODS, Method
from compression.methods.structured.structural import Structural
from compression.model import Rule, compress_model, target_layers
from compression.registry import InvalidSetting
from compression.size import macs, positions
from compression.stats import GradientStats, InputStats, LayerStats

TARGETS = ["*"]
# Adapters that meet every method; all the others meet some in test_adapters.
COMMON = ("none", "lora", "dora")
# Whose knobs change how the weight is stored, or which tensors there are.
STORED = ("rtn", "awq", "hqq", "int1", "ternary", "nf4", "n_m", "magnitude", "block_sparse", "cur")


def network(seed=0):
    """Convolutions, BatchNorm, Linear: every kind of tensor a file can hold."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(45, 12),
        nn.ReLU(),
        nn.Linear(12, 7),
    ).eval()


def inputs(count=4):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def generator():
    return torch.Generator().manual_seed(0)


def calibration(count=24):
    """Noise for :func:`network`, with labels."""
    x = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    labels = torch.arange(count) % 7
    return Calibration(
        count=count,
        batch=lambda rows: (x[rows], labels[rows]),
        forward=lambda model, batch: model(batch[0]),
        loss=lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
        batch_size=8,
    )


def pattern_for(method):
    """The layers of :func:`network` that a method takes."""
    kinds = METHODS.build(method).kinds if method in METHODS else EVERY_LAYER
    if {"linear", "conv2d"} <= kinds:
        return "*"
    return "[03]" if "conv2d" in kinds else "[68]"


# Methods that keep the structure, and those among them that plan each layer by itself.
WHOLE = [name for name in METHODS if not issubclass(METHODS[name], Structural)]
SINGLE = [name for name in METHODS if METHODS[name].plan is Method.plan]


def fit(method, adapter):
    """Whether something is left of a layer."""
    return adapter != "none" or not METHODS[method].base_is_gone


def methods_and_inits():
    """Each method with the plainest init, each init with a plain method; not all with all."""
    model = network()
    able = []
    for name in METHODS:
        layers = target_layers(model, [pattern_for(name)])
        if not list(METHODS.build(name).refusals(model, layers)):
            able.append(name)  # drop_blocks, say, finds no blocks here
    found = [(name, "zeros") for name in able] + [("rtn", name) for name in INITS]
    return list(dict.fromkeys(found))


def rule(method="none", init="zeros", adapter="none", rank=0, alpha=None, pattern="*"):
    """A rule from names, or from built plugins."""

    def built(registry, plugin):
        return registry.build(plugin) if isinstance(plugin, str) else plugin

    return Rule(
        pattern=pattern,
        methods=(built(METHODS, method),),
        init=built(INITS, init),
        adapter=built(ADAPTERS, adapter),
        rank=rank,
        alpha=alpha,
    )


def variants(registry, names=None):
    """Every plugin of a registry at its defaults and with each searched or valid choice set.

    Combinations that it refuses are left out; of those in ``names``, where they are given.
    """
    found = []
    for name in names or registry:
        plugins = [registry.build(name)]
        for knob_name, knob in registry[name].knobs().items():
            for domain in (knob.valid, knob.search):
                for value in getattr(domain, "values", ()):
                    when = {k: v[0] for k, v in knob.when.items()}
                    with contextlib.suppress(InvalidSetting):
                        plugins.append(registry.build(name, {**when, knob_name: value}))
        found += [p for i, p in enumerate(plugins) if p not in plugins[:i]]
    return found


def macs_of(model, batch):
    """Multiply-accumulates of the first sample of a batch."""
    return macs(model, positions(model, lambda: model(batch[:1])))


def layer_stats(shape, groups=1, needs=("inputs", "gradients", "outputs", "samples"), seed=0):
    """Statistics of a layer with a weight of this shape: correlated inputs of unequal size."""
    made = torch.Generator().manual_seed(seed)
    rows, columns = shape[0], math.prod(shape[1:])
    mix = torch.randn(groups, columns, columns, generator=made) / columns**0.5
    sizes = torch.rand(groups, 1, columns, generator=made) * 3 + 0.1
    x = (torch.randn(groups, 4 * columns + 8, columns, generator=made) @ mix + 0.2) * sizes
    moments = InputStats(
        second_moment=x.transpose(1, 2) @ x / x.shape[1],
        mean=x.mean(1),
        magnitude=x.abs().mean(1),
        count=x.shape[1],
    )
    g = torch.randn(4 * rows + 8, rows, generator=made)
    samples = torch.randn(8, rows, columns, generator=made) * 0.1
    gradients = GradientStats(
        mean=samples.mean(0),
        output_moment=g.T @ g / len(g) if "outputs" in needs else None,
        samples=samples.bfloat16() if "samples" in needs else None,
    )
    return LayerStats(
        moments if "inputs" in needs else None,
        gradients if set(needs) - {"inputs"} else None,
    )


def wide_network(seed=0):
    """Layers whose sizes are multiples of 16, of every kind that adapters take, and norms."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AvgPool2d(4),
        nn.Flatten(),
        nn.Linear(64, 32),
        nn.LayerNorm(32),
        nn.ReLU(),
        nn.Linear(32, 32),
        nn.ReLU(),
        nn.Linear(32, 16),
    ).eval()


def taken(adapter, method, layers, rank=4):
    """The method, or where the adapter refuses it the first that it sits on."""

    def able(wanted):
        built = METHODS.build(wanted) if isinstance(wanted, str) else wanted
        return not list(adapter.refusals(layers, rank, [built]))

    return next(filter(able, (method, "block_sparse", "none", "acip")), method)


def adapted(adapter, method="rtn", init=None, model=None, rank=4, calibrated=True, **more):
    """:func:`wide_network` under an adapter, on the layers and a method that it takes."""
    model = model or wide_network()
    pattern = "*" if "conv2d" in adapter.kinds else "[58]*"
    method = taken(adapter, method, target_layers(model, [pattern]), rank)
    init = init or ("residual" if adapter.takes_delta else "zeros")
    return compress_model(
        model,
        [
            rule(
                method,
                init,
                adapter,
                rank if adapter.ranked else 0,
                pattern=pattern,
                **more,
            )
        ],
        [pattern],
        generator=generator(),
        calibration=calibration() if calibrated else None,
    )
