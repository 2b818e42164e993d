"""How many bytes of the source each token id stands for, and whether that is true of real text.

Bits per byte divides by bytes of the *source*. They come from the raw bytes of each token, never from
``decode()``: that turns part of a UTF-8 sequence into U+FFFD, three bytes, and flatters. Special, control and
unknown tokens, holes in the vocabulary and ids beyond it (models round V up) stand for nothing; an added token
that is not special stands for its own text.

- `table`: `TokenBytes`, the bytes of each id with an encoder; `TokenAudit`, what became of a real text.
- `kinds`: `token_bytes`, which makes the table from what a user has at hand.
- `spelling`: how the symbols of a vocabulary spell bytes.
"""

from prequential.tokenbytes.kinds import token_bytes
from prequential.tokenbytes.table import TokenAudit, TokenBytes

__all__ = ["TokenAudit", "TokenBytes", "token_bytes"]
