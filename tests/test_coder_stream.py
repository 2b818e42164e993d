"""The bitstream's file: cut back, killed, damaged, cut off, foreign; and the check values beside it."""

import hashlib

import pytest
import torch

from prequential.coder import (
    BitstreamReader,
    BitstreamWriter,
    check_value,
    checks_path,
    frequencies,
    uniform_frequencies,
)
from prequential.coder import writer as writing
from prequential.coder.stream import FRAME, HEADER, MAGIC, read_layout
from prequential.errors import CoderError

SYMBOLS = 256
LOGITS = torch.randn(300, SYMBOLS, generator=torch.Generator().manual_seed(0))
TARGETS = torch.arange(300) * 7 % SYMBOLS


@pytest.fixture
def path(tmp_path):
    """Where a bitstream is written."""
    return tmp_path / "data.bits"


def write(writer: BitstreamWriter, begin: int, end: int) -> None:
    """Tokens of a range, as one micro-batch."""
    writer.write(frequencies(LOGITS[begin:end], TARGETS[begin:end]))


def written(path, *seals: int) -> bytes:
    """A whole file of segments up to each of some tokens."""
    writer = BitstreamWriter(path, symbols=SYMBOLS)
    for begin, end in zip((0, *seals), seals, strict=False):
        write(writer, begin, end)
        writer.seal()
    writer.close()
    return path.read_bytes()


def refused(path, **options) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(CoderError) as caught:
        BitstreamReader(path, **options)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


# -- what a file holds


def test_segments_are_invisible_to_the_reader(path):
    """Three segments and one: the same tokens, in one call or many, at some 20 bytes a segment."""
    one = len(written(path, 300))
    three = len(written(path, 100, 101, 300))
    assert 24 <= three - one <= 48
    reader = BitstreamReader(path)
    assert torch.equal(reader.read(LOGITS), TARGETS)
    reader = BitstreamReader(path)
    assert torch.equal(torch.cat([reader.read(LOGITS[i : i + 70]) for i in range(0, 300, 70)]), TARGETS)
    assert (reader.ended, reader.steps_left, reader.symbols) == (True, 0, SYMBOLS)


def test_a_long_segment_is_sealed_by_itself(path, monkeypatch):
    """So that memory does not grow with the run; a token of two steps lies in one segment."""
    monkeypatch.setattr(writing, "SEGMENT_BYTES", 100)
    logits, targets = torch.zeros(200, 2000), torch.arange(200) * 9
    writer = BitstreamWriter(path, symbols=2000)
    for i in range(0, 200, 3):
        writer.write(frequencies(logits[i : i + 3], targets[i : i + 3]))
        writer.flush()
    writer.close()
    segments = read_layout(path).segments
    assert len(segments) > 2
    assert all(4 * segment.words < 120 for segment in segments)
    assert torch.equal(BitstreamReader(path).read(logits), targets)


def test_bytes_follow_from_the_format(path):
    """16 of header, 12 a frame, whole words, 12 of end; the code is little-endian and depends on nothing else."""
    content = written(path, 300)
    words, steps, _ = FRAME.unpack_from(content, HEADER.size)
    assert content.startswith(MAGIC)
    assert (len(content), steps) == (16 + 12 + 4 * words + 12, 300)
    assert hashlib.sha256(content).hexdigest() == hashlib.sha256(written(path, 300)).hexdigest()


def test_this_version_writes_what_it_always_wrote(path):
    """A changed byte is a changed format: uniform bytes, so that no random number stands behind them."""
    writer = BitstreamWriter(path, symbols=256)
    writer.write(uniform_frequencies(torch.arange(16) * 16, 256))
    writer.close()
    assert path.read_bytes().hex() == (
        "707271626974730a0100180000010000"  # magic, format 1, precision 24, 256 symbols
        "050000001000000004dc3928"  # 5 words, 16 steps, checksum
        "20211000cedfbf1ffd9eafbf7da0e0de0303325f"
        "0000000000000000028acf5f"
    )


# -- killed, resumed


