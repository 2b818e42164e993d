"""Fused losses of Liger and cut-cross-entropy: stand-ins with the names and signatures of the real ones.

The real ones are Triton kernels. What the tap relies on is how they are called and what they return: the signatures are
those of liger-kernel 0.8.5 and of cut-cross-entropy after 25.1.1; the arithmetic is plain torch.
"""

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from prequential.capture import LossTap
from prequential.errors import MeasureError
from prequential.integrations.loop import Recording
from prequential.meter import Meter, read_sums

SYMBOLS, WIDTH = 11, 6


def penalised(logits, target, weight, ignore_index, z_scale, smoothing, reduction, softcap):
    """What Liger computes, in torch, from logits of any precision; float32."""
    logits = logits.float() if softcap is None else softcap * torch.tanh(logits.float() / softcap)
    options = {"weight": weight, "ignore_index": ignore_index, "label_smoothing": smoothing, "reduction": reduction}
    z = z_scale * logits.logsumexp(1) ** 2 * (target != ignore_index)
    z = z if reduction == "none" else z.sum() / ((target != ignore_index).sum() if reduction == "mean" else 1)
    # Aliases of the torch functions below are called: the tap must see the fused function, not its inside.
    return torch._C._nn.cross_entropy_loss(logits, target, **codes(options)) + z


def codes(options):
    """Arguments of the function below `F.cross_entropy`."""
    return {**options, "reduction": {"none": 0, "mean": 1, "sum": 2}[options["reduction"]]}


class LigerFusedLinearCrossEntropyFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        _input,
        weight,
        target,
        bias=None,
        ce_weight=None,
        ignore_index=-100,
        lse_square_scale=0.0,
        label_smoothing=0.0,
        reduction="mean",
        softcap=None,
        return_z_loss: bool = False,
        accum_dtype=None,
        use_token_scaling: bool = False,
        return_token_accuracy: bool = False,
        return_predicted_tokens: bool = False,
        ce_impl=None,
        ce_mode=None,
        chunk_mem_const: int = 1,
    ):
        with torch.enable_grad():
            inputs = [_input.detach().requires_grad_(), weight.detach().requires_grad_()]
            loss = penalised(
                F.linear(*inputs, bias),
                target,
                ce_weight,
                ignore_index,
                lse_square_scale,
                label_smoothing,
                reduction,
                softcap,
            )
            gradients = torch.autograd.grad(loss.sum(), inputs)
        ctx.save_for_backward(*gradients)
        return loss.detach(), None, None, None

    @staticmethod
    def backward(ctx, grad_output, *ignored):
        return *(gradient * grad_output for gradient in ctx.saved_tensors), *[None] * 16


class LigerCrossEntropyFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        _input,
        target,
        weight,
        ignore_index=-100,
        lse_square_scale=0.0,
        label_smoothing=0.0,
        reduction="mean",
        softcap=None,
        return_z_loss=False,
        return_token_accuracy=False,
        return_predicted_tokens=False,
    ):
        loss = penalised(
            _input, target, weight, ignore_index, lse_square_scale, label_smoothing, reduction, softcap
        ).to(_input.dtype)
        _input.zero_()  # the real one writes its gradient there
        return loss, None, None, None


@dataclass
class CCEParams:
    targets: torch.Tensor
    valids: torch.Tensor | None
    softcap: float | None
    reduction: str
    filter_eps: float | None
    shift: int
    batch_shape: torch.Size
    vocab_parallel_options: Any = None


class LinearCrossEntropyFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, e, c, bias, params):
        if params.valids is None:
            rows, targets = e, params.targets
        else:
            rows, targets = e[params.valids], params.targets[params.valids + params.shift]
        logits = F.linear(rows, c, bias).float()
        nll = logits.logsumexp(1) - logits.gather(1, targets[:, None])[:, 0]
        if params.reduction != "none":
            return getattr(nll, params.reduction)()
        full = nll.new_zeros(params.batch_shape.numel())
        full[slice(None) if params.valids is None else params.valids + params.shift] = nll
        return full.view(params.batch_shape)


