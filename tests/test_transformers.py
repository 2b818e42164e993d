"""`CompressionCallback`: a Hugging Face `Trainer` writes the book that Lightning would write over the same training."""

import copy
import random
import subprocess
import sys
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from toys import VOCABULARY, FakeRun, rows
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback
from transformers import TrainingArguments as Arguments

from prequential import Bundle, CompressionCallback, CompressionMonitor
from prequential.errors import MeasureError, PrequentialWarning
from prequential.ledger import read_book

ROWS, LENGTH = 32, 12  # long enough for rows to be told apart
RATE = 0.5


def examples(padded=True, first_is_target=False):
    """Rows of token ids; every third one is padded, if asked for, and its padding is no target.

    Nor are first tokens, which nothing predicts: some versions of the trainer would divide by their number as well.
    """
    data = []
    for number, ids in enumerate(rows(ROWS, LENGTH - 1)):
        kept = torch.arange(LENGTH) < (4 if padded and number % 3 == 0 else LENGTH)
        targets = kept & ((torch.arange(LENGTH) > 0) | first_is_target)
        data.append({"input_ids": ids, "attention_mask": kept.long(), "labels": torch.where(targets, ids, -100)})
    return data


TARGETS = sum(int((row["labels"][1:] >= 0).sum()) for row in examples())


def gpt2(dropout=0.0, kind=GPT2LMHeadModel):
    torch.manual_seed(0)
    odds = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    sizes = {"vocab_size": VOCABULARY, "n_positions": LENGTH, "n_embd": 8, "n_layer": 2, "n_head": 2}
    return kind(GPT2Config(**sizes, **odds, bos_token_id=0, eos_token_id=0))


def llama():
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes))


class InOrder(Trainer):
    def _get_train_sampler(self, *ignored):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def trainer_with(callback, model=None, *, kind=InOrder, data=None, callbacks=(), compute_loss_func=None, **options):
    """A quiet trainer: plain SGD over the rows in order, four at a time."""
    model = gpt2() if model is None else model
    quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "logging_steps": 4}
    quiet["remove_unused_columns"] = False
    plain = {"per_device_train_batch_size": 4, "num_train_epochs": 1, "max_grad_norm": 0.0}
    return kind(
        model=model,
        args=Arguments(output_dir="out", lr_scheduler_type="constant", **{**quiet, **plain, **options}),
        train_dataset=examples() if data is None else data,
        eval_dataset=examples()[:4],
        optimizers=(torch.optim.SGD(model.parameters(), lr=RATE), None),
        compute_loss_func=compute_loss_func,
        callbacks=[*([callback] if callback is not None else []), *callbacks],
    )


def recorded(model=None, **options):
    """Train under a callback; the run as its book tells it."""
    callback = CompressionCallback(bundle=None, token_bytes=[2] * VOCABULARY)
    trainer_with(callback, model, **options).train()
    return callback.run


def by_hand(model, accumulation=1, epochs=1):
    """The second route: the same training as a plain loop, the nats of each epoch summed in float64 from the logits."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    batches = list(DataLoader(examples(), batch_size=4))
    nats = [0.0] * epochs
    for epoch in range(epochs):
        for start in range(0, len(batches), accumulation):
            group = batches[start : start + accumulation]
            count = sum(int((batch["labels"][:, 1:] >= 0).sum()) for batch in group)
            for batch in group:
                logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
                targets = batch["labels"][:, 1:].flatten()
                nats[epoch] += F.cross_entropy(logits.detach().double().flatten(0, 1), targets, reduction="sum").item()
                (F.cross_entropy(logits.flatten(0, 1), targets, reduction="sum") / count).backward()
            optimizer.step()
            optimizer.zero_grad()
    return nats


class Wrapped(L.LightningModule):
    """The same model as a Lightning user trains it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def training_step(self, batch, batch_idx):
        return self.model(**batch).loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=RATE)


