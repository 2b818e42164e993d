"""From what a user has at hand to bytes per token id.

Tokenizers are recognised by the name of their package, so that no package is imported that the caller has not
imported already. Encoders are partials of module functions, not closures, so that a callback holding one can be
pickled.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from prequential.errors import TokenBytesError
from prequential.tokenbytes.spelling import SPACES, speller, spelt
from prequential.tokenbytes.table import TokenBytes, raw_bytes

# No vocabulary is larger; a table has a place for each id, of 8 bytes.
_IDS_BELOW = 2**24

# A symbol of a character vocabulary that is no character: <pad>, [MASK], or nothing, which fills a hole.
_NO_TEXT = re.compile(r"<.+>|\[.+\]|")


def token_bytes(source: object) -> TokenBytes:
    """Resolve what a user has at hand into bytes per token id.

    Args:
        source: One of: ``"bytes"`` (an id is a byte's value); a character vocabulary (dict of character to id
            or of id to character, or list of characters; entries such as ``<pad>`` stand for 0 bytes); a
            tiktoken ``Encoding``; a ``tokenizers.Tokenizer`` or a fast transformers tokenizer; a
            ``SentencePieceProcessor``; a list or array with the number of bytes of each id, shape
            (vocab_size,); a `TokenBytes`; or the dotted path, ``"package.module:name"``, of one of these.

    Returns:
        The table, with an encoder and the tokenizer's files where there is one.

    Raises:
        TokenBytesError: The source is none of these, or contradicts itself.
    """
    found = _imported(source) if isinstance(source, str) and source != "bytes" else source
    if isinstance(found, TokenBytes):
        return found
    make = _maker(found)
    if make is None:
        raise TokenBytesError(
            "expected a tokenizer (tiktoken, tokenizers, fast transformers, SentencePiece), a character "
            f"vocabulary, 'bytes', the bytes of each id, or the dotted path of one of these, came {_shown(found)}: "
            "give the tokenizer object itself, or a list with the number of bytes that each id stands for"
        )
    return make(found)


def _maker(found: object) -> Callable[[Any], TokenBytes] | None:
    """Choose by what it is how a table is made of it; None for a stranger."""
    packages = {base.__module__.partition(".")[0] for base in type(found).__mro__}
    if isinstance(found, str):
        return _from_bytes if found == "bytes" else None
    if "tiktoken" in packages and hasattr(found, "encode_ordinary"):
        return _from_tiktoken
    if hasattr(found, "backend_tokenizer"):
        return _from_transformers
    if "tokenizers" in packages and hasattr(found, "to_str"):
        return _from_tokenizers
    if "sentencepiece" in packages and hasattr(found, "id_to_piece"):
        return _from_sentencepiece
    if isinstance(found, Mapping) or (isinstance(found, (list, tuple)) and any(isinstance(i, str) for i in found)):
        return _from_characters
    return _from_table if isinstance(found, (list, tuple)) or hasattr(found, "__array__") else None


def _imported(path: str) -> object:
    """Follow ``module:name`` or ``module.name`` to the object it names."""
    module, colon, names = path.partition(":")
    if not colon:
        module, _, names = path.rpartition(".")
    try:
        found: object = import_module(module)
        for name in names.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError, ValueError) as error:
        raise TokenBytesError(
            f"expected 'bytes' or the dotted path of a tokenizer, came {path!r} ({error}): "
            "write it as 'package.module:name', with the package on the import path"
        ) from error
    return found


def _shown(value: object) -> str:
    """Show a value in an error message, on one short line."""
    text = " ".join(repr(value).split())
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _joining(
    kind: str,
    name: str,
    pieces: Mapping[int, bytes],
    encode: Callable[[str | bytes], Sequence[int]],
    files: Mapping[str, bytes],
    public: bool = False,
) -> TokenBytes:
    """Build the table from the bytes of each id, so that its sum over ids is the length of what they join to."""
    if not pieces:
        raise TokenBytesError(f"expected at least one token, came an empty {kind} vocabulary: load it first")
    _check_largest(max(pieces))
    table = np.zeros(max(pieces) + 1, dtype=np.int64)
    for i, piece in pieces.items():
        table[i] = len(piece)
    return TokenBytes(kind, name, table, encode, partial(_join, pieces), files, public)


def _check_largest(i: int) -> None:
    if i >= _IDS_BELOW:
        raise TokenBytesError(
            f"expected ids below {_IDS_BELOW:,}, came {i}: is the tokenizer's file damaged? Renumber its tokens"
        )


def _join(pieces: Mapping[int, bytes], ids: Sequence[int]) -> bytes:
    """Join the bytes of tokens; an id without a piece stands for nothing."""
    return b"".join(pieces.get(int(i), b"") for i in ids)


def _encode_text(encode: Callable[[str], Any], text: str | bytes) -> Sequence[int]:
    """Encode what an encoder of text can take; what is not UTF-8 becomes U+FFFD, which the audit finds."""
    encoded = encode(raw_bytes(text).decode("utf-8", "replace"))
    ids: Sequence[int] = getattr(encoded, "ids", encoded)
    return ids


def _json(value: object) -> bytes:
    """Write JSON in one canonical form, as short as it can be."""
    return raw_bytes(json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")))


def _from_bytes(source: str) -> TokenBytes:
    return _joining("bytes", source, {byte: bytes([byte]) for byte in range(256)}, raw_bytes, {})


def _from_table(source: Any) -> TokenBytes:
    try:
        table = np.asarray(source)
    except (TypeError, ValueError, RuntimeError):  # a ragged list, or a tensor that is not in host memory
        table = np.empty(0)
    if table.ndim != 1 or not table.size or table.dtype.kind not in "iu" or table.min() < 0:
        raise TokenBytesError(
            f"expected whole numbers of bytes, 0 or more, shape (vocab_size,), came {_shown(source)}: "
            "give one count for each id, in host memory, with 0 for an id that stands for no text"
        )
    return TokenBytes("table", "table", table)


def _from_characters(source: Any) -> TokenBytes:
    symbols: dict[int, str] = {}
    entries: Iterable[tuple[Any, Any]] = source.items() if isinstance(source, Mapping) else enumerate(source)
    for key, value in entries:
        i, symbol = (key, value) if isinstance(value, str) else (value, key)
        _check_symbol(i, symbol, symbols)
        symbols[int(i)] = symbol
    _check_largest(max(symbols, default=0))
    pieces = {i: raw_bytes(symbol) if len(symbol) == 1 else b"" for i, symbol in symbols.items()}
    ids = {symbol: i for i, symbol in symbols.items() if pieces[i]}
    # A list in the order of ids is shorter than a dict, and `token_bytes` takes it back as it is.
    files = {"characters.json": _json([symbols.get(i, "") for i in range(max(symbols, default=-1) + 1)])}
    encode = partial(_encode_text, partial(_look_up, ids))
    return _joining("characters", "characters", pieces, encode, files)


def _check_symbol(i: Any, symbol: Any, seen: Mapping[int, str]) -> None:
    is_id = isinstance(i, (int, np.integer)) and not isinstance(i, bool) and i >= 0
    if not is_id or not isinstance(symbol, str) or i in seen:
        raise TokenBytesError(
            f"expected characters, each with an id of its own, came {_shown(symbol)} and {_shown(i)}: "
            "give a dict of character to id or of id to character, or a list of characters"
        )
    if len(symbol) != 1 and not _NO_TEXT.fullmatch(symbol):
        raise TokenBytesError(
            f"expected single characters, or symbols such as <pad>, came {symbol!r} for id {i}: "
            "give the tokenizer itself, or a list with the number of bytes that each id stands for"
        )


def _look_up(ids: Mapping[str, int], text: str) -> list[int]:
    """Look characters up; one that is not in the vocabulary is left out, which the audit finds."""
    return [ids[character] for character in text if character in ids]


def _from_tiktoken(encoding: Any) -> TokenBytes:
    ranks, special = encoding._mergeable_ranks, encoding._special_tokens
    pieces = {rank: token for token, rank in ranks.items()} | dict.fromkeys(special.values(), b"")
    # Only the object that tiktoken's own constructors put into its registry; another may just bear the name.
    registered = import_module("tiktoken.registry").ENCODINGS.get(encoding.name) is encoding
    public = registered and encoding.name in import_module("tiktoken_ext.openai_public").ENCODING_CONSTRUCTORS
    by_rank = sorted((rank, base64.b64encode(token)) for token, rank in ranks.items())
    files = {
        "ranks.tiktoken": b"".join(b"%s %d\n" % (token, rank) for rank, token in by_rank),
        "encoding.json": _json({"pat_str": encoding._pat_str, "special_tokens": special}),
    }
    encode = partial(_encode_text, encoding.encode_ordinary)
    return _joining("tiktoken", encoding.name, pieces, encode, {} if public else files, public)


def _from_sentencepiece(model: Any) -> TokenBytes:
    def bytes_of(i: int) -> bytes:
        is_text = not model.is_control(i) and not model.is_unknown(i)
        try:
            return spelt(model.id_to_piece(i), SPACES, model.is_byte(i)) if is_text else b""
        except UnicodeDecodeError as error:
            raise TokenBytesError(f"expected pieces in UTF-8, came another as id {i}: is the model damaged?") from error

    pieces = {i: bytes_of(i) for i in range(model.get_piece_size())}
    # A processor may have been made to add, reverse or sample: the text is encoded as it stands.
    plainly = {"add_bos": False, "add_eos": False, "reverse": False, "enable_sampling": False}
    encode = partial(_encode_text, partial(model.encode, out_type=int, **plainly))
    files = {"tokenizer.model": model.serialized_model_proto()}
    return _joining("sentencepiece", type(model).__name__, pieces, encode, files)


def _from_transformers(tokenizer: Any) -> TokenBytes:
    name = str(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)
    # A record names a tokenizer, not the folder that it was loaded from.
    name = Path(name).name if Path(name).is_absolute() or Path(name).exists() else name
    return _from_tokenizers(tokenizer.backend_tokenizer, name, tokenizer.all_special_ids)


def _from_tokenizers(tokenizer: Any, name: str = "", special_ids: Sequence[int] = ()) -> TokenBytes:
    spec = _specification(tokenizer)
    saved = _json(spec)
    # A copy is safe from changes to the original; whether special tokens are split is no part of the file.
    copy = _rebuilt(saved)
    copy.encode_special_tokens = getattr(tokenizer, "encode_special_tokens", False)
    bytes_of = speller(spec)
    pieces = {i: bytes_of(symbol) for symbol, i in copy.get_vocab(with_added_tokens=True).items()}
    for added in spec["added_tokens"]:
        pieces[added["id"]] = b"" if added["special"] else added["content"].encode()
    unknown = spec["model"].get("unk_id", copy.token_to_id(spec["model"].get("unk_token") or ""))
    pieces |= dict.fromkeys({*special_ids, unknown} & pieces.keys(), b"")
    encode = partial(_encode_text, partial(copy.encode, add_special_tokens=False))
    return _joining("tokenizers", name or type(tokenizer).__name__, pieces, encode, {"tokenizer.json": saved})


def _rebuilt(saved: bytes) -> Any:
    try:
        return import_module("tokenizers").Tokenizer.from_str(saved.decode())
    except Exception as error:  # the package raises nothing narrower: two tokens of one id, say
        raise TokenBytesError(
            f"expected a tokenizer that its own file rebuilds, came one that it does not ({error}): mend its vocabulary"
        ) from error


def _specification(tokenizer: Any) -> dict[str, Any]:
    """Give the ``tokenizer.json`` without truncation and padding, which belong to a batch, not to the text."""
    try:
        spec: dict[str, Any] = json.loads(tokenizer.to_str())
    except Exception as error:  # the package raises a bare Exception for parts written in Python
        raise TokenBytesError(
            f"expected a tokenizer that a receiver can rebuild, came {type(tokenizer).__name__} ({error}): "
            "use built-in parts only, or give a list with the number of bytes that each id stands for"
        ) from error
    return spec | {"truncation": None, "padding": None}
