"""Signals: the first is noted and passed on, the second raises, handlers are given back."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
import torch
from tiny_task import TinyTask
from torch import nn

from study.signals import SIGNALS, Interrupted, Interrupts, leave
from trainables.frozen import forward_pass
from trainables.frozen.prefix import find_cut


def _send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.1)  # Python runs a handler between two of its own steps


@pytest.mark.parametrize("number", SIGNALS)
def test_first_signal_stops_second_raises(number):
    said: list[str] = []
    with Interrupts() as interrupts, interrupts.calling(said.append):
        os.kill(os.getpid(), number)
        assert interrupts.caught == number
        assert said == [f"by {number.name}; --resume goes on"]
        with pytest.raises(KeyboardInterrupt):
            _send(number)


def test_a_signal_before_there_was_anything_to_stop_is_not_lost():
    said: list[str] = []
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        with interrupts.calling(said.append):
            assert len(said) == 1


def test_handlers_are_given_back_and_can_be_taken_again():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with Interrupts() as interrupts:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        interrupts.arm()
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.caught == signal.SIGTERM
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


def test_outside_the_main_thread_it_does_nothing():
    found = []

    def work():
        with Interrupts() as interrupts:
            interrupts.arm()
            found.append(interrupts.caught)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [None]


def test_work_is_left_even_where_a_models_errors_are_caught():
    class Slow(nn.Module):
        def forward(self, x):
            leave("by SIGINT")

    model = nn.Sequential(Slow(), nn.Linear(3, 3)).eval()
    with pytest.raises(Interrupted, match="by SIGINT"):
        find_cut(TinyTask(), model, ["1"], torch.zeros(3, 3))
    assert forward_pass._folded(nn.ReLU()) is not None
    with pytest.raises(Interrupted):
        forward_pass._folded(Interrupting())


class Interrupting(nn.Module):
    def forward(self, x):
        leave("by SIGINT")
