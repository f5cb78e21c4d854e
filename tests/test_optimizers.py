"""The contract of every optimizer."""

import math

import networks
import pytest
import torch
from torch import nn

from compression.adapters.base import Pair
from trainables.checkpoint import State, flatten, unflatten
from trainables.optimizers import OPTIMIZERS
from trainables.optimizers.flora import projection
from trainables.optimizers.lora_pro import LoraPro, gradients, nearest
from trainables.optimizers.projection import gaussian, unwidened, wide

SHAPES = {
    "vector": [(5,)],
    "matrix": [(4, 6)],
    "kernel": [(3, 2, 3, 3)],
    "all": [(4, 6), (5,), (3, 2, 3, 3), (6, 2), ()],
}


def params(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def loss(params):
    """A quadratic whose least value is 0, at 3 everywhere."""
    return sum(((p - 3.0) ** 2).sum() for p in params)


def middle(name):
    """The learning rate in the middle of the optimizer's own range."""
    bounds = OPTIMIZERS[name].lr
    if bounds.log:
        return math.sqrt(bounds.low * bounds.high)
    return (bounds.low + bounds.high) / 2


def train(optimizer, params, steps):
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        loss(params).backward()
        optimizer.step()


def copies(params):
    return [p.detach().clone() for p in params]


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_lowers_a_quadratic_and_moves_every_parameter(name, shapes):
    ours = params(shapes)
    before, start = loss(ours).item(), copies(ours)
    train(OPTIMIZERS.build(name).build(ours, middle(name)), ours, 1)
    assert loss(ours).item() < before
    assert all(not torch.equal(p, old) for p, old in zip(ours, start, strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_parameter_is_in_one_group(name):
    ours = params(SHAPES["all"])
    optimizer = OPTIMIZERS.build(name).build(ours, 0.01)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in ours}
    assert len(held) == len(ours)


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_saved_state_goes_on_bitwise(name, shapes):
    def start():
        ours = params(shapes)
        return ours, OPTIMIZERS.build(name).build(ours, middle(name))

    straight, optimizer = start()
    train(optimizer, straight, 3)
    at, saved = copies(straight), State.from_bytes(flatten(optimizer.state_dict()).to_bytes())
    train(optimizer, straight, 3)

    resumed, optimizer = start()
    for p, value in zip(resumed, at, strict=True):
        p.data.copy_(value)
    optimizer.load_state_dict(unflatten(saved))
    train(optimizer, resumed, 3)
    assert all(map(torch.equal, resumed, straight))


@pytest.mark.parametrize("restored", [False, True], ids=["fresh", "restored"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_learning_rate_set_through_the_groups_takes_effect(name, restored):
    ours = params(SHAPES["all"])
    optimizer = OPTIMIZERS.build(name).build(ours, middle(name))
    if restored:
        optimizer.load_state_dict(unflatten(flatten(optimizer.state_dict())))
    start = copies(ours)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    train(optimizer, ours, 1)
    assert all(map(torch.equal, ours, start))
    for group in optimizer.param_groups:
        group["lr"] = middle(name)
    train(optimizer, ours, 1)
    assert all(not torch.equal(p, old) for p, old in zip(ours, start, strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradients_are_cleared(name):
    ours = params(SHAPES["all"])
    optimizer = OPTIMIZERS.build(name).build(ours, 0.01)
    loss(ours).backward()
    optimizer.zero_grad(set_to_none=True)
    assert all(p.grad is None for p in ours)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_range_of_learning_rates_is_a_range(name):
    bounds = OPTIMIZERS[name].lr
    assert 0 < bounds.low < bounds.high


class Fit:
    """Least squares by two low-rank deltas, of a matrix and of a kernel, and a bias."""

    def __init__(self, seed=0, dtype=torch.float32, zero=True, scale=2.0):
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape):
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        self.A, self.B = nn.Parameter(drawn(3, 12) / 4), nn.Parameter(drawn(10, 3) / 4)
        self.kernel = nn.Parameter(drawn(2, 4, 3, 3) / 4)
        self.mixer = nn.Parameter(drawn(7, 2, 1, 1) / 4)
        if zero:
            self.B.data.zero_()
            self.mixer.data.zero_()
        self.bias = nn.Parameter(drawn(10))
        self.params = [self.A, self.B, self.kernel, self.mixer, self.bias]
        self.pairs = [Pair(self.A, self.B, scale), Pair(self.kernel, self.mixer, scale)]
        self.inputs, self.outputs = drawn(40, 12), drawn(40, 10) / 2
        self.images, self.maps = drawn(6, 4, 5, 5), drawn(6, 7, 3, 3) / 2

    def loss(self):
        one, two = self.pairs
        linear = one.scale * (self.inputs @ self.A.T) @ self.B.T + self.bias - self.outputs
        channels = nn.functional.conv2d(self.images, self.kernel)
        maps = two.scale * nn.functional.conv2d(channels, self.mixer) - self.maps
        return linear.square().mean() + maps.square().mean()

    def full_gradients(self):
        """Those of both deltas, had they been trained freely."""
        with torch.no_grad():
            deltas = [p.scale * p.B.flatten(1) @ p.A.flatten(1) for p in self.pairs]
        for delta in deltas:
            delta.requires_grad_()
        linear = self.inputs @ deltas[0].T + self.bias.detach() - self.outputs
        maps = nn.functional.conv2d(self.images, deltas[1].view(7, 4, 3, 3)) - self.maps
        return torch.autograd.grad(linear.square().mean() + maps.square().mean(), deltas)

    def train(self, optimizer, steps, lr):
        """As the training loop does it: the learning rate is set at each step."""
        for _ in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = lr * group.get("lr_ratio", 1.0)
            optimizer.zero_grad(set_to_none=True)
            self.loss().backward()
            optimizer.step()


def build(plugin, fit, lr):
    plugin = OPTIMIZERS.build(plugin) if isinstance(plugin, str) else plugin
    return plugin.build(fit.params, lr, fit.pairs)


def stepped(plugin, fit, lr, steps=3):
    """The parameters after some steps, those of the optimizer's end where it has one."""
    optimizer = build(plugin, fit, lr)
    fit.train(optimizer, steps, lr)
    return copies(fit.params)


EVERY = networks.variants(OPTIMIZERS)
every_setting = pytest.mark.parametrize("plugin", EVERY, ids=str)


def faster(plugin):
    """Plain gradient descent as a base wants more than the range of Adam."""
    return 10.0 if getattr(plugin, "base", "") == "sgd" else 1.0


@every_setting
def test_it_descends_with_pairs(plugin):
    fit, lr = Fit(), middle(plugin.name) * faster(plugin)
    before = fit.loss().item()
    optimizer = build(plugin, fit, lr)
    fit.train(optimizer, 60, lr)
    if hasattr(optimizer, "eval"):
        optimizer.eval()
    assert fit.loss().item() < 0.97 * before


@every_setting
def test_pairs_go_on_bitwise_from_a_saved_state(plugin):
    lr = middle(plugin.name)
    straight = Fit()
    optimizer = build(plugin, straight, lr)
    straight.train(optimizer, 3, lr)
    at, saved = copies(straight.params), flatten(optimizer.state_dict()).to_bytes()
    straight.train(optimizer, 2, lr)

    resumed = Fit()
    again = build(plugin, resumed, lr)
    for p, value in zip(resumed.params, at, strict=True):
        p.data.copy_(value)
    again.load_state_dict(unflatten(State.from_bytes(saved)))
    resumed.train(again, 2, lr)
    assert all(map(torch.equal, resumed.params, straight.params))
    assert flatten(again.state_dict()).to_bytes() == flatten(optimizer.state_dict()).to_bytes()


@pytest.mark.parametrize("settings", [{"opt_rank": 2, "resample_every": 2}, {"opt_rank": 64}])
def test_flora_goes_on_bitwise_across_a_new_projection(settings):
    test_pairs_go_on_bitwise_from_a_saved_state(OPTIMIZERS.build("flora", settings))


@pytest.mark.parametrize("kind", ["svd", "random"])
def test_galore_goes_on_bitwise_across_a_new_basis(kind):
    settings = {"opt_rank": 2, "update_gap": 2, "projection": kind}
    test_pairs_go_on_bitwise_from_a_saved_state(OPTIMIZERS.build("galore", settings))


@every_setting
def test_neither_reads_nor_moves_the_global_randomness(plugin):
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(stepped(plugin, Fit(), 0.01))
        assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, *found))


@every_setting
def test_pairs_are_in_one_group_each_and_their_gradients_are_cleared(plugin):
    fit = Fit()
    optimizer = build(plugin, fit, 0.01)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(map(id, fit.params))
    fit.loss().backward()
    optimizer.zero_grad(set_to_none=True)
    assert all(p.grad is None for p in fit.params)


@every_setting
def test_a_diverged_model_raises_in_no_step(plugin):
    fit = Fit()
    optimizer = build(plugin, fit, 0.01)
    fit.train(optimizer, 1, 0.01)
    fit.inputs[0] = torch.nan
    fit.images[0] = torch.inf
    fit.train(optimizer, 2, 0.01)  # else the training could not say at which step
    assert not fit.loss().isfinite()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pairs_matter_to_those_that_say_so(name):
    plugin, one, two = OPTIMIZERS.build(name), Fit(zero=False), Fit(zero=False)
    optimizer = plugin.build(two.params, 0.01, ())
    two.train(optimizer, 3, 0.01)
    same = list(map(torch.equal, stepped(plugin, one, 0.01), two.params))
    assert all(same) or OPTIMIZERS[name].of_pairs
    assert not all(same[:4]) or not OPTIMIZERS[name].of_pairs


TORCH = {
    "momentum": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9),
    "nadam": lambda p: torch.optim.NAdam(p, 0.01),
    "radam": lambda p: torch.optim.RAdam(p, 0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "mars": lambda p: torch.optim.AdamW(p, 0.01, betas=(0.95, 0.99), weight_decay=0.0),
    "adafactor": lambda p: torch.optim.Adafactor(p, 0.01, eps=(1e-15, 1e-3), weight_decay=0.0),
}
SETTINGS = {"mars": {"gamma": 0.0}, "adafactor": {"relative": True}}


@pytest.mark.parametrize("name", TORCH)
def test_it_is_the_one_of_torch(name):
    ours, theirs = Fit(zero=False), Fit(zero=False)
    for fit in (ours, theirs):
        fit.images.mul_(0.2)  # gradients below MARS's cut to a norm of 1
    theirs.train(TORCH[name](theirs.params), 6, 0.01)
    found = stepped(OPTIMIZERS.build(name, SETTINGS.get(name)), ours, 0.01, 6)
    # In 6 steps of up to 0.01; where an epsilon is added differs from library to library.
    torch.testing.assert_close(found, copies(theirs.params), rtol=1e-4, atol=5e-5)


def test_mars_with_gamma_zero_is_its_base_lion():
    # Its Lion form has one decay where Lion has two.
    mars = OPTIMIZERS.build("mars", {"gamma": 0.0, "base": "lion", "beta1": 0.9})
    lion = OPTIMIZERS.build("lion", {"beta1": 0.9, "beta2": 0.9})
    torch.testing.assert_close(stepped(mars, Fit(), 0.01), stepped(lion, Fit(), 0.01))


def test_every_entry_moves_by_lions_learning_rate():
    fit = Fit(zero=False)
    before = copies(fit.params)
    after = stepped("lion", fit, 0.01, 1)
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close((new - old).abs(), torch.full_like(old, 0.01))


def test_schedule_free_ends_at_the_weighted_mean_of_its_path():
    fit = Fit(zero=False)
    optimizer = build("schedule_free", fit, 0.01)
    path = []
    for lr in (0.01, 0.02, 0.005, 0.01):
        fit.train(optimizer, 1, lr)
        path.append([optimizer.state[p]["z"].clone() for p in fit.params])
    training = copies(fit.params)
    optimizer.eval()
    weights = torch.tensor([0.01, 0.02, 0.02, 0.02]).square()  # of the largest rate so far
    for i, p in enumerate(fit.params):
        stacked = torch.stack([z[i] for z in path], -1)
        torch.testing.assert_close(p.detach(), stacked @ weights / weights.sum())
    optimizer.train()
    torch.testing.assert_close(copies(fit.params), training)


def test_adafactor_keeps_rows_and_columns():
    fit = Fit()
    optimizer = build("adafactor", fit, 0.01)
    fit.train(optimizer, 1, 0.01)
    held = [t.numel() for t in optimizer.state[fit.A].values() if isinstance(t, torch.Tensor)]
    assert sum(held) <= sum(fit.A.shape) + 1


def test_lora_plus_at_ratio_one_is_adam():
    plugin = OPTIMIZERS.build("lora_plus", {"ratio": 1.0})
    assert all(map(torch.equal, stepped(plugin, Fit(), 0.01), stepped("adam", Fit(), 0.01)))


def test_lora_plus_moves_b_by_its_ratio():
    slow, fast = Fit(zero=False), Fit(zero=False)
    start = copies(slow.params)
    adam = stepped("adam", slow, 1e-3, 1)
    plus = stepped(OPTIMIZERS.build("lora_plus", {"ratio": 8.0}), fast, 1e-3, 1)
    for old, one, other, ratio in zip(start, adam, plus, (1, 8, 1, 8, 1), strict=True):
        torch.testing.assert_close(other - old, ratio * (one - old), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("corrected", [False, True])
def test_lora_fa_leaves_a_as_it_is(corrected):
    fit = Fit()
    start = copies(fit.params)
    moved = stepped(OPTIMIZERS.build("lora_fa", {"corrected": corrected}), fit, 0.01)
    same = list(map(torch.equal, start, moved))
    assert same == [True, False, True, False, False]


def test_lora_fa_uncorrected_is_adam_on_the_rest():
    plain, twin = OPTIMIZERS.build("lora_fa", {"corrected": False}), Fit()
    rest = [twin.B, twin.mixer, twin.bias]
    twin.train(torch.optim.Adam(rest, 0.01, fused=True), 3, 0.01)
    fit = Fit()
    stepped(plain, fit, 0.01)
    assert all(map(torch.equal, [fit.B, fit.mixer, fit.bias], rest))


def steps_of(plugin, fit):
    """The gradients that the optimizer steps along: what SGD at rate 1 takes away."""
    start = copies(fit.params)
    return [old - new for old, new in zip(start, stepped(plugin, fit, 1.0, 1), strict=True)]


def changes(fit, steps):
    """The first-order change of each delta under steps of its factors."""
    found = []
    for pair, a, b in zip(fit.pairs, steps[0:4:2], steps[1:4:2], strict=True):
        A, B = pair.A.detach().flatten(1), pair.B.detach().flatten(1)
        found.append(pair.scale * (B @ a.flatten(1) + b.flatten(1) @ A))
    return found


def test_lora_fa_corrects_to_the_nearest_step_of_b(monkeypatch):
    fit = Fit(zero=False, dtype=torch.float64)
    wanted = []
    for pair, full in zip(fit.pairs, fit.full_gradients(), strict=True):
        A = pair.scale * pair.A.detach().flatten(1)
        wanted.append(torch.linalg.lstsq(A.T, full.T).solution.T)
    monkeypatch.setattr(torch.optim, "Adam", lambda p, lr, **_: torch.optim.SGD(p, lr))
    found = steps_of(OPTIMIZERS.build("lora_fa", {"damping": 1e-15}), fit)
    torch.testing.assert_close(found[1], wanted[0])
    torch.testing.assert_close(found[3].flatten(1), wanted[1])


def nearest_change(pair, full):
    """The change of a delta nearest to the full gradient, by least squares over both factors."""
    A, B = pair.A.detach().flatten(1), pair.B.detach().flatten(1)
    m, n = len(B), A.shape[1]
    # Row-major: vec(B a) = kron(B, I) vec(a), vec(b A) = kron(I, A^T) vec(b).
    by_a = torch.kron(B, torch.eye(n, dtype=B.dtype))
    by_b = torch.kron(torch.eye(m, dtype=B.dtype), A.T.contiguous())
    system = pair.scale * torch.cat([by_a, by_b], 1)
    found = torch.linalg.lstsq(system, full.reshape(-1, 1), driver="gelsd").solution
    return (system @ found).view(m, n)


@pytest.mark.parametrize("zero", [True, False], ids=["B is 0", "B is not 0"])
def test_lora_pro_steps_nearest_to_the_full_gradient(zero):
    fit, pro = Fit(zero=zero, dtype=torch.float64), {"base": "sgd", "damping": 1e-15}
    full, twin = fit.full_gradients(), Fit(zero=zero, dtype=torch.float64)
    steps = steps_of(OPTIMIZERS.build("lora_pro", pro), fit)
    twin.loss().backward()
    slope = sum((s * p.grad).sum() for s, p in zip(steps[:4], twin.params, strict=False))
    assert slope >= 0  # so that the loss does not grow, to first order
    found = changes(twin, steps)
    for pair, one, gradient in zip(twin.pairs, found, full, strict=True):
        torch.testing.assert_close(one, nearest_change(pair, gradient), rtol=1e-6, atol=1e-8)
    squares = sum(one.square().sum() for one in found)
    torch.testing.assert_close(slope, squares)


def test_lora_pro_moves_the_gradients_least():
    fit = Fit(zero=False, dtype=torch.float64)
    fit.loss().backward()
    given = [gradients(pair) for pair in fit.pairs]
    generator = torch.Generator().manual_seed(3)
    for pair, old, new in zip(fit.pairs, given, nearest(fit.pairs, given, 0.0), strict=True):
        A, B = pair.A.detach().flatten(1), pair.B.detach().flatten(1)
        least = (new.A - old.A).square().sum() + (new.B - old.B).square().sum()
        for _ in range(5):
            X = torch.randn(len(A), len(A), generator=generator, dtype=torch.float64) * 0.1
            one, other = new.A + X @ A, new.B - B @ X  # the same change of the delta
            assert (one - old.A).square().sum() + (other - old.B).square().sum() > least


def test_lora_pro_takes_adams_step_of_the_nearest_change():
    # Adam's first step is the sign of what it is given, but for its epsilon.
    fit = Fit(zero=False, dtype=torch.float64)
    full, plugin = fit.full_gradients(), OPTIMIZERS.build("lora_pro", {"damping": 1e-15})
    assert isinstance(plugin, LoraPro)
    twin = Fit(zero=False, dtype=torch.float64)
    found = changes(twin, steps_of(plugin, fit))
    for pair, one, gradient in zip(twin.pairs, found, full, strict=True):
        near = nearest_change(pair, gradient)
        wanted = nearest_change(pair, near / (near.abs() + 1e-8))
        torch.testing.assert_close(one, wanted, rtol=1e-5, atol=1e-6)


def test_riemannian_steps_do_not_depend_on_how_a_delta_is_factored():
    plugin = OPTIMIZERS.build("riemannian", {"base": "sgd", "damping": 1e-15})
    one, other = (Fit(zero=False, dtype=torch.float64) for _ in range(2))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for A, B, _ in other.pairs:
            G = torch.randn(len(A), len(A), generator=generator, dtype=torch.float64)
            B.copy_((B.flatten(1) @ G).view_as(B))
            A.copy_(torch.linalg.solve(G, A.flatten(1)).view_as(A))
    for fit in (one, other):
        stepped(plugin, fit, 0.05, 4)
    for a, b in zip(one.pairs, other.pairs, strict=True):
        deltas = [p.B.detach().flatten(1) @ p.A.detach().flatten(1) for p in (a, b)]
        torch.testing.assert_close(*deltas, rtol=1e-7, atol=1e-9)


def test_riemannian_at_large_damping_is_adam():
    # Adam does not see by how much its gradients are multiplied, but for its epsilon.
    fit, plain = (Fit(zero=False, dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        for A, B, _ in (*fit.pairs, *plain.pairs):
            A.mul_(1e-4)
            B.mul_(1e-4)
    plugin = OPTIMIZERS.build("riemannian", {"damping": 1.0})
    found, wanted = stepped(plugin, fit, 1e-6, 1), stepped("adam", plain, 1e-6, 1)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (3, 2, 3, 3), (20, 2, 3, 1)])
def test_wide_can_be_undone(shape):
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    matrix = wide(tensor)
    assert matrix.shape[0] <= matrix.shape[1]
    assert torch.equal(unwidened(matrix, tensor), tensor)


def rotated_adam(start, target, lr, steps, basis):
    """Adam on coordinates in an orthonormal basis of the short side."""
    rotated = nn.Parameter(basis.T @ start)
    adam = torch.optim.Adam([rotated], lr=lr)
    for _ in range(steps):
        adam.zero_grad()
        (basis @ rotated - target).square().sum().backward()
        adam.step()
    return basis @ rotated.detach()


@pytest.mark.parametrize("kind", ["svd", "random"])
@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
def test_galore_at_full_rank_is_adam_in_a_rotated_basis(shape, kind):
    start, target = (p.detach().double() for p in params([shape, shape]))
    p = nn.Parameter(start.clone())
    galore = OPTIMIZERS.build("galore", {"opt_rank": 4, "projection": kind}).build([p], 0.01)
    for _ in range(5):
        galore.zero_grad()
        (p - target).square().sum().backward()
        galore.step()
    basis = galore.state[p]["basis"]
    torch.testing.assert_close(basis.T @ basis, torch.eye(4, dtype=torch.float64))
    wanted = rotated_adam(wide(start), wide(target), 0.01, 5, basis)
    torch.testing.assert_close(wide(p.detach()), wanted)


def test_galore_below_full_rank_steps_in_its_subspace():
    (p,) = params([(6, 11)])
    before = p.detach().clone()
    galore = OPTIMIZERS.build("galore", {"opt_rank": 2}).build([p], 0.01)
    train(galore, [p], 5)
    assert torch.linalg.matrix_rank(p.detach() - before, atol=1e-5) == 2
    assert galore.state[p]["mean"].shape == (2, 11)


def test_floras_projections_are_the_identity_on_average():
    rank, side, draws = 4, 9, 4000
    drawn = torch.stack([projection(rank, side, 0, i) for i in range(draws)])
    mean = (drawn.mT @ drawn).mean(0)
    # Variances 1 / r off the diagonal and 2 / r on it: five standard deviations of the mean.
    assert (mean - torch.eye(side)).abs().max() < 5 * (2 / rank / draws) ** 0.5
    assert not torch.equal(gaussian((2, 2), 0, 1), gaussian((2, 2), 1, 0))


def test_flora_keeps_its_momentum_packed():
    (p,) = params([(5, 40)])
    flora = OPTIMIZERS.build("flora", {"opt_rank": 3}).build([p], 0.01)
    train(flora, [p], 2)
    assert sorted(t.numel() for t in flora.state[p].values() if hasattr(t, "numel")) == [5, 15, 40]


def test_flora_that_packs_nothing_is_momentum_over_factored_moments():
    (p,) = params([(5, 8)])
    start, lr, beta = p.detach().clone(), 0.01, 0.9
    flora = OPTIMIZERS.build("flora", {"opt_rank": 8, "beta1": beta}).build([p], lr)
    train(flora, [p], 1)
    gradient = 2 * (start - 3.0)
    squares = gradient.square()
    root = (squares.mean(1, True) * squares.mean(0) / squares.mean()).sqrt()
    step = gradient / root
    step = step / step.square().mean().sqrt().clamp_min(1.0)
    torch.testing.assert_close(start - p.detach(), lr * step)


def test_muon_orthogonalises_matrices_and_leaves_the_rest_to_adamw():
    matrix, vector = params([(6, 6), (5,)])
    twin = nn.Parameter(vector.detach().clone())
    optimizer = OPTIMIZERS.build("muon").build([matrix, vector], 0.01)
    adamw = torch.optim.AdamW([twin], lr=0.01, weight_decay=0.0)
    before = matrix.detach().clone()
    for p in (matrix, vector, twin):
        p.grad = (p.detach() - 3.0).clone()
    optimizer.step()
    adamw.step()
    assert torch.equal(vector, twin)
    # Its Newton-Schulz iteration brings singular values near 1, not to 1.
    values = torch.linalg.svdvals(before - matrix.detach())
    assert values.max() / values.min() < 3
