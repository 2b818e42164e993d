"""Everything that reads a file, given files that somebody broke: an answer or one line, and nothing else happens.

Valid files are cut, flipped, swelled and filled with hostile values. Each example is a few milliseconds; a long run is
``FUZZ=100 pytest tests/test_fuzz.py``, which tries a hundred times as many.
"""

import base64
import bz2
import copy
import io
import json
import lzma
import os
import re
import shutil
import struct
import sys
import tarfile
import tempfile
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import pytest
from books import book, tallies
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from prequential.bundle import Bundle
from prequential.bundle.archive import MAX_UNPACKED_BYTES, pack, tar
from prequential.cli import main
from prequential.codelength import Tally
from prequential.errors import BundleError, PrequentialError, TokenBytesError
from prequential.ledger import read_book
from prequential.tokenbytes import token_bytes

EFFORT = float(os.environ.get("FUZZ", "1"))


def fuzz(examples, *, shrink=True):
    """Settings of a fuzz test: no time limit that a busy machine could miss but one that a hang does."""
    return settings(
        max_examples=max(1, int(examples * EFFORT)),
        deadline=30_000,
        derandomize=EFFORT == 1,
        phases=[Phase.explicit, Phase.generate] + [Phase.shrink] * shrink,
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
                data[place.start() : place.end()] = draw(
                    st.sampled_from([b"0", b"-1", b"9" * 400, b"1e400", b"1.5", b"18446744073709551616"])
                )
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
        if path == os.devnull or not isinstance(path, str):
            return
        if writes and not os.path.realpath(path).startswith(_watched["inside"]):
            _watched["seen"].append(f"wrote {path}")
    elif event in ("pickle.find_class", "os.system", "os.exec", "os.symlink", "os.link"):
        _watched["seen"].append(event)


sys.addaudithook(_hook)


def harmless(call, *arguments):
    """Make a call with the errors of this package allowed, and no other; what it returned, or None."""
    _watched.update(on=True, inside=os.path.realpath("."), seen=[])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call(*arguments)
    except PrequentialError as refusal:
        told = str(refusal)
    finally:
        _watched["on"] = False
        assert not _watched["seen"], _watched["seen"]
    assert "\n" not in told, told
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
    from prequential.integrations.sync import target_of
    from prequential.live import replayed
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


@fuzz(120)
@given(data=st.data())
def test_broken_lines_of_a_book(lines, data):
    broken = data.draw(broken_json(lines))
    text = "".join(json.dumps(line, ensure_ascii=data.draw(st.booleans())) + "\n" for line in broken)
    look_at_book(written("fuzz/book.jsonl", text.encode("utf-8", "surrogatepass")))


@fuzz(80)
@given(data=st.data())
def test_broken_bytes_of_a_book(lines, data):
    valid = "".join(json.dumps(line) + "\n" for line in lines).encode()
    look_at_book(written("fuzz/book.jsonl", data.draw(broken_bytes(valid) | st.binary(max_size=300))))


FOUND = {
    "a header's weights are no object": (0, {"weights": "x"}),
    "the hash of the weights is no string": (0, {"weights": {"sha256": []}}),
    "the hash of the bundle is no string": (0, {"bundle": {"sha256": {}, "bundle_bytes": 1}}),
    "a size beyond all disks": (0, {"bundle": {"bundle_bytes": 10**400}}),
    "a vocabulary beyond all numbers": (0, {"vocab_size": 10**400}),
    "a baseline beyond all disks": (0, {"baselines": {"xz": 10**400}}),
    "a count beyond all numbers": (1, {"coded_tokens": 10**400}),
    "nats as a whole number beyond all": (1, {"nats": 10**400}),
    "an audit without its result": (-1, {"coverage": {"once": 1, "repeated": 2}}),
    "an audit whose result is nothing": (-1, {"coverage": {"share": 0.5, "once": None, "repeated": 2}}),
    "a fact past the largest float": (0, {"rescore": "1e999"}),
    "nats past the largest float": (1, {"nats": "1e999"}),
    "an estimate past the largest float": (-1, {"rescored": {"nats": "1e999"}}),
    "an estimate beyond all numbers": (-1, {"rescored": {"nats": 10**400}}),
}


@pytest.mark.parametrize("what", FOUND)
def test_what_was_found_in_books_is_one_line(lines, what):
    place, facts = FOUND[what]
    broken = copy.deepcopy(lines)
    broken[place].update(facts)
    text = "".join(json.dumps(line) + "\n" for line in broken).replace('"1e999"', "1e999")
    path = written("fuzz/book.jsonl", text.encode())
    assert command("show", "--json", path).exit_code == 1


@pytest.mark.parametrize(
    ("bytes_known", "said"), [(False, "x against the uniform code"), (True, "for 0 raw bytes: 0.0000x")]
)
def test_a_run_of_nothing_but_uncoded_tokens_has_a_summary(bytes_known, said):
    """It has no bits a token or a byte, and a ratio all the same."""
    path = book("run/book.jsonl", [Tally(uncoded_tokens=5, uncoded_nats=5.0)], bytes_known=bytes_known)
    assert read_book(path).summary()[0].endswith(said)


# -- logs ----------------------------------------------------------------------------------------------------------

CSV = b"step,train_loss,tokens\n" + b"".join(b"%d,%.3f,%d\n" % (n, 2 + 1 / n, 100 * n) for n in range(1, 30))
SUMS = b"step,prequential/tokens,prequential/nats,prequential/raw_bytes\n1,10,30.5,10\n2,20,50.25,20\n\n3,30,60,30\n"


@fuzz(150)
@given(broken_bytes(CSV) | broken_bytes(SUMS) | st.binary(max_size=200))
def test_broken_csv(data):
    path = written("fuzz/log.csv", data)
    command("show", path)
    Path("out/book.jsonl").unlink(missing_ok=True)
    command("import", path, "-o", "out", "--json", "--loss-column", "train_loss", "--tokens-per-step", "10")


def valid_events():
    """A TensorBoard file as its writer makes it."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    class Kept(io.BytesIO):
        def close(self):
            pass

    file = Kept()
    writer = RecordWriter(file)
    writer.write(Event(wall_time=1.0, file_version="brain.Event:2").SerializeToString())
    for step in range(1, 6):
        values = [
            Summary.Value(tag="train_loss", simple_value=3.0 / step),
            Summary.Value(tag="tokens", simple_value=9 * step),
        ]
        writer.write(Event(wall_time=1.0, step=step, summary=Summary(value=values)).SerializeToString())
    return file.getvalue()


@st.composite
def broken_events(draw, valid):
    """A TensorBoard file whose records are broken inside, with checksums that fit, or broken as bytes."""
    if draw(st.booleans()):
        return draw(broken_bytes(valid))
    from tensorboard.summary.writer.record_writer import RecordWriter

    at, file = 0, io.BytesIO()
    writer = RecordWriter(file)
    while at < len(valid):
        (length,) = struct.unpack_from("<Q", valid, at)
        record = valid[at + 12 : at + 12 + length]
        writer.write(draw(broken_bytes(record)) if draw(st.integers(0, 2)) == 0 else record)
        at += 16 + length
    return file.getvalue()


@fuzz(60)
@given(data=st.data())
def test_broken_tensorboard_events(data):
    pytest.importorskip("tensorboard")
    path = written("fuzz/events.out.tfevents.1", data.draw(broken_events(valid_events())))
    command("show", path)


@pytest.fixture(scope="module")
def offline_file(tmp_path_factory):
    """The file of a W&B offline run that a training with our keys might leave."""
    wandb = pytest.importorskip("wandb", minversion="0.31")
    folder = tmp_path_factory.mktemp("offline")
    wandb.teardown()
    with wandb.init(
        project="p", mode="offline", dir=folder, settings=wandb.Settings(console="off", silent=True)
    ) as run:
        for n in range(1, 6):
            run.log({"prequential/tokens": 10 * n, "prequential/nats": 25.0 * n, "train_loss": 2.5})
    wandb.teardown()
    (path,) = folder.rglob("*.wandb")
    return path.read_bytes()


@st.composite
def broken_wandb(draw, valid):
    """A W&B log broken as bytes, or with a broken record whose checksum fits."""
    data = bytearray(draw(broken_bytes(valid)))
    if draw(st.booleans()):
        data = bytearray(valid)
        starts, at = [], 7
        while at + 7 <= len(data):
            starts.append(at)
            at += 7 + struct.unpack_from("<H", data, at + 4)[0]
        at = draw(st.sampled_from(starts))
        length = struct.unpack_from("<H", data, at + 4)[0]
        record = draw(broken_bytes(data[at + 7 : at + 7 + length]))[:60000]
        body = bytes([data[at + 6]]) + record
        data[at : at + 7 + length] = struct.pack("<IH", zlib.crc32(body), len(record)) + body
    return bytes(data)


@fuzz(3, shrink=False)
@given(data=st.data())
def test_broken_wandb_files(offline_file, data):
    """Few, since W&B's own reader is started for each."""
    command("show", written("fuzz/run-abc.wandb", data.draw(broken_wandb(offline_file))))


# -- bundles -------------------------------------------------------------------------------------------------------

FILES = {
    "train.py": b"print('train')\n" * 20,
    "data/config.json": b'{"module": {"lr": 1}}',
    "x" * 120: b"",
    "a/b/c.py": b"1",
}


def look_at_bundle(data):
    """Read it, and unpack it into a folder beside which something lies that it could reach."""
    path = written("fuzz/bundle", data)
    found = harmless(Bundle.read, path)
    if found is not None:
        harmless(found.manifest)
        harmless(found.unpack, "fuzz/unpacked")
        assert all(name in found.files for name in files_below("fuzz/unpacked"))
    assert Path("secret").read_bytes() == b"mine"
    shutil.rmtree("fuzz")


def files_below(folder):
    return [path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if not path.is_dir()]


PACKERS = {
    "zip": lambda data: data,
    "xz -9e": lambda data: lzma.compress(data, preset=0),
    "bzip2 -9": lambda data: bz2.compress(data, 1),
    "zstd -22": lambda data: __import__("zstandard").compress(data, 1),
}


@fuzz(160)
@given(data=st.data(), rule=st.sampled_from(sorted(PACKERS)))
def test_broken_bundles(data, rule):
    """Broken as it is packed, and broken inside and packed again, so that what reads the archive sees it."""
    Path("secret").write_bytes(b"mine")
    if data.draw(st.booleans()):
        look_at_bundle(data.draw(broken_bytes(pack(FILES, rule))))
    else:
        look_at_bundle(PACKERS[rule](data.draw(broken_bytes(pack(FILES, "zip") if rule == "zip" else tar(FILES)))))


def tarred(*members):
    """A tar of members as an attacker writes them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, target in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, target, 1 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(b"x"))
    return lzma.compress(buffer.getvalue(), preset=0)


def zipped(name, mode=0o100644, data=b"x"):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        archive.writestr(entry, data)
    return buffer.getvalue()


ATTACKS = {
    "has no name": zipped(""),
    "climbs": tarred(("../secret", tarfile.REGTYPE, "")),
    "is absolute": tarred(("/tmp/secret", tarfile.REGTYPE, "")),
    "climbs inside": tarred(("a/../../secret", tarfile.REGTYPE, "")),
    "is a link": tarred(("a", tarfile.SYMTYPE, "../secret")),
    "writes through a link": tarred(("a", tarfile.SYMTYPE, ".."), ("a/secret", tarfile.REGTYPE, "")),
    "is a hard link": tarred(("a", tarfile.LNKTYPE, "../secret")),
    "is a device": tarred(("a", tarfile.CHRTYPE, "")),
    "is a pipe": tarred(("a", tarfile.FIFOTYPE, "")),
    "comes twice": tarred(("a", tarfile.REGTYPE, ""), ("a", tarfile.REGTYPE, "")),
    "is a file and a folder": tarred(("a", tarfile.REGTYPE, ""), ("a/b", tarfile.REGTYPE, "")),
    "climbs in a zip": zipped("../secret"),
    "is absolute in a zip": zipped("/secret"),
    "has a drive": zipped("C:/secret"),
    "has a backslash": zipped("..\\secret"),
    "is a link in a zip": zipped("a", 0o120777, b"../secret"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_bundle_that_reaches_out_of_its_folder_is_refused(attack):
    Path("secret").write_bytes(b"mine")
    path = written("fuzz/bundle", ATTACKS[attack])
    with pytest.raises(BundleError, match=r"^expected "):
        Bundle.read(path)
    assert sorted(files_below(".")) == ["fuzz/bundle", "secret"]


def test_a_link_in_the_folder_to_unpack_into_is_not_followed():
    """It may have been put there by whoever made the bundle before."""
    Path("elsewhere").mkdir()
    Path("folder").mkdir()
    Path("folder/a").symlink_to("../elsewhere")
    with pytest.raises(BundleError, match="a link"):
        Bundle(files={"a/b.py": b"1"}).unpack("folder")
    assert not files_below("elsewhere")


MEBIBYTE = 2**20
ZEROS = bytes(64 * MEBIBYTE)
BOMBS = {
    "xz": lambda: lzma.compress(ZEROS, preset=0),
    "bzip2": lambda: bz2.compress(ZEROS, 1),
    "zstd": lambda: __import__("zstandard").compress(ZEROS, 1),
    "zstd of unknown length": lambda: __import__("zstandard").ZstdCompressor(write_content_size=False).compress(ZEROS),
    "zip": lambda: zip_of(ZEROS),
    "tar in xz": lambda: lzma.compress(tar({"zeros": ZEROS}), preset=0),
}


def zip_of(data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        entry = zipfile.ZipInfo("zeros")
        entry.external_attr, entry.compress_type = 0o100644 << 16, zipfile.ZIP_DEFLATED
        archive.writestr(entry, data)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_takes_no_more_than_the_limit(kind):
    """A small file that unpacks to much is refused when it is past the limit, not after."""
    path = written("fuzz/bundle", BOMBS[kind]())
    limit = 4 * MEBIBYTE
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match=f"expected at most {limit} bytes unpacked"):
            Bundle.read(path, limit_bytes=limit)
        assert tracemalloc.get_traced_memory()[1] < 4 * limit
    finally:
        tracemalloc.stop()
    assert MAX_UNPACKED_BYTES == 256 * MEBIBYTE  # the documented default


# -- tokenizers ----------------------------------------------------------------------------------------------------


def look_at_tokenizer(load):
    """Count its bytes, if its own package takes the file: it may refuse it by any exception, or a panic of its Rust."""
    try:
        loaded = load()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return
    table = harmless(token_bytes, loaded)
    if table is not None:
        assert table.vocab_size <= 2**24
        assert table.identity()["sha256"]


HF = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [
        {
            "id": 3,
            "content": "<s>",
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
    ],
    "normalizer": {
        "type": "Sequence",
        "normalizers": [{"type": "Replace", "pattern": {"String": " "}, "content": "_"}],
    },
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "post_processor": None,
    "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
    "model": {
        "type": "BPE",
        "dropout": None,
        "unk_token": "a",
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": {"a": 0, "b": 1, "ab": 2},
        "merges": [["a", "b"]],
    },
}
UNIGRAM = HF | {"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", -1.0], ["_b", -2.0]], "byte_fallback": False}}


@fuzz(200)
@given(broken_json(HF) | broken_json(UNIGRAM))
def test_broken_hugging_face_tokenizers(spec):
    tokenizers = pytest.importorskip("tokenizers")
    look_at_tokenizer(lambda: tokenizers.Tokenizer.from_str(json.dumps(spec)))


@fuzz(100)
@given(broken_bytes(b"".join(b"%s %d\n" % (base64.b64encode(bytes([n])), n) for n in range(256))))
def test_broken_tiktoken_files(data):
    """Ranks as large as the file says."""
    tiktoken = pytest.importorskip("tiktoken")
    from tiktoken.load import load_tiktoken_bpe

    def load():
        ranks = load_tiktoken_bpe(written("fuzz/ranks.tiktoken", data))
        return tiktoken.Encoding("broken", pat_str=r".", mergeable_ranks=ranks, special_tokens={})

    look_at_tokenizer(load)


@fuzz(100)
@given(data=st.data())
def test_broken_sentencepiece_models(sentencepiece_model, data):
    sentencepiece = pytest.importorskip("sentencepiece")
    broken = data.draw(broken_bytes(sentencepiece_model))
    look_at_tokenizer(lambda: sentencepiece.SentencePieceProcessor(model_proto=broken))


@pytest.fixture(scope="module")
def sentencepiece_model():
    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox jumps over the lazy dog"] * 5),
        model_writer=model,
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return model.getvalue()


def test_a_tokenizer_that_its_own_file_does_not_rebuild_is_refused():
    """Two tokens have one id: the file is read once, and what was read writes another."""
    tokenizers = pytest.importorskip("tokenizers")
    spec = HF | {"model": HF["model"] | {"vocab": {"a": 0, "b": 0, "ab": 2}}}
    for _ in range(20):  # which of the two tokens it keeps changes from time to time
        try:
            loaded = tokenizers.Tokenizer.from_str(json.dumps(spec))
        except Exception:  # the package raises nothing narrower
            continue
        harmless(token_bytes, loaded)


@pytest.mark.parametrize("source", [{10**12: "a"}, {"a": 2**24}, {"a": 2**70}])
def test_an_id_that_no_vocabulary_has_is_refused(source):
    """A table has a place for every id below the largest: one far out would take all memory."""
    with pytest.raises(TokenBytesError, match="expected ids below"):
        token_bytes(source)
