"""The data comes back from the bitstream, byte for byte, whatever the script does with its placeholders."""

import functools
import lzma
import math
from pathlib import Path

import pytest
import streams
import torch
import torch.nn.functional as F
from streams import Bytes, Transformer, decoded, pairs, rows, train, written
from torch.utils.data import DataLoader, TensorDataset

from prequential import CompressionMonitor
from prequential.bitstream.encoding import Encoder
from prequential.errors import MeasureError, TokenBytesError

SHARED = Path(__file__).parents[2] / "shared" / "data"
TEXT = (
    b"It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, "
    b"it was the epoch of belief, it was the epoch of incredulity, it was the season of Light."
)
BINARY = bytes(i * i % 251 for i in range(120)) + bytes(100)
CHINESE = "道可道\uff0c非常道。名可名\uff0c非常名。無名天地之始\uff1b有名萬物之母。".encode()

CASES = {
    "pairs": (TEXT, {}),
    "dropout": (TEXT, {"module": functools.partial(Bytes, dropout=0.2)}),
    "transformer": (TEXT, {"module": Transformer, "feed": rows}),
    "streams side by side": (TEXT, {"feed": streams.streams}),
    "accumulation": (TEXT, {"accumulate_grad_batches": 4, "feed": functools.partial(pairs, batch_size=2)}),
    "an odd last batch": (TEXT, {"feed": functools.partial(rows, batch_size=5), "module": Transformer}),
    "shuffled": (TEXT, {"feed": functools.partial(rows, shuffle=True), "module": Transformer}),
    "shuffled rows that share tokens": (TEXT, {"feed": functools.partial(pairs, shuffle=True)}),
    "two epochs": (TEXT[:80], {"max_epochs": 2}),
    "overlap": (TEXT[:100], {"feed": functools.partial(pairs, stride=4)}),
    "dropped rows": (TEXT, {"feed": functools.partial(pairs, drop_last=True)}),
    "binary": (BINARY, {"feed": streams.streams}),
    "Chinese": (CHINESE, {"feed": streams.streams}),
    "one byte": (b"a", {"feed": streams.streams}),
    "equal bytes": (b"\0" * 1000, {"feed": functools.partial(streams.streams, length=32)}),
    "one by one": (
        TEXT[:40],
        {
            "module": lambda: Singles(),
            "feed": lambda ids: DataLoader(TensorDataset(ids[:-1], ids[1:]), batch_size=8),
        },
    ),
    "a dictionary, its labels shifted with a slot": (
        TEXT[:90],
        {"module": lambda: Labels(), "feed": lambda ids: labels(ids)},
    ),
    "chunks of the loss": (TEXT[:70], {"module": lambda: Chunks()}),
}


class Singles(Bytes):
    """Each token from the one before it, no rows at all."""

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        return F.cross_entropy(self(inputs.unsqueeze(1)).squeeze(1), targets)


class Labels(Bytes):
    """Labels that are the inputs, moved on by one in the step, which leaves a slot; a mask of bytes."""

    def training_step(self, batch, batch_idx):
        moved = F.pad(batch["labels"], (0, 1), value=-100)[:, 1:]
        logits = self(batch["input_ids"]) * batch["attention_mask"].unsqueeze(2)
        return F.cross_entropy(logits.transpose(1, 2), moved)


def labels(ids):
    """Rows as dictionaries, the last one padded, which its labels ignore."""
    filled = F.pad(ids, (0, -len(ids) % 8), value=-1).view(-1, 8)
    mask = (filled >= 0).to(torch.uint8)
    items = zip(filled.clamp(min=0), filled.masked_fill(filled < 0, -100), mask, strict=True)
    return DataLoader(
        [dict(zip(("input_ids", "labels", "attention_mask"), row, strict=True)) for row in items], batch_size=3
    )


class Chunks(Bytes):
    """One loss call for each half of the columns, which are log-probabilities in (N, V, T)."""

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        scores = self(inputs).log_softmax(-1).transpose(1, 2)
        halves = zip(scores.chunk(2, 2), targets.chunk(2, 1), strict=True)
        return sum(F.nll_loss(a, b, reduction="sum") for a, b in halves) / targets.numel()


