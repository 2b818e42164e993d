"""A zoo of whole training scripts that know nothing of prequential, against a second computation of their code length.

Every script in ``scripts/`` is run twice as ``__main__``. The first run has no monitor: a callback saves what the head
gave and what the batch held, before each update, and the sum of -ln p is taken from that in float64, with the script's
own mask; a row that came before is replay. The second run has the monitor, which comes in through Lightning's door for
external callbacks. Both must have trained the same weights, bit for bit.

`CASES` holds what the library must do and does; `NOT_YET` what it must do and does not do yet: move a line up when it
does.
"""

import runpy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import lightning as L
import pytest
import torch
from lightning.pytorch.trainer.connectors import callback_connector
from torch import Tensor

from prequential import CompressionMonitor
from prequential.codelength import Tally
from prequential.errors import MeasureError
from prequential.ledger import read_book

SCRIPTS = Path(__file__).parent / "scripts"

# -- the two runs ---------------------------------------------------------------------------------------------------


class Micro(NamedTuple):
    """What is saved of one micro-batch before its update: the weights, the batch, and each output of the head."""

    weights: dict[str, Tensor]
    batch: Any
    outputs: list[Tensor]


class Saver(L.Callback):
    """Saves what the oracle needs; it closes at the first backward pass of a batch, so that nothing comes twice."""

    def __init__(self, head: str, stays_open: bool = False) -> None:
        self.head, self.saved, self.open, self.stays_open = head, [], False, stays_open

    def on_train_start(self, trainer, pl_module):
        pl_module.get_submodule(self.head).register_forward_hook(self.save)

    def save(self, module, inputs, output):
        if self.open:
            self.saved[-1].outputs.append(output.detach().clone())

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        weights = {name: value.clone() for name, value in pl_module.state_dict().items()}
        self.saved.append(Micro(weights, batch, []))
        self.open = True

    def on_before_backward(self, trainer, pl_module, loss):
        self.open = self.stays_open


class Weights(L.Callback):
    """Keeps the trained weights."""

    def on_train_end(self, trainer, pl_module):
        self.trained = {name: value.clone() for name, value in pl_module.state_dict().items()}


def run_script(name, arguments, *callbacks) -> dict[str, Tensor]:
    """Run a script as its user would, with callbacks it knows nothing of; returns the trained weights."""
    weights = Weights()
    torch._dynamo.reset()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callback_connector, "_load_external_callbacks", lambda group: [*callbacks, weights])
        patch.setattr(sys, "argv", [f"{name}.py", *arguments])
        runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
    return weights.trained


# -- the oracle -----------------------------------------------------------------------------------------------------


class Scored(NamedTuple):
    """One micro-batch as the oracle sees it: each row has its nats, its mask, and the content that identifies it."""

    nats: Tensor
    kept: Tensor
    content: Tensor


def surprise(logits: Tensor, targets: Tensor) -> Tensor:
    """Score targets of any shape under logits of that shape and one more, in float64."""
    log_p = torch.log_softmax(logits.double(), dim=-1)
    return -log_p.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)


def scored(logits: Tensor, inputs: Tensor, targets: Tensor, kept: Tensor) -> Scored:
    """Give every target a place in a row."""
    content = torch.cat([inputs.flatten(1), targets.reshape(len(targets), -1)], dim=1)
    shape = (len(targets), -1)
    return Scored(surprise(logits, targets).reshape(shape), kept.reshape(shape), content)


def pairs(micro: Micro, ignored: int = -100) -> Scored:
    """A batch of inputs and targets, one output of the head."""
    inputs, targets = micro.batch[:2]
    return scored(micro.outputs[0].reshape(*targets.shape, -1), inputs, targets, targets != ignored)


def padded(micro: Micro) -> Scored:
    """Targets of id 0 are padding."""
    return pairs(micro, ignored=0)


def class_second(micro: Micro) -> Scored:
    """The classes stand in the second dimension."""
    return pairs(micro._replace(outputs=[micro.outputs[0].transpose(1, 2)]))


