"""Bytes per token id: every kind of tokenizer, from small ones made here; real ones where their files are at hand."""

import functools
import io
import json
import lzma
import pickle
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tiktoken
import tiktoken.load
import tiktoken.registry
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from prequential.errors import TokenBytesError
from prequential.tokenbytes import TokenAudit, TokenBytes, token_bytes
from prequential.tokenbytes.table import _lost_share

DATA = Path(__file__).parents[2] / "shared" / "data"
real_data = pytest.mark.skipif(not DATA.is_dir(), reason="the folder of real tokenizers and texts is not there")

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "She sells sea shells by the sea shore; the shells she sells are sea shells.",
    "Naïve café, déjà vu: 三国演义 and 😀 once more.",
] * 4
LETTERS = sorted(set("".join(CORPUS)))
BYTE_PIECES = [f"<0x{byte:02X}>" for byte in range(256)]
AWKWARD = ["\r\n", "👩\u200d👩\u200d👧", "😀", "é", "e\u0301", "\u2581", "\ufffd", "\x00", "  ", "三", "<0x0A>", "\xa0"]
END = "<|endoftext|>"

valid = st.lists(st.text(max_size=5) | st.sampled_from(AWKWARD), max_size=8).map("".join)
surrogates = st.lists(valid | st.sampled_from(["\ud83d", "\udc00x"]), max_size=4).map("".join)


@functools.cache
def byte_level(vocab_size=320):
    """Train a byte-level BPE as GPT-2's, with one special token."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, special_tokens=[END])
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def fresh(tokenizer):
    """Make a copy that a test may change."""
    return tokenizers.Tokenizer.from_str(tokenizer.to_str())


def piece_level(prefix_space=False, model_knows=True):
    """Make a BPE with byte fallback that writes spaces as U+2581, as Gemma's, or after a dummy one, as Llama 2's."""
    vocabulary = ["<unk>", "<s>", *BYTE_PIECES, "\u2581", "t", "h", "e", "\u2581t", "he", "\u2581the"]
    merges = [("\u2581", "t"), ("h", "e"), ("\u2581t", "he")]
    model = models.BPE({s: i for i, s in enumerate(vocabulary)}, merges, unk_token="<unk>", byte_fallback=model_knows)
    tokenizer = tokenizers.Tokenizer(model)
    swap = normalizers.Replace(" ", "\u2581")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), swap]) if prefix_space else swap
    joined = decoders.Fuse() if model_knows else decoders.ByteFallback()
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), joined])
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer


@functools.cache
def sentencepiece_model(byte_fallback, lossless=False, **options):
    """Train a small SentencePiece model and give its file; a lossless one changes nothing before it cuts."""
    written = io.BytesIO()
    plain = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "add_dummy_prefix": False}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=written,
        vocab_size=360 if byte_fallback else 90,
        model_type="bpe",
        byte_fallback=byte_fallback,
        user_defined_symbols=["<sep>"],
        minloglevel=2,
        **({**plain, **options} if lossless else options),
    )
    return written.getvalue()


def sentencepiece_of(*arguments, **options):
    return sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model(*arguments, **options))


def encoding_of(name="tiny"):
    """Make a tiktoken encoding of 256 bytes and four merges; id 260 is a hole, 261 is special."""
    merges = [b"th", b"the", b" the", "é".encode()]
    ranks = {bytes([byte]): byte for byte in range(256)} | {token: 256 + n for n, token in enumerate(merges)}
    return tiktoken.Encoding(name, pat_str=r"\s?\w+|.|\n", mergeable_ranks=ranks, special_tokens={END: 261})


CHARACTERS = {letter: i for i, letter in enumerate(["<pad>", *LETTERS])}
SOURCES = {
    "bytes": lambda: "bytes",
    "characters": lambda: CHARACTERS,
    "tiktoken": encoding_of,
    "tokenizers": byte_level,
    "sentencepiece": lambda: sentencepiece_of(True, lossless=True),
}


@functools.cache
def resolved(kind):
    return token_bytes(SOURCES[kind]())


# What every kind has in common


@pytest.mark.parametrize("kind", SOURCES)
def test_each_kind_is_lossless_on_what_it_knows(kind):
    """The tokens of a text stand for as many bytes as it has, and join to it."""
    text = "The naïve fox: 三国 😀"
    table = resolved(kind)
    ids = table.encode(text)
    assert table.kind == kind
    assert sum(table.table[i] for i in ids) == len(text.encode())
    assert table.decode(ids) == text.encode()
    assert table.audit(text) == TokenAudit(27, 27, len(ids), True, 0.0, None)


@pytest.mark.parametrize("kind", SOURCES)
def test_the_same_tokenizer_gives_the_same_table(kind):
    """Resolving twice gives equal tables, files and identities; resolving the result changes nothing."""
    first, again = resolved(kind), token_bytes(SOURCES[kind]())
    assert first is not again
    assert first.files == again.files
    assert np.array_equal(first.table, again.table)
    assert first.identity() == again.identity()
    assert token_bytes(first) is first


@pytest.mark.parametrize("kind", SOURCES)
def test_a_pickle_comes_back_whole(kind):
    """A callback that holds a table can be sent to another process, and the table stays read-only."""
    table = resolved(kind)
    back = pickle.loads(pickle.dumps(table))
    assert back.identity() == table.identity()
    assert back.files == table.files
    assert back.audit(CORPUS[2]) == table.audit(CORPUS[2])
    with pytest.raises(ValueError, match="read-only"):
        back.table[0] = 1


def test_the_table_is_a_read_only_copy():
    """Neither a change to the source nor one to the table goes through."""
    source = np.array([1, 2, 3])
    table = token_bytes(source)
    source[0] = 9
    assert table.table.tolist() == [1, 2, 3]
    assert token_bytes(np.array([1], dtype=np.uint8)).table.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        table.table[0] = 1


IN_ANOTHER_PROCESS = """
import json, sys
from tokenizers import Tokenizer
from prequential.tokenbytes import token_bytes
tokenizer, characters = sys.argv[1], json.loads(sys.argv[2])
for source in ("bytes", characters, Tokenizer.from_file(tokenizer)):
    print(token_bytes(source).sha256)
