"""Every tokenizer on every text: Σ bytes of its tokens is the text's length, or the audit says how much is lost.

The second route is the tokenizer's own package, by what it decodes, and counters of byte values. Real tokenizers and
texts where their folder is there; small ones made here, on text that Python comes with, everywhere.
"""

import functools
import lzma
import shutil
import sysconfig
import tempfile
from collections import Counter
from itertools import takewhile
from pathlib import Path

import lightning as L
import pytest
import sentencepiece
import tiktoken
import tokenizers
import torch
import torch.nn.functional as F
from controls import run_of
from test_tokenbytes import CACHED, DATA, byte_level, encoding_of, real_data, sentencepiece_of
from torch import nn
from torch.utils.data import DataLoader

from prequential.tokenbytes import token_bytes

CHARACTERS = 50_000  # of each text, so that all pairs take seconds
LOSSLESS = {"gpt2", "cl100k_base", "gpt-neox-20b", "bytes", "small tiktoken", "small byte-level"}
UNKNOWN = " \u2047 "  # what SentencePiece decodes an unknown token to


# Tokenizers


@functools.cache
def encoding(name):
    """Call tiktoken's own constructor, with its downloads at hand."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for file, cached in CACHED.items():
            shutil.copy(DATA / "tokenizers" / file, Path(folder) / cached)
        patch.setenv("TIKTOKEN_CACHE_DIR", folder)
        patch.setattr(tiktoken.registry, "ENCODINGS", {})
        return tiktoken.get_encoding(name)


@functools.cache
def neox():
    saved = (DATA / "tokenizers" / "gpt-neox-20b-tokenizer.json.xz").read_bytes()
    return tokenizers.Tokenizer.from_str(lzma.decompress(saved).decode())


def pieces(file):
    return sentencepiece.SentencePieceProcessor(model_file=str(DATA / "tokenizers" / file))


TOKENIZERS = {
    "gpt2": functools.partial(encoding, "gpt2"),
    "cl100k_base": functools.partial(encoding, "cl100k_base"),
    "gpt-neox-20b": neox,
    "fineweb-8192": functools.partial(pieces, "fineweb-8192-bpe.model"),
    "unigram-1000": functools.partial(pieces, "sentencepiece-unigram-1000.model"),
}
SMALL_TOKENIZERS = {
    "bytes": lambda: "bytes",
    "small tiktoken": encoding_of,
    "small byte-level": byte_level,
    "small pieces": functools.partial(sentencepiece_of, True),
    "small pieces without fallback": functools.partial(sentencepiece_of, False),
}


@functools.cache
def resolved(name):
    """The tokenizer and its table."""
    tokenizer = (TOKENIZERS | SMALL_TOKENIZERS)[name]()
    return tokenizer, token_bytes(tokenizer)


def by_the_package(tokenizer, text):
    """Ids, and the bytes that they decode to, without anything of prequential."""
    if tokenizer == "bytes":
        return list(text.encode()), text.encode()
    if isinstance(tokenizer, tiktoken.Encoding):
        ids = tokenizer.encode_ordinary(text)
        return ids, tokenizer.decode_bytes(ids)
    if isinstance(tokenizer, tokenizers.Tokenizer):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        return ids, tokenizer.decode(ids, skip_special_tokens=False).encode()
    ids = tokenizer.encode(text)
    # Its pieces begin with the space that it puts before a text and that it takes away again when it decodes.
    dummy = " " if tokenizer.id_to_piece(ids[0]).startswith("\u2581") else ""
    return ids, (dummy + tokenizer.decode(ids).replace(UNKNOWN, "")).encode()


# Texts


TEXTS = [
    "canterbury-alice29.txt",
    "canterbury-asyoulik.txt",
    "canterbury-large-world192.txt.xz",
    "canterbury-lcet10.txt",
    "canterbury-pi-1000000-digits.txt.xz",
    "canterbury-plrabn12.txt",
    "canterbury-random-base64-100000.txt",
    "dna-ecoli-k12-mg1655.txt.xz",
    "enwik8-first-4000000.xz",
    "python-3.11.7-stdlib-toplevel.txt.xz",
    "tinyshakespeare.txt",
    "zh-sanguo-yanyi.txt.xz",
]
NO_TEXTS = ["canterbury-kennedy.xls.xz", "canterbury-ptt5.xz"]  # a spreadsheet and a fax


def read(name):
    with (lzma.open if name.endswith(".xz") else open)(DATA / "text" / name, "rb") as file:
        return file.read()


@functools.cache
def text_of(name):
    """The first characters of a text; line ends stay as they are. The last character of enwik8's part may be cut."""
    if name in TEXTS:
        return read(name).decode("utf-8", "strict" if name != "enwik8-first-4000000.xz" else "ignore")[:CHARACTERS]
    if name == "source":
        return (Path(sysconfig.get_paths()["stdlib"]) / "textwrap.py").read_text(encoding="utf-8")
    return "Naïve café, 三国演义\r\n\r\n\tand  😀 \ufb01 once more; e\u0301. " * 40