@pytest.mark.parametrize("case", CASES)
def test_round_trip(case, tmp_path, monkeypatch):
    """What was trained on comes back, from a file as long as the code that the book states."""
    data, options = CASES[case]
    run, _ = written(tmp_path, data, **options)
    found, told = decoded(tmp_path, monkeypatch, **options)
    assert found == data, told
    stream, size = run.bitstream, (tmp_path / "data.bits").stat().st_size
    assert run.grade == "coded"
    assert (stream["bytes"], stream["raw_bytes"], stream["whole"]) == (size, len(data), True)
    assert size < 1.0001 * (run.total.nats / math.log(2) + 8 * stream["uniform_tokens"]) / 8 + 64


def test_each_byte_is_paid_for_once(tmp_path):
    """Rows that share their ends, in order: one first token is sent by the uniform code, and what fills no row."""
    run, _ = written(tmp_path, TEXT)
    assert run.bitstream["uniform_tokens"] == 1 + (len(TEXT) - 1) % 8
    assert run.total.coded_tokens == (len(TEXT) - 1) // 8 * 8


def test_passes_are_as_many_as_columns(tmp_path, monkeypatch):
    """Two epochs of rows of eight: nothing is decoded twice, and the second epoch is not even trained."""
    written(tmp_path, TEXT[:160], module=Transformer, feed=rows, max_epochs=2)
    found, told = decoded(tmp_path, monkeypatch, module=Transformer, feed=rows, max_epochs=2)
    assert found == TEXT[:160]
    assert told["passes"] == 5 * 7


def test_nothing_is_disturbed(tmp_path):
    """Weights and random states are those of a training on the tokens themselves, without a monitor's bitstream."""
    options = {"module": Transformer, "feed": rows}
    _, (coded, state) = written(tmp_path / "coded", TEXT, **options)
    plain, other = train(
        CompressionMonitor(token_bytes="bytes", ledger=tmp_path / "plain", bundle=None), TEXT, **options
    )
    assert torch.equal(state, other)
    assert all(torch.equal(a, b) for a, b in zip(coded.parameters(), plain.parameters(), strict=True))


class Leaky(Bytes):
    """Sees the next token."""

    def forward(self, inputs):
        hidden = F.pad(self.embedding(inputs).transpose(1, 2), (0, 1))
        return self.head(F.relu(self.mix(hidden)).transpose(1, 2))


class Normalised(Bytes):
    """Rows see each other."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(32)
        self.head = torch.nn.Sequential(torch.nn.BatchNorm1d(8), self.head)


class Compiled(Bytes):
    """A loss by another name."""

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        return F.mse_loss(self(inputs), F.one_hot(targets, 256).float())


class Bits(Bytes):
    """Bits have no integer targets."""

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        return F.binary_cross_entropy_with_logits(self(inputs), F.one_hot(targets, 256).float())


class Reversed(Bytes):
    """Targets that stand nowhere in the batch."""

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        return F.cross_entropy(self(inputs).flatten(0, 1), targets.flip(0).flatten())


class ByHand(Bytes):
    """Learns by itself."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