"""


def test_the_identity_is_the_same_in_another_process(tmp_path, monkeypatch):
    """Neither the seed of hashes nor a trip through a file changes a sha256; the one of bytes is pinned."""
    byte_level().save("tokenizer.json")
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, "tokenizer.json", json.dumps(CHARACTERS)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert printed == [resolved(kind).sha256 for kind in ("bytes", "characters", "tokenizers")]
    # printf 'bytes\0', then 256 times 01 00 00 00 00 00 00 00, through sha256sum
    assert printed[0] == "452d361871e1c2f8298e4c50f4de9603ac79214c807d884ac7c0f446ec15fb03"


def test_the_identity_tells_kinds_and_tables_apart():
    """Another kind or one other length is another identity."""
    ones = TokenBytes("table", "table", np.ones(256))
    shas = {ones.sha256, resolved("bytes").sha256, token_bytes([1] * 255 + [2]).sha256, token_bytes([1] * 255).sha256}
    assert len(shas) == 4
    assert ones.identity() == {"kind": "table", "name": "table", "vocab_size": 256, "sha256": ones.sha256}


# The audit


def hand_made(table, encode, decode):
    return TokenBytes("table", "by hand", table, encode, decode)


@pytest.mark.parametrize(
    ("text", "joined", "share", "difference"),
    [
        (b"abcd", b"abcd", 0.0, None),
        (b"abcd", b"abxd", 0.25, 2),
        (b"abcd", b"abc", 0.25, 3),
        (b"abcd", b"abcde", 0.0, 4),
        (b"abcd", b"dcba", 0.0, 0),
        (b"aabb", b"", 1.0, 0),
        (b"", b"", 0.0, None),
        (b"", b" ", 0.0, 0),
    ],
)
def test_an_audit_finds_where_and_how_much(text, joined, share, difference):
    """Replaced, cut, added and moved bytes are found; the lost share counts what does not come back at all."""
    table = hand_made([len(joined)], lambda raw: [0], lambda ids: joined)
    assert table.audit(text) == TokenAudit(len(text), len(joined), 1, difference is None, share, difference)


def test_ids_beyond_the_table_stand_for_nothing():
    """A padded vocabulary, and -100 or -1 for a target that is masked, add no bytes."""
    table = hand_made([1, 5], lambda raw: [0, 2, -1, -100], lambda ids: b"a")
    assert table.audit("a") == TokenAudit(1, 1, 4, True, 0.0, None)
    assert resolved("tokenizers").decode([-1, 10**6]) == b""


def test_a_table_that_does_not_fit_its_tokens_is_not_lossless():
    """The text comes back, but the bytes counted are not its length."""
    audit = hand_made([3], lambda raw: [0], lambda ids: b"ab").audit("ab")
    assert not audit.lossless
    assert audit.summary() == (
        "NOT lossless: 1 tokens stand for 3 bytes, the text has 2; the tokens give the text back, but the table does "
        "not fit them"
    )


def test_a_summary_is_one_line_with_the_numbers():
    """What is lost is said in bytes and per cent, and what is only moved is not called lost."""
    assert resolved("bytes").audit("é").summary() == "lossless: 2 tokens stand for 2 bytes, the text has 2"
    assert TokenAudit(2000, 1990, 1000, False, 0.005, 7).summary() == (
        "NOT lossless: 1,000 tokens stand for 1,990 bytes, the text has 2,000; bytes lost: at least 10 (0.5 %); "
        "first difference at byte 7"
    )
    assert "bytes lost: none; first" in TokenAudit(2, 3, 1, False, 0.0, 0).summary()


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_the_lost_share_is_that_of_counters(raw, joined):
    """Counting byte values with numpy gives what multiset subtraction gives."""
    lost = sum((Counter(raw) - Counter(joined)).values())
    assert _lost_share(raw, joined) == (lost / len(raw) if raw else 0.0)


def test_a_bare_table_cannot_be_audited():
    """There is nothing to encode with, and the message says what to give."""
    with pytest.raises(TokenBytesError, match=r"came a bare table .*: give token_bytes the tokenizer itself"):
        token_bytes([1, 2]).audit("text")


# Losslessness as a law


@settings(max_examples=150, deadline=None)
@given(surrogates)
def test_raw_bytes_are_lossless_for_any_text(text):
    """Even lone surrogates come back; each byte is one token of one byte."""
    audit = resolved("bytes").audit(text)
    assert audit.lossless
    assert audit.tokens == audit.counted_bytes == len(text.encode("utf-8", "surrogatepass"))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=50))
def test_raw_bytes_are_lossless_for_any_bytes(raw):
    """A file that is no text at all is coded as it is."""
    assert resolved("bytes").audit(raw).lossless


@pytest.mark.parametrize("kind", ["tiktoken", "tokenizers"])
def test_byte_level_tokens_stand_for_the_bytes_of_any_text(kind):
    """Σ bytes is the length of the text in UTF-8, whatever is cut across tokens; lone surrogates are found lost."""
    table = resolved(kind)

    @settings(max_examples=150, deadline=None)
    @given(surrogates)
    def law(text):
        audit = table.audit(text)
        utf8 = text.encode("utf-8", "replace").decode() == text
        assert audit.lossless == utf8
        assert (audit.lost_share > 0) == (not utf8)
        if utf8:
            assert sum(int(table.table[i]) for i in table.encode(text)) == len(text.encode())

    law()


def has_no_mark(text):
    return "\u2581" not in text


@settings(max_examples=150, deadline=None)
@given(valid.filter(has_no_mark))
def test_pieces_with_byte_fallback_stand_for_the_bytes_of_any_text(text):
    """A space is one byte where U+2581 has three, and each ``<0x0A>`` is one; only a U+2581 of the text is lost."""
    table = gemma()
    assert table.audit(text).lossless
    assert sum(int(table.table[i]) for i in table.encode(text)) == len(text.encode())


@functools.cache
def gemma():
    return token_bytes(piece_level())


def test_the_mark_for_a_space_in_the_text_itself_is_lost():
    """U+2581 comes back as a space: two of its three bytes at the least are gone."""
    assert gemma().audit("a\u2581b") == TokenAudit(5, 3, 3, False, 3 / 5, 1)


@pytest.mark.parametrize("kind", ["tiktoken", "tokenizers"])
def test_a_character_cut_across_tokens_is_counted_once(kind):
    """The parts of an emoji are four bytes together; ``decode`` of each would have given U+FFFD, three bytes each."""
    audit, ids = resolved(kind).audit("🦊"), resolved(kind).encode("🦊")
    assert (audit.counted_bytes, audit.lossless) == (4, True)
    assert len(ids) > 1
    assert sum(len(SOURCES[kind]().decode([i]).encode()) for i in ids) == 3 * len(ids)


def test_bytes_that_are_no_text_are_found_lost():
    """What is not UTF-8 reaches an encoder of text as U+FFFD."""
    assert resolved("tiktoken").audit(b"a\xffb") == TokenAudit(3, 5, 5, False, 1 / 3, 1)


def test_line_ends_are_kept_apart():
    """CRLF given as bytes is two bytes a line."""
    assert resolved("tiktoken").audit(b"a\r\nb\r\n") == TokenAudit(6, 6, 6, True, 0.0, None)


# Character vocabularies


@pytest.mark.parametrize(
    "source",
    [
        {"<pad>": 0, "a": 1, "é": 2, "😀": 4},
        {0: "<pad>", 1: "a", 2: "é", 4: "😀"},
        {np.int64(i): c for i, c in {0: "<pad>", 1: "a", 2: "é", 4: "😀"}.items()},
        ["<pad>", "a", "é", "", "😀"],
        ("[PAD]", "a", "é", "", "😀"),
    ],
    ids=["to ids", "from ids", "numpy ids", "list", "tuple"],
)
def test_characters_count_their_bytes_in_utf8(source):
    """Symbols that are no characters, and holes, stand for nothing."""
    table = token_bytes(source)
    assert table.table.tolist() == [0, 1, 2, 0, 4]
    assert table.encode("é😀a") == [2, 4, 1]
    assert table.vocab_size == 5


def test_an_unknown_character_is_found_lost():
    """It is left out of the tokens, so that its bytes are missing."""
    assert token_bytes(["a", "b"]).audit("aéb") == TokenAudit(4, 2, 2, False, 0.5, 1)


def test_digits_are_characters():
    """A vocabulary of digits is not taken for a table of numbers."""
    table = token_bytes([str(digit) for digit in range(10)])
    assert (table.kind, table.audit("2024").lossless) == ("characters", True)


# tiktoken


def test_tiktoken_counts_ranks_but_no_special_tokens():
    """Bytes of a token are the key of its rank; a special token and a hole have none."""
    table = resolved("tiktoken")
    assert table.name == "tiny"
    assert table.table.tolist() == [1] * 256 + [2, 3, 4, 2, 0, 0]
    assert table.decode([258, 261, 259]) == " theé".encode()
    assert table.audit(f"a{END}").lossless  # as ordinary text it is what it spells


@pytest.mark.parametrize(
    ("name", "registered", "public"),
    [("gpt2", "itself", True), ("gpt2", "nothing", False), ("gpt2", "another", False), ("tiny", "itself", False)],
)
def test_only_an_encoding_of_tiktokens_own_is_free(monkeypatch, name, registered, public):
    """Only what tiktoken itself made under one of OpenAI's names is public; another comes with its files."""
    encoding = encoding_of(name)
    known = {"itself": {name: encoding}, "nothing": {}, "another": {name: encoding_of(name)}}[registered]
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", known)
    table = token_bytes(encoding)
    assert table.public is public
    assert bool(table.files) is not public


