"""What defines each adapter of PEFT's: the weight that it makes of its base and its values."""

import pytest
import torch
from adapter_layers import attached, delta_of, one, values, weight_of
from networks import rule
from torch import nn

from compression.adapters import ADAPTERS
from compression.model import compress_model


def close(found, expected, tol=1e-5):
    torch.testing.assert_close(found, expected, rtol=tol, atol=tol)


def rotation(layer):
    """R of ``W' = W R``, for a base of full column rank."""
    return torch.linalg.lstsq(layer.base_layer.weight.double(), weight_of(layer).double()).solution


@pytest.mark.parametrize(
    ("name", "knobs"),
    [
        ("oft", {}),
        ("oft", {"block_size": 8, "share": True}),
        ("boft", {"factors": 1}),
        ("boft", {"factors": 3, "block_size": 4}),
        ("hra", {}),
    ],
)
def test_rotations_keep_the_gram_matrix_of_rows(name, knobs):
    layer = one(name, knobs, noise=0.5)
    scale = values(layer, "boft_s") if name == "boft" else torch.ones(16, 1)
    base, found = layer.base_layer.weight, weight_of(layer) / scale
    assert not torch.allclose(base, found, atol=1e-2)
    close(found @ found.T, base @ base.T, 1e-4)
    close(torch.linalg.svdvals(found), torch.linalg.svdvals(base), 1e-4)


def test_hra_on_a_convolution_keeps_singular_values():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1)).requires_grad_(False)
    adapter = ADAPTERS.build("hra")
    compress_model(model, [rule(adapter=adapter, rank=4)], ["*"])
    layer = model[0]
    with torch.no_grad():
        layer.hra_u["default"].add_(torch.randn(27, 4))
    turned = layer.base_layer.weight.flatten(1) @ layer.get_delta_weight("default")
    x = torch.randn(2, 3, 6, 6)
    expected = nn.functional.conv2d(x, turned.view(8, 3, 3, 3), layer.base_layer.bias, padding=1)
    close(layer(x), expected, 1e-4)
    close(
        turned @ turned.T,
        layer.base_layer.weight.flatten(1) @ layer.base_layer.weight.flatten(1).T,
        1e-4,
    )


def test_oft_turns_inputs_within_blocks():
    layer = one("oft", {"block_size": 8}, shape=(48, 32), noise=0.5)
    found = rotation(layer)
    outside = ~torch.block_diag(*[torch.ones(8, 8, dtype=torch.bool)] * 4)
    assert found[outside].abs().max() < 1e-5
    shared = rotation(one("oft", {"block_size": 8, "share": True}, shape=(48, 32), noise=0.5))
    close(shared[:8, :8], shared[24:, 24:])


