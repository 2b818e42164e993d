"""Sizes under other codes, held against the compressors themselves."""

import bz2
import lzma
import shutil
import subprocess
import zlib

import pytest
import zstandard

from prequential.baselines import baselines, zstd_parameters

TEXT = b"".join(b"line %d of a text that repeats itself, but for %d\n" % (n, n * n % 977) for n in range(4000))


def test_sizes_are_those_of_the_compressors():
    sizes = baselines(TEXT)
    deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
    assert sizes == {
        "uniform": len(TEXT),
        "gzip -9": len(deflate.compress(TEXT) + deflate.flush()),
        "bzip2 -9": len(bz2.BZ2Compressor(9).compress(TEXT)) + len(_flushed_bzip2()),
        "xz -9e": len(
            lzma.compress(TEXT, lzma.FORMAT_XZ, filters=[{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}])
        ),
        "zstd -22": len(zstandard.ZstdCompressor(level=22).compress(TEXT)),
    }


def _flushed_bzip2():
    compressor = bz2.BZ2Compressor(9)
    compressor.compress(TEXT)
    return compressor.flush()


@pytest.mark.parametrize(
    ("name", "command", "slack"),
    [
        ("bzip2 -9", ["bzip2", "-9"], 0),
        ("xz -9e", ["xz", "-9e", "-T1"], 0),
        ("gzip -9", ["gzip", "-9n"], 0.05),
        ("zstd -22", ["zstd", "--ultra", "-22", "--no-check"], 0.15),
    ],
)
def test_sizes_are_those_of_the_public_tools(name, command, slack):
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    packed = subprocess.run([*command, "-c"], input=TEXT, stdout=subprocess.PIPE, check=True).stdout
    # gzip's own deflate is not zlib's, and zstd packs better from version to version
    assert baselines(TEXT)[name] == pytest.approx(len(packed), rel=slack, abs=0)


def test_no_data_is_still_a_file():
    sizes = baselines(b"")
    assert sizes["uniform"] == 0
    assert all(0 < size < 40 for name, size in sizes.items() if name != "uniform")


def test_progress_names_each_code_before_it_starts():
    seen = []
    sizes = baselines(b"abc", progress=seen.append)
    assert seen == list(sizes)


@pytest.mark.parametrize(
    ("raw_bytes", "window_log", "long_distance"),
    [(2**20, 20, 0), (2**27, 27, 0), (2**27 + 1, 28, 1), (2**29 + 1, 30, 1), (2**40, 31, 1)],
)
def test_zstd_sees_all_of_the_data_at_once_as_far_as_it_can(raw_bytes, window_log, long_distance):
    """Without the longer window, data repeated after more than 128 MiB would count twice."""
    parameters = zstd_parameters(raw_bytes)
    assert (parameters.window_log, parameters.enable_ldm) == (window_log, long_distance)