def labelled(micro: Micro) -> Scored:
    """A dictionary with labels, of which -100 is ignored."""
    inputs = micro.batch.get("input_ids", micro.batch.get("tokens"))
    labels = micro.batch["labels"]
    return scored(micro.outputs[0], inputs, labels, labels != -100)


def shifted(micro: Micro) -> Scored:
    """The model shifts the labels: the last output predicts nothing."""
    ids, labels = micro.batch["input_ids"], micro.batch["labels"]
    return scored(micro.outputs[0][:, :-1], ids, labels[:, 1:], labels[:, 1:] != -100)


def first_of_two(micro: Micro) -> Scored:
    """The head of the next token is what counts."""
    rows = micro.batch
    return scored(micro.outputs[0], rows, rows[:, 1:-1], torch.ones_like(rows[:, 1:-1]).bool())


def in_chunks(micro: Micro) -> Scored:
    """The head was called on one piece of time after another."""
    return pairs(micro._replace(outputs=[torch.cat(micro.outputs, dim=1)]))


def multiplied(micro: Micro) -> Scored:
    """The script multiplies the losses by a mask."""
    inputs, targets, mask = micro.batch
    return scored(micro.outputs[0], inputs, targets, mask.bool())


def in_parts(micro: Micro) -> Scored:
    """The batch is learnt from in parts, each after it was scored."""
    features, targets = micro.batch
    return scored(torch.cat(micro.outputs), features, targets, targets >= 0)


def fused(micro: Micro) -> Scored:
    """The head is a product with the weights before the update."""
    return pairs(micro._replace(outputs=[micro.outputs[0] @ micro.weights["head.weight"].T]))


def binary(micro: Micro) -> Scored:
    """Each pixel is a yes or no with its own logit."""
    ones = micro.batch.flatten(1)
    logits = micro.outputs[0].double().flatten(1)
    return Scored(-torch.nn.functional.logsigmoid(torch.where(ones > 0, logits, -logits)), ones >= 0, ones)


def expected(score: Callable[[Micro], Scored], saved: list[Micro]) -> Tally:
    """Sum up what was saved: nats of first exposures in float64, and the columns."""
    seen: set[bytes] = set()
    total = Tally()
    for micro in saved:
        for nats, kept, content in zip(*score(micro), strict=True):
            row, count = content.numpy().tobytes(), int(kept.sum())
            masked = kept.numel() - count
            if row in seen:
                total += Tally(masked_tokens=masked, replayed_tokens=count, replayed_nats=nats[kept].sum().item())
            else:
                total += Tally(masked_tokens=masked, coded_tokens=count, nats=nats[kept].sum().item())
            seen.add(row)
    return total


