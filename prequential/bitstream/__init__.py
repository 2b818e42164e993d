"""Writing the data as a bitstream while a run trains on it, and getting it back by the same training.

A program that is to be decoded never sees its data, only placeholders; the monitor puts the tokens in their place just
before each training step. Both sides therefore run the same code, and compute from the placeholders alone in which
order tokens become known.
"""

from prequential.bitstream.corpus import Corpus, encoded
from prequential.bitstream.decoding import Decoder
from prequential.bitstream.encoding import Encoder

__all__ = ["Corpus", "Decoder", "Encoder", "encoded"]