def pairs():
    for name in TOKENIZERS:
        yield from (pytest.param(name, text, marks=real_data) for text in TEXTS)
    for name in SMALL_TOKENIZERS:
        yield from (pytest.param(name, text, marks=real_data) for text in TEXTS if name == "bytes")
        yield from ((name, text) for text in ("source", "many scripts"))


@pytest.mark.parametrize(("name", "text"), pairs())
def test_tokens_stand_for_the_text_or_the_audit_says_what_is_lost(name, text):
    """Tokens, bytes, the place and the share of a loss: as the package decodes it."""
    (tokenizer, table), text = resolved(name), text_of(text)
    ids, decoded = by_the_package(tokenizer, text)
    raw, audit = text.encode(), table.audit(text)
    lost_bytes = (Counter(raw) - Counter(decoded)).total()
    assert (audit.tokens, audit.text_bytes, audit.counted_bytes) == (len(ids), len(raw), len(decoded))
    assert audit.lossless == (decoded == raw)
    assert audit.lossless or name not in LOSSLESS
    assert audit.lost_share == pytest.approx(lost_bytes / len(raw), abs=1e-12)
    same = takewhile(lambda both: both[0] == both[1], zip(raw, decoded, strict=False))
    assert audit.first_difference == (None if audit.lossless else sum(1 for _ in same))


@real_data
@pytest.mark.parametrize("text", NO_TEXTS)
def test_what_is_no_text_is_lossless_as_raw_bytes_alone(text):
    """A tokenizer of text takes it with U+FFFD for what it cannot read, and the audit says so."""
    raw = read(text)
    with pytest.raises(UnicodeDecodeError):
        raw.decode()
    audit = token_bytes("bytes").audit(raw)
    assert (audit.lossless, audit.tokens, audit.counted_bytes) == (True, len(raw), len(raw))
    assert not resolved("gpt-neox-20b")[1].audit(raw[: CHARACTERS * 2]).lossless


class Unigram(L.LightningModule):
    """One logit for every id."""

    def __init__(self, vocab_size):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(vocab_size))

    def training_step(self, ids, batch_idx):
        return F.cross_entropy(self.logits.expand(len(ids), -1), ids)

    def configure_optimizers(self):
        return torch.optim.Adagrad(self.parameters(), lr=0.3)


@pytest.mark.parametrize(
    ("name", "text"),
    [pytest.param(name, "enwik8-first-4000000.xz", marks=real_data) for name in TOKENIZERS]
    + [(name, "source") for name in SMALL_TOKENIZERS],
)
def test_a_run_counts_the_bytes_that_its_tokens_stand_for(name, text):
    """From tokens to book: the raw bytes of a run are those of the text, or what the package gives back of it."""
    (tokenizer, table), text = resolved(name), text_of(text)[:5_000]
    ids, decoded = by_the_package(tokenizer, text)
    run = run_of(
        Unigram(table.vocab_size), DataLoader(torch.tensor(ids).split(256), batch_size=None), token_bytes=table
    )
    assert (run.total.coded_tokens, run.total.raw_bytes) == (len(ids), len(decoded))
    assert run.total.raw_bytes == len(text.encode()) or name not in LOSSLESS
