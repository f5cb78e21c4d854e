"""What calibration sees of layers, against sums written out."""

import pytest
import torch
from networks import calibration, layer_stats, network
from torch import nn
from torch.nn import functional as F

from compression import collecting
from compression.calibration import Calibration
from compression.collecting import POSITIONS, SINGLES, collect, input_rows
from compression.registry import InvalidSetting
from compression.stats import InputStats, LayerStats

CONVS = [
    {"kernel_size": 3},
    {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)},
    {"kernel_size": 3, "dilation": 2, "padding": "same"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    {"kernel_size": 3, "groups": 2, "padding": 1},
    {"kernel_size": 3, "groups": 4},
]


def run_over(x, labels=None):
    """Calibration on these inputs, two at a time."""
    return Calibration(
        count=len(x),
        batch=lambda rows: (x[rows], labels[rows] if labels is not None else None),
        forward=lambda model, batch: model(batch[0]),
        loss=lambda model, batch: F.cross_entropy(model(batch[0]).flatten(1), batch[1]),
        batch_size=2,
    )


@pytest.mark.parametrize("settings", CONVS, ids=str)
def test_rows_of_a_convolution_give_its_outputs(settings):
    torch.manual_seed(0)
    layer, x = nn.Conv2d(4, 8, **settings), torch.randn(3, 4, 7, 6)
    rows = input_rows(layer, x)
    weight = layer.weight.flatten(1).view(layer.groups, 8 // layer.groups, -1)
    outputs = rows @ weight.transpose(1, 2)  # (groups, rows, outputs of a group)
    y = (layer(x) - layer.bias.view(-1, 1, 1)).flatten(2).movedim(1, -1).flatten(0, 1)
    y = y.view(len(y), layer.groups, -1).movedim(1, 0)
    assert rows.shape[1] <= 3 * POSITIONS
    torch.testing.assert_close(outputs, y, atol=1e-5, rtol=1e-5)


def test_large_outputs_are_sampled_the_same_for_all():
    layer, x = nn.Conv2d(1, 2, 1), torch.arange(400.0).view(1, 1, 20, 20)
    rows = input_rows(layer, x)
    assert rows.shape == (1, POSITIONS, 1)
    assert torch.equal(rows, input_rows(layer, x))
    assert len(rows.unique()) == POSITIONS


def test_moments_are_means_over_rows():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2)), torch.randn(7, 5)
    hidden = model[1](model[0](x)).detach()
    stats = collect(model, ["0", "2"], {"inputs"}, run_over(x))
    for name, rows in {"0": x, "2": hidden}.items():
        found = stats[name].inputs
        torch.testing.assert_close(found.second_moment[0], rows.T @ rows / 7)
        torch.testing.assert_close(found.mean[0], rows.mean(0))
        torch.testing.assert_close(found.magnitude[0], rows.abs().mean(0))
        assert found.count == 7
        assert stats[name].gradients is None


def test_positions_that_are_padding_do_not_count():
    model, x = nn.Sequential(nn.Linear(4, 2)), torch.randn(3, 5, 4)
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
    run = Calibration(3, lambda rows: rows, lambda m, rows: m(x[rows]), None, lambda r: mask[r])
    found = collect(model, ["0"], {"inputs"}, run)["0"].inputs
    assert found.count == 8
    torch.testing.assert_close(found.mean[0], x[mask.bool()].mean(0))


