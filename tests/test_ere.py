"""Fine-tuned weights as changes of a base: which base it is, and one file."""

import doctest

import pytest
import torch
from torch import nn

from compression import ere
from compression.artifact import load, save
from compression.container import ArtifactError
from compression.ere import ere_delta, fingerprint, load_delta, restored, save_delta
from compression.methods import METHODS, chain
from compression.registry import InvalidSetting


def weights(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Linear(9, 4)).state_dict()


def tuned(base):
    generator = torch.Generator().manual_seed(1)
    floats = {k: v for k, v in base.items() if v.is_floating_point()}
    return {
        **base,
        **{k: v + 0.01 * torch.randn(v.shape, generator=generator) for k, v in floats.items()},
    }


def delta_of(base, *names):
    method = chain([METHODS.build(name) for name in names or ("svd", "rtn")])
    return ere_delta(tuned(base), base, method)


def test_the_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(ere).failed == 0


def test_weights_that_differ_beyond_float32_are_not_the_same_base():
    one = {"fc": torch.ones(2, 2, dtype=torch.float64)}
    other = {"fc": one["fc"] + 1e-12}
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint({"fc": one["fc"].clone()})
    assert fingerprint(one) != fingerprint({"fc": one["fc"].float()})
    with pytest.raises(InvalidSetting, match="not the one"):
        restored(other, ere_delta(one, one, METHODS.build("rtn")))


@pytest.mark.parametrize("names", [("svd", "rtn"), ("svd_cascade",), ("n_m",), ("none",)])
def test_a_file_gives_the_same_weights(tmp_path, names):
    base, path = weights(), str(tmp_path / "tuned.delta")
    delta = delta_of(base, *names)
    save_delta(delta, path)
    again = load_delta(path, base)
    assert again.stored_bytes() == delta.stored_bytes()
    expected, found = restored(base, delta), restored(base, again)
    assert expected.keys() == base.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value)
        assert value.dtype == base[name].dtype
    if names == ("none",):
        torch.testing.assert_close(found, dict(tuned(base)), rtol=0, atol=1e-6)


def test_a_file_is_refused_over_another_base(tmp_path):
    path = str(tmp_path / "tuned.delta")
    save_delta(delta_of(weights()), path)
    with pytest.raises(InvalidSetting, match="another base"):
        load_delta(path, weights(seed=2))


def test_a_changed_file_and_a_model_are_refused(tmp_path):
    base, path = weights(), tmp_path / "tuned.delta"
    save_delta(delta_of(base), str(path))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="sha256"):
        load_delta(str(path), base)
    path.write_bytes(whole[:-9])
    with pytest.raises(ArtifactError, match="tuned.delta"):
        load_delta(str(path), base)
    save(nn.Linear(3, 2), str(path))
    with pytest.raises(ArtifactError, match="no change of weights"):
        load_delta(str(path), base)


def test_no_model_takes_it_for_its_weights(tmp_path):
    path = str(tmp_path / "tuned.delta")
    base = {"0": torch.randn(4, 9)}
    save_delta(ere_delta({"0": base["0"] + 1}, base, METHODS.build("rtn")), path)
    with pytest.raises(ArtifactError, match="not in this"):
        load(path, nn.Sequential(nn.Linear(9, 4, bias=False)))
