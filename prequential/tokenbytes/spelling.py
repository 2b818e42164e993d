"""How the symbols of a vocabulary spell bytes.

GPT-2 and its kin spell every byte as a visible character. SentencePiece writes a space as U+2581 and, with byte
fallback, a lone byte as ``<0x0A>``. Other vocabularies are plain text with marks for the parts of a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

SPACES = {"\u2581": " "}

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
# GPT-2 spells each byte as a visible character: 188 as themselves, the others from U+0100 on.
_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = [byte for byte in range(256) if byte not in _VISIBLE]
_BYTE_LEVEL = {chr(byte): byte for byte in _VISIBLE} | {chr(256 + n): byte for n, byte in enumerate(_HIDDEN)}


def spelt(symbol: str, swaps: Mapping[str, str], byte_fallback: bool) -> bytes:
    """Give the bytes of a piece in which visible marks stand for spaces and ``<0x0A>`` may stand for a byte."""
    byte = _BYTE_PIECE.fullmatch(symbol) if byte_fallback else None
    if byte:
        return bytes([int(byte[1], 16)])
    for old, new in swaps.items():
        symbol = symbol.replace(old, new)
    return symbol.encode()


def speller(spec: dict[str, Any]) -> Callable[[str], bytes]:
    """Read from a ``tokenizer.json`` how the symbols of its model's vocabulary spell bytes."""
    decoder = _parts(spec["decoder"])
    encoder = [*_parts(spec["normalizer"]), *_parts(spec["pre_tokenizer"])]
    types = {part["type"] for part in encoder + decoder}
    byte_fallback = bool(spec["model"].get("byte_fallback")) or "ByteFallback" in types
    spell = partial(spelt, swaps=_swaps(encoder, decoder), byte_fallback=byte_fallback)
    # Marks of word parts are no text. A space that no piece spells is not counted: the ratio is then too modest.
    prefix = spec["model"].get("continuing_subword_prefix") or ""
    suffix = spec["model"].get("end_of_word_suffix") or ""
    return partial(_unmarked, _byte_level if "ByteLevel" in types else spell, prefix, suffix)


def _parts(component: dict[str, Any] | None) -> list[dict[str, Any]]:
    """List the parts of a normaliser, pre-tokeniser or decoder, those inside sequences too."""
    if component is None or component["type"] != "Sequence":
        return [component] if component else []
    inner = next(value for key, value in component.items() if key != "type")
    return [part for each in inner for part in _parts(each)]


def _swaps(encoder: list[dict[str, Any]], decoder: list[dict[str, Any]]) -> dict[str, str]:
    """Find what stands for what: as the decoder says, or for a space where the normaliser put it so."""
    swaps = {part["replacement"]: " " for part in encoder + decoder if part["type"] == "Metaspace"}
    plain = [[p for p in side if p["type"] == "Replace" and "String" in p["pattern"]] for side in (encoder, decoder)]
    swaps |= {part["content"]: " " for part in plain[0] if part["pattern"]["String"] == " "}
    swaps |= {part["pattern"]["String"]: part["content"] for part in plain[1]}
    swaps.pop("", None)  # a normaliser that drops spaces puts nothing in their place
    return swaps


def _unmarked(spell: Callable[[str], bytes], prefix: str, suffix: str, symbol: str) -> bytes:
    return spell(symbol.removeprefix(prefix).removesuffix(suffix))


def _byte_level(symbol: str) -> bytes:
    """Undo GPT-2's spelling of bytes as characters; a symbol not so spelt stands for its own text."""
    if all(character in _BYTE_LEVEL for character in symbol):
        return bytes(_BYTE_LEVEL[character] for character in symbol)
    return symbol.encode()
