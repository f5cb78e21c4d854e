"""Tensors that processes share: equal, not copied, and good enough to train on."""

import io
import pickle

import numpy as np
import pytest
import torch
from networks import methods_and_inits, network
from tiny_task import Shelf, TinyTask, make_trial
from torch import nn

from trainables.attempt import Attempt
from trainables.calibration import calibrated
from trainables.hardware.sharing import put_together, take_apart
from trainables.record import Choice, Status

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.uint8)


class Sent(pickle.Pickler):
    """Tensors leave as Ray sends them: as arrays, whose bytes go beside the pickle."""

    def reducer_override(self, obj):
        if isinstance(obj, torch.Tensor):
            return put_together, (take_apart(obj),)
        return NotImplemented


def sent(thing, writeable=False):
    """The thing as another process gets it, and the length of its pickle without the tensors."""
    buffers, file = [], io.BytesIO()
    Sent(file, protocol=5, buffer_callback=buffers.append).dump(thing)
    arrays = [np.frombuffer(b.raw(), np.uint8) for b in buffers]
    for array in arrays if not writeable else ():
        array.flags.writeable = False
    return pickle.loads(file.getvalue(), buffers=arrays), len(file.getvalue())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4)])
def test_tensors_come_back_equal(dtype, shape):
    tensor = torch.arange(24).reshape(2, 3, 4)[..., :4].to(dtype)
    tensor = tensor.flatten()[: int(np.prod(shape))].reshape(shape)
    turned = tensor.permute(tuple(reversed(range(tensor.ndim))))
    found = sent({"a": tensor, "b": turned})[0]
    assert found["a"].dtype == dtype
    assert torch.equal(found["a"], tensor)
    assert torch.equal(found["b"], turned)


def test_a_model_comes_back_with_ties_and_without_copies():
    model = network()
    model.tied = nn.Linear(45, 12)
    model.tied.weight = model[6].weight
    model[8].weight.requires_grad_(False)
    found, pickled = sent(model)
    assert pickled < 20_000
    assert found.tied.weight is found[6].weight
    assert not found[8].weight.requires_grad
    assert found[6].weight.requires_grad
    state = model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in found.state_dict().items())
    own = [tensor.data_ptr() for tensor in model.state_dict().values()]
    assert [t.data_ptr() for t in found.state_dict().values()] == own


@pytest.mark.parametrize("rest", ["none", "cast"])
@pytest.mark.parametrize(("method", "init"), methods_and_inits())
def test_no_trial_writes_to_what_it_shares(method, init, rest):
    task, trial = TinyTask(), make_trial(method=method, init=init, rest=Choice(rest), epochs=1)
    # Writable here, so that a write is seen and not fatal.
    data, _ = sent(calibrated(task.prepare(0), 24, 0), writeable=True)
    before = {k: v.clone() for k, v in data.model.state_dict().items()}
    attempt = Attempt(task, data, trial, Shelf())
    while not attempt.finished:
        attempt.advance()
    assert attempt.outcome.status is Status.COMPLETED
    assert all(torch.equal(before[k], v) for k, v in data.model.state_dict().items())