# -- the table ------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A script, how the oracle reads it, and the columns it must have on the book, in tokens.

    ``uncoded`` are the first tokens of rows of text that nothing predicts; a target that only a shift leaves empty is
    no token of the data and stands in no column. None: not looked at. ``says`` is a text that must be found in the
    summary or the events of the book, ``refused`` a pattern of the one line by which the first step must be refused.
    ``surrogate``: the nats are those of something else than the oracle's targets, and the grade must say so.
    """

    script: str
    score: Callable[[Micro], Scored]
    coded: int
    masked: int = 0
    padding: int = 0
    replayed: int = 0
    uncoded: int | None = 0
    head: str = "head"
    arguments: tuple[str, ...] = ()
    options: Mapping[str, Any] = MappingProxyType({})
    says: str = ""
    refused: str | None = None
    surrogate: bool = False

    def __str__(self) -> str:
        return " ".join([self.script, *self.arguments, *self.options])


def next_token(module, batch, outputs) -> dict[str, Any]:
    """What the user of two heads answers: the head of the next token counts."""
    with torch.no_grad():
        logits, _ = module(batch[:, :-2])
    targets = batch[:, 1:-1]
    return {"nats": surprise(logits, targets).sum(), "tokens": targets.numel(), "targets": targets}


CASES = [
    Case("plain_loss", pairs, 48 * 12, uncoded=48),
    Case("label_smoothing", pairs, 100, head="classifier", says="not likelihood"),
    Case("class_weights", class_second, 60 * 9, says="not likelihood"),
    Case("z_loss", pairs, 40 * 10, uncoded=40, head="lm_head", says="not likelihood"),
    Case("two_heads", first_of_two, 0, refused="measure="),
    Case("two_heads", first_of_two, 32 * 10, options={"measure": next_token}),
    Case("ignored_third", labelled, 42 * 8, masked=42 * 4),
    Case("hf_shifted_labels", shifted, 24 * 11, uncoded=24, head="model.lm_head"),
    Case("hf_shifted_labels", shifted, 24 * 11, uncoded=24, head="model.lm_head", arguments=("--count-items",)),
    Case("hf_shifted_labels", shifted, 194, padding=66, uncoded=24, head="model.lm_head", arguments=("--shortest=5",)),
    Case("chunked_loss", in_chunks, 40 * 14, uncoded=40),
    Case("activation_checkpointing", pairs, 320, uncoded=32),
    Case("activation_checkpointing", pairs, 320, uncoded=32, arguments=("--loss-inside",)),
    Case("activation_checkpointing", pairs, 320, uncoded=32, arguments=("--loss-inside", "--reentrant")),
    Case("activation_checkpointing", pairs, 320, uncoded=32, arguments=("--loss-inside", "--manual")),
    Case("activation_checkpointing", pairs, 320, uncoded=32, arguments=("--loss-inside", "--reentrant", "--manual")),
    Case("compiled", pairs, 320, uncoded=32, head="net"),
    Case("compiled", pairs, 320, uncoded=32, head="net", arguments=("--whole",)),
    Case("compiled", pairs, 320, uncoded=32, head="net", arguments=("--backend=inductor",)),
    Case("bf16_mixed", pairs, 48 * 12, uncoded=48),
    Case("bf16_mixed", pairs, 48 * 12, uncoded=48, arguments=("--precision=bf16-true",)),
    Case("manual_optimization", pairs, 400, uncoded=40),
    Case("lbfgs", pairs, 60),
    Case("accumulation", pairs, 440, uncoded=44),
    Case("accumulation", pairs, 440, uncoded=44, arguments=("--accumulate=2",)),
    Case("accumulation", pairs, 440, uncoded=44, arguments=("--accumulate=8",)),
    Case("padded_rows", padded, 333, padding=132, uncoded=None),
    Case("packed_documents", labelled, 564, masked=76, uncoded=None),
    Case("contiguous_stream", pairs, 320, uncoded=1),
    Case("three_epochs", pairs, 24 * 8, replayed=48 * 8, uncoded=24),
    Case("random_crops", pairs, 20 * 72, uncoded=120, head="lm_head"),
    Case(
        "random_crops",
        pairs,
        20 * 6 * 512,
        uncoded=120,
        head="lm_head",
        arguments=("--text=20000", "--block=512"),
        says="codes a stream, not the corpus",
    ),
    Case("leaky", pairs, 48 * 12, uncoded=48),
    Case("log_probabilities", pairs, 320, uncoded=32),
    Case("log_probabilities", pairs, 0, arguments=("--unnormalised",), refused="sum to (one|1)"),
    Case("binary_pixels", binary, 48 * 64),
    Case("fused_head", fused, 320, uncoded=32, head="norm"),
    Case("padded_rows", padded, 333, padding=132, uncoded=40),
    Case("packed_documents", labelled, 564, masked=76, uncoded=1),
    Case("leaky", pairs, 48 * 12, uncoded=48, options={"audit": "full"}, says="later"),
    Case("leaks_one", pairs, 48 * 12, uncoded=None, options={"audit": "full"}, says="the model sees what it codes"),
    Case("uneven_sampler", pairs, 29 * 8, replayed=3 * 8, uncoded=29),
    Case("replay_buffer", pairs, 40 * 8, replayed=40 * 8, uncoded=40),
    Case("random_crops", pairs, 1404, replayed=36, uncoded=117, head="lm_head", arguments=("--text=2000",)),
    Case("sharpness_aware", pairs, 60),
    Case("micro_steps", in_parts, 60),
    # Random rows may end twice over in the same masked token, which is what padding looks like.
    Case("masked_by_product", multiplied, 286, masked=92, padding=6, uncoded=None),
    Case("masked_by_product", multiplied, 384, uncoded=None, arguments=("--late",), says="masks", surrogate=True),
    Case("masked_by_product", multiplied, 384, uncoded=None, arguments=("--weights",), says="masks", surrogate=True),
    Case("update_before_loss", pairs, 400, uncoded=None, says="after it had updated", surrogate=True),
    Case("update_before_loss", pairs, 400, uncoded=None, arguments=("--fused",), says="after it", surrogate=True),
    Case("hidden_loss", pairs, 0, head="embedding", refused="saw none"),
    Case("hidden_loss", pairs, 0, head="embedding", arguments=("--backend=inductor",), refused="saw none"),
    Case(
        "hidden_loss",
        pairs,
        32,
        head="embedding",
        uncoded=None,
        arguments=("--beside",),
        says="not seen",
        surrogate=True,
    ),
    Case(
        "hidden_loss",
        pairs,
        160,
        head="embedding",
        uncoded=None,
        arguments=("--halves",),
        says="not seen",
        surrogate=True,
    ),
]

# What the library must do and does not do yet, with what is missing. Nothing here is run.
NOT_YET: list[tuple[Case, str]] = []


def check(case: Case) -> None:
    """Hold what the library does with a script against the table and the oracle."""
    if case.refused is not None:
        check_refusal(case, case.refused)
        return
    saver = Saver(case.head, stays_open=case.score is in_parts)
    plain = run_script(case.script, case.arguments, saver)
    watched = run_script(case.script, case.arguments, monitor(case))
    assert plain.keys() == watched.keys()
    assert all(torch.equal(plain[name], watched[name]) for name in plain)
    check_book(case, None if case.surrogate else expected(case.score, saver.saved))


def monitor(case: Case) -> CompressionMonitor:
    return CompressionMonitor(**{"bundle": None, "ledger": "book.jsonl", **case.options})


def check_book(case: Case, truth: Tally | None) -> None:
    """Compare columns with the table and the oracle, nats with the oracle."""
    run = read_book("book.jsonl")
    ignored = run.total.masked_tokens + run.total.padding_tokens
    columns = (run.total.coded_tokens, ignored, run.total.replayed_tokens)
    assert columns == (case.coded, case.masked + case.padding, case.replayed)
    assert run.total.padding_tokens == case.padding
    assert run.end["complete"]
    assert case.says in " ".join([*run.summary(), *(event["message"] for event in run.events)])
    assert run.grade == ("surrogate" if case.surrogate or case.options.get("audit") else "ideal")
    if truth is None:
        return
    assert columns == (truth.coded_tokens, truth.masked_tokens, truth.replayed_tokens)
    assert case.uncoded in (None, run.total.uncoded_tokens)
    assert run.total.nats == pytest.approx(truth.nats, rel=1e-6, abs=0)
    assert run.total.replayed_nats == pytest.approx(truth.replayed_nats, rel=1e-6, abs=0)


def check_refusal(case: Case, pattern: str) -> None:
    """One line says why, before the first update, and no book is left behind."""
    saver = Saver(case.head)
    with pytest.raises(MeasureError, match=pattern) as caught:
        run_script(case.script, case.arguments, saver, monitor(case))
    assert len(saver.saved) == 1  # the first micro-batch
    assert "\n" not in str(caught.value)
    assert not Path("book.jsonl").exists()


@pytest.fixture
def _one_thread():
    """Let the small products of these scripts not wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_script_is_measured_exactly(case):
    """The book has the oracle's nats to 1e-6 and its columns to the token, and the training is the same."""
    check(case)