def test_more_neumann_terms_are_nearer_to_the_inverse():
    layer = one("oft", {"block_size": 4}, noise=0.05)
    with torch.no_grad():  # PEFT's series is of the other one of the two inverses
        layer.oft_R["default"].weight.neg_()
    exact, errors = weight_of(layer), []
    for terms in (3, 5, 8):
        near = one("oft", {"block_size": 4, "neumann_terms": terms}, noise=0.05)
        errors.append(float((weight_of(near) - exact).norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-5


@pytest.mark.parametrize("factors", [1, 2, 3])
def test_each_butterfly_factor_doubles_what_an_input_reaches(factors):
    layer = one("boft", {"factors": factors, "block_size": 4}, shape=(48, 32), noise=0.5)
    with torch.no_grad():
        layer.boft_s["default"].fill_(1.0)
    reached = (rotation(layer).abs() > 1e-5).sum(1)
    assert (reached == 4 * 2 ** (factors - 1)).all()


def test_boft_leaves_the_bias_alone():
    layer = one("boft", noise=0.5)
    close(layer(torch.zeros(1, 32))[0], layer.base_layer.bias)


def test_hra_penalty_is_0_on_orthogonal_vectors_alone():
    adapter = ADAPTERS.build("hra", {"orthogonality": 2.0})
    model = attached(adapter, noise=0.0)
    acting, u = adapter.acting(model, ["0"], seed=0), model[0].hra_u["default"]
    cosine = torch.cosine_similarity(u[:, 0], u[:, 2], dim=0)
    close(u[:, ::2], u[:, 1::2])  # it starts in pairs: four cosines of 1, eight of the other angle
    close(acting.penalty(), 2.0 * (4 + 8 * cosine**2))
    with torch.no_grad():
        u.copy_(3 * torch.linalg.qr(torch.randn(32, 4)).Q)
    assert acting.penalty() < 1e-8
    assert ADAPTERS.build("hra").acting(model, ["0"], seed=0) is None


def test_psoft_turns_the_principal_subspace_alone():
    layer = one("psoft", noise=0.5)
    a, b = values(layer, "_psoft_A_cache"), values(layer, "_psoft_B_cache")
    base = layer.base_layer.weight
    u, s, v = torch.linalg.svd(base)
    close(b @ a, u[:, :4] * s[:4] @ v[:4], 1e-4)
    delta = delta_of(layer)
    close(delta @ (torch.eye(32) - a.T @ a), torch.zeros(16, 32), 1e-4)
    with torch.no_grad():
        layer.psoft_R["default"].vector_a.fill_(1.0)
        layer.psoft_R["default"].vector_b.fill_(1.0)
    principal = delta_of(layer) + b @ a
    close(
        principal @ principal.T, b @ b.T, 1e-3
    )  # B R A with R orthogonal, A with orthonormal rows
    assert not torch.allclose(principal, b @ a, atol=1e-2)


def test_loha_is_an_elementwise_product():
    layer = one("loha", alpha=6.0)
    parts = [values(layer, f"hada_{w}") for w in ("w1_a", "w1_b", "w2_a", "w2_b")]
    close(delta_of(layer), 1.5 * (parts[0] @ parts[1]) * (parts[2] @ parts[3]))
    wide = one("loha", rank=2, shape=(16, 32))
    assert torch.linalg.matrix_rank(delta_of(wide), atol=1e-4) == 4


@pytest.mark.parametrize("both", [False, True])
def test_lokr_is_a_kronecker_product(both):
    layer = one("lokr", {"decompose_both": both}, rank=1, alpha=2.0, shape=(64, 36))
    product = {}
    for factor in ("w1", "w2"):
        if getattr(layer, f"lokr_{factor}"):
            product[factor] = values(layer, f"lokr_{factor}")
        else:
            product[factor] = values(layer, f"lokr_{factor}_a") @ values(layer, f"lokr_{factor}_b")
    assert product["w1"].shape == (8, 6)
    close(delta_of(layer), 2.0 * torch.kron(product["w1"], product["w2"]))
    assert bool(layer.lokr_w1) != both


def test_gralora_with_one_block_is_lora():
    layer = one("gralora", {"k": 1}, alpha=8.0)
    a, b = values(layer, "gralora_A")[0], values(layer, "gralora_B")[0]
    close(delta_of(layer), 2.0 * (a @ b).T)


def test_gralora_has_a_lora_in_each_block_and_as_many_values():
    layer = one("gralora", {"k": 2}, rank=4, shape=(16, 32))
    delta = delta_of(layer)
    blocks = [delta[i : i + 8, j : j + 16] for i in (0, 8) for j in (0, 16)]
    assert all(torch.linalg.matrix_rank(block, atol=1e-4) == 2 for block in blocks)
    assert torch.linalg.matrix_rank(delta, atol=1e-4) == 8
    trained = sum(p.numel() for p in layer.parameters() if p.requires_grad)
    assert trained == 4 * (16 + 32)


def test_gralora_divides_alpha_by_all_ranks():
    adapter = ADAPTERS.build("gralora", {"hybrid_rank": 4})
    assert adapter.scale(16.0, 4) == 2.0
    layer = attached(adapter, rank=4, alpha=adapter.scale(16.0, 4) * 4)[0]
    assert layer.scaling["default"] == 2.0


def test_miss_repeats_one_matrix_along_the_inputs():
    layer = one("miss", rank=4, shape=(16, 30))  # 30 = 7 * 4 + 2
    delta, d = delta_of(layer), values(layer, "miss_block")
    close(delta, d.T.repeat(1, 8)[:, :30])
    mini = one("miss", {"variant": "mini", "mini_rank": 8}, rank=4)
    close(delta_of(mini), values(mini, "miss_block").T.repeat(2, 8))


def test_miss_bat_multiplies_blocks_of_the_base():
    layer = one("miss", {"variant": "bat"}, rank=4)
    base, d = layer.base_layer.weight, values(layer, "miss_block")
    blocks = base.view(4, 4, 8, 4).transpose(1, 2)  # (rows, columns, 4, 4)
    expected = blocks + blocks @ d[:, None] + d[:, None]
    close(weight_of(layer), expected.transpose(1, 2).reshape(16, 32))


def test_delora_bounds_the_delta_whatever_the_size_of_its_factors():
    layer = one("delora", {"bound": 3.0}, noise=0.5)
    with torch.no_grad():
        layer.delora_lambda["default"].fill_(3.0)
    norms = layer.base_layer.weight.norm(dim=0)
    delta = delta_of(layer)
    assert (delta / norms).norm() <= 3.0 + 1e-4
    with torch.no_grad():
        layer.delora_A["default"].mul_(7.0)
        layer.delora_B["default"].mul_(0.3)
    close(delta_of(layer), delta, 1e-4)
    with torch.no_grad():
        layer.delora_lambda["default"].fill_(6.0)
    close(delta_of(layer), 2 * delta, 1e-4)


@pytest.mark.parametrize("block", [4, 16])
def test_c3a_is_a_dense_matrix_of_circulant_blocks(block):
    layer = one("c3a", {"block_size": block})
    delta, kernel = delta_of(layer), values(layer, "c3a_kernel")
    blocks = delta.view(16 // block, block, 32 // block, block).transpose(1, 2)
    close(blocks.roll((1, 1), (-2, -1)), blocks)  # constant along wrapped diagonals
    close(blocks[..., 0, :] * 32, kernel)
    assert kernel.numel() == 16 * 32 // block


def test_fourierft_has_its_spectrum_at_the_places():
    layer = one("fourierft", {"n_frequency": 20, "scaling": 3.0})
    rows, columns = layer.indices["default"]
    spectrum = torch.zeros(16, 32)
    spectrum[rows, columns] = values(layer, "fourierft_spectrum")
    mirrored = spectrum.roll((-1, -1), (0, 1)).flip(0, 1)  # the real part of the inverse has both
    found = torch.fft.fft2(delta_of(layer) / 3.0)
    close(found.real, (spectrum + mirrored) / 2, 1e-4)
    close(found.imag, torch.zeros(16, 32), 1e-4)


def test_waveft_of_haar_keeps_norms_and_products():
    layer = one("waveft", {"n_frequency": 20, "scaling": 2.0})
    spectrum = values(layer, "waveft_spectrum")
    close(delta_of(layer).norm(), 2.0 * spectrum.norm(), 1e-4)
    first = delta_of(layer)
    with torch.no_grad():
        layer.waveft_spectrum["default"].copy_(spectrum.roll(1))
    close((first * delta_of(layer)).sum(), 4.0 * (spectrum * spectrum.roll(1)).sum(), 1e-3)


def test_shira_changes_its_places_alone():
    layer = one("shira", rank=3)
    places, delta = layer.shira_indices["default"].long(), delta_of(layer)
    assert places.shape[1] == 3 * (16 + 32)
    dense = torch.zeros(16, 32)
    dense[places[0], places[1]] = values(layer, "shira_weight")
    close(delta, dense)
    assert torch.linalg.matrix_rank(delta) > 3


def test_shira_has_no_more_entries_than_weights():
    ranks = ADAPTERS.build("shira").ranks(20, {"a": (16, 32), "b": (1, 8)}, {})
    assert ranks == {"a": 10, "b": 0}


@pytest.mark.parametrize("group", [2, 16])
def test_road_turns_pairs_of_outputs(group):
    layer = one("road", {"group_size": group})
    with torch.no_grad():
        layer.road_alpha["default"].fill_(1.0)
    x = torch.randn(5, 32)
    plain, turned = layer.base_layer(x), layer(x)
    assert not torch.allclose(plain, turned, atol=1e-2)
    pairs = [y.view(5, -1, 2, group // 2).square().sum(2) for y in (plain, turned)]
    close(*pairs)
    angles = values(layer, "road_theta")
    expected = plain.view(5, -1, 2, group // 2)
    cos, sin = angles.cos().view(-1, group // 2), angles.sin().view(-1, group // 2)
    u, v = expected[:, :, 0], expected[:, :, 1]
    close(turned.view(5, -1, 2, group // 2)[:, :, 0], cos * u - sin * v)
    close(turned.view(5, -1, 2, group // 2)[:, :, 1], sin * u + cos * v)


@pytest.mark.parametrize("variant", [1, 2, 4])
def test_road_stores_its_variant_times_the_outputs(variant):
    adapter = ADAPTERS.build("road", {"variant": variant})
    stored = sum(slot.nbytes for slot in adapter.layout({"a": ((16, 32), 0)}).values())
    assert stored == 4 * 16 * variant


def test_ia3_multiplies_outputs():
    layer = one("ia3")
    x = torch.randn(3, 32)
    close(layer(x), layer.base_layer(x) * values(layer, "ia3_l").flatten())
