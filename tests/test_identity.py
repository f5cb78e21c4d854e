"""What a key is made of: two modules that may compute different things have different ones."""

import copy
import os
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from trainables.frozen.identity import Unidentified, code_hash


class Holding(nn.Module):
    """A module with one more attribute."""

    def __init__(self, held):
        super().__init__()
        self.fc, self.held = nn.Linear(3, 3), held


def hashed(held):
    return code_hash({"m": Holding(held)})


def scaled(factor):
    return lambda x: x * factor


DIFFERENT = {
    "function": (torch.relu, torch.tanh),
    "python function": (nn.functional.relu, nn.functional.gelu),
    "closure": (scaled(2), scaled(3)),
    "partial": (partial(torch.add, alpha=1), partial(torch.add, alpha=2)),
    "list": ([1, 2], [1, 3]),
    "tuple of functions": ((torch.relu,), (torch.tanh,)),
    "dict": ({"a": [1]}, {"a": [2]}),
    "set": ({1, 2}, {1, 3}),
    "dtype": (torch.float32, torch.bfloat16),
    "class": (nn.ReLU, nn.GELU),
    "number": (1, 1.0),
    "tensor": (torch.zeros(3), torch.ones(3)),
    "array": (np.zeros(9999), np.r_[np.zeros(9998), 1.0]),
    "object": (SimpleNamespace(a=1), SimpleNamespace(a=2)),
    "module in a list": ([nn.Dropout(0.1)], [nn.Dropout(0.2)]),
    "bound method": (nn.ReLU().forward, nn.GELU().forward),
}


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT)
def test_what_may_decide_values_decides_the_key(one, other):
    assert hashed(one) != hashed(other)
    assert hashed(one) == hashed(copy.deepcopy(one))


def test_hooks_and_base_classes_count():
    def made(factor):
        class Base(nn.Module):
            pass

        exec(f"def forward(self, x):\n    return x * {factor}", found := {})
        Base.forward = found["forward"]
        Base.__module__ = "made.at.run.time"
        return type("Derived", (Base,), {"__module__": "made.at.run.time"})()

    assert code_hash({"m": made(2)}) == code_hash({"m": made(2)})
    assert code_hash({"m": made(2)}) != code_hash({"m": made(3)})
    hooked, other = nn.ReLU(), nn.ReLU()
    hooked.register_forward_hook(lambda module, args, output: output * 2)
    assert code_hash({"m": hooked}) != code_hash({"m": other})


def test_an_object_that_holds_itself_has_a_key():
    first, second = SimpleNamespace(a=1), SimpleNamespace(a=2)
    first.me, second.me = first, second
    assert hashed(first) != hashed(second)


def test_what_cannot_be_told_apart_is_refused_by_name():
    with pytest.raises(Unidentified, match=r"'m\.held\.noise' holds a Generator"):
        hashed({"noise": torch.Generator()})


def bert():
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2))


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**settings, vocab_size=20, intermediate_size=9))


def swin():
    from torchvision.models import swin_t

    return swin_t()


def timm_vit():
    timm = pytest.importorskip("timm")
    return timm.create_model("vit_tiny_patch16_224", pretrained=False)


@pytest.mark.parametrize("make", [bert, llama, swin, timm_vit])
def test_real_models_have_the_key_of_their_copies(make):
    model = make()
    found = code_hash(dict(model.named_modules()))
    assert found == code_hash(dict(copy.deepcopy(model).named_modules()))
    assert found == code_hash(dict(make().named_modules()))


def test_it_is_the_same_in_every_process():
    code = (
        "from torch import nn; from trainables.frozen.identity import code_hash\n"
        "class A(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__(); self.some = {'a', 'b', 'c'}; self.f = nn.functional.silu\n"
        "    def forward(self, x): return x if 'a' in {'a', 'b', 'c', 'd'} else -x\n"
        "print(code_hash({'m': A()}))"
    )
    found = {
        subprocess.check_output([sys.executable, "-c", code], env=os.environ | seed)
        for seed in ({"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2"})
    }
    assert len(found) == 1