# Hugging Face tokenizers


def test_a_byte_level_symbol_has_a_character_for_every_byte():
    """The other way to count: the length of the symbol in the vocabulary."""
    table = resolved("tokenizers")
    for symbol, i in byte_level().get_vocab().items():
        assert table.table[i] == (0 if symbol == END else len(symbol)), symbol


def test_an_added_token_counts_its_text_and_a_special_one_none():
    """Neither is spelt as the model's own symbols are."""
    tokenizer = fresh(byte_level())
    tokenizer.add_tokens(["naïve 😀"])
    tokenizer.add_special_tokens(["<mask>"])
    table = token_bytes(tokenizer)
    assert [table.table[tokenizer.token_to_id(s)] for s in ("naïve 😀", "<mask>", END)] == [11, 0, 0]
    assert table.audit("a naïve 😀 day, naïf").lossless
    assert table.audit("a<mask>b") == TokenAudit(8, 2, 3, False, 6 / 8, 1)


def test_special_tokens_in_the_text_are_text_where_the_tokenizer_splits_them():
    """The encoder used for the audit is set as the tokenizer was."""
    tokenizer = fresh(byte_level())
    assert not token_bytes(tokenizer).audit(f"a{END}").lossless
    tokenizer.encode_special_tokens = True
    assert token_bytes(tokenizer).audit(f"a{END}").lossless