def unread(ids):
    """Data that the monitor has not read."""
    return pairs(torch.frombuffer(bytearray(TEXT), dtype=torch.uint8).long())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"module": Leaky}, "the model sees what it codes"),
        ({"module": Normalised}, "mixes rows"),
        ({"module": Compiled}, "expected a training step that calls torch.nn.functional.cross_entropy .* saw none"),
        ({"module": Bits}, "saw calls of binary_cross_entropy_with_logits"),
        ({"module": Reversed}, "found none that holds them"),
        ({"module": ByHand}, "under manual optimisation it cannot"),
        ({"feed": unread}, "got one without: read the data by it"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_decoded_is_refused_before_anything_is_learnt(options, said, tmp_path):
    """In one line that says which part is missing."""
    with pytest.raises(MeasureError, match=said) as error:
        written(tmp_path, TEXT, **options)
    assert "\n" not in str(error.value)


def test_data_that_cannot_be_read(tmp_path):
    """None at all, none that is there, a table that spells nothing, twice."""
    monitor = CompressionMonitor(token_bytes="bytes", bitstream=True)
    with pytest.raises(MeasureError, match="expected at least one byte"):
        monitor.tokens(b"")
    with pytest.raises(MeasureError, match=r"cannot read .*missing"):
        monitor.tokens(tmp_path / "missing")
    with pytest.raises(MeasureError, match="got int"):
        monitor.tokens(3)
    with pytest.raises(MeasureError, match="bare table"):
        CompressionMonitor(token_bytes=[1] * 256, bitstream=True).tokens(TEXT)
    with pytest.raises((MeasureError, TokenBytesError), match="keeps every byte"):
        CompressionMonitor(token_bytes={"a": 0, "b": 1}, bitstream=True).tokens(b"abc")
    monitor.tokens(TEXT)
    with pytest.raises(MeasureError, match="a second"):
        monitor.tokens(TEXT)
    with pytest.raises(MeasureError, match="rescore='eval'"):
        CompressionMonitor(bitstream=True, rescore="eval")


def test_data_that_the_monitor_has_not_read(tmp_path):
    """Its tokens by another monitor."""
    monitor = CompressionMonitor(ledger=tmp_path, bundle=None, bitstream=True)
    monitor.tokens = CompressionMonitor(token_bytes="bytes").tokens
    with pytest.raises(MeasureError, match="it did not: let it"):
        train(monitor, TEXT)


def test_without_a_bitstream_the_tokens_are_there(tmp_path):
    """The same script trains on the tokens themselves."""
    ids = CompressionMonitor(token_bytes="bytes").tokens(lambda: TEXT)
    assert bytes(ids.tolist()) == TEXT


def test_a_writer_that_fails_stops_no_training(tmp_path, monkeypatch):
    """A full disk: the run goes on, the book says that its stream is not whole."""
    write, said = Encoder._write, []

    def fails(self, *arguments):
        if self._batches == 4:
            raise OSError("No space left on device")
        write(self, *arguments)

    monkeypatch.setattr(Encoder, "_write", fails)
    monkeypatch.setattr("prequential.bitstream.encoding.warn", said.append)
    run, _ = written(tmp_path, TEXT)
    assert (run.grade, run.status) == ("ideal", "completed")
    assert "No space left" in run.bitstream["failure"]
    assert "the bitstream stopped, training goes on" in said[0]


def bpe():
    """A small byte-level tokenizer."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT.decode()], trainer)
    return tokenizer


def test_tokens_of_a_tokenizer(tmp_path, monkeypatch):
    """The table that spells them is in the bundle."""
    options = {"table": bpe(), "module": functools.partial(Bytes, 300)}
    run, _ = written(tmp_path, TEXT, **options)
    found, told = decoded(tmp_path, monkeypatch, **options)
    assert found == TEXT, told
    assert run.bitstream["tokens"] < len(TEXT)


def test_gpt2(tmp_path, monkeypatch):
    """Its real files; a head that is wider than the vocabulary, over a real text with Chinese in it."""
    if not (SHARED / "tokenizers").exists():
        pytest.skip("needs the tokenizer's files")
    tiktoken, load = pytest.importorskip("tiktoken"), pytest.importorskip("tiktoken.load")
    folder = SHARED / "tokenizers"
    ranks = load.data_gym_to_mergeable_bpe_ranks(str(folder / "gpt2-vocab.bpe"), str(folder / "gpt2-encoder.json"))
    pattern = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
    table = tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256})
    text = (SHARED / "text" / "canterbury-alice29.txt").read_bytes()[:300] + CHINESE[:30]
    options = {"table": table, "module": functools.partial(Bytes, 50_304)}
    written(tmp_path, text, **options)
    found, told = decoded(tmp_path, monkeypatch, **options)
    assert found == text, told


@pytest.mark.parametrize("name", ["canterbury-kennedy.xls.xz", "canterbury-ptt5.xz", "dna-ecoli-k12-mg1655.txt.xz"])
def test_real_data(name, tmp_path, monkeypatch):
    """A part of a spreadsheet, of a picture, of a genome."""
    if not (SHARED / "text" / name).exists():
        pytest.skip("needs the data")
    with lzma.open(SHARED / "text" / name) as file:
        data = file.read(4000)[-1000:]
    options = {"feed": functools.partial(streams.streams, length=16, count=16)}
    written(tmp_path, data, **options)
    found, told = decoded(tmp_path, monkeypatch, **options)
    assert found == data, told


def test_a_bitstream_of_several_ranks_is_refused(monkeypatch, tmp_path):
    """In one line, before anything is trained."""
    monkeypatch.setattr("lightning.pytorch.Trainer.world_size", 2)
    with pytest.raises(MeasureError, match="expected one process for bitstream=True, got 2"):
        written(tmp_path, b"abc" * 40)
