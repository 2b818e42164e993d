"""The example: causal, each byte coded once, and its end-to-end numbers held against a plain loop in float64."""

import json
import math
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

from prequential import Bundle, load_run
from prequential.cli import main

SCRIPT = Path(__file__).parents[1] / "examples" / "compress_text.py"
TEXT = Path(__file__).read_bytes() * 3  # ends in the middle of a step of 8 streams
IDS = torch.frombuffer(bytearray(TEXT), dtype=torch.uint8).long()


@pytest.fixture(scope="module")
def example():
    """The names of the script, without running it."""
    return runpy.run_path(str(SCRIPT), run_name="example")


def test_every_byte_is_a_target_once_and_in_order(example):
    """Joined stream by stream, the targets that are not ignored are the text."""
    streams = example["Streams"](IDS)
    targets = torch.cat([streams[i][1] for i in range(len(streams))], dim=1)
    assert len(TEXT) % targets.numel() != 0
    assert bytes(targets[targets != -100].tolist()) == TEXT


@pytest.mark.parametrize("size", ["small", "large"])
def test_no_logit_sees_its_own_target_or_what_follows(example, size):
    """A changed target changes only the logits that come after it, in its own stream."""
    streams = example["Streams"](IDS)
    model = example["ByteModel"](size)
    inputs, (_, targets) = streams.inputs.clone(), streams[3]
    before = model(streams[3][0], targets.shape[1])
    place = 3 * streams.step + 4  # the place of target 4 of this step, in its stream
    assert inputs[1, place + streams.context] == targets[1, 4]
    streams.inputs[1, place + streams.context] ^= 1
    after = model(streams[3][0], targets.shape[1])
    changed = (before != after).any(dim=-1)
    assert not changed[[0, *range(2, len(changed))]].any()
    assert changed[1].nonzero().flatten().tolist() == list(range(5, 5 + model.orders))


def plain_loop(example, size: str) -> float:
    """The second route: the same training without Lightning or prequential, scored in float64 from the logits."""
    import lightning as L

    L.seed_everything(0, verbose=False)
    model, streams = example["ByteModel"](size), example["Streams"](IDS)
    optimizer = model.configure_optimizers()
    bits = 0.0
    for i in range(len(streams)):
        context, targets = streams[i]
        logits = model(context, targets.shape[1]).flatten(0, 1)
        bits += F.cross_entropy(logits.detach().double(), targets.flatten(), reduction="sum").item() / math.log(2)
        optimizer.zero_grad()
        F.cross_entropy(logits, targets.flatten()).backward()
        optimizer.step()
    return bits


@pytest.mark.filterwarnings("ignore")
def test_the_example_end_to_end(example, tmp_path):
    """The script, its books, the two commands and a loop written by hand all tell the same numbers."""
    text = tmp_path / "text"
    text.write_bytes(TEXT)
    command = [sys.executable, str(SCRIPT), "--text", str(text), "--out", str(tmp_path / "runs"), "--verify"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "120"}, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    books = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("  book ")]
    assert len(books) == 2

    shown = [json.loads(CliRunner().invoke(main, ["show", "--json", book]).output) for book in books]
    compared = json.loads(CliRunner().invoke(main, ["compare", "--json", *books]).output)
    for size, book, values in zip(("small", "large"), books, shown, strict=True):
        assert values["coded_tokens"] == values["raw_bytes"] == len(TEXT)
        assert values["data_bits"] == pytest.approx(plain_loop(example, size), rel=1e-6)
        assert values["data_bits"] == math.fsum(interval_nats(book)) / math.log(2)
        bundle = Path(book).with_name("bundle.tar.xz")
        assert values["bundle_bytes"] == bundle.stat().st_size
        packed = Bundle.read(bundle).files
        assert sorted(packed) == ["config.json", "examples/compress_text.py"]
        assert packed["examples/compress_text.py"] == SCRIPT.read_bytes()
        (row,) = [row for row in compared["runs"] if row["name"] == size]
        assert {name: values[name] for name in row} == row
    small, large = (values["compressed_bytes"] for values in shown)
    assert compared["verdict"]["difference_bytes"] == abs(small - large)
    assert load_run(books[0]).header["baselines"]["xz -9e"] > 0
    assert "xz -9e" in done.stdout
    assert [values["grade"] for values in shown] == ["coded", "decoded"]
    sizes = [Path(books[1]).with_name(name).stat().st_size for name in ("data.bits", "bundle.tar.xz")]
    assert re.search(rf"^total +{sum(sizes):,}$", done.stdout, re.MULTILINE)


def interval_nats(book: str) -> list[float]:
    """The nats of each line of sums, read as plain JSON."""
    lines = [json.loads(line) for line in Path(book).read_text().splitlines()]
    return [line["nats"] for line in lines if line["kind"] == "sums"]
