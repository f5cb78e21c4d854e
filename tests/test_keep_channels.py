"""The edit that removes channels."""

import copy

import pytest
import torch
from residual_network import network
from torch import nn

from compression.edits import EDITS, Bypass, KeepChannels
from compression.edits.keep_channels import mask_of, text_of
from compression.registry import InvalidSetting


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 64, 100])
def test_masks_survive_as_text(count):
    mask = torch.rand(count, generator=torch.Generator().manual_seed(count)) > 0.4
    mask[-1] = True
    bits = mask_of(text_of(mask))
    assert torch.equal(bits.repeat_interleave(count // len(bits)), mask)
    assert text_of(mask.repeat_interleave(9)) == text_of(mask)


@pytest.mark.parametrize("kept", ["3:AA", "3:_w", "8:A", "3:AAAAA"])
def test_bitmaps_that_are_none_are_refused(kept):
    with pytest.raises(InvalidSetting, match="keep_channels.kept"):
        KeepChannels(kept, "0").apply(network())


@pytest.mark.parametrize("count", [str(10**12), "1" * 5000, "٣", "-1", ""])
def test_bitmaps_of_absurd_lengths_are_refused(count):
    with pytest.raises(InvalidSetting, match="keep_channels.kept"):
        EDITS.build("keep_channels", {"kept": f"{count}:AQ", "outputs": "0"})


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("3:Bw", "", ""), "name modules"),
        (("999999999:AQ", "0", ""), "has 8 outputs, the bitmap is of 999999999"),
        (("3:Bw", "9", ""), "'9' is not in this model"),
        (("3:Aw", "0", ""), "has 8 outputs, the bitmap is of 3"),
        (("2:AQ", "2", ""), "ReLU, which has no outputs"),
        (("2:AQ", "", "1"), "BatchNorm2d, which has no inputs"),
        (("2:AQ", "", "3.0.deep"), "has no inputs"),
    ],
)
def test_edits_that_do_not_fit_are_refused_and_change_nothing(args, message):
    model = network()
    with pytest.raises(InvalidSetting, match=message):
        KeepChannels(*args).apply(model)
    assert model.state_dict().keys() == network().state_dict().keys()


def test_grouped_convolutions_keep_as_many_in_each_group():
    conv, x = nn.Conv2d(6, 4, 3, groups=2), torch.randn(2, 6, 5, 5)
    model = nn.Sequential(copy.deepcopy(conv))
    with pytest.raises(InvalidSetting, match="unequal numbers"):
        KeepChannels(text_of(torch.tensor([1, 1, 0, 1, 0, 0]) > 0), "", "0").apply(model)
    kept = torch.tensor([1, 1, 0, 0, 1, 1]) > 0
    KeepChannels(text_of(kept), "", "0").apply(model)
    torch.testing.assert_close(model(x[:, kept]), conv(x * kept[None, :, None, None]))
    out = torch.tensor([1, 0, 0, 1]) > 0
    KeepChannels(text_of(out), "0").apply(model)
    masked = conv(x * kept[None, :, None, None])[:, out]
    torch.testing.assert_close(model(x[:, kept]), masked)


def test_a_skipped_block_gives_back_its_first_argument():
    model = network()
    Bypass("3.1").apply(model)
    x = torch.ones(2)
    assert model[3][1](x, 1, other=2) is x
    assert model[3][1](hidden=x, other=2) is x