def test_a_killed_run_leaves_what_was_sealed(path):
    """Without its end a file is refused, unless it is asked for as that of a killed run."""
    writer = BitstreamWriter(path, symbols=SYMBOLS)
    write(writer, 0, 100)
    writer.seal()
    write(writer, 100, 300)
    writer.flush()
    assert "cut off at byte" in refused(path)
    reader = BitstreamReader(path, unended=True)
    assert (reader.ended, reader.steps_left) == (False, 100)
    assert torch.equal(reader.read(LOGITS[:100]), TARGETS[:100])


def test_a_resumed_stream_goes_on_from_the_checkpoint(path):
    """What was written after the checkpoint is gone, sealed or not; what follows is as if nothing had happened."""
    writer = BitstreamWriter(path, symbols=SYMBOLS)
    write(writer, 0, 100)
    writer.check(1, 11)
    state = writer.state_dict()
    write(writer, 50, 250)
    writer.check(2, 22)
    writer.seal()
    write(writer, 0, 300)
    resumed = BitstreamWriter.resume(path, state)
    assert resumed.frequency_bits == state["frequency_bits"]
    write(resumed, 100, 300)
    resumed.check(2, 33)
    resumed.close()
    assert path.read_bytes() == written(path.with_name("unbroken"), 100, 300)
    reader = BitstreamReader(path)
    assert torch.equal(reader.read(LOGITS), TARGETS)
    assert reader.checks == {1: 11, 2: 33}


def test_a_closed_stream_can_be_resumed(path):
    """A fit that ended and goes on: the end is cut off with what came after the checkpoint."""
    writer = BitstreamWriter(path, symbols=SYMBOLS)
    state = writer.state_dict()
    write(writer, 0, 300)
    writer.close()
    resumed = BitstreamWriter.resume(path, state)
    write(resumed, 0, 9)
    resumed.close()
    resumed.close()
    assert torch.equal(BitstreamReader(path).read(LOGITS[:9]), TARGETS[:9])


def test_a_state_is_plain_numbers(path):
    """A checkpoint that is loaded with ``weights_only`` takes it."""
    assert {type(value) for value in BitstreamWriter(path, symbols=2).state_dict().values()} == {int, float}


@pytest.mark.parametrize("other", ["shorter", "longer segment", "other tokens", "missing", "other checks", "no checks"])
def test_another_stream_is_not_resumed(path, other):
    """A file that is not the one of the checkpoint is left alone and named."""
    writer = BitstreamWriter(path, symbols=SYMBOLS)
    write(writer, 0, 100)
    writer.check(1, 11)
    state = writer.state_dict()
    writer.close()
    if other == "missing":
        path.unlink()
    elif "checks" in other:
        lines = b"" if other == "no checks" else checks_path(path).read_bytes().replace(b"000b", b"000c")
        checks_path(path).write_bytes(lines)
    else:
        written(path, {"shorter": 50, "longer segment": 300, "other tokens": 100}[other])
    if other == "other tokens":
        path.write_bytes(path.read_bytes()[:16] + bytes(12) + path.read_bytes()[28:])
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(CoderError) as caught:
        BitstreamWriter.resume(path, state)
    assert "\n" not in str(caught.value)
    assert (path.read_bytes() if path.exists() else None) == before


# -- damaged, cut off, foreign


def test_every_flipped_bit_is_noticed(path):
    """In the header, in frames, in words, in the end."""
    content = written(path, 20, 40)
    for place in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        refused(path)


def test_every_truncation_is_noticed(path):
    """And what is whole before it can be read: 0, 20 or 40 tokens."""
    content, found = written(path, 20, 40), set()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        refused(path)
        if length >= HEADER.size:
            reader = BitstreamReader(path, unended=True)
            found.add(whole := reader.steps_left)
            assert torch.equal(reader.read(LOGITS[:whole]), TARGETS[:whole])
    assert found == {0, 20, 40}


