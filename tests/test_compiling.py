"""When a training step is compiled: by the clock, and only if it wins."""

from __future__ import annotations

import pytest
import torch

from trainables.hardware.compiling import TIMED, WARM, Raced

CARD = torch.device("meta")  # anything but the CPU; nothing is computed there


def race(eager, compiled, steps, device=CARD):
    """Run so many steps of these durations; what was in use at the end, and compiled how often."""
    now, made = [0.0], []
    durations = {"eager": eager, "compiled": compiled}

    def forward_of(name):
        def forward(inputs):
            now[0] += durations[name]
            return name

        return forward

    def compiler(forward):
        made.append(1)
        return forward_of("compiled")

    raced = Raced(forward_of("eager"), device, steps, compiler, lambda: now[0])
    used = []
    for _ in range(steps):
        used.append(raced(None))
        raced.step()
    return used, len(made)


def test_a_long_training_takes_the_faster():
    used, made = race(1.0, 0.5, 1000)
    assert made == 1
    assert used[: WARM + TIMED] == ["eager"] * (WARM + TIMED)
    assert set(used[WARM + TIMED :]) == {"compiled"}


def test_what_is_slower_compiled_goes_back():
    used, made = race(1.0, 1.5, 1000)
    assert made == 1
    assert used.count("compiled") == WARM + TIMED
    assert used[-1] == "eager"


def test_a_short_training_is_left_alone():
    assert race(0.01, 0.001, 1000) == (["eager"] * 1000, 0)


def test_on_the_cpu_it_is_off():
    assert race(1.0, 0.1, 100, torch.device("cpu")) == (["eager"] * 100, 0)


def test_a_compiler_that_fails_gives_way_and_says_so(caplog):
    def failing(forward):
        def compiled(inputs):
            raise torch._dynamo.exc.Unsupported("no triton")

        return compiled

    clock = iter(range(10**6))
    raced = Raced(lambda inputs: inputs, CARD, 10**5, failing, lambda: next(clock) * 1.0)
    outputs = []
    for i in range(40):
        outputs.append(raced(i))
        raced.step()
    assert outputs == list(range(40))
    assert caplog.text.count("training is not compiled: no triton") == 1


@pytest.mark.slow
def test_a_compiled_forward_gives_the_same_up_to_rounding():
    layer = torch.nn.Linear(8, 3)
    raced = Raced(layer, torch.device("cpu"), 10)
    raced.forward = torch.compile(layer, backend="aot_eager")
    inputs = torch.randn(5, 8)
    assert torch.allclose(raced(inputs), layer(inputs), atol=1e-6)
