"""From logits to integer frequencies and back: equal tables on both sides, nothing uncodable, near the ideal."""

import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from prequential.coder import BitstreamReader, BitstreamWriter, check_value, frequencies, uniform_frequencies
from prequential.coder.frequencies import LARGEST_SINGLE_STEP, TOTAL, Tables, steps
from prequential.errors import CoderError

CHUNK = sys.modules["prequential.coder.frequencies"]._CHUNK
VOCABULARIES = [2, 3, 256, LARGEST_SINGLE_STEP, LARGEST_SINGLE_STEP + 1, 4096, 50_257, 70_000]


def seeded(*shape: int, scale: float = 3.0, seed: int = 0) -> torch.Tensor:
    """Normal logits."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def drawn(logits: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """One target a row, as the logits themselves would have it."""
    return torch.multinomial(logits.softmax(-1), 1, generator=torch.Generator().manual_seed(seed)).squeeze(-1)


def cost(pairs: torch.Tensor) -> torch.Tensor:
    """Bits that each token takes: 24 less the logarithm of the width, over all steps."""
    return (24 - pairs[..., 1].double().log2()).sum(-1)


def ideal(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The oracle: -log2 p in float64."""
    return F.cross_entropy(logits.double(), targets, reduction="none") / math.log(2)


