"""Weights learnt before: no false alarm on fresh ones, found where they were trained, hashed and priced exactly."""

import hashlib
import itertools
import lzma
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import nn
from torch.nn.utils import parametrizations
from toys import Toy, loader

from prequential import CompressionMonitor, Recording, compare, load_run
from prequential.cli import main
from prequential.errors import ComparisonError, MeasureError
from prequential.weights import check_rule, evidence_of_training, find_weights, price, weights_sha256
from prequential.weights.evidence import FALSE_ALARM, _chance_of_groups, _ranks, _sample, chance
from prequential.weights.pricing import _RULES

STORIES = Path(__file__).parents[2] / "shared" / "data" / "weights" / "stories260k-llama2c.bin"

STARTS = {
    "uniform": nn.init.uniform_,
    "normal": nn.init.normal_,
    "truncated": lambda w: nn.init.trunc_normal_(w, std=0.02),
    "truncated hard": lambda w: nn.init.trunc_normal_(w, std=1.0, a=-0.5, b=0.5),
    "constant": lambda w: nn.init.constant_(w, 0.3),
    "ones": nn.init.ones_,
    "zeros": nn.init.zeros_,
    "identity": nn.init.eye_,
    "xavier uniform": nn.init.xavier_uniform_,
    "xavier normal": nn.init.xavier_normal_,
    "kaiming uniform": lambda w: nn.init.kaiming_uniform_(w, a=math.sqrt(5)),
    "kaiming normal": nn.init.kaiming_normal_,
    "orthogonal": nn.init.orthogonal_,
    "sparse": lambda w: nn.init.sparse_(w, sparsity=0.3),
    "very sparse": lambda w: nn.init.sparse_(w, sparsity=0.9),
    "sparse by chance": lambda w: nn.init.normal_(w).mul_(torch.rand(w.shape) < 0.05),
    "identity and noise": lambda w: w.copy_(torch.eye(*w.shape) + 0.01 * torch.randn(w.shape)),
    "heavy tails": lambda w: w.cauchy_(),
    "signs": lambda w: w.bernoulli_(0.5).sub_(0.5),
    "unit rows": lambda w: w.copy_(F.normalize(torch.randn_like(w), dim=1)),
    "half precision": lambda w: w.copy_(torch.randn_like(w).bfloat16()),
    "padding row": lambda w: nn.init.normal_(w)[0].zero_(),
    "zero rows and columns": lambda w: nn.init.normal_(w)[: len(w) // 2].zero_(),
    "rows in fours": lambda w: w.copy_(torch.randn(-(-len(w) // 4), w.shape[1]).repeat_interleave(4, 0)[: len(w)]),
}
SHAPES = [(1, 40), (2, 8), (4, 4), (3, 100), (100, 3), (16, 16), (64, 10), (256, 16), (128, 128), (300, 200)]


def drawn(start, shape):
    weight = torch.empty(shape)
    with torch.no_grad():
        STARTS[start](weight)
    return weight


@pytest.mark.parametrize("start", STARTS)
def test_no_start_looks_trained(start):
    """Over 2,000 matrices in all; small probabilities are no more frequent than four tests a matrix make them."""
    torch.manual_seed(0)
    chances = torch.tensor([chance(_sample(drawn(start, shape))) for shape in SHAPES for _ in range(10)])
    assert chances.min() > 1e-7
    assert (chances < 0.01).double().mean() <= 0.04 + 3 * math.sqrt(0.04 * 0.96 / len(chances))


def test_the_statistic_is_that_of_the_textbook():
    """By rank sums, ``12 / (N (N + 1)) * sum R**2 / n - 3 (N + 1)``; for three groups chi-squared is exponential."""
    matrix = torch.tensor([[1.0, 2.0, 9.0, 4.0], [11.0, 5.0, 12.0, 10.0], [3.0, 8.0, 7.0, 6.0]])
    sums = [16, 38, 24]
    statistic = 12 / (12 * 13) * sum(r * r / 4 for r in sums) - 3 * 13
    assert _chance_of_groups(_ranks(matrix), 0) == pytest.approx(math.exp(-statistic / 2), rel=1e-12)


def test_entries_of_one_size_tell_nothing():
    """As signs have: no spread to divide by."""
    assert _chance_of_groups(_ranks(torch.ones(3, 4)), 0) == 1.0


def test_equal_values_share_their_mean_rank():
    """As in the textbook."""
    assert _ranks(torch.tensor([[5.0, 1.0], [5.0, 7.0]])).tolist() == [[2.5, 1.0], [2.5, 4.0]]


class Tied(nn.Module):
    """A language model's usual start: tied ends, padding, residual branches scaled down, an output of zeros."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(300, 32, padding_idx=0)
        self.block = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 32))
        nn.init.normal_(self.block[3].weight, std=0.02 / math.sqrt(24))
        self.gate = nn.Linear(32, 32)
        nn.init.zeros_(self.gate.weight)
        self.head = nn.Linear(32, 300, bias=False)
        self.head.weight = self.embedding.weight


class WithTeacher(nn.Module):
    """A frozen copy of what learns, as large as that."""

    def __init__(self):
        super().__init__()
        self.student, self.teacher = nn.Linear(64, 64), nn.Linear(64, 64).requires_grad_(False)


def convolutions():
    """As in DCGAN: batch norms drawn at random, and a forward pass in the constructor to learn a shape."""
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.ConvTranspose2d(16, 8, 3))
    nn.init.normal_(model[1].weight, 1.0, 0.02)
    model(torch.randn(2, 3, 8, 8))
    return model


def identity_convolution():
    model = nn.Sequential(nn.Conv2d(8, 32, 3))
    nn.init.dirac_(model[0].weight)
    return model


def sinusoids(length, width):
    angles = torch.arange(length)[:, None] * 10000 ** (-torch.arange(0, width, 2) / width)
    return torch.cat([angles.sin(), angles.cos()], 1)


def positions():
    return nn.Sequential(nn.Embedding.from_pretrained(sinusoids(200, 64), freeze=True), nn.Linear(64, 8))


FRESH = {
    "transformer": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64), 2, enable_nested_tensor=False),
    "attention": lambda: nn.MultiheadAttention(32, 4),
    "recurrent": lambda: nn.Sequential(nn.Embedding(99, 16), nn.LSTM(16, 32, 2)),
    "tied": Tied,
    "convolutions": convolutions,
    "identity convolution": identity_convolution,
    "sinusoids": positions,
    "teacher": WithTeacher,
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(64, 64)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(64, 64)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(64, 64)),
    "lazy": lambda: nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d()),
    "meta": lambda: nn.Linear(64, 64, device="meta"),
    "half": lambda: nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64)).bfloat16(),
    "empty": nn.Identity,
}


@pytest.mark.parametrize("build", FRESH.values(), ids=FRESH)
def test_fresh_modules_raise_no_alarm(build):
    """Whatever a constructor usually does, and neither weights nor random state are touched."""
    for seed in range(20):
        torch.manual_seed(seed)
        module = build()
        state = torch.get_rng_state()
        assert evidence_of_training(module) is None
        assert find_weights(module) is None
        assert torch.equal(state, torch.get_rng_state())


# -- trained ----------------------------------------------------------------------------------------------------------


def batches(count):
    """Contexts of 4 tokens of a text and the token behind each."""
    text = torch.tensor(list(b"to be, or not to be: that is the question. whether 'tis nobler in the mind " * 4))
    for _ in range(count):
        starts = torch.randint(len(text) - 5, (64,))
        yield torch.stack([text[s : s + 4] for s in starts]), text[starts + 4]


def trained(model, steps, optimizer=torch.optim.SGD, lr=0.2):
    learning = optimizer([p for p in model.parameters() if p.requires_grad], lr=lr)
    for inputs, targets in batches(steps):
        learning.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        learning.step()
    return model


def plain(width=32):
    """A language model without normalisation."""
    torch.manual_seed(0)
    hidden = nn.Sequential(nn.Linear(4 * width, 64), nn.ReLU())
    return nn.Sequential(nn.Embedding(128, width), nn.Flatten(), *hidden, nn.Linear(64, 128))


@pytest.mark.parametrize(("optimizer", "lr"), [(torch.optim.SGD, 0.2), (torch.optim.AdamW, 1e-3)])
def test_two_hundred_steps_show_without_any_normalisation(optimizer, lr):
    """By rows and columns of the matrices alone."""
    found = evidence_of_training(trained(plain(), 200, optimizer, lr))
    assert "4.weight" in found.names
    assert "matrices whose rows or columns differ more than fresh ones (" in found.why


def test_one_step_shows_in_a_layer_norm():
    """Its vectors are constant before and not after."""
    model = nn.Sequential(plain(), nn.LayerNorm(128))
    assert evidence_of_training(model) is None
    found = evidence_of_training(trained(model, 1))
    assert found.names == ("1.bias", "1.weight")
    assert found.why == (
        "weights look learnt before the run: 2 normalisation vectors that are not constant (1.weight, 1.bias)"
    )


def test_it_is_the_order_of_entries_that_tells():
    """The same entries, shuffled, look fresh."""
    weight = trained(plain(), 200)[4].weight.detach()
    shuffled = weight.flatten()[torch.randperm(weight.numel())].view(weight.shape)
    assert chance(_sample(weight)) < FALSE_ALARM < 1e-4 < chance(_sample(shuffled))


def test_running_statistics_count_batches():
    """Ten are a dry run, eleven are not; without a count, means that vary are enough."""
    module = nn.BatchNorm1d(4)
    for _ in range(10):
        module(torch.randn(8, 4))
    assert evidence_of_training(module) is None
    module(torch.randn(8, 4))
    assert evidence_of_training(module).names == ("running_mean",)
    module.num_batches_tracked.zero_()
    assert "running statistics of more than a dry run (running_mean)" in evidence_of_training(module).why


def test_a_new_head_on_a_frozen_body_shows():
    """The body by its values, and as the larger part that does not learn."""
    model = trained(plain(), 200)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model[4] = nn.Linear(64, 16)
    found = evidence_of_training(model)
    assert "frozen parameters, the larger part of all (0.weight, 2.weight, 2.bias)" in found.why
    assert "4.weight" not in found.names
    assert evidence_of_training(model[4]) is None


class LowRank(nn.Module):
    """A frozen layer with a low-rank change beside it, the second factor at zero."""

    def __init__(self, base):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down, self.up = nn.Linear(64, 4, bias=False), nn.Linear(4, 128, bias=False)
        nn.init.zeros_(self.up.weight)


def test_low_rank_adapters_show():
    """Whatever the frozen part looks like, be it quantised."""
    module = LowRank(nn.Linear(64, 128))
    assert evidence_of_training(module).names == ("base.bias", "base.weight")
    module.base.weight = nn.Parameter(torch.randint(255, (4096, 1), dtype=torch.uint8), requires_grad=False)
    assert evidence_of_training(module).names == ("base.bias", "base.weight")


def test_weights_of_a_real_model_show_in_most_matrices():
    """Stories260K, its matrices as linear layers, without its norms: format of llama2.c."""
    if not STORIES.exists():
        pytest.skip("the trained weights are not there")
    raw = STORIES.read_bytes()
    width, hidden, layers, heads, kv_heads, vocabulary, _ = struct.unpack("7i", raw[:28])
    values = torch.from_numpy(np.frombuffer(raw[28:], dtype=np.float32).copy())
    narrow = width * kv_heads // heads
    shapes = [(vocabulary, width), (layers, width), *[(width, width)] * layers, *[(narrow, width)] * 2 * layers]
    shapes += [*[(width, width)] * layers, (layers, width)]
    shapes += [*[(hidden, width)] * layers, *[(width, hidden)] * layers, *[(hidden, width)] * layers]
    pieces = values[: sum(map(math.prod, shapes))].split([math.prod(shape) for shape in shapes])
    kept = [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True) if shape[0] != layers]
    model = nn.Sequential(*(nn.Linear(*matrix.shape[::-1], bias=False) for matrix in kept))
    assert evidence_of_training(model) is None
    for layer, matrix in zip(model, kept, strict=True):
        layer.weight.data = matrix
    found = evidence_of_training(model)
    assert len(kept) == 36
    assert len(found.names) >= 30  # the gates, and one narrow value matrix, are above 1e-12


def hugging_face():
    transformers = pytest.importorskip("transformers")
    small = {"vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2}
    gpt2 = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=32, n_positions=32, **small)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    llama = transformers.LlamaConfig(**sizes, **small)
    return {"gpt2": transformers.GPT2LMHeadModel(gpt2), "llama": transformers.LlamaForCausalLM(llama)}


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_hugging_face_models(name):
    """Fresh from a configuration, be it one with a path; then saved after a step and loaded again."""
    import transformers

    model = hugging_face()[name]
    assert evidence_of_training(model) is None
    model(input_ids=torch.arange(16)[None], labels=torch.arange(16)[None]).loss.backward()
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    model.save_pretrained("saved")
    config = transformers.AutoConfig.from_pretrained("saved")
    assert evidence_of_training(transformers.AutoModelForCausalLM.from_config(config)) is None
    loaded = transformers.AutoModelForCausalLM.from_pretrained("saved")
    assert "look learnt before the run: " in evidence_of_training(loaded).why
    assert weights_sha256(loaded) == weights_sha256(model)


def test_the_mark_of_from_pretrained_is_enough():
    """Transformers 5 leaves it at parameters that it loaded, not at a new head."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[0].weight._is_hf_initialized = True
    found = evidence_of_training(model)
    assert found == (("0.weight",), "weights look learnt before the run: 1 loaded by transformers (0.weight)")


def test_what_is_documented_as_a_false_alarm_has_a_way_out():
    """Normalisation drawn at random looks trained, unless it is said to be fresh."""
    module = nn.LayerNorm(8)
    nn.init.normal_(module.weight)
    assert find_weights(module).evidence.endswith("(weight)")
    assert find_weights(module, "fresh") is None


# -- hash and price ---------------------------------------------------------------------------------------------------


def small():
    """Eight parameters, and three buffers of which one is not kept."""
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, affine=False))
    module.register_buffer("scratch", torch.ones(5), persistent=False)
    with torch.no_grad():
        module[0].weight.copy_(torch.arange(6.0).view(2, 3))
        module[0].bias.copy_(torch.tensor([6.0, 7.0]))
    return module


def test_the_hash_is_that_of_names_types_shapes_and_bytes():
    """Written out by hand for a small module."""
    expected = hashlib.sha256(
        b"0.bias torch.float32 (2,)\n" + struct.pack("<2f", 6, 7) + b"0.weight torch.float32 (2, 3)\n"
        b""
        + struct.pack("<6f", 0, 1, 2, 3, 4, 5)
        + b"1.num_batches_tracked torch.int64 ()\n"
        + struct.pack("<q", 0)
        + b"1.running_mean torch.float32 (2,)\n"
        + struct.pack("<2f", 0, 0)
        + b"1.running_var torch.float32 (2,)\n"
        + struct.pack("<2f", 1, 1)
    )
    assert weights_sha256(small()) == expected.hexdigest()


def test_the_hash_sees_every_change_and_nothing_else():
    """One bit, type, shape or name; but neither layout in memory, nor compilation, nor what is not kept."""
    module = small()
    same = weights_sha256(module)
    module.scratch.zero_()
    assert weights_sha256(torch.compile(module)) == weights_sha256(module) == same
    turned = small()
    turned[0].weight.data = turned[0].weight.data.t().contiguous().t()
    assert weights_sha256(turned) == same
    ulp = small()
    ulp[0].weight.data[0, 1] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    half, reshaped = small().bfloat16(), small()
    reshaped[0].weight.data = reshaped[0].weight.data.view(3, 2)
    renamed = nn.Sequential(nn.Identity(), *small())
    assert len({same, *map(weights_sha256, (ulp, half, reshaped, renamed))}) == 5


def test_large_tensors_are_hashed_in_parts(monkeypatch):
    """The parts make no difference."""
    whole = weights_sha256(plain())
    monkeypatch.setattr("prequential.weights.pricing._CHUNK", 1000)
    assert weights_sha256(plain()) == whole


def test_prices_of_a_small_module():
    """By hand: 8 parameters, 32 bytes of them, 24 bytes of running statistics."""
    module = small()
    assert (price(module, "2 bytes a parameter").bytes, price(module, "bytes").bytes) == (16, 32 + 24)
    assert price(small().bfloat16(), "bytes").bytes == 16 + 4 + 4 + 8
    priced = price(module, "2 bytes a parameter")
    assert priced.charges == {"weights, 2 bytes a parameter": 128.0}
    assert (priced.parameters, priced.evidence, priced.sha256) == (8, None, weights_sha256(module))


def test_tied_parameters_are_paid_once():
    """Two names for one tensor."""
    model = Tied()
    assert price(model, "bytes").bytes == 4 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("millions", "raw", "adjusted"), [(3.2, 17.0, 17.7), (7000, 8.9, 1408.9), (70000, 8.3, 14008.3)]
)
def test_two_bytes_a_parameter_are_what_was_published(millions, raw, adjusted):
    """Deletang et al. 2023, table 1: rates on the 10**9 bytes of enwik9, in percent, without and with parameters."""
    module = nn.Embedding(int(millions * 10), 100_000, device="meta")
    assert raw + 100 * _RULES["2 bytes a parameter"](module) / 1e9 == pytest.approx(adjusted, abs=0.1)


def test_xz_is_that_of_the_bytes_in_one_piece():
    """Of the module, and of a file."""
    module = plain()
    whole = b"".join(tensor.detach().numpy().tobytes() for _, tensor in sorted(module.named_parameters()))
    assert price(module, "xz").bytes == len(
        lzma.compress(whole, preset=9 | lzma.PRESET_EXTREME, check=lzma.CHECK_CRC32)
    )
    Path("model.bin").write_bytes(bytes(10_000))
    priced = price(module, "model.bin")
    assert priced.bytes == len(lzma.compress(bytes(10_000), preset=9 | lzma.PRESET_EXTREME, check=lzma.CHECK_CRC32))
    assert list(priced.charges) == ["weights, xz of model.bin"]


def test_weights_that_are_found_are_hashed_but_not_priced():
    """The result is conditional on them."""
    model = trained(plain(), 200)
    found = find_weights(model)
    assert (found.bytes, found.rule, found.charges) == (None, None, {})
    assert found.sha256 == weights_sha256(model)
    assert found.record()["parameters"] == sum(p.numel() for p in itertools.chain(model.parameters()))


def test_an_unknown_rule_is_refused():
    """With the rules there are."""
    with pytest.raises(
        MeasureError, match="expected weights to be 'fresh', '2 bytes a parameter', 'bytes', 'xz' or the"
    ):
        check_rule("3 bytes")


# -- in a run ---------------------------------------------------------------------------------------------------------

pretrained = pytest.mark.filterwarnings("ignore::prequential.errors.PrequentialWarning")


class Normed(Toy):
    """A toy whose first step shows in a layer norm."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(20)

    def forward(self, inputs):
        return self.norm(super().forward(inputs))


def recorded(trainer_of, module, folder, **options):
    trainer_of(CompressionMonitor(bundle=None, ledger=folder, **options)).fit(module, loader())
    return load_run(folder)


def fitted(trainer_of):
    """A module after a first run, on record as fresh."""
    torch.manual_seed(0)
    module = Normed()
    first = recorded(trainer_of, module, "first")
    assert (first.header["weights"], first.given_weights, first.events) == (None, None, [])
    return first, module


@pretrained
def test_a_run_from_trained_weights_is_conditional_and_says_so(trainer_of):
    """In the header, as an event, in the summary, on the balance sheet, and to whoever compares."""
    first, module = fitted(trainer_of)
    sha256 = weights_sha256(module)
    run = recorded(trainer_of, module, "second")
    assert run.given_weights == run.header["weights"]["sha256"] == sha256
    assert run.header["weights"]["parameters"] == 20 * 8 + 8 * 20 + 20 + 40
    (event,) = run.events
    assert event["event"] == "pretrained"
    assert "normalisation vectors that are not constant (norm.weight, norm.bias)" in event["message"]
    assert "the data given these weights, as for a fit that resumes; price them with weights=" in event["message"]
    assert run.length == "K(D | \u03b80)"
    assert run.summary()[1].startswith("K(D | \u03b80), grade ideal")
    shown = " ".join(CliRunner().invoke(main, ["show", "second"]).output.split())
    assert "length K(D | \u03b80)" in shown
    assert f"given weights {sha256}" in shown
    with pytest.raises(ComparisonError, match=f"same given weights, got none in first and {sha256} in second: price"):
        compare([first, run])


@pretrained
def test_priced_weights_are_a_charge(trainer_of):
    """16 bits a parameter on top of the same sum, and the result is conditional no longer."""
    first, module = fitted(trainer_of)
    run = recorded(trainer_of, module, "second", weights="2 bytes a parameter", charges={"best of 2": 1.0})
    assert run.charges == {"best of 2": 1.0, "weights, 2 bytes a parameter": 16.0 * 380}
    assert (run.given_weights, run.events) == (None, [])
    assert run.measured()["choice_bits"] == 16 * 380 + 1
    assert run.header["weights"]["evidence"].startswith("weights look learnt before the run")
    assert "charges 760.1" in run.summary()[0]
    assert {row.name for row in compare([first, run]).rows} == {"first", "second"}


def test_weights_may_be_declared_fresh(trainer_of):
    """On record, without a look at them."""
    module = Normed()
    nn.init.normal_(module.norm.weight)
    run = recorded(trainer_of, module, "run", weights="fresh")
    assert (run.header["weights"], run.given_weights, run.events) == ({"rule": "fresh"}, None, [])


@pretrained
def test_layers_that_mix_rows_are_an_event(trainer_of):
    """With the modes in the header."""

    class Mixed(Toy):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(20)
            self.dropout = nn.Dropout(0.25)

        def forward(self, inputs):
            return self.dropout(self.norm(super().forward(inputs).transpose(1, 2)).transpose(1, 2))

    run = recorded(trainer_of, Mixed(), "run")
    assert run.header["modes"] == {"training": True, "dropout": [0.25], "cross_row": ["norm"]}
    assert [event["event"] for event in run.events] == ["cross_row"]


@pretrained
def test_a_loop_names_its_module():
    """Without one nothing is said, and nothing can be priced."""
    model = trained(nn.Sequential(plain(), nn.LayerNorm(128)), 1)

    def loop(folder, **options):
        with Recording(folder, bundle=None, **options) as recording:
            for inputs, targets in batches(2):
                with recording.batch(targets):
                    F.cross_entropy(model(inputs), targets)
                recording.step()
        return recording.run

    assert loop("named", module=model).given_weights == weights_sha256(model)
    assert loop("unnamed").header["weights"] is None
    with pytest.raises(MeasureError, match="expected a module whose weights to price, got none with weights='bytes'"):
        loop("unpriced", weights="bytes")
    with pytest.raises(MeasureError, match="got 'three bytes': name a rule"):
        CompressionMonitor(weights="three bytes")


def test_a_search_that_fails_stops_nothing(trainer_of, monkeypatch):
    """It warns, and the run is recorded."""

    def fails(module, rule):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr("prequential.integrations.start.find_weights", fails)
    with pytest.warns(UserWarning, match="whether weights were learnt before was not looked for: RuntimeError"):
        run = recorded(trainer_of, Toy(), "run")
    assert (run.status, run.header["weights"]) == ("completed", None)