@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_totals_are_those_of_a_loop_in_float64(make, accumulation):
    """Exact counts, nats to one part in a million, and no remark: the returned loss is a plain likelihood."""
    run = recorded(make(), gradient_accumulation_steps=accumulation)
    (nats,) = by_hand(make(), accumulation)
    assert run.total.coded_tokens == TARGETS
    assert run.total.nats == pytest.approx(nats, rel=1e-6)
    assert [i.step for i in run.intervals] == list(range(1, 8 // accumulation + 1))
    assert (run.status, run.end["complete"], run.events) == ("completed", True, [])


@pytest.mark.parametrize(("accumulation", "padded"), [(1, True), (2, False)])
def test_trainer_and_lightning_write_the_same_sums(trainer_of, accumulation, padded):
    """Every column of every interval; nats differ by how the mean is rounded."""
    run = recorded(gradient_accumulation_steps=accumulation, data=examples(padded))
    monitor = CompressionMonitor(bundle=None, token_bytes=[2] * VOCABULARY, ledger="door")
    loader = DataLoader(examples(padded), batch_size=4)
    trainer_of(monitor, accumulate_grad_batches=accumulation).fit(Wrapped(gpt2()), loader)
    other = read_book("door/book.jsonl")
    for mine, its in zip(run.intervals, other.intervals, strict=True):
        assert mine.step == its.step
        assert mine.tally.nats == pytest.approx(its.tally.nats, rel=1e-6)
    for name in ("coded_tokens", "uncoded_tokens", "masked_tokens", "raw_bytes", "fingerprint"):
        assert getattr(run.total, name) == getattr(other.total, name), name
    keys = ("measure", "vocab_size", "bytes_known", "fingerprint_scheme", "token_bytes", "grade", "precision")
    assert [run.header[key] for key in keys] == [other.header[key] for key in keys]


def test_first_tokens_are_charged_as_under_lightning(trainer_of):
    """Where labels are the whole row, as collators make them."""
    data = examples(padded=True, first_is_target=True)
    run = recorded(data=data)
    monitor = CompressionMonitor(bundle=None, token_bytes=[2] * VOCABULARY, ledger="door")
    trainer_of(monitor).fit(Wrapped(gpt2()), DataLoader(data, batch_size=4))
    other = read_book("door/book.jsonl")
    for name in ("coded_tokens", "uncoded_tokens", "uncoded_nats", "masked_tokens", "raw_bytes", "fingerprint"):
        assert getattr(run.total, name) == getattr(other.total, name), name
    assert run.total.uncoded_tokens == ROWS


def test_a_second_epoch_is_replay():
    """As in Lightning: the first epoch is the code, the second is free."""
    run = recorded(num_train_epochs=2)
    first, second = by_hand(gpt2(), epochs=2)
    assert run.total.nats == pytest.approx(first, rel=1e-6)
    assert run.total.replayed_nats == pytest.approx(second, rel=1e-6)
    assert run.total.replayed_tokens == run.total.coded_tokens == TARGETS
    assert run.single_pass[0] == "no"


class Weighted(Trainer):
    def _get_train_sampler(self, *ignored):
        return torch.utils.data.WeightedRandomSampler([1.0] * ROWS, ROWS, replacement=True)


def test_rows_that_are_equal_are_data_where_each_is_drawn_once():
    """The trainer's own shuffled sampler draws each row once; one with replacement feeds rows again, which is free."""
    doubled = [*examples()[: ROWS // 2], *examples()[: ROWS // 2]]
    half = sum(int((row["labels"][1:] >= 0).sum()) for row in doubled[: ROWS // 2])
    assert recorded(kind=Trainer, data=doubled).total.coded_tokens == 2 * half
    torch.manual_seed(0)
    again = recorded(kind=Weighted).total
    assert 0 < again.replayed_tokens < again.coded_tokens


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ROWS // 4),
        ({"gradient_accumulation_steps": 3}, -(-ROWS // 4 // 3)),
        ({"num_train_epochs": 2}, ROWS // 4),
        ({"max_steps": 3}, 3),
        ({"max_steps": 1000}, ROWS // 4),
        ({"kind": Weighted}, ROWS // 4),
        ({"kind": Weighted, "num_train_epochs": 2}, None),  # the second epoch may bring rows that were not drawn before
    ],
)
def test_the_limits_of_the_trainer_say_how_many_steps_bring_new_data(options, expected):
    run = recorded(**options)
    assert run.header["planned_steps"] == expected
    if expected is not None:
        assert run.planned_tokens == run.total.tokens
        assert max(i.step for i in run.intervals if i.tally.coded_tokens) == expected


def test_rows_that_fill_no_batch_are_charged():
    """`dataloader_drop_last`: the two rows of a cut off remainder are data that the program never codes."""
    run = recorded(data=examples(padded=False)[:30], dataloader_drop_last=True)
    assert run.total.coded_tokens == 28 * (LENGTH - 1)
    assert run.total.uncoded_tokens == 2 * (LENGTH - 1)


class Meddler(TrainerCallback):
    """Runs the model between steps, as samplers and probes do."""

    def on_step_end(self, args, state, control, model=None, **others):
        batch = next(iter(DataLoader(examples()[:2], batch_size=2)))
        model(**batch)
        model.generate(batch["input_ids"][:, :2], max_new_tokens=2, do_sample=False, pad_token_id=0)


def test_only_training_steps_count():
    """Evaluation, generation and forward passes between steps, gradient checkpointing: the same book."""
    plain = recorded()
    model = gpt2()
    model.gradient_checkpointing_enable()
    busy = recorded(model, eval_strategy="steps", eval_steps=2, eval_on_start=True, callbacks=[Meddler()])
    assert [(i.step, i.tally) for i in busy.intervals] == [(i.step, i.tally) for i in plain.intervals]
    assert busy.end["complete"]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_training_is_bit_identical_with_and_without(accumulation):
    """Weights after dropout training, and the random states."""
    ends = []
    for callback in (None, CompressionCallback(bundle=None)):
        model = gpt2(dropout=0.1)
        trainer_with(callback, model, num_train_epochs=2, gradient_accumulation_steps=accumulation).train()
        ends.append((model.state_dict(), torch.get_rng_state(), np.random.get_state()[1], random.getstate()))
    (one, *states), (other, *others) = ends
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(states[0], others[0])
    assert np.array_equal(states[1], others[1])
    assert states[2] == others[2]


def test_no_hook_stays_on_the_model():
    """After training the model is as it was."""
    model = gpt2()
    recorded(model)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert not torch.overrides._get_current_function_mode_stack()


def smoothed(outputs, labels, num_items_in_batch=None):
    """A loss outside of the model, which is no plain likelihood."""
    logits, targets = outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return F.cross_entropy(logits, targets, label_smoothing=0.1, reduction="sum") / num_items_in_batch


def test_a_loss_outside_of_the_model_is_seen():
    """`compute_loss_func` takes the labels away from the model; of its smoothed loss, the likelihood counts."""
    run = recorded(compute_loss_func=smoothed, max_steps=1)
    first = by_hand_first()
    assert run.total.nats == pytest.approx(first, rel=1e-6)
    assert (run.total.uncoded_tokens, run.total.coded_tokens) == (4, recorded(max_steps=1).total.coded_tokens)
    assert not torch.overrides._get_current_function_mode_stack()


def by_hand_first():
    """Nats of the first micro-batch under the untrained model."""
    batch = next(iter(DataLoader(examples(), batch_size=4)))
    logits = gpt2()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    return F.cross_entropy(logits.double().flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum").item()


class Penalized(GPT2LMHeadModel):
    def forward(self, *args, **kwargs):
        outputs = super().forward(*args, **kwargs)
        if outputs.loss is not None:
            outputs.loss = outputs.loss + 0.1
        return outputs


@pytest.mark.filterwarnings("ignore::prequential.errors.PrequentialWarning")
@pytest.mark.parametrize("accumulation", [1, 2])
def test_an_auxiliary_term_is_remarked_and_not_counted(accumulation):
    """The loss that the model returns is held against its nats, however it is scaled."""
    run = recorded(gpt2(kind=Penalized), gradient_accumulation_steps=accumulation)
    assert [event["event"] for event in run.events] == ["not_likelihood"]
    assert run.intervals[0].tally.nats == pytest.approx(
        recorded(gradient_accumulation_steps=accumulation).intervals[0].tally.nats
    )


class Twice(InOrder):
    def compute_loss(self, model, inputs, *args, **kwargs):
        return super().compute_loss(model, inputs, *args, **kwargs) + model(**inputs).loss


def test_a_model_that_runs_twice_in_a_step_is_counted_once():
    """The first run counts, and the book says that there was another."""
    with pytest.warns(PrequentialWarning, match="ran the model more than once"):
        run = recorded(kind=Twice)
    assert run.total.coded_tokens == TARGETS
    assert run.end["complete"] is False


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_is_measured():
    """`torch_compile=True`; as under Lightning, first tokens are not told from padding in compiled losses."""
    try:
        compiled = recorded(torch_compile_backend="aot_eager")
    finally:
        torch.compiler.reset()
    plain = recorded()
    assert compiled.total.coded_tokens == plain.total.coded_tokens
    assert compiled.total.nats == pytest.approx(plain.total.nats, rel=1e-6)


def test_bfloat16_is_measured():
    """Under autocast the nats are those of the rounded logits, and the book says so."""
    run = recorded(bf16=True)
    assert run.header["precision"] == "bf16-mixed"
    assert run.total.nats == pytest.approx(recorded().total.nats, rel=1e-2)
    assert run.events == []


def test_a_callable_measures():
    """It gets the model, its inputs and its outputs."""

    def measure(module, batch, outputs):
        logits, targets = outputs["logits"][:, :-1].flatten(0, 1), batch["labels"][:, 1:]
        assert isinstance(module, GPT2LMHeadModel)
        assert sorted(batch) == ["attention_mask", "input_ids", "labels"]
        nats = F.cross_entropy(logits.detach().double(), targets.flatten(), reduction="sum")
        return {"nats": nats, "tokens": (targets >= 0).sum()}

    callback = CompressionCallback(bundle=None, measure=measure)
    trainer_with(callback).train()
    assert callback.run.total.nats == pytest.approx(by_hand(gpt2())[0], rel=1e-6)


def test_more_than_one_device_is_refused():
    """In one line, before training: the processes of several devices are told apart, their threads are not."""
    with pytest.raises(MeasureError, match="expected one device a process, got 2"):
        CompressionCallback().on_train_begin(SimpleNamespace(world_size=1, n_gpu=2), None, None)


def test_label_smoothing_of_the_trainer_is_refused():
    """It calls no loss that could be seen."""
    with pytest.raises(MeasureError, match="expected label_smoothing_factor=0"):
        recorded(label_smoothing_factor=0.1)


def test_a_model_without_a_loss_is_an_error_before_anything_is_learnt():
    """Raised in the first training step; weights are as they were."""
    model = gpt2()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(MeasureError, match="saw none"):
        recorded(model, compute_loss_func=lambda outputs, labels, num_items_in_batch: outputs.logits.square().mean())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


class Stumbling(GPT2LMHeadModel):
    steps = 0

    def forward(self, *args, **kwargs):
        self.steps += 1
        if self.steps == 5:
            raise ValueError("out of luck")
        return super().forward(*args, **kwargs)


def test_a_broken_run_leaves_a_readable_book():
    """Without an end line, as the trainer tells nobody; the next training closes it and writes another."""
    model = gpt2(kind=Stumbling)
    callback = CompressionCallback(bundle=None, every_n_steps=1)
    trainer = trainer_with(callback, model)
    with pytest.raises(ValueError, match="out of luck"):
        trainer.train()
    assert not torch.overrides._get_current_function_mode_stack()
    broken = callback.book
    assert (callback.run.status, [i.step for i in callback.run.intervals]) == ("open", [1, 2, 3, 4])
    trainer.train()
    assert read_book(broken).status == "failed"
    assert callback.book.parent.name == "prequential-2"
    assert (callback.run.status, callback.run.total.coded_tokens) == ("completed", TARGETS)
    assert len(model._forward_hooks) == 0


def test_a_book_is_never_overwritten():
    """A named one is refused if it exists; a checkpoint makes it durable."""
    callback = CompressionCallback(bundle=None, ledger="mine")
    trainer_with(callback, save_strategy="steps", save_steps=4).train()
    assert callback.run.total.coded_tokens == TARGETS
    with pytest.raises(MeasureError, match="expected a new path for the book"):
        trainer_with(callback).train()


def test_rows_reach_wandb_the_history_and_functions(monkeypatch, capsys):
    """An active W&B run gets the keys of the other doors, the trainer's history too; what fails is left alone."""
    follower, calls = FakeRun(), []
    monkeypatch.setattr("wandb.run", follower)

    def broken(values, steps):
        calls.append(steps)
        raise OSError("disk full")

    bundle = Bundle({"train.py": b"pass"})
    callback = CompressionCallback(bundle=bundle, token_bytes=[1] * VOCABULARY, publish=broken, every_n_steps=4)
    trainer = trainer_with(callback)
    with pytest.warns(PrequentialWarning, match="broken failed and gets no more values: OSError: disk full"):
        trainer.train()
    values = callback.run.measured()
    history = [row for row in trainer.state.log_history if "prequential/tokens" in row]
    assert [row["step"] for row in history] == [1, 2, 4, 8]
    assert calls == [1]
    for name in ("compressed_bytes", "compression_ratio", "tokens"):
        assert history[-1][f"prequential/{name}"] == follower.rows[-1][f"prequential/{name}"] == values[name]
    assert "prequential/compressed_bytes" in follower.declared
    assert follower.summary["prequential/status"] == "completed"
    assert follower.artifacts == [["book.jsonl", "bundle.tar.xz"]]
    assert callback.run.header["wandb"] == {"id": "abc", "project": "toys", "entity": "us"}
    assert "compressed_MB" in capsys.readouterr().out


def test_the_configuration_of_the_bundle_says_what_was_chosen():
    """What differs from the defaults, without places."""
    from prequential.integrations.transformers import _configuration

    trainer = trainer_with(None)
    config = _configuration(trainer.args, trainer.model)
    assert config["trainer"]["lr_scheduler_type"] == "constant"
    assert config["model"]["n_embd"] == 8
    assert config["seed"] == 42
    assert "output_dir" not in config["trainer"]


def test_transformers_is_loaded_only_when_asked_for():
    """Without it, every other name works, and this one says what to install."""
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "import prequential\nprequential.Recording\n"
        "try:\n    from prequential import CompressionCallback\n"
        "except ImportError as error:\n    print(error)\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip().endswith("pip install 'prequential[transformers]'")
    assert shown.count("\n") == 1


@pytest.mark.parametrize("ledger", [None, "mine"])
def test_a_run_that_resumes_has_the_book_of_the_unbroken_run(ledger):
    """The state lies in the checkpoint's folder; the trainer skips what it had been fed."""
    from dataclasses import asdict

    class Dies(TrainerCallback):
        def on_step_end(self, args, state, control, **others):
            if state.global_step == 6:
                raise KeyError("the machine is gone")

    saving = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 2}
    whole = CompressionCallback(bundle=None, ledger="whole")
    trainer_with(whole, **saving).train()
    with pytest.raises(KeyError):
        trainer_with(CompressionCallback(bundle=None, ledger=ledger), callbacks=[Dies()], **saving).train()
    callback = CompressionCallback(bundle=None, ledger=ledger)
    trainer_with(callback, **saving).train(resume_from_checkpoint="out/checkpoint-4")
    assert callback.book.parent.name == (ledger or "prequential")
    assert asdict(callback.run.total) == asdict(whole.run.total)
    assert callback.run.total.replayed_tokens == TARGETS
    assert (callback.run.status, callback.run.warnings) == ("completed", [])


def test_a_checkpoint_without_a_state_of_the_recording_is_said():
    """The run is then given the weights of the checkpoint."""
    saving = {"save_strategy": "steps", "save_steps": 2}
    trainer_with(None, **saving).train()
    callback = CompressionCallback(bundle=None)
    with pytest.warns(PrequentialWarning, match="expected the state of the recording in out/checkpoint-4"):
        trainer_with(callback, **saving).train(resume_from_checkpoint="out/checkpoint-4")
    assert callback.run.length.startswith("K(D | ")
    assert callback.run.header["start_step"] == 4