def round_trip(path, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """What a reader makes of what a writer wrote."""
    writer = BitstreamWriter(path, symbols=logits.shape[-1])
    writer.write(frequencies(logits, targets))
    writer.close()
    reader = BitstreamReader(path)
    found = reader.read(logits)
    assert reader.steps_left == 0
    return found


FEW = st.integers(2, 40)


@st.composite
def rows(draw, vocabularies=FEW, most_rows=12):
    """Logits of any bits whatever, with ties and infinities, and any targets."""
    symbols, count = draw(vocabularies), draw(st.integers(0, most_rows))
    value = st.one_of(
        st.sampled_from([0.0, -0.0, 1.0, 88.0, -69.0, -1e30, 1e-40, math.inf, -math.inf, math.nan]),
        st.floats(-100, 100, width=32),
        st.floats(width=32),
    )
    few = draw(arrays.arrays("float32", (count, min(symbols, 40)), elements=value))
    logits = torch.from_numpy(few).repeat(1, -(-symbols // few.shape[1]))[:, :symbols].clone()
    targets = draw(st.lists(st.integers(0, symbols - 1), min_size=count, max_size=count))
    return logits, torch.tensor(targets, dtype=torch.int64)


# -- the table


@pytest.mark.parametrize("symbols", [2, 3, 7, 256, LARGEST_SINGLE_STEP])
def test_the_intervals_of_all_symbols_fill_the_table(symbols):
    """They follow one another without a gap from 1 to 2**24 - 1, each at least 1 wide."""
    pairs = frequencies(seeded(1, symbols, scale=20).expand(symbols, -1), torch.arange(symbols))[:, 0]
    left, width = pairs.long().unbind(-1)
    assert width.min() >= 1
    assert left[0] == 1
    assert torch.equal(left[1:], (left + width)[:-1])
    assert left[-1] + width[-1] == TOTAL - 1


@pytest.mark.parametrize("symbols", [LARGEST_SINGLE_STEP + 1, 4096, 5000])
def test_two_steps_fill_their_tables(symbols):
    """Groups fill the first table; the symbols of a group, with those that fill up the last one, fill the second."""
    groups, size = steps(symbols)
    pairs = frequencies(seeded(1, symbols).expand(symbols, -1), torch.arange(symbols)).long()
    first, second = pairs[::size, 0], pairs[:size, 1]
    for table, count in ((first, groups), (second, size)):
        assert len(table) == count
        assert table[:, 1].min() >= 1
        assert torch.equal(table[1:, 0], table.sum(1)[:-1])
        assert (table[0, 0], table[-1].sum()) == (1, TOTAL - 1)
    assert torch.equal(pairs[:, 0], first.repeat_interleave(size, 0)[:symbols])


@pytest.mark.parametrize("symbols", VOCABULARIES)
def test_a_row_has_one_table_alone_in_a_batch_and_in_chunks(symbols, monkeypatch):
    """Bit for bit: whole, row by row, seven rows a chunk, every other row, and as columns in memory."""
    count = 3 if symbols > 5000 else 61
    logits, targets = seeded(count, symbols, scale=5), torch.arange(count) * 7919 % symbols
    whole = frequencies(logits, targets)
    alone = torch.cat([frequencies(logits[i : i + 1], targets[i : i + 1]) for i in range(count)])
    single = torch.stack([frequencies(logits[i], targets[i]) for i in range(count)])
    columns = frequencies(logits.T.contiguous().T, targets)
    assert torch.equal(whole, alone)
    assert torch.equal(whole, single)
    assert torch.equal(whole, columns)
    assert torch.equal(whole[::2], frequencies(logits[::2], targets[::2]))
    monkeypatch.setitem(CHUNK, "cpu", 7 * symbols)
    assert torch.equal(whole, frequencies(logits, targets))


@given(rows())
def test_any_bits_whatever_have_one_table_alone_and_in_a_batch(case):
    """The same for infinities, NaN, subnormal numbers and ties."""
    logits, targets = case
    whole = frequencies(logits, targets)
    for i in range(len(logits)):
        assert torch.equal(whole[i], frequencies(logits[i], targets[i]))
    assert (whole[..., 1] >= 1).all()
    assert (whole[..., 0] >= 1).all()
    assert (whole.sum(-1) < TOTAL).all()


@pytest.mark.parametrize("symbols", VOCABULARIES)
@pytest.mark.parametrize("odd", ["nan", "inf", "-inf"])
def test_rows_that_are_no_distribution_have_the_uniform_code(symbols, odd):
    """A single NaN or +inf in a row, or -inf throughout: log2 V for whatever comes."""
    logits = seeded(4, symbols)
    logits[:, : symbols if odd == "-inf" else 1] = float(odd)
    targets = torch.tensor([0, 1, symbols // 2, symbols - 1])
    assert torch.equal(frequencies(logits, targets), uniform_frequencies(targets, symbols))
    assert torch.equal(frequencies(torch.zeros(4, symbols), targets), uniform_frequencies(targets, symbols))
    assert cost(uniform_frequencies(targets, symbols)).numpy() == pytest.approx(math.log2(symbols), abs=1e-4)


def test_one_symbol_costs_nothing():
    """A vocabulary of one symbol: a ten-millionth of a bit."""
    assert cost(frequencies(seeded(1, 1), torch.zeros(1, dtype=torch.int64))).item() < 1e-6


@pytest.mark.parametrize(("symbols", "most"), [(256, 24), (50_257, 48)])
@pytest.mark.parametrize("low", [-69.0, -1e4, -math.inf])
def test_the_most_unlikely_symbol_can_be_coded(symbols, most, low):
    """Probabilities of 1e-30, of exp(-10000) and of 0 cost at most 24 bits a step."""
    logits = torch.full((1, symbols), low)
    logits[0, 7] = 0.0
    assert 20 < cost(frequencies(logits, torch.tensor([symbols - 1]))).item() <= most
    assert cost(frequencies(logits, torch.tensor([7]))).item() < 1e-3


def all_costs(row: torch.Tensor) -> torch.Tensor:
    """Bits that each symbol would take, from the tables that a decoder searches."""
    tables, symbols = Tables(row.unsqueeze(0)), len(row)
    bits = 24 - tables.first().edges()[0].diff().double().log2()
    if tables.groups == 1:
        return bits
    group = torch.arange(tables.groups)
    within = 24 - tables.second(torch.zeros_like(group), group).edges().diff(dim=1).double().log2()
    return (bits.unsqueeze(1) + within).flatten()[:symbols]


@pytest.mark.parametrize("symbols", [2, 256, 4096, 50_257])
@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
def test_the_expected_cost_is_the_entropy(symbols, scale):
    """Weighted by float64 probabilities, the tables cost little more than the least widths that all symbols have."""
    logits = seeded(symbols, scale=scale)
    p, bits = logits.double().softmax(0), all_costs(logits)
    least = sum(steps(symbols)) / TOTAL / math.log(2)
    assert -1e-9 < (p * (bits + p.log2())).sum().item() < 1.5 * least
    some = torch.arange(0, symbols, max(1, symbols // 20))
    assert torch.equal(bits[some], cost(frequencies(logits.expand(len(some), -1), some)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_are_taken_as_float32(dtype):
    """Half-precision logits are the float32 numbers they stand for; targets may be of any integer type."""
    logits, targets = seeded(9, 11).to(dtype), torch.arange(9)
    expected = frequencies(logits.float(), targets)
    for integer in (torch.int64, torch.int32, torch.uint8):
        assert torch.equal(frequencies(logits, targets.to(integer)), expected)


@pytest.mark.parametrize("symbols", [256, 5000])
def test_nothing_is_read_on_the_host(symbols):
    """Tensors without values go through: no size and no branch depends on one, so that nothing waits for a device."""
    logits, targets = torch.empty(4, symbols, device="meta"), torch.empty(4, dtype=torch.int64, device="meta")
    assert frequencies(logits, targets).device.type == "meta"
    assert uniform_frequencies(targets, symbols).device.type == "meta"
    assert check_value([logits, targets]).device.type == "meta"


def test_an_autocast_region_and_a_graph_change_nothing():
    """The same table under autocast, in inference mode, and of logits that carry a graph."""
    logits, targets = seeded(9, 300), torch.arange(9)
    expected = frequencies(logits, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(frequencies(logits, targets), expected)
    with torch.inference_mode():
        assert torch.equal(frequencies(logits, targets), expected)
    found = frequencies(logits.clone().requires_grad_(), targets)
    assert torch.equal(found, expected)
    assert not found.requires_grad


def test_leading_shapes_stay():
    """(rows, positions, V) gives (rows, positions, steps, 2), so that small integers are transposed, not logits."""
    logits, targets = seeded(2, 5, 11), torch.arange(10).view(2, 5)
    assert frequencies(logits, targets).shape == (2, 5, 1, 2)
    assert torch.equal(frequencies(logits, targets)[1, 3], frequencies(logits[1, 3], targets[1, 3]))
    assert frequencies(seeded(2, 5, 2000), targets).shape == (2, 5, 2, 2)
    assert uniform_frequencies(targets, 2000).shape == (2, 5, 2, 2)
    assert frequencies(seeded(0, 11), torch.empty(0, dtype=torch.int64)).shape == (0, 1, 2)


@pytest.mark.parametrize("symbols", [5, 2000])
def test_weights_are_exponentials_and_sums_are_exact(symbols):
    """Each weight is 2**36 exp(logit - greatest) to 1e-5, by float64; sums are those of Python's integers."""
    logits = seeded(3, symbols, scale=2)
    tables = Tables(logits)
    weights = tables.weights.flatten(1)
    expected = 2.0**36 * (logits - logits.amax(1, keepdim=True)).double().exp()
    assert weights[:, :symbols].numpy() == pytest.approx(expected.numpy(), rel=1e-5, abs=3)
    assert not weights[:, symbols:].any()
    for row, sums in zip(weights.tolist(), tables.first().sums.tolist(), strict=True):
        size = 1 if tables.groups == 1 else tables.size
        assert sums == [sum(row[:i]) for i in range(0, len(row) + 1, size)]


# -- round trips


@given(case=rows())
def test_whatever_is_written_is_read(tmp_path_factory, case):
    """Any logits and any targets, by the whole batch and row by row."""
    path = tmp_path_factory.mktemp("bits") / "data.bits"
    logits, targets = case
    assert torch.equal(round_trip(path, logits, targets), targets)
    reader = BitstreamReader(path)
    for row, target in zip(logits, targets, strict=True):
        assert reader.read(row) == target


@settings(max_examples=15)
@given(case=rows(st.sampled_from([1023, 1024, 1025, 4096, 50_257, 70_000]), most_rows=4))
def test_large_vocabularies_come_back(tmp_path_factory, case):
    """The same in two steps."""
    logits, targets = case
    assert torch.equal(round_trip(tmp_path_factory.mktemp("bits") / "data.bits", logits, targets), targets)


@pytest.mark.parametrize("symbols", [2, 256, 2000])
def test_uncoded_and_ignored_tokens(tmp_path, symbols):
    """The uniform code for some, nothing at all for the ignore index, and numbers of another range between them."""
    targets = torch.arange(30) % symbols
    known = torch.where(torch.arange(30) % 3 == 0, -100, targets)
    logits = seeded(30, symbols)
    writer = BitstreamWriter(tmp_path / "data.bits", symbols=symbols)
    writer.write(uniform_frequencies(targets, symbols))
    writer.write(frequencies(logits, known))
    writer.write(uniform_frequencies(torch.tensor([999, 0]), 1000))
    writer.close()
    reader = BitstreamReader(tmp_path / "data.bits")
    assert torch.equal(reader.read_uniform(30), targets)
    assert torch.equal(reader.read(logits[known >= 0]), targets[known >= 0])
    assert torch.equal(reader.read_uniform(2, 1000), torch.tensor([999, 0]))
    with pytest.raises(CoderError, match="has 0 steps of its code left, and 1 were asked for"):
        reader.read(logits[:1])


def test_nothing_is_a_whole_file(tmp_path):
    """No token at all: header and end."""
    assert round_trip(tmp_path / "data.bits", seeded(0, 256), torch.empty(0, dtype=torch.int64)).tolist() == []
    assert (tmp_path / "data.bits").stat().st_size == 28


# -- length


@pytest.mark.parametrize(("symbols", "count"), [(2, 200_000), (256, 100_000), (4096, 5000), (50_257, 400)])
def test_the_file_is_as_long_as_the_ideal(tmp_path, symbols, count):
    """Within 0.01 % and 64 bytes of the float64 code length, from both sides, where a token has 3 bits and more."""
    logits = seeded(count, symbols, scale=1.0)
    targets = drawn(logits)
    writer = BitstreamWriter(tmp_path / "data.bits", symbols=symbols)
    writer.write(frequencies(logits, targets))
    writer.close()
    expected = ideal(logits, targets).sum().item() / 8
    allowed = 1e-4 * expected + 64 if symbols > 2 else 1.3e-4 * count / 8 + 64  # a step costs 1.3e-4 bits in any case
    assert expected - 1e-4 * expected < (tmp_path / "data.bits").stat().st_size < expected + allowed
    assert writer.frequency_bits / 8 == pytest.approx(expected, rel=2e-5)
    assert writer.bytes_written == (tmp_path / "data.bits").stat().st_size


# -- the package that codes


def test_the_coder_takes_intervals_as_they_are():
    """Random tables: a target coded as the middle one of three symbols is decoded under the whole table."""
    from prequential.coder.ranges import Decoder, Encoder

    logits = seeded(500, 300, scale=8)
    targets = torch.arange(500) % 300
    encoder = Encoder()
    encoder.encode(frequencies(logits, targets)[:, 0].numpy())
    decoder = Decoder(encoder.seal(), 500)
    edges = Tables(logits).first().edges().numpy()
    assert torch.equal(torch.from_numpy(decoder.decode(edges)).long(), targets)


def test_other_logits_are_noticed_or_decode_to_something_else(tmp_path):
    """Nothing but a check value tells garbage from data for sure; what can be seen is said in one line."""
    logits, targets = seeded(2000, 1030, scale=8), torch.arange(2000) % 1030
    round_trip(tmp_path / "data.bits", logits, targets)
    with pytest.raises(CoderError, match="does not decode: expected the logits") as caught:
        BitstreamReader(tmp_path / "data.bits").read(seeded(2000, 1030, seed=1, scale=8))
    assert "\n" not in str(caught.value)


def test_a_symbol_that_only_fills_up_a_group_is_no_token(tmp_path):
    """A stream that points at one is refused: it was not written with these logits."""
    writer = BitstreamWriter(tmp_path / "data.bits", symbols=1030)
    pair = uniform_frequencies(torch.tensor([1029]), 1030)
    pair[0, 1] = torch.tensor([TOTAL - 2, 1])
    writer.write(pair)
    writer.close()
    with pytest.raises(CoderError, match="does not decode"):
        BitstreamReader(tmp_path / "data.bits").read_uniform(1)


def test_without_the_package_the_error_says_what_to_install(tmp_path, monkeypatch):
    """And no file is begun."""
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(CoderError, match=r'pip install "prequential\[bitstream\]"'):
        BitstreamWriter(tmp_path / "data.bits", symbols=256)
    assert list(tmp_path.iterdir()) == []


def test_frequencies_do_not_load_the_package():
    """Only a bitstream does."""
    code = "import sys, prequential.coder; assert 'constriction' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
