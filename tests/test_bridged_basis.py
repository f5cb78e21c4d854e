"""The bridge to PEFT: what is rebuilt from seeds, or by PEFT's code, and its checksum."""

import copy

import pytest
import torch
from adapter_layers import attached
from networks import adapted, wide_network
from torch import nn

from compression import philox
from compression.adapters import ADAPTERS, AdapterStart
from compression.adapters.bridge.bridged import BASIS, Bridged
from compression.artifact import ArtifactError, deserialize, serialize
from compression.container import pack_file, unpack_file

SEEDED = [
    name
    for name in ADAPTERS
    if issubclass(ADAPTERS[name], Bridged) and ADAPTERS.build(name).fills()
]


def frozen(model, adapter):
    """What is rebuilt from the seed."""
    layers = dict(model.named_children())
    return [tensor.clone() for tensor, _ in adapter._frozen(layers)]


def test_there_are_seeded_adapters():
    assert {"vera", "randlora", "fourierft", "waveft", "shira"} <= set(SEEDED)


@pytest.mark.parametrize("name", SEEDED)
def test_a_basis_follows_its_own_seed_and_no_other(name):
    found = {}
    for seed in (0, 0, 1):
        adapter = ADAPTERS.build(name, {"seed": seed})
        torch.manual_seed(len(found))
        found.setdefault(seed, []).append(frozen(attached(adapter, 2), adapter))
        torch.rand(5)
    first, again = found[0]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    others = zip(first, found[1][0], strict=True)
    assert not any(torch.equal(one, other) for one, other in others)


@pytest.mark.parametrize("name", SEEDED)
def test_a_basis_is_shared_by_layers_or_each_has_its_own(name):
    adapter = ADAPTERS.build(name)
    model = attached(adapter, 2)
    attributes = list(adapter.fills())
    for attribute in attributes:
        first, second = (getattr(layer, attribute)["default"] for layer in model)
        common = adapter.shared and adapter.shares_basis
        assert (first is second) == common
        assert common or not torch.equal(first, second)


@pytest.mark.parametrize("name", [*SEEDED, "boft"])
def test_a_basis_that_is_not_what_it_was_is_refused(name):
    model = adapted(ADAPTERS.build(name))
    header, tensors = unpack_file(serialize(model), "it")
    key = next(key for key in tensors if key.endswith(f".{BASIS}"))
    tensors[key] = tensors[key].clone()
    tensors[key][3] ^= 1
    with pytest.raises(ArtifactError, match="what is rebuilt here is not what it was"):
        deserialize(pack_file(tensors, header.compression, {}), wide_network())


def test_wavelets_of_another_peft_are_seen(monkeypatch):
    from compression.adapters.bridge import spectral

    adapter = ADAPTERS.build("waveft", {"wavelet": "db2"})
    data = serialize(adapted(adapter))
    deserialize(data, wide_network())
    filters, padding = spectral._filters("db2")
    for others in ((filters.flip(0), padding), (filters, padding + 2)):
        monkeypatch.setattr(spectral, "_filters", lambda wavelet, others=others: others)
        with pytest.raises(ArtifactError, match="what is rebuilt here is not what it was"):
            deserialize(data, wide_network())


def test_butterflies_of_another_peft_are_seen(monkeypatch):
    from compression.adapters.bridge import peft_boft

    data, real = serialize(adapted(ADAPTERS.build("boft"))), peft_boft.by_indexing
    deserialize(data, wide_network())

    def turned(wrapped):
        wrapped.boft_P = wrapped.boft_P.flip(0)
        real(wrapped)

    monkeypatch.setattr(peft_boft, "by_indexing", turned)
    with pytest.raises(ArtifactError, match="what is rebuilt here is not what it was"):
        deserialize(data, wide_network())


@pytest.mark.parametrize("name", [*SEEDED, "boft"])
def test_a_basis_is_summed_once(name, monkeypatch):
    model = adapted(ADAPTERS.build(name))
    [(adapter, entries)] = model.compression.adapted().items()
    expected = adapter.parameters(model, entries)
    summed, real = [], philox.checksum
    monkeypatch.setattr(philox, "checksum", lambda tensors: summed.append(1) or real(tensors))
    for one in (model, copy.deepcopy(model)):
        found = adapter.parameters(one, entries)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
    assert not summed
    part = list(entries)[:1]  # of other layers it is another
    key = f"{part[0]}.{BASIS}"
    alone = adapter.parameters(model, part)[key]
    assert torch.equal(alone, adapter.parameters(model, part)[key])
    assert len(summed) == 1
    common = adapter.shared and adapter.shares_basis
    assert torch.equal(alone, expected[key]) == common


@pytest.mark.parametrize("name", SEEDED)
def test_a_basis_does_not_depend_on_the_dtype_of_the_base(name):
    found = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        adapter = ADAPTERS.build(name)
        model = nn.Sequential(nn.Linear(32, 16)).to(dtype).requires_grad_(False)
        adapter.attach(model, {"0": AdapterStart(4 if adapter.ranked else 0, 4.0)})
        found.append(adapter.parameters(model, ["0"])[f"0.{BASIS}"])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