def test_segments_that_changed_places_are_noticed(path):
    """Each is whole, but the checksum follows from all before it."""
    content = written(path, 20, 40)
    (first, second) = read_layout(path).segments
    ends = [segment.position + 4 * segment.words for segment in (first, second)]
    one, two = content[HEADER.size : ends[0]], content[ends[0] : ends[1]]
    for body in (two + one, one + one, two):
        path.write_bytes(content[: HEADER.size] + body + content[ends[1] :])
        assert "damaged" in refused(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a bitstream"),
        (b"GIF89a" + bytes(100), "is not a bitstream"),
        (MAGIC, "is not a bitstream"),
        (HEADER.pack(MAGIC, 2, 24, 256) + bytes(12), "has format 2.24, expected 1.24"),
        (HEADER.pack(MAGIC, 1, 24, 0) + bytes(12), "expected a vocabulary of 1 to"),
        (HEADER.pack(MAGIC, 1, 24, 2**32 - 1) + bytes(12), "expected a vocabulary of 1 to"),
        (HEADER.pack(MAGIC, 1, 24, 256) + FRAME.pack(2**32 - 1, 1, 0) + bytes(100), "is cut off"),
    ],
)
def test_foreign_files_are_named(path, content, said):
    """Whatever is no bitstream is refused without being read into memory."""
    path.write_bytes(content)
    assert said in refused(path)


def test_what_follows_the_end_is_noticed(path):
    """A whole file with something appended."""
    path.write_bytes(written(path, 20) + b"x")
    assert "goes on for 1 bytes after its end" in refused(path)


def test_missing_files_and_folders(tmp_path):
    """Neither to be read nor to be written: one line each."""
    assert "cannot read the bitstream" in refused(tmp_path / "none.bits")
    assert "cannot read the bitstream" in refused(tmp_path)
    with pytest.raises(CoderError, match="cannot write"):
        BitstreamWriter(tmp_path / "none" / "data.bits", symbols=2)
    with pytest.raises(CoderError, match="expected a vocabulary of 1 to 16,777,216 symbols, got 0"):
        BitstreamWriter(tmp_path / "data.bits", symbols=0)


# -- check values


def test_check_values_are_held(path):
    """The same passes, steps without a value pass, another is named with its step."""
    writer = BitstreamWriter(path, symbols=SYMBOLS)
    parameters = [torch.randn(3, 5), torch.randn(7)]
    writer.check(0, check_value(parameters))
    writer.check(100, 2**64 - 1)
    writer.close()
    reader = BitstreamReader(path)
    reader.hold(0, check_value(parameters))
    reader.hold(50, 1)
    reader.hold(100, -1)
    parameters[1][3] = torch.nextafter(parameters[1][3], torch.tensor(9.0))
    with pytest.raises(CoderError, match=r"decoding strays before step 0: expected parameters [0-9a-f]{16}, got"):
        reader.hold(0, check_value(parameters))


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64, torch.complex64, torch.int64, torch.bool]
)
def test_check_values_depend_on_every_bit(dtype):
    """Of every tensor, in any layout of memory; order counts, and so does the sign of zero."""
    tensor = (torch.randn(40, 30, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)
    value = check_value([tensor, tensor[0]])
    assert value == check_value([tensor.T.contiguous().T, tensor[0].clone()])
    assert value != check_value([tensor[0], tensor])
    changed = tensor.clone()
    changed[39, 29] = ~changed[39, 29] if dtype == torch.bool else changed[39, 29] + 1
    assert value != check_value([changed, tensor[0]])
    assert check_value([torch.tensor(0.0)]) != check_value([torch.tensor(-0.0)])
    assert check_value([]) == 0


def test_damaged_check_values_are_no_verdict(path):
    """A flipped bit in them is said to be one, not a training that strays; a line cut off is left out."""
    writer = BitstreamWriter(path, symbols=SYMBOLS)
    for step in range(3):
        writer.check(step, step * 1000)
    writer.close()
    aside, content = checks_path(path), checks_path(path).read_bytes()
    for place in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        aside.write_bytes(flipped)
        with pytest.raises(CoderError) as caught:
            BitstreamReader(path)
        assert "\n" not in str(caught.value)
    aside.write_bytes(content[:-5])
    assert BitstreamReader(path).checks == {0: 0, 1: 1000}
    aside.unlink()
    assert BitstreamReader(path).checks == {}