def test_truncation_padding_and_later_changes_do_not_reach_the_table():
    """A batch's settings are no part of the tokenizer, and the copy does not follow the original."""
    tokenizer = fresh(byte_level())
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=50)
    table = token_bytes(tokenizer)
    tokenizer.add_tokens(["quick"])
    assert table.files == resolved("tokenizers").files
    assert table.audit(CORPUS[0]) == resolved("tokenizers").audit(CORPUS[0])


def test_special_tokens_of_a_template_are_not_encoded():
    """The text is encoded as it is, without what a post-processor adds."""
    tokenizer = fresh(byte_level())
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(f"{END} $A", special_tokens=[(END, 0)])
    assert 0 not in token_bytes(tokenizer).encode("dog")


def test_a_wrapper_of_the_package_is_taken():
    """``ByteLevelBPETokenizer`` and its like hold a tokenizer and know how to write it."""
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(CORPUS, vocab_size=300)
    table = token_bytes(tokenizer)
    assert table.name == "ByteLevelBPETokenizer"
    assert table.audit(CORPUS[2]).lossless


@pytest.mark.parametrize("model_knows", [True, False])
def test_byte_pieces_and_marked_spaces(model_knows):
    """``<0x0A>`` is one byte, U+2581 one, special and unknown tokens none; the model or the decoder says so."""
    tokenizer = piece_level(model_knows=model_knows)
    table = token_bytes(tokenizer)
    symbols = ["<unk>", "<s>", "<0x0A>", "<0xFF>", "\u2581", "\u2581the"]
    assert [table.table[tokenizer.token_to_id(s)] for s in symbols] == [0, 0, 1, 1, 1, 4]
    assert table.decode([tokenizer.token_to_id(s) for s in symbols]) == b"\n\xff  the"


def test_without_byte_fallback_a_byte_piece_is_its_own_text():
    """In a vocabulary that knows no fallback ``<0x0A>`` is six characters."""
    model = models.WordLevel({"<unk>": 0, "<0x0A>": 1, "two words": 2}, unk_token="<unk>")
    assert token_bytes(tokenizers.Tokenizer(model)).table.tolist() == [0, 6, 9]


def test_a_dummy_prefix_is_found():
    """Llama 2's tokenizer puts a space before the text: one byte too many, and the audit says where."""
    assert token_bytes(piece_level(prefix_space=True)).audit("the") == TokenAudit(3, 4, 1, False, 0.0, 0)


def underscored():
    """Make a Unigram model whose vocabulary writes a space as an underscore."""
    pieces = [("<unk>", 0.0), ("_the", -1.0), ("_", -2.0), ("é", -2.0)]
    return tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0))