def linear_cross_entropy(e, c, targets, bias=None, ignore_index=-100, reduction="mean", shift=0, **extra):
    """The way from cut_cross_entropy.linear_cross_entropy to its function."""
    places = torch.arange(targets.numel()).reshape(targets.shape)[..., : targets.shape[-1] - shift]
    kept = targets[..., shift:] != ignore_index
    valids = places[kept].to(torch.int32) if shift or not kept.all() else None
    params = CCEParams(targets.flatten(), valids, None, reduction, None, shift, targets.shape, **extra)
    loss = sys.modules["cut_cross_entropy.cce"].LinearCrossEntropyFunction.apply(e.flatten(0, -2), c, bias, params)
    return loss[..., shift:] if shift and reduction == "none" else loss


@pytest.fixture(autouse=True)
def _packages(monkeypatch):
    """Put the stand-ins where a script would have imported the packages."""
    modules = {
        "liger_kernel.ops": [LigerFusedLinearCrossEntropyFunction, LigerCrossEntropyFunction],
        "liger_kernel.ops.fused_linear_cross_entropy": [LigerFusedLinearCrossEntropyFunction],
        "liger_kernel.ops.cross_entropy": [LigerCrossEntropyFunction],
        "cut_cross_entropy.cce": [LinearCrossEntropyFunction],
    }
    for name, functions in modules.items():
        module = ModuleType(name)
        vars(module).update({function.__name__: function for function in functions})
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def data():
    """Rows, a matrix and targets of which some are ignored."""
    generator = torch.Generator().manual_seed(3)
    targets = torch.randint(SYMBOLS, (4, 10), generator=generator)
    targets[torch.rand(4, 10, generator=generator) < 0.2] = -100
    rows, matrix = torch.randn(4, 10, WIDTH, generator=generator), torch.randn(SYMBOLS, WIDTH, generator=generator)
    return rows, matrix, targets


def in_float64(rows, matrix, targets, softcap=None, bias=None):
    """The oracle: the summed plain loss in float64."""
    logits = F.linear(rows.double(), matrix.double(), None if bias is None else bias.double())
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    flat = targets.flatten()
    log_p = logits.reshape(-1, SYMBOLS).log_softmax(1)
    return -sum(log_p[i, id].item() for i, id in enumerate(flat.tolist()) if id != -100)


def seen(step):
    """What the tap finds, and the calls."""
    meter = Meter()
    tap = LossTap(meter)
    with tap:
        result = step()
    return read_sums([meter.peek()])[0], tap.calls, result


LINEAR = {
    "defaults": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "softcap": {"softcap": 2.0},
    "bias": {"bias": torch.linspace(-1, 1, SYMBOLS)},
    "what it also returns": {"return_token_accuracy": True, "accum_dtype": torch.float32, "ce_impl": "triton"},
}
ORDER = ("bias", "ce_weight", "ignore_index", "lse_square_scale", "label_smoothing", "reduction", "softcap")
DEFAULTS = {"ignore_index": -100, "lse_square_scale": 0.0, "label_smoothing": 0.0, "reduction": "mean"}


def liger_linear(rows, matrix, targets, **options):
    """Call it as the package does: by position."""
    places = [options.pop(name, DEFAULTS.get(name)) for name in ORDER]
    more = {"return_z_loss": False, "accum_dtype": None, "use_token_scaling": False, "return_token_accuracy": False}
    more |= {"return_predicted_tokens": False, "ce_impl": None} | options
    return LigerFusedLinearCrossEntropyFunction.apply(rows, matrix, targets, *places, *more.values())[0]


