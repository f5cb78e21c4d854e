"""Which channels stay, and what becomes of the layers that read them."""

import pytest
import torch
from networks import layer_stats
from residual_network import calibration, edited, inputs, network, scene
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from compression.methods import METHODS
from compression.methods.structured.channels import lasso_order
from compression.methods.structured.coupling import Group, groups_of, mask_inputs, masks_of
from compression.methods.structured.loraprune import low_rank_gradient
from compression.methods.structured.removal import (
    energy_by_channel,
    least_squares,
    reader_gram,
    shares,
)
from compression.model import target_layers
from compression.registry import InvalidSetting
from compression.stats import InputStats

pytest.importorskip("torch_pruning")


# Least squares and LASSO.


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("rank", [None, 3])
def test_rebuilding_is_the_closed_form_and_never_worse_than_masking(groups, rank):
    x = torch.randn(groups, 50, 12, dtype=torch.float64)
    if rank:
        x = x[..., :rank] @ torch.randn(groups, rank, 12, dtype=torch.float64)
    h, w = x.transpose(1, 2) @ x / 50, torch.randn(groups, 5, 12, dtype=torch.float64)
    stays = torch.stack([torch.randperm(12) < 7 for _ in range(groups)])
    new = least_squares(w, h, stays).double()
    for g in range(groups):
        s = stays[g]
        target, seen = x[g] @ w[g].T, x[g][:, s]
        masked = (target - seen @ w[g][:, s].T).norm()
        error = (target - seen @ new[g].T).norm()
        best = (target - seen @ torch.linalg.lstsq(seen, target, driver="gelsd").solution).norm()
        assert error <= masked * (1 + 1e-6)
        assert error <= best + 0.02 * masked


@pytest.mark.parametrize("h", [torch.full((1, 3, 3), torch.nan), -torch.ones(1, 3, 3)])
def test_what_is_no_second_moment_is_refused(h):
    with pytest.raises(InvalidSetting, match="second moments"):
        least_squares(torch.ones(1, 2, 3), h, torch.tensor([[True, True, False]]))


def test_the_gram_matrix_is_that_of_the_channels_outputs():
    model = network()
    found, _ = groups_of(model, calibration(), target_layers(model, ["*"]))
    group = next(g for g in found if g.inputs.keys() == {"3.0.down"})
    stats = scene(model, needs={"inputs"}).stats["3.0.down"].inputs
    block, seen = model[3][0], []
    handle = block.down.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(inputs())
    handle.remove()
    x = seen[0].permute(0, 2, 3, 1).flatten(0, 2)
    z = x[:, :, None] * block.down.weight[:, :, 0, 0].T  # (rows, channels, outputs)
    expected = torch.einsum("rco,rdo->cd", z, z) / len(x)
    gram = reader_gram(group, "3.0.down", block.down, stats)
    torch.testing.assert_close(gram, expected, rtol=1e-4, atol=1e-5)


def test_lasso_keeps_what_contributes_and_one_of_two_that_are_alike():
    z = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    z[:, 1] *= 0.01
    z[:, 3] = 0
    scores = lasso_order(z.T @ z)
    assert set(scores.topk(4).indices.tolist()) == {0, 2, 4, 5}
    assert lasso_order(torch.zeros(3, 3)).tolist() == [0, 0, 0]


def test_rebuilding_helps_on_the_calibration_inputs():
    model = network()
    plan = METHODS.build("channels", {"keep_ratio": 0.5}).plan(scene(model, needs={"inputs"}))
    plain, rebuilt = edited(model, plan), edited(model, plan)
    for name, weight in plan.weights.items():
        assert weight.shape == rebuilt.get_submodule(name).weight.shape
        rebuilt.get_submodule(name).weight.data = weight
    errors = [(m(inputs()) - model(inputs())).norm() for m in (rebuilt, plain)]
    assert errors[0] < errors[1]


# LoRAPrune.


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_only_low_rank_gradients_are_used(shape):
    g = layer_stats(shape).gradients.mean
    seen = low_rank_gradient(g, 3)
    u, s, v = torch.linalg.svd(g, full_matrices=False)
    torch.testing.assert_close(seen, u[:, :3] * s[:3] @ v[:3], atol=1e-5, rtol=1e-5)
    # A is an adapter's: autograd at B = 0 gives the same.
    b = torch.zeros(shape[0], 3, requires_grad=True)
    ((b @ v[:3]) * g).sum().backward()
    torch.testing.assert_close(b.grad @ v[:3], seen, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(low_rank_gradient(g, 9), g if min(shape) < 9 else seen)


@pytest.mark.parametrize("shape", [(48, 160), (160, 48)])
def test_few_directions_tell_which_channels_matter(shape):
    """Of a gradient of rank 4 and as much noise: scores of columns, by E and by all of G."""
    made = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(*size, generator=made)

    low = normal(shape[0], 4) @ normal(4, shape[1]) / 2
    gradient = low + normal(*shape) * low.square().mean().sqrt()
    weight = normal(*shape)
    scores = [(weight * g).square().sum(0) for g in (low_rank_gradient(gradient, 8), gradient)]
    assert torch.corrcoef(torch.stack(scores))[0, 1] > 0.8


def test_groups_stay_in_main_memory_wherever_the_model_is():
    """Tensors that only pretend to be on a GPU, and mind being mixed with others."""
    group = Group(8, {"a": torch.arange(8)}, {"b": torch.arange(8)})
    kept = torch.arange(8) % 2 == 0
    with FakeTensorMode(allow_non_fake_inputs=True):
        layers = {"a": nn.Conv2d(3, 8, 3, device="cuda"), "b": nn.Conv2d(8, 5, 3, device="cuda")}
        model = nn.ModuleDict(layers)
        energy = energy_by_channel(group, shares(group, model), model)
        assert energy.device.type == group.best(energy, 4).device.type == "cpu"
        mean = torch.zeros(1, 72, device="cuda")
        stats = InputStats(mean[..., None] * mean[:, None], mean, mean, 3)
        assert reader_gram(group, "b", model["b"], stats).device.type == "cuda"
        mask_inputs(model, masks_of({group: kept}).inputs)