def test_metaspace_marks_stand_for_spaces():
    """The mark is read from the pre-tokenizer, inside a sequence too, or the decoder, whatever character it is."""
    assert token_bytes(underscored()).decode([0, 1, 3]) == "_theé".encode()
    model, only_decoder = underscored(), underscored()
    model.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace("_", prepend_scheme="never")])
    only_decoder.decoder = decoders.Metaspace("_", prepend_scheme="never")
    assert token_bytes(only_decoder).decode([1, 3]) == token_bytes(model).decode([1, 3]) == " theé".encode()
    assert token_bytes(model).audit("é the é").lossless
    assert token_bytes(model).audit("é x") == TokenAudit(4, 3, 3, False, 0.25, 3)


def test_a_decoder_alone_says_what_a_mark_stands_for():
    """Whatever it is replaced by, in the order of the decoder, inside sequences of sequences too."""
    tokenizer = underscored()
    inner = decoders.Sequence([decoders.Replace("_", "-"), decoders.Replace("-", "\r\n")])
    tokenizer.decoder = decoders.Sequence([inner, decoders.Fuse()])
    assert token_bytes(tokenizer).table.tolist() == [0, 5, 2, 2]


def test_a_normaliser_alone_says_what_stands_for_a_space():
    """Without a decoder the mark is what spaces are replaced by; another replacement is a change of the text."""
    tokenizer = underscored()
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(" ", "_"), normalizers.Replace("x", "é")])
    assert token_bytes(tokenizer).audit("é the é").lossless
    assert token_bytes(tokenizer).audit("x").first_difference == 0
    assert token_bytes(tokenizer).decode([1, 3]) == " theé".encode()


def test_a_unigram_model_without_an_unknown_token():
    """Nothing is taken for unknown."""
    assert token_bytes(tokenizers.Tokenizer(models.Unigram([("a", -1.0)]))).table.tolist() == [1]


