"""An extra run of a training step: all that it would leave behind is put back."""

import random
from collections import deque

import numpy as np
import pytest
import torch
from torch import nn

from prequential.errors import MeasureError
from prequential.rehearsal import rehearsal


class Untidy(nn.Module):
    """Keeps every kind of state that a training step can leave in a module."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.frozen = nn.Dropout(0.5).eval()
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("empty", None)
        self.hidden = torch.zeros(4)
        self.steps, self.losses, self.recent = 0, [1.0], deque([1], maxlen=2)
        self.by_name, self.names = {"a": 1}, {"a"}
        self.generator = torch.Generator().manual_seed(3)
        self.python, self.numpy = random.Random(3), np.random.default_rng(3)
        self.logged = []

    def log(self, name, value):
        self.logged.append((name, value))

    def disturb(self):
        draws = torch.rand(3, 4, generator=self.generator) + self.python.random() + self.numpy.random()
        self.norm(draws + torch.rand(()) + random.random() + np.random.rand())
        self.seen += 1
        self.hidden.add_(1)
        self.steps += 1
        self.losses.append(2.0)
        self.recent.extend([2, 3])
        self.by_name["b"] = self.names.add("b")
        self.log("loss", 1.0)
        self.seen = self.seen + 1
        self.made_on_the_way = torch.ones(2)
        self.register_buffer("cache", torch.ones(2))
        return draws.sum().item()


def test_nothing_of_a_rehearsal_is_left():
    """Buffers, flags, attributes, containers, generators and the three global random states."""
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    module = Untidy()
    buffer, seen = module.norm.running_mean, module.seen
    with rehearsal(module, evaluating=True):
        assert not module.norm.training
        assert not torch.is_grad_enabled()
        first = module.disturb()
    assert torch.is_grad_enabled()
    assert (module.training, module.norm.training, module.frozen.training) == (True, True, False)
    assert module.norm.running_mean is buffer
    assert module.seen is seen
    assert (buffer.sum().item(), seen.item(), module.norm.num_batches_tracked.item()) == (0, 0, 0)
    assert torch.equal(module.hidden, torch.zeros(4))
    assert (module.steps, module.losses, list(module.recent), module.recent.maxlen) == (0, [1.0], [1], 2)
    assert (module.by_name, module.names, module.logged) == ({"a": 1}, {"a"}, [])
    assert not hasattr(module, "made_on_the_way")
    assert not hasattr(module, "cache")
    drawn = torch.rand(()).item(), random.random(), np.random.rand()
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    module = Untidy()
    assert (torch.rand(()).item(), random.random(), np.random.rand()) == drawn
    assert module.disturb() == first
    assert module.logged == [("loss", 1.0)]


def test_training_mode_stays_where_it_is_asked_for():
    """The audit of causality runs the step as it is trained: running statistics move, and are put back."""
    module = Untidy()
    with rehearsal(module):
        module.norm(torch.rand(3, 4))
        assert module.norm.num_batches_tracked == 1
    assert module.norm.num_batches_tracked == 0
    assert torch.equal(module.norm.running_mean, torch.zeros(4))


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_module_gets_its_flag_back():
    """Its flag does not lie among its variables."""
    module = nn.Sequential(torch.jit.script(nn.Dropout(0.5)))
    with rehearsal(module, evaluating=True):
        assert not module[0].training
    assert module[0].training


def test_a_failure_inside_leaves_nothing_either():
    """What breaks a rehearsal is raised, after all was put back."""
    module = Untidy()
    with pytest.raises(ZeroDivisionError), rehearsal(module, evaluating=True):
        raise ZeroDivisionError(module.disturb())
    assert (module.steps, module.training, module.norm.num_batches_tracked.item()) == (0, True, 0)


def test_a_graph_that_holds_a_buffer_can_still_be_run_backwards():
    """Putting its content back does not count as a change."""
    module, weight = Untidy(), torch.ones(4, requires_grad=True)
    module.norm.running_mean.fill_(2)
    loss = (weight * module.norm.running_mean).sum()
    with rehearsal(module):
        pass
    loss.backward()
    assert torch.equal(weight.grad, torch.full((4,), 2.0))


def test_a_step_that_learns_is_refused():
    """Weights are not copied, so that a step which changes them is noticed instead."""
    module = Untidy()
    with pytest.raises(MeasureError, match="leaves its weights alone"), rehearsal(module):
        module.norm.weight.add_(1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_random_state_of_a_cuda_device_is_put_back():
    """Without being read from the device."""
    torch.cuda.manual_seed(0)
    with rehearsal(Untidy()):
        first = torch.rand((), device="cuda")
    assert torch.equal(torch.rand((), device="cuda"), first)