@pytest.mark.parametrize("name", LINEAR)
def test_ligers_fused_head_is_taken_at_its_word(name, data):
    """Its own sum or mean, softcap and bias included, is -log p of the targets; it is untouched afterwards."""
    rows, matrix, targets = data
    reading, _, loss = seen(lambda: liger_linear(rows.flatten(0, 1), matrix, targets.flatten(), **LINEAR[name]))
    assert torch.equal(loss, liger_linear(rows.flatten(0, 1), matrix, targets.flatten(), **LINEAR[name]))
    oracle = in_float64(rows, matrix, targets, LINEAR[name].get("softcap"), LINEAR[name].get("bias"))
    assert (reading.calls, reading.vocab_size, reading.not_understood) == (1, SYMBOLS, 0)
    assert reading.tally.coded_tokens == (targets != -100).sum()
    assert reading.tally.masked_tokens == (targets == -100).sum()
    assert reading.tally.nats == pytest.approx(oracle, rel=1e-6)
    assert "apply" not in vars(LigerFusedLinearCrossEntropyFunction)


NO_CODE = {
    "label_smoothing=0.1": {"label_smoothing": 0.1},
    "lse_square_scale=0.01": {"lse_square_scale": 0.01},
    "ce_weight": {"ce_weight": torch.linspace(0.1, 2, SYMBOLS)},
    "use_token_scaling=True": {"use_token_scaling": True},
}


@pytest.mark.parametrize("name", NO_CODE)
def test_a_fused_head_whose_result_is_no_likelihood_is_refused_by_name(name, data, tmp_path):
    """One line says which argument, and what to return; nothing is recorded."""
    rows, matrix, targets = data
    recording = Recording(tmp_path, bundle=None)
    step = recording.batch(targets)
    step.__enter__()
    liger_linear(rows.flatten(0, 1), matrix, targets.flatten(), **NO_CODE[name])
    with pytest.raises(MeasureError, match=rf"Function with {name} on .*return .*nats") as caught:
        step.__exit__(None, None, None)
    assert "\n" not in str(caught.value)
    assert not recording.book.exists()


def test_an_argument_of_a_newer_version_is_refused(data, monkeypatch):
    """What is not known is not guessed, unless it is off."""

    class Newer(LigerFusedLinearCrossEntropyFunction):
        @staticmethod
        def forward(ctx, _input, weight, target, temperature=None):
            return penalised(F.linear(_input, weight), target, None, -100, 0.0, 0.0, "mean", None)

    for name in ("liger_kernel.ops", "liger_kernel.ops.fused_linear_cross_entropy"):
        monkeypatch.setattr(sys.modules[name], LigerFusedLinearCrossEntropyFunction.__name__, Newer)
    rows, matrix, targets = data
    reading, calls, _ = seen(lambda: Newer.apply(rows.flatten(0, 1), matrix, targets.flatten(), 2.0))
    assert reading.not_understood == 1
    assert str(calls[0]) == "LigerFusedLinearCrossEntropyFunction with temperature=2.0 on (40, 6)"


SCORED = {
    "plain": {},
    "sum": {"reduction": "sum"},
    "half precision": {"dtype": torch.bfloat16},
    "smoothing": {"label_smoothing": 0.1},
    "z-loss and softcap": {"lse_square_scale": 0.01, "softcap": 2.0},
    "class weights": {"weight": torch.linspace(0.1, 2, SYMBOLS)},
}


@pytest.mark.parametrize("name", SCORED)
def test_ligers_cross_entropy_is_scored_before_it_overwrites_its_logits(name, data):
    """Smoothing, weights and rounding are undone: the logits are still there before the call."""
    rows, matrix, targets = data
    options = {"dtype": torch.float32, "weight": None, "softcap": None, **DEFAULTS, **SCORED[name]}
    logits = F.linear(rows, matrix).flatten(0, 1).to(options["dtype"])
    names = ("weight", "ignore_index", "lse_square_scale", "label_smoothing", "reduction", "softcap")
    oracle = in_float64(logits, torch.eye(SYMBOLS), targets, options["softcap"])
    reading, _, _ = seen(
        lambda: LigerCrossEntropyFunction.apply(logits.clone(), targets.flatten(), *[options[key] for key in names])
    )
    assert (reading.calls, reading.vocab_size, reading.not_understood) == (1, SYMBOLS, 0)
    assert reading.tally.coded_tokens == (targets != -100).sum()
    assert reading.tally.nats == pytest.approx(oracle, rel=1e-6)


