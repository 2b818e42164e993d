"""Everything that reads a file, given files that somebody broke: an answer or one line, and nothing else happens.

Valid files are cut, flipped, swelled and filled with hostile values. Each example is a few milliseconds; a long run is
``FUZZ=100 pytest tests/test_fuzz.py``, which tries a hundred times as many.
"""

import bz2
import copy
import io
import json
import lzma
import os
import re
import struct
import sys
import tarfile
import tempfile
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import pytest
from books import book, tallies
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prequential.bundle import Bundle
from prequential.bundle.archive import MAX_UNPACKED_BYTES, pack, tar
from prequential.cli import main
from prequential.errors import BundleError, PrequentialError, TokenBytesError
from prequential.tokenbytes import token_bytes

EFFORT = float(os.environ.get("FUZZ", "1"))


def fuzz(examples):
    """Settings of a fuzz test: no time limit that a busy machine could miss but one that a hang does."""
    return settings(
        max_examples=max(1, int(examples * EFFORT)),
        deadline=30_000,
        derandomize=EFFORT == 1,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


# -- breaking -----------------------------------------------------------------------------------------------------

HOSTILE = [
    *(10**400, -1, 2**63, 2**64, 10**12, 0, 1e308, -1e308, 5e-324, -0.0, True, None, "", [], {}),
    *("\0", "\ud800", "a" * 5000, "<script>", "../../x", "/etc/passwd", "\x1b[31m", "\n", "nan", "\N{SNOWMAN}", "[b]"),
    *([1], {"a": 1}, [[]] * 50, {"": {}}, "9" * 5000, ["x"], {"bundle_bytes": -1}, {"share": 1}, 1.5, "yes"),
]
BYTES = [
    *(b"\0", b"\xff", b"[" * 3000, b"{" * 3000, b"9" * 6000, b"1e999", b"NaN", b"-", b"\n", b"\r", b'"', b",", b"\xc3"),
    *(b"Infinity", b"null", b"../", b"\xef\xbb\xbf", b"\x80" * 20, b"\xff" * 8, b"\x7f\xff\xff\xff", b"1_0", b"0x1"),
]


@st.composite
def broken_bytes(draw, valid):
    """A valid file after a few accidents."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "remove", "repeat", "number", "begin"]))
        if kind == "flip" and data:
            data[at] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = draw(st.sampled_from(BYTES) | st.binary(max_size=12))
        elif kind == "remove":
            del data[at : at + draw(st.integers(1, 40))]
        elif kind == "repeat":
            data[at:at] = data[at : at + draw(st.integers(1, 200))] * draw(st.sampled_from([1, 2, 50]))
        elif kind == "number":
            found = list(re.finditer(rb"\d+", data))
            if found:
                place = draw(st.sampled_from(found))
                data[place.start() : place.end()] = draw(st.sampled_from([b"0", b"-1", b"9" * 400, b"1e400", b"1.5"]))
        else:
            del data[:at]
    return bytes(data)


def _nodes(value, way=()):
    """Ways to all values inside a JSON value."""
    yield way
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _nodes(inner, (*way, key))


@st.composite
def broken_json(draw, value):
    """A JSON value of which a few parts are something else, or gone, or twice as deep."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, 3))):
        ways = [way for way in _nodes(value) if way]
        if not ways:
            break
        *way, last = draw(st.sampled_from(ways))
        holder = value
        for key in way:
            holder = holder[key]
        if draw(st.booleans()) and isinstance(holder, dict) and draw(st.booleans()):
            del holder[last]
        else:
            holder[last] = copy.deepcopy(draw(st.sampled_from(HOSTILE)))
    return value


@pytest.fixture(autouse=True)
def _no_other_folder(monkeypatch):
    """Have temporary files in the folder of the test too."""
    monkeypatch.setattr(tempfile, "tempdir", os.path.realpath("."))


# -- watching ------------------------------------------------------------------------------------------------------

_watched = {"on": False, "inside": "", "seen": []}


def _hook(event, arguments):
    """Note what must never happen while a file is read: writing elsewhere, unpickling, starting programs."""
    if not _watched["on"]:
        return
    if event == "open":
        path, mode, flags = arguments
        writes = (mode and set(mode) & set("wax+")) or (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and isinstance(path, str) and not os.path.realpath(path).startswith(_watched["inside"]):
            _watched["seen"].append(f"wrote {path}")
    elif event in ("pickle.find_class", "os.system", "os.exec", "os.symlink", "os.link", "marshal.loads"):
        if event != "marshal.loads":  # how modules are loaded
            _watched["seen"].append(event)


sys.addaudithook(_hook)


def harmless(call, *arguments):
    """Make a call with the errors of this package allowed, and no other; what it returned, or None."""
    _watched.update(on=True, inside=os.path.realpath("."), seen=[])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call(*arguments)
    except PrequentialError as error:
        assert "\n" not in str(error), error
    finally:
        _watched["on"] = False
        assert not _watched["seen"], _watched["seen"]
    return None


def command(*arguments):
    """Run a command as a person would: it answers, or says one line and ends with 1."""

    def run():
        return CliRunner().invoke(main, list(arguments))

    result = harmless(run)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (0, 1), result.output
    if result.exit_code:
        assert result.stderr.startswith("Error: "), result.stderr
        assert result.stderr.count("\n") == 1, result.stderr
    return result


def written(name, data):
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return str(path)


# -- books ---------------------------------------------------------------------------------------------------------


def valid_book():
    """Lines of a book that has all kinds of lines and all facts that readers look at."""
    end = {
        "repeats": {"share": 0.0, "standard_error": 0.0, "detected": 1.0},
        "coverage": {"share": 0.0, "once": 5, "repeated": 0, "never": None},
        "row_sampling": {"tokens": 5, "standard_error": 1.0},
        "row_split": {"nats": 1.0},
        "rescored": {"nats": 1.0, "standard_error": 0.1, "batches": 2, "share": 0.5},
    }
    header = {
        "weights": {"sha256": "ab" * 32, "parameters": 3, "bytes": 6, "rule": None, "evidence": "values"},
        "modes": {"training": True, "dropout": [0.1], "cross_row": []},
        "wandb": {"id": "a", "project": "b", "entity": "c"},
        "baselines": {"xz": 500},
        "versions": {"torch": "2.4"},
        "single_pass": None,
        "nats_standard_error": 1.5,
    }
    path = book("valid/book.jsonl", tallies([3.0, 2.0, 1.5]), events=[("nonfinite", "a step")], **header)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[-1].update(end)
    lines[2]["sources"] = {"web": {"nats": 1.0, "coded_tokens": 4}}
    lines[2]["log_point"] = True
    lines.insert(2, {"kind": "charge", "name": "best of 8 runs", "bits": 3.0})
    lines.insert(4, {"kind": "rewind", "step": 1})
    lines.insert(5, lines[3])
    return lines


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    previous = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("valid"))
    try:
        return valid_book()
    finally:
        os.chdir(previous)


def look_at_book(path):
    from prequential.live import replayed
    from prequential.integrations.sync import target_of
    from prequential.sources import load_run

    command("show", path)
    command("show", "--json", path)
    command("compare", path, path)
    run = harmless(load_run, path)
    if run is not None:
        for row in replayed(run):
            assert row
        harmless(target_of, run)
        run.summary()


@fuzz(150)
@given(data=st.data())
def test_broken_lines_of_a_book(lines, data):
    broken = data.draw(broken_json(lines))
    text = "".join(json.dumps(line, ensure_ascii=data.draw(st.booleans())) + "\n" for line in broken)
    look_at_book(written("fuzz/book.jsonl", text.encode("utf-8", "surrogatepass")))


@fuzz(150)
@given(data=st.data())
def test_broken_bytes_of_a_book(lines, data):
    valid = "".join(json.dumps(line) + "\n" for line in lines).encode()
    look_at_book(written("fuzz/book.jsonl", data.draw(broken_bytes(valid) | st.binary(max_size=300))))