@pytest.mark.parametrize("last", [7, 6])  # 7: the last batch is short
def test_gradients_are_those_of_the_mean_loss(last):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 4))
    x, labels = torch.randn(last, 1, 4, 4), torch.arange(last) % 4
    stats = collect(model, ["0", "3"], {"gradients", "outputs", "samples"}, run_over(x, labels))
    loss = F.cross_entropy(model(x), labels)
    whole = torch.autograd.grad(loss, [model[0].weight, model[3].weight])
    for name, gradient in zip(["0", "3"], whole, strict=True):
        found = stats[name].gradients
        torch.testing.assert_close(found.mean, gradient.flatten(1), atol=1e-6, rtol=1e-4)
        assert found.samples.shape == (last, *found.mean.shape)
        torch.testing.assert_close(found.samples.float().mean(0), found.mean, atol=5e-3, rtol=0.05)
    errors = (model(x).softmax(1) - F.one_hot(labels, 4)).detach()
    expected = errors.T @ errors / last
    torch.testing.assert_close(stats["3"].gradients.output_moment, expected, atol=1e-6, rtol=1e-4)
    assert not any(p.grad is not None for p in model.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_the_model_is_left_as_it_was():
    model = network().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    collect(model, ["0", "6"], {"inputs", "gradients"}, calibration())
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_what_is_not_finite_is_refused_with_layer_and_field():
    model, x = nn.Sequential(nn.Linear(4, 2)), torch.randn(3, 4)
    x[1, 2] = torch.nan
    with pytest.raises(InvalidSetting, match="0: calibration: second_moment holds NaN"):
        collect(model, ["0"], {"inputs"}, run_over(x))
    broken = torch.full((1, 2, 2), torch.inf)
    with pytest.raises(InvalidSetting, match="second_moment holds NaN or infinity"):
        LayerStats(InputStats(broken, torch.zeros(1, 2), torch.zeros(1, 2), 3))


def test_a_layer_that_is_never_called_is_named():
    model = nn.ModuleDict({"used": nn.Linear(4, 2), "idle": nn.Linear(4, 2)})
    run = Calibration(2, lambda rows: rows, lambda m, rows: m["used"](torch.ones(2, 4)), None)
    with pytest.raises(InvalidSetting, match="idle: calibration: the layer is never called"):
        collect(model, ["used", "idle"], {"inputs"}, run)


def test_long_batches_are_taken_in_parts_with_their_masks(monkeypatch):
    model, x = nn.Sequential(nn.Linear(4, 2)), torch.randn(6, 5, 4)
    mask = torch.rand(6, 5, generator=torch.Generator().manual_seed(0)) > 0.5
    x[~mask] = 1e3
    run = Calibration(6, lambda rows: rows, lambda m, rows: m(x[rows]), None, lambda r: mask[r])
    whole = collect(model, ["0"], {"inputs"}, run)["0"].inputs
    monkeypatch.setattr(collecting, "_ROWS", 40)  # two examples at a time
    parts = collect(model, ["0"], {"inputs"}, run)["0"].inputs
    assert parts.count == whole.count == int(mask.sum())
    torch.testing.assert_close(parts.second_moment, whole.second_moment)


def test_single_gradients_are_of_examples_from_all_along():
    run = Calibration(256, lambda rows: rows, None, None)
    chosen = run.numbers(SINGLES)
    assert len(chosen) == len(chosen.unique()) == SINGLES
    assert torch.equal(chosen.diff(), torch.full((SINGLES - 1,), 8))
    assert [int(b) for b in run.batches(1, 2)] == [64, 192]
    assert torch.equal(run.numbers(1_000), torch.arange(256))


def test_what_memory_cannot_hold_is_refused_with_its_size():
    with torch.device("meta"):
        wide = nn.Sequential(nn.Linear(1_000_000, 8))
    with pytest.raises(InvalidSetting, match=r"inputs of 1 layers take 4000 GB, room is for"):
        collect(wide, ["0"], {"inputs"}, calibration())


def test_a_gradient_of_a_layer_that_is_never_called_is_refused():
    model = nn.ModuleDict({"used": nn.Linear(4, 2), "idle": nn.Linear(4, 2)})
    x = torch.ones(2, 4)
    run = Calibration(2, lambda rows: rows, None, lambda m, rows: m["used"](x[rows]).sum())
    with pytest.raises(InvalidSetting, match="idle: calibration: the layer is never called"):
        collect(model, ["used", "idle"], {"gradients"}, run)


def test_the_helper_of_other_tests_makes_true_moments():
    moment = layer_stats((4, 6)).inputs.second_moment[0]
    assert torch.linalg.eigvalsh(moment).min() > 0