def test_marks_of_word_parts_are_no_text():
    """WordPiece: ``##s`` is one byte, and spaces, which no piece spells, are missing and found so."""
    vocabulary = ["[UNK]", "dog", "##s", "sleep", "[CLS]"]
    model = models.WordPiece({symbol: i for i, symbol in enumerate(vocabulary)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[CLS]"])
    table = token_bytes(tokenizer)
    assert table.table.tolist() == [0, 3, 1, 5, 0]
    assert table.audit("dogs sleep") == TokenAudit(10, 9, 3, False, 0.1, 4)


def test_an_end_of_word_is_no_text_even_in_a_byte_level_vocabulary():
    """CLIP ends words with ``</w>``, whose characters are bytes in the byte-level alphabet."""
    tokenizer = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, end_of_word_suffix="</w>")
    tokenizer.train_from_iterator(CORPUS, trainer)
    assert any(symbol.endswith("</w>") for symbol in tokenizer.encode("the shells").tokens)
    assert token_bytes(tokenizer).audit("the shells").lossless


@pytest.mark.parametrize("pattern", [" ", tokenizers.Regex(r"\s")])
def test_dropped_spaces_put_nothing_into_the_pieces(pattern):
    """A normaliser that removes spaces does not make every gap between letters one."""
    tokenizer = tokenizers.Tokenizer(models.WordLevel({"ab": 0, "<unk>": 1}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(pattern, "")
    assert token_bytes(tokenizer).table.tolist() == [2, 0]
    assert token_bytes(tokenizer).audit("a b") == TokenAudit(3, 2, 1, False, 1 / 3, 1)


def test_a_part_written_in_python_cannot_be_rebuilt():
    """The package cannot write it down, so that no receiver could have it."""

    class Custom:
        def pre_tokenize(self, pretokenized):
            """Leave the text whole."""

    tokenizer = fresh(byte_level())
    tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Custom())
    with pytest.raises(TokenBytesError, match=r"expected a tokenizer that a receiver can rebuild, came .*built-in"):
        token_bytes(tokenizer)


# transformers


def fast(**options):
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=fresh(byte_level()), **options)


def test_a_fast_transformers_tokenizer_is_its_backend(tmp_path):
    """Same table, same tokens; an end of text is special, an added token text."""
    tokenizer = fast(eos_token=END)
    tokenizer.add_tokens(["naïve"])
    table = token_bytes(tokenizer)
    assert table.kind == "tokenizers"
    assert list(table.encode(CORPUS[2])) == tokenizer.encode(CORPUS[2], add_special_tokens=False)
    assert table.audit(CORPUS[2]).lossless
    assert table.table[tokenizer.eos_token_id] == 0
    assert table.table[tokenizer.convert_tokens_to_ids("naïve")] == 6


def test_a_token_declared_special_only_to_transformers_stands_for_nothing():
    """The backend still takes it for text: the audit notices the clash."""
    tokenizer = fast()
    tokenizer.pad_token = "x"
    table = token_bytes(tokenizer)
    assert table.table[tokenizer.pad_token_id] == 0
    assert not table.audit("x").lossless


def test_a_name_does_not_betray_a_folder(tmp_path):
    """A name on a hub is kept, of a path only the last part, whether or not the folder is still there."""
    (tmp_path / "mine").mkdir()
    names = ["org/model", str(tmp_path / "mine"), str(tmp_path / "gone"), "./mine", ""]
    found = [token_bytes(fast(name_or_path=name)).name for name in names]
    assert found[:4] == ["org/model", "mine", "gone", "mine"]
    assert found[4] == type(fast()).__name__


def test_a_slow_transformers_tokenizer_is_refused_with_advice():
    """It has no backend to read bytes from; the message names what is taken."""
    transformers = pytest.importorskip("transformers")
    with pytest.raises(TokenBytesError, match=r"fast transformers.*came ByT5Tokenizer.*: give the tokenizer object"):
        token_bytes(transformers.ByT5Tokenizer())


# SentencePiece


@pytest.mark.parametrize("byte_fallback", [True, False])
def test_sentencepiece_pieces_count_their_text(byte_fallback):
    """Control and unknown pieces stand for nothing, a byte piece for one byte, U+2581 for one."""
    model = sentencepiece_of(byte_fallback)
    table = token_bytes(model)
    assert (table.kind, table.vocab_size) == ("sentencepiece", 360 if byte_fallback else 90)
    expected = {"<unk>": 0, "<s>": 0, "</s>": 0, "<sep>": 5, "\u2581the": 4, "三": 3}
    assert {symbol: table.table[model.piece_to_id(symbol)] for symbol in expected} == expected
    if byte_fallback:
        assert [table.table[model.piece_to_id(piece)] for piece in BYTE_PIECES] == [1] * 256


def test_an_unknown_character_is_lost_without_byte_fallback():
    """One unknown token stands for nothing; with fallback the character comes back in bytes."""
    text = "the 🦊"
    assert token_bytes(sentencepiece_of(True, lossless=True)).audit(text).lossless
    without = token_bytes(sentencepiece_of(False, lossless=True)).audit(text)
    assert (without.lossless, without.lost_share, without.first_difference) == (False, 4 / 8, 4)


def test_what_sentencepiece_normalises_is_found():
    """The usual settings add a space before the text and turn line ends and runs of spaces into one."""
    table = token_bytes(sentencepiece_of(True))
    assert table.audit("the the").counted_bytes == 8
    audit = table.audit("the\n\nthe  the")
    assert (audit.lossless, audit.counted_bytes, audit.first_difference) == (False, 12, 0)
    assert audit.lost_share == 2 / 13  # both line ends; the other spaces only moved


@settings(max_examples=100, deadline=None)
@given(valid.filter(has_no_mark))
def test_sentencepiece_that_changes_nothing_is_lossless(text):
    """With fallback and without normalisation Σ bytes is the length of any text."""
    table = resolved("sentencepiece")
    assert table.audit(text).lossless
    assert sum(int(table.table[i]) for i in table.encode(text)) == len(text.encode())


def test_the_settings_of_a_processor_do_not_reach_the_audit():
    """One made to add ends, to reverse and to sample is encoded with plainly."""
    proto = sentencepiece_model(True, lossless=True)
    odd = sentencepiece.SentencePieceProcessor(
        model_proto=proto, add_bos=True, add_eos=True, reverse=True, enable_sampling=True, alpha=0.1, nbest_size=-1
    )
    assert list(token_bytes(odd).encode(CORPUS[0])) == list(resolved("sentencepiece").encode(CORPUS[0]))


# A receiver rebuilds the tokenizer from the files


def rebuilt(kind, folder):
    if kind == "characters":
        return token_bytes(json.loads((folder / "characters.json").read_bytes())).encode
    if kind == "tiktoken":
        ranks = tiktoken.load.load_tiktoken_bpe(str(folder / "ranks.tiktoken"))
        options = json.loads((folder / "encoding.json").read_bytes())
        return tiktoken.Encoding("rebuilt", mergeable_ranks=ranks, **options).encode_ordinary
    if kind == "tokenizers":
        return lambda text: tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).encode


@pytest.mark.parametrize("kind", ["characters", "tiktoken", "tokenizers", "sentencepiece"])
def test_the_files_rebuild_the_tokenizer(kind, tmp_path, monkeypatch):
    """What stands in the bundle encodes as the original does."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    table = resolved(kind)
    for name, content in table.files.items():
        (tmp_path / name).write_bytes(content)
    encode = rebuilt(kind, tmp_path)
    for text in [*CORPUS[:3], " ".join(AWKWARD), f"a{END}"]:
        assert list(encode(text)) == list(table.encode(text))


def test_holes_and_symbols_of_a_character_vocabulary_survive_the_file():
    """The file gives the same table back, holes, symbols without text and lone surrogates included."""
    table = token_bytes({"<pad>": 0, "é": 2, "\ud800": 5})
    again = token_bytes(json.loads(table.files["characters.json"]))
    assert again.identity() == table.identity()
    assert again.files == table.files == {"characters.json": b'["<pad>","","\xc3\xa9","","","\xed\xa0\x80"]'}


def test_files_are_canonical():
    """The order in which something was given is not in the files, so that it changes no bundle."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    special = {END: 256, "<a>": 257}
    first, again = (
        token_bytes(tiktoken.Encoding("tiny", pat_str=".", mergeable_ranks=dict(r), special_tokens=dict(s)))
        for r, s in ((ranks.items(), special.items()), (reversed(ranks.items()), reversed(special.items())))
    )
    assert first.files == again.files
    assert first.files["encoding.json"] == b'{"pat_str":".","special_tokens":{"<a>":257,"<|endoftext|>":256}}'
    assert first.files["ranks.tiktoken"].startswith(b"AA== 0\nAQ== 1\n")


