"""The commands: a run is decoded by its bundle and its bitstream in a process of its own, or it is said why not."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from prequential import Bundle, load_run
from prequential.cli import main

SCRIPT = """
import argparse
import lightning as L
import torch
from helpers import Model, feed
from prequential import CompressionMonitor

parser = argparse.ArgumentParser()
parser.add_argument("text")
parser.add_argument("--out")
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()
print("some words")


def fit(name):
    L.seed_everything(options.seed, verbose=False)
    monitor = CompressionMonitor(token_bytes="bytes", ledger=f"{options.out}/{name}", name=name, bitstream=True)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, callbacks=[monitor], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )
    trainer.fit(Model(), feed(monitor.tokens(options.text)))
    return monitor.book


for book in [fit(name) for name in ("first", "second")]:
    assert book.read_text(), "nothing of this runs where a run is decoded"
"""
HELPERS = """
import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Model(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.table, self.head, self.drop = nn.Embedding(256, 16), nn.Linear(16, 256), nn.Dropout(0.1)

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        return F.cross_entropy(self.head(self.drop(self.table(inputs))).flatten(0, 1), targets.flatten())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.02)


def feed(ids):
    rows = ids[: len(ids) // 9 * 9].view(-1, 9)
    return DataLoader(TensorDataset(rows[:, :-1], rows[:, 1:]), batch_size=4, shuffle=True)
"""
TEXT = b"a rose is a rose is a rose, and a daisy is a daisy. " * 12


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of two runs by one script, whose data is gone by now."""
    folder = tmp_path_factory.mktemp("program")
    (folder / "train.py").write_text(SCRIPT)
    (folder / "helpers.py").write_text(HELPERS)
    (folder / "text").write_bytes(TEXT)
    command = [sys.executable, "train.py", "text", "--out", str(folder / "runs")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("text", "train.py", "helpers.py"):
        (folder / name).unlink()
    return folder / "runs"


@pytest.fixture
def copy(runs, tmp_path):
    """A copy of the second run, to be spoilt."""
    return Path(shutil.copytree(runs / "second", tmp_path / "second"))


def invoked(*arguments):
    """Exit code, what was printed, what was said beside it."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_decode_verify_and_show(copy, tmp_path):
    """The data, the certificate, and a book that says so; the second run of a script, whose first is passed over."""
    code, _, said = invoked("decode", copy, "-o", tmp_path / "found")
    assert code == 0, said
    assert (tmp_path / "found").read_bytes() == TEXT
    assert load_run(copy).grade == "coded"
    code, _, said = invoked("baselines", "--run", copy, tmp_path / "found")
    assert (code, "verify it first" in said) == (1, True)

    code, printed, said = invoked("verify", "--json", copy)
    assert code == 0, said
    proof = json.loads(printed)
    sizes = [(copy / name).stat().st_size for name in ("data.bits", "bundle.tar.xz")]
    assert [proof["bitstream_bytes"], proof["bundle_bytes"]] == sizes
    assert (proof["total_bytes"], proof["raw_bytes"], proof["decoded"]) == (sum(sizes), len(TEXT), True)
    assert proof["compression_ratio"] == len(TEXT) / sum(sizes)
    run = load_run(copy)
    assert run.grade == "decoded"
    assert run.certificate["sha256"] == proof["sha256"]
    assert not [event for event in run.events if event["event"] == "decoded"]
    code, shown, _ = invoked("show", copy)
    assert f"{sizes[0]:,} bytes in data.bits" in shown
    assert json.loads(invoked("show", "--json", copy)[1])["grade"] == "decoded"

    sizes_of = json.loads(invoked("baselines", "--json", "--run", copy, tmp_path / "found")[1])["baselines"]
    assert sizes_of["second, decoded, with its bundle"] == sum(sizes)
    (tmp_path / "found").write_bytes(TEXT[1:])
    code, _, said = invoked("baselines", "--run", copy, tmp_path / "found")
    assert (code, "give the bytes that it coded" in said) == (1, True)


def test_a_prefix(copy):
    """The first steps alone; the book stays as it was."""
    code, printed, said = invoked("verify", "--json", "--prefix", 5, copy)
    assert code == 0, said
    proof = json.loads(printed)
    assert (proof["decoded"], proof["checked_step"]) == (False, 4)
    assert 0 < proof["tokens"] < proof["all_tokens"] == len(TEXT)
    assert load_run(copy).grade == "coded"


def flip(path, place):
    """Change one bit."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_one_bit_of_the_stream(copy):
    flip(copy / "data.bits", 100)
    code, _, said = invoked("verify", copy)
    assert (code, "is damaged in the" in said) == (1, True)


def test_a_stream_that_is_cut_off(copy):
    content = (copy / "data.bits").read_bytes()
    (copy / "data.bits").write_bytes(content[:-30])
    code, _, said = invoked("verify", copy)
    assert (code, "is cut off at byte" in said) == (1, True)


def test_another_bundle(copy):
    files = dict(Bundle.read(copy / "bundle.tar.xz").files)
    files["helpers.py"] += b"\n"
    Bundle(files).write(copy / "bundle.tar.xz")
    code, _, said = invoked("verify", copy)
    assert (code, "the training program was changed" in said) == (1, True)


def test_equal_runs_have_equal_streams(copy, runs):
    """The two runs of the script have equal seeds, and streams."""
    first, second = ((folder / "data.bits").read_bytes() for folder in (runs / "first", copy))
    assert first == second


def replaced(copy, files, **circumstances):
    """Another bundle, of which the book says that it is the run's, as it may say other circumstances."""
    changed = Bundle(files)
    changed.write(copy / "bundle.tar.xz")
    book = copy / "book.jsonl"
    head, *lines = book.read_text().splitlines(keepends=True)
    header = json.loads(head.replace(load_run(copy).bundle["sha256"], changed.sha256))
    header["bitstream"]["circumstances"] |= circumstances
    book.write_text("".join([json.dumps(header) + "\n", *lines]))


def test_another_seed(copy):
    """Found before anything is decoded; what of the machine is another is said as well."""
    files = dict(Bundle.read(copy / "bundle.tar.xz").files)
    config = json.loads(files["config.json"])
    config["argv"] += ["--seed", "1"]
    replaced(copy, files | {"config.json": json.dumps(config).encode()}, torch="1.0")
    code, _, said = invoked("verify", copy)
    assert (code, "decoding strays before step 0" in said) == (1, True)
    assert "torch 1.0 then" in said
    assert "\n" not in said.strip()


def test_a_program_that_fails(copy):
    """Its last words."""
    files = dict(Bundle.read(copy / "bundle.tar.xz").files)
    replaced(copy, files | {"helpers.py": b"raise RuntimeError('no such thing')"})
    code, _, said = invoked("verify", copy)
    assert (code, "it ended with 1" in said, "no such thing" in said) == (1, True, True)


def test_a_run_without_a_bitstream(tmp_path):
    """Says what to do."""
    header = {"kind": "header", "book": 1, "name": "plain"}
    (tmp_path / "book.jsonl").write_text(json.dumps(header) + "\n")
    code, _, said = invoked("decode", tmp_path, "-o", tmp_path / "found")
    assert (code, "plain wrote no bitstream" in said) == (1, True)
    assert not (tmp_path / "found").exists()


def test_what_a_killed_run_left(copy, tmp_path):
    """No end in the stream, no end line in the book: what follows from the first token on is written."""
    content = (copy / "data.bits").read_bytes()
    (copy / "data.bits").write_bytes(content[:-12])
    book = copy / "book.jsonl"
    lines = book.read_text().splitlines(keepends=True)
    assert json.loads(lines[-1])["kind"] == "end"
    book.write_text("".join(lines[:-1]))
    code, _, said = invoked("decode", copy, "-o", tmp_path / "found")
    assert code == 0, said
    found = (tmp_path / "found").read_bytes()
    assert TEXT.startswith(found)
