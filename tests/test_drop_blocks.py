"""Fewer blocks."""

import pytest
import torch
from residual_network import edited, inputs, network, pruned, scene

from compression.edits import Bypass
from compression.methods import METHODS
from compression.registry import InvalidSetting


def test_the_block_that_changes_least_goes():
    model = network()
    with torch.no_grad():
        model[3][1].norm2.weight.zero_()
        model[3][1].norm2.bias.zero_()
    plan = METHODS.build("drop_blocks", {"count": 1}).plan(scene(model))
    assert plan.edits == (Bypass("3.1"),)
    torch.testing.assert_close(edited(model, plan)(inputs()), model(inputs()))
    assert "3.1: angular distance 0.0000" in plan.notes


def test_no_block_removed_leaves_the_model_as_it_is():
    model = pruned("drop_blocks", share=0.0)
    assert not model.compression.edits
    assert torch.equal(model(inputs()), network()(inputs()))


def test_blocks_go_in_a_row_and_no_more_than_there_are():
    plan = METHODS.build("drop_blocks", {"count": 2}).plan(scene(network()))
    assert [e.module for e in plan.edits] in (["3.0", "3.1"], ["3.1", "3.2"])
    with pytest.raises(InvalidSetting, match="4 blocks asked, there are 3"):
        METHODS.build("drop_blocks", {"count": 4}).plan(scene(network()))
    with pytest.raises(InvalidSetting, match="no stack"):
        METHODS.build("drop_blocks").plan(scene(network(), ["3.1.up"]))