@pytest.mark.parametrize("source", ["bytes", [1, 2]])
def test_raw_bytes_and_a_bare_table_have_no_files(source):
    """There is nothing to send."""
    assert token_bytes(source).files == {}


# Bare tables, dotted paths and mistakes


@pytest.mark.parametrize(
    "source",
    [[1, 0, 4], (1, 0, 4), np.array([1, 0, 4], dtype=np.uint8), torch.tensor([1, 0, 4], dtype=torch.int32)],
    ids=["list", "tuple", "array", "tensor"],
)
def test_a_bare_table_is_taken_as_it_is(source):
    """A list, an array or a tensor of counts; there is no encoder."""
    table = token_bytes(source)
    assert (table.kind, table.table.tolist(), table.encode, table.decode) == ("table", [1, 0, 4], None, None)


@pytest.fixture
def module_on_the_path(tmp_path, monkeypatch):
    (tmp_path / "their_tokens.py").write_text("class Data:\n    vocabulary = ['a', 'é']\nraw = 'bytes'\nname = 'raw'\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("their_tokens", None)


@pytest.mark.usefixtures("module_on_the_path")
@pytest.mark.parametrize(
    ("path", "kind"), [("their_tokens:Data.vocabulary", "characters"), ("their_tokens.raw", "bytes")]
)
def test_a_dotted_path_is_followed(path, kind):
    """A command line can name a tokenizer: after a colon, or after the last dot."""
    assert token_bytes(path).kind == kind


@pytest.mark.usefixtures("module_on_the_path")
@pytest.mark.parametrize(
    "path", ["gpt2", "no_such_module:x", "their_tokens:missing", "their_tokens.missing", "", ":", "their_tokens:"]
)
def test_a_path_that_leads_nowhere_says_how_to_write_one(path):
    """The message has the path, why it failed, and the form."""
    with pytest.raises(TokenBytesError, match=re.escape(f"came {path!r} (")) as caught:
        token_bytes(path)
    assert "write it as 'package.module:name'" in str(caught.value)


class Stranger:
    """Something with methods of the same names, from a package that is not known."""

    encode_ordinary = to_str = id_to_piece = None


MISTAKES = {
    "a stranger": (Stranger(), "came Stranger"),
    "a path to text": ("their_tokens:name", "came str 'raw'"),
    "nothing": (None, "came NoneType None"),
    "a number": (50257, "came int 50257"),
    "a class": (TokenBytes, "came type"),
    "empty list": ([], "expected whole numbers of bytes"),
    "empty array": (np.array([], dtype=int), "expected whole numbers of bytes"),
    "with a gradient": (torch.ones(3, requires_grad=True), "expected whole numbers"),
    "empty dict": ({}, "came an empty characters vocabulary: load it first"),
    "negative": ([1, -1], "0 or more"),
    "fractions": ([1.0, 2.0], "expected whole numbers"),
    "truths": ([True, False], "expected whole numbers"),
    "ragged": ([[1], [1, 2]], "expected whole numbers"),
    "two axes": (np.ones((2, 2), dtype=int), "shape (vocab_size,)"),
    "not in host memory": (torch.ones(3, dtype=torch.int64, device="meta"), "in host memory"),
    "keys read from JSON": ({"0": "a"}, "each with an id of its own, came str 'a' and str '0'"),
    "two characters, one id": ({"a": 0, "b": 0}, "came str 'b' and int 0"),
    "a negative id": ({"a": -1}, "came str 'a' and int -1"),
    "a truth for an id": ({"a": True}, "came str 'a' and bool True"),
    "mixed": (["a", 1], "came int 1 and int 1"),
    "words": (["the", "dog"], "expected single characters, or symbols such as <pad>, came 'the' for id 0"),
    "two code points": ({"e\u0301": 0}, "expected single characters"),
    "a long value": (set(range(1000)), "..."),
    "many lines": (["a\nb" * 2, "c"], "came 'a\\nba\\nb'"),
    "unloaded": (sentencepiece.SentencePieceProcessor(), "came an empty sentencepiece vocabulary: load it first"),
}


@pytest.mark.usefixtures("module_on_the_path")
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_one_line(name):
    """What was expected, what came, what to do."""
    source, said = MISTAKES[name]
    with pytest.raises(TokenBytesError, match=re.escape(said)) as caught:
        token_bytes(source)
    message = str(caught.value)
    assert re.fullmatch(r"expected .+[,)] ?came .+: (give|load|write) .+", message), message
    assert len(message) < 420


# Real tokenizers on real texts


@functools.cache
def shakespeare():
    return (DATA / "text" / "tinyshakespeare.txt").read_bytes()


@functools.cache
def sanguo():
    """Read the first 100,000 characters of a Chinese novel with CRLF line ends."""
    raw = lzma.decompress((DATA / "text" / "zh-sanguo-yanyi.txt.xz").read_bytes())
    return raw.decode()[:100_000].encode()


CACHED = {  # the names under which tiktoken looks for its downloads
    "gpt2-vocab.bpe": "6d1cbeee0f20b3d9449abfede4726ed8212e3aee",
    "gpt2-encoder.json": "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6",
    "cl100k_base.tiktoken": "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
}


@pytest.fixture
def get_encoding(tmp_path, monkeypatch):
    """Lend tiktoken's own constructor, with its downloads at hand."""
    for name, cached in CACHED.items():
        shutil.copy(DATA / "tokenizers" / name, tmp_path / cached)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    return tiktoken.get_encoding


@real_data
@pytest.mark.parametrize(
    ("name", "tokens", "vocab_size"), [("gpt2", 338_025, 50_257), ("cl100k_base", 301_829, 100_277)]
)
def test_tiktokens_encodings_are_lossless_on_real_text(get_encoding, name, tokens, vocab_size):
    """Published token counts; Σ bytes is the size of the file; the encoding is public and free."""
    table = token_bytes(get_encoding(name))
    assert table.audit(shakespeare()) == TokenAudit(1_115_394, 1_115_394, tokens, True, 0.0, None)
    assert table.audit(sanguo()).lossless
    assert (table.public, table.files, table.vocab_size) == (True, {}, vocab_size)


@real_data
def test_gpt2s_table_is_that_of_its_vocabulary_file(get_encoding):
    """The other way to count: a symbol of the vocabulary has a character for every byte."""
    symbols = json.loads((DATA / "tokenizers" / "gpt2-encoder.json").read_bytes())
    expected = [0 if symbol == END else len(symbol) for symbol in sorted(symbols, key=symbols.__getitem__)]
    assert token_bytes(get_encoding("gpt2")).table.tolist() == expected


@real_data
def test_neox_is_lossless_on_real_text():
    """Its runs of spaces are added tokens that count their own length; special ones count none."""
    saved = lzma.decompress((DATA / "tokenizers" / "gpt-neox-20b-tokenizer.json.xz").read_bytes()).decode()
    tokenizer = tokenizers.Tokenizer.from_str(saved)
    table = token_bytes(tokenizer)
    assert table.audit(shakespeare()) == TokenAudit(1_115_394, 1_115_394, 340_240, True, 0.0, None)
    assert table.audit(sanguo()).lossless
    assert table.table[tokenizer.token_to_id(" " * 24)] == 24
    assert table.table[tokenizer.token_to_id(END)] == 0
    assert token_bytes(tokenizers.Tokenizer.from_str(saved)).identity() == table.identity()


@real_data
def test_a_real_sentencepiece_with_fallback_loses_line_ends():
    """By hand: every run of white space becomes one space, none before the first letter or after the last."""
    raw = shakespeare()
    by_hand = re.sub(rb"\s+", b" ", raw).strip()
    path = DATA / "tokenizers" / "fineweb-8192-bpe.model"
    audit = token_bytes(sentencepiece.SentencePieceProcessor(model_file=str(path))).audit(raw)
    assert audit == TokenAudit(1_115_394, len(by_hand), 357_830, False, 40_000 / 1_115_394, 14)
    assert raw.count(b"\n") == 40_000
    assert raw[14:15] == b"\n"


@real_data
def test_a_real_sentencepiece_without_fallback_loses_what_it_does_not_know():
    """By hand: characters that are no piece, and spaces that were one too many; of Chinese all but 0.4 %."""
    model = sentencepiece.SentencePieceProcessor(
        model_file=str(DATA / "tokenizers" / "sentencepiece-unigram-1000.model")
    )
    pieces = {model.id_to_piece(i) for i in range(model.get_piece_size())}
    text = shakespeare().decode()
    unknown = sum(character not in pieces for character in text if character != " ")
    repeated = sum(len(run) - 1 for run in re.findall(" +", text))
    audit = token_bytes(model).audit(text)
    assert audit == TokenAudit(1_115_394, 1_074_009, 542_180, False, 41_385 / 1_115_394, 0)
    assert unknown + repeated - 1 == 41_385  # the space that it puts before the text makes up for one
    chinese = token_bytes(model).audit(sanguo())
    assert (chinese.tokens, chinese.text_bytes, chinese.counted_bytes) == (22_479, 294_773, 11_282)
    assert chinese.lost_share == 293_595 / 294_773
