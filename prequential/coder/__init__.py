"""The bitstream: a model's probabilities → integer frequencies → range coder → file, and back.

Owns the tables that both sides must agree on, the file and its checks. The entropy coder itself is ``constriction``'s.
"""

from prequential.coder.checks import check_value, checks_path
from prequential.coder.frequencies import frequencies, uniform_frequencies
from prequential.coder.reader import BitstreamReader
from prequential.coder.writer import BitstreamWriter

__all__ = ["BitstreamReader", "BitstreamWriter", "check_value", "checks_path", "frequencies", "uniform_frequencies"]