@pytest.mark.parametrize("shift", [0, 1, 2])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("ignored", [False, True])
def test_cut_cross_entropy_is_taken_at_its_word(shift, reduction, ignored, data):
    """With the shift that it makes itself, the first targets of a row are no positions of the loss."""
    rows, matrix, targets = data
    targets = targets if ignored else targets.clamp(min=0)
    reading, _, _ = seen(lambda: linear_cross_entropy(rows, matrix, targets, reduction=reduction, shift=shift))
    shifted = targets[:, shift:]
    oracle = in_float64(rows[:, : 10 - shift], matrix, shifted)
    assert (reading.calls, reading.vocab_size, reading.not_understood) == (1, SYMBOLS, 0)
    assert (reading.tally.coded_tokens, reading.tally.positions) == ((shifted != -100).sum(), shifted.numel())
    assert reading.tally.nats == pytest.approx(oracle, rel=1e-6)


def test_cut_cross_entropy_may_ignore_any_id(data):
    """A pad id inside the vocabulary is told by the places that count."""
    rows, matrix, targets = data
    targets = targets.clamp(min=3)
    reading, _, _ = seen(lambda: linear_cross_entropy(rows, matrix, targets, ignore_index=3))
    kept = torch.where(targets == 3, -100, targets)
    assert reading.tally.coded_tokens == (targets != 3).sum() < targets.numel()
    assert reading.tally.nats == pytest.approx(in_float64(rows, matrix, kept), rel=1e-6)


def test_a_vocabulary_in_parts_is_refused(data):
    """Each process sees a part of the symbols only."""
    rows, matrix, targets = data
    reading, calls, _ = seen(lambda: linear_cross_entropy(rows, matrix, targets, vocab_parallel_options=object()))
    assert reading.not_understood == 1
    assert "with vocab_parallel_options=" in str(calls[0])


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_fused_loss_that_is_computed_again_counts_once(reentrant, data):
    """Backward inside the step calls a checkpointed loss again."""
    rows, matrix, targets = data
    rows = rows.requires_grad_()

    def step():
        loss = checkpoint(
            lambda x: liger_linear(x.flatten(0, 1), matrix, targets.flatten()), rows, use_reentrant=reentrant
        )
        loss.backward()

    reading, _, _ = seen(step)
    assert reading.calls == 1
    assert "apply" not in vars(LigerFusedLinearCrossEntropyFunction)


def test_a_loop_with_a_fused_head_is_recorded_as_one_with_logits(data, tmp_path):
    """Three steps of training give the nats of the plain loss, step by step."""
    rows, matrix, targets = data
    expected, head = 0.0, nn.Parameter(matrix.clone())
    with Recording(tmp_path, bundle=None) as recording:
        for step in range(3):
            rows = rows + step
            expected += in_float64(rows, head.detach(), targets)
            with recording.batch((rows, targets)) as outputs:
                loss = outputs["loss"] = liger_linear(rows.flatten(0, 1), head, targets.flatten())
            (gradient,) = torch.autograd.grad(loss, head)
            head.data.sub_(gradient)
            recording.step()
    run = recording.run
    assert run.total.nats == pytest.approx(expected, rel=1e-6)
    assert (run.grade, run.events) == ("ideal", [])


def test_packages_that_are_not_there_are_not_imported(monkeypatch):
    """Without the packages nothing is wrapped."""
    for name in [name for name in sys.modules if name.startswith(("liger_kernel", "cut_cross_entropy"))]:
        monkeypatch.delitem(sys.modules, name)
    with LossTap(Meter()):
        pass
    assert not [name for name in sys.modules if name.startswith(("liger_kernel", "cut_cross_entropy"))]
