"""End to end at this level: a byte model codes a text while it trains, and the same training gives the text back."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from prequential.coder import BitstreamReader, BitstreamWriter, check_value, frequencies, uniform_frequencies
from prequential.errors import CoderError

TEXT = (
    b"It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, "
    b"it was the epoch of belief, it was the epoch of incredulity, it was the season of Light, it was the season of "
    b"Darkness, it was the spring of hope, it was the winter of despair. "
) * 8
ROWS, LENGTH, EVERY, MOST_TOKENS = 3, 16, 5, 2**20


class Causal(nn.Module):
    """Bytes to logits of the next byte, by two convolutions that see nothing to their right."""

    def __init__(self, symbols: int = 256) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols + 1, 32)
        self.layers = nn.ModuleList([nn.Conv1d(32, 32, 3) for _ in range(2)])
        self.head = nn.Linear(32, symbols)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(inputs).transpose(1, 2)
        for layer in self.layers:
            hidden = hidden + F.relu(layer(F.pad(hidden, (2, 0))))
        return self.head(hidden.transpose(1, 2))


class Training:
    """One pass over batches of (ROWS, LENGTH); begun with the same seed, it is the same on both sides."""

    def __init__(self, symbols: int = 256, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.symbols, self.model = symbols, Causal(symbols)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)

    def logits(self, targets: torch.Tensor) -> torch.Tensor:
        """Each row begins with a symbol that is no byte."""
        return self.model(F.pad(targets[:, :-1], (1, 0), value=self.symbols))

    def learn(self, logits: torch.Tensor, targets: torch.Tensor) -> float:
        """One update, and the nats that the batch took."""
        nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum", ignore_index=-100)
        self.optimizer.zero_grad()
        (nats / targets.numel()).backward()
        self.optimizer.step()
        return nats.item()


def batches(tokens: torch.Tensor) -> list[torch.Tensor]:
    """The tokens as full batches, and an odd last one of a single row."""
    whole = len(tokens) // (ROWS * LENGTH) * ROWS * LENGTH
    last = tokens[whole:].unsqueeze(0)
    return [*tokens[:whole].view(-1, ROWS, LENGTH), *([last] if last.numel() else [])]


def train(training: Training, writer: BitstreamWriter, tokens: torch.Tensor, begin: int = 0, end: int | None = None):
    """Train on some batches and write them; the nats that the losses add up to."""
    nats = 0.0
    for step, targets in list(enumerate(batches(tokens)))[begin:end]:
        if step % EVERY == 0:
            writer.check(step, check_value(training.model.parameters()))
        logits = training.logits(targets)
        writer.write(frequencies(logits, targets).transpose(0, 1))  # position by position, as a decoder learns of them
        nats += training.learn(logits, targets)
        if step % 7 == 0:
            writer.flush()
    return nats


def begun(path, tokens: torch.Tensor, symbols: int = 256) -> BitstreamWriter:
    """A stream that says first how many tokens there are."""
    writer = BitstreamWriter(path, symbols=symbols)
    writer.write(uniform_frequencies(torch.tensor([len(tokens)]), MOST_TOKENS))
    return writer


def compress(tokens: torch.Tensor, path, symbols: int = 256) -> float:
    """Train over the tokens and write them; the ideal length in bytes."""
    writer = begun(path, tokens, symbols)
    nats = train(Training(symbols), writer, tokens)
    writer.close()
    return (nats / math.log(2) + math.log2(MOST_TOKENS)) / 8


def decompress(path, symbols: int = 256, seed: int = 0) -> torch.Tensor:
    """Train again on what is decoded, one position of a batch after the other."""
    training, reader = Training(symbols, seed), BitstreamReader(path)
    count = int(reader.read_uniform(1, MOST_TOKENS))
    found = []
    for step, targets in enumerate(batches(torch.zeros(count, dtype=torch.int64))):
        reader.hold(step, check_value(training.model.parameters()) if step in reader.checks else 0)
        targets = torch.zeros_like(targets)
        for position in range(targets.shape[1]):
            with torch.no_grad():
                targets[:, position] = reader.read(training.logits(targets)[:, position])
        training.learn(training.logits(targets), targets)
        found.append(targets.flatten())
    assert reader.steps_left == 0
    return torch.cat([*found, torch.empty(0, dtype=torch.int64)])


def of_bytes(text: bytes) -> torch.Tensor:
    """Bytes as token ids."""
    return torch.tensor(list(text), dtype=torch.int64)


@pytest.mark.parametrize(
    "text",
    [TEXT, TEXT[:1], b"", b"\0" * 1000, "道可道。非常道。名可名。非常名。".encode() * 8],
    ids=["text", "one byte", "empty", "equal bytes", "Chinese"],
)
def test_the_same_training_gives_the_text_back(tmp_path, text):
    """Byte for byte, from a file of the length that the losses add up to; an odd last batch, rows in parallel."""
    tokens = of_bytes(text)
    ideal_bytes = compress(tokens, tmp_path / "data.bits")
    assert ideal_bytes - 1 < (tmp_path / "data.bits").stat().st_size < 1.0001 * ideal_bytes + 64
    assert bytes(decompress(tmp_path / "data.bits").tolist()) == text


def test_a_vocabulary_in_two_steps(tmp_path):
    """5,000 symbols."""
    tokens = torch.randint(5000, (150,), generator=torch.Generator().manual_seed(0))
    ideal_bytes = compress(tokens, tmp_path / "data.bits", symbols=5000)
    assert (tmp_path / "data.bits").stat().st_size < 1.0001 * ideal_bytes + 64
    assert torch.equal(decompress(tmp_path / "data.bits", symbols=5000), tokens)


def test_another_seed_is_noticed_at_the_first_check_value(tmp_path):
    """Before a byte of garbage is given out."""
    compress(of_bytes(TEXT[:200]), tmp_path / "data.bits")
    with pytest.raises(CoderError, match="decoding strays before step 0"):
        decompress(tmp_path / "data.bits", seed=1)


def test_a_nan_in_the_middle_is_no_end(tmp_path, monkeypatch):
    """A model that breaks has the uniform code from then on, on both sides."""
    learn = Training.learn

    def breaks(self, logits, targets):
        nats = learn(self, logits, targets)
        self.updates = getattr(self, "updates", 0) + 1
        if self.updates == 4:
            with torch.no_grad():
                self.model.head.bias[3] = float("nan")
        return nats

    monkeypatch.setattr(Training, "learn", breaks)
    compress(of_bytes(TEXT[:400]), tmp_path / "data.bits")
    assert bytes(decompress(tmp_path / "data.bits").tolist()) == TEXT[:400]


def test_a_killed_and_resumed_run_decodes(tmp_path):
    """Weights, optimiser and stream go back to the checkpoint together; the file is that of a run that sealed there."""
    tokens, path = of_bytes(TEXT[:700]), tmp_path / "data.bits"
    training, writer = Training(), begun(path, tokens)
    train(training, writer, tokens, 0, 6)
    checkpoint = copy.deepcopy((training.model.state_dict(), training.optimizer.state_dict())), writer.state_dict()
    train(training, writer, tokens, 6, 9)
    writer.seal()
    resumed, writer = Training(seed=5), BitstreamWriter.resume(path, checkpoint[1])
    resumed.model.load_state_dict(checkpoint[0][0])
    resumed.optimizer.load_state_dict(checkpoint[0][1])
    train(resumed, writer, tokens, 6)
    writer.close()
    assert bytes(decompress(path).tolist()) == TEXT[:700]


def test_writing_disturbs_nothing(tmp_path):
    """Weights and random states are the same with and without it."""
    tokens = of_bytes(TEXT[:480])
    plain, watched = Training(), Training()
    before = torch.get_rng_state()
    train(watched, begun(tmp_path / "data.bits", tokens), tokens)
    for targets in batches(tokens):
        plain.learn(plain.logits(targets), targets)
    assert torch.equal(torch.get_rng_state(), before)
    assert check_value(watched.model.parameters()) == check_value(plain.model.parameters())
