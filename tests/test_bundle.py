"""The bundle as a value and a file: identity, sizes, round trips, and what is refused."""

import bz2
import hashlib
import io
import lzma
import pickle
import stat
import tarfile
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prequential.bundle import Bundle, archive
from prequential.errors import BundleError

RULES = ["zip", "bzip2 -9", "xz -9e", "zstd -22"]
PARTS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\:"), min_size=1, max_size=60)
NAMES = st.lists(PARTS.filter(lambda part: part not in (".", "..")), min_size=1, max_size=5).map("/".join)


def packable(files):
    """Tell whether names can lie in one folder, and are no secrets."""
    try:
        Bundle(files)
    except BundleError:
        return False
    return True


FILES = st.dictionaries(NAMES, st.binary(max_size=3_000), max_size=5).filter(packable)
PROGRAM = {"train.py": b"import model\n" * 20, "model.py": b"x = 1\n", "config.json": b'{"lr":0.1}\n'}
PACKED = {rule: archive.pack(PROGRAM, rule) for rule in RULES}


# -- round trips and identity -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=15, deadline=None)
@given(files=FILES)
def test_every_rule_gives_the_files_back(rule, files):
    """What is unpacked is what was packed: names and bytes, whatever they are."""
    assert archive.unpack(archive.pack(files, rule)) == (rule, files)


@settings(max_examples=15, deadline=None)
@given(files=FILES, random=st.randoms())
def test_identity_and_size_do_not_depend_on_order(files, random):
    """The same files in another order are the same bundle, byte for byte."""
    shuffled = list(files.items())
    random.shuffle(shuffled)
    bundle, other = Bundle(files), Bundle(dict(shuffled))
    assert bundle == other
    assert (bundle.sha256, bundle.bundle_bytes) == (other.sha256, other.bundle_bytes)
    assert archive.tar(dict(shuffled)) == archive.tar(files)


@settings(max_examples=30, deadline=None)
@given(files=FILES)
def test_tarfile_reads_the_canonical_tar(files):
    """A second reader finds the same files, without times or owners."""
    with tarfile.open(fileobj=io.BytesIO(archive.tar(files))) as opened:
        members = opened.getmembers()
        assert {m.name: opened.extractfile(m).read() for m in members} == files
    assert all((m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) == (0, 0, 0, "", "", 0o644) for m in members)


def test_sha256_is_that_of_the_unpacked_tar(tmp_path):
    """The identity can be had with public tools: unpack, then hash."""
    path = Bundle(PROGRAM).write(tmp_path / "bundle.tar.xz")
    assert hashlib.sha256(lzma.decompress(path.read_bytes())).hexdigest() == Bundle(PROGRAM).sha256


def test_sha256_is_pinned():
    """The identity of a bundle does not change from version to version, machine to machine."""
    assert Bundle({"a.py": b"1\n"}).sha256 == hashlib.sha256(_tar_by_hand(b"a.py", b"1\n")).hexdigest()
    assert Bundle({"a.py": b"1\n"}).sha256.startswith("a5fbafb48b0bc839")


def _tar_by_hand(name, data):
    header = bytearray(512)
    header[0 : len(name)] = name
    header[100:108], header[108:116], header[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    header[124:136], header[136:148] = b"%011o\0" % len(data), b"00000000000\0"
    header[148:156], header[156:157], header[257:265] = b" " * 8, b"0", b"ustar\x0000"
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data.ljust(512, b"\0") + bytes(1024)


@pytest.mark.parametrize("change", [{"train.py": b"import model\n"}, {"new.py": b""}])
def test_other_files_have_another_identity(change):
    """A changed or added file changes the identity, even where it is empty."""
    assert Bundle({**PROGRAM, **change}).sha256 != Bundle(PROGRAM).sha256
    assert Bundle({**PROGRAM, **change}) != Bundle(PROGRAM)


@pytest.mark.parametrize("rule", RULES)
def test_bundle_bytes_is_the_length_of_the_file(tmp_path, rule):
    """What is charged is what lies on the disk, under each rule."""
    bundle = Bundle(PROGRAM, rule=rule)
    path = bundle.write(tmp_path / "new folder" / "bundle")
    assert path.stat().st_size == bundle.bundle_bytes == bundle.sizes[rule] == bundle.manifest()["bundle_bytes"]
    assert Bundle.read(path) == bundle
    assert Bundle.read(path).bundle_bytes == path.stat().st_size


def test_a_file_from_another_codec_is_charged_as_it_is(tmp_path):
    """What was written is what was charged, even if the codec here would pack it otherwise."""
    packed = lzma.compress(archive.tar({"a.py": b"1" * 5_000}), preset=0)
    (tmp_path / "bundle").write_bytes(packed)
    bundle = Bundle.read(tmp_path / "bundle")
    assert bundle.bundle_bytes == bundle.sizes["xz -9e"] == len(packed) != len(archive.pack(bundle.files))


def test_raw_size_is_the_sum_of_the_files():
    """3 + 4 bytes are 7 raw bytes; and every rule has a size."""
    sizes = Bundle({"a.py": b"123", "b.py": b"1234"}).sizes
    assert sizes["raw"] == 7
    assert list(sizes) == ["raw", *RULES]


def test_a_program_that_holds_data_is_charged_for_it():
    """Random bytes inside of the program cost at least themselves, and are named."""
    data = hashlib.shake_256(b"data").digest(1_100_000)
    bundle = Bundle({**PROGRAM, "data.py": b"D = " + repr(data[:50_000]).encode(), "vocab.txt": data})
    assert bundle.bundle_bytes > 1_100_000
    warned = " ".join(bundle.warnings)
    assert "data.py looks like data" in warned
    assert "vocab.txt looks like data and is charged: 1100000 bytes, over 1000000" in warned
    assert "train.py" not in warned


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("a.py", b"x = [" + b"1,\n" * 2_000 + b"]", "a literal of 6002 bytes"),
        ("a.py", b"x = '" + b"a" * 1_001 + b"'", "a line of 1007 characters"),
        ("a.npy", b"1", ".npy is a format of data"),
        ("a.so", b"\x7fELF", "compiled: its bytes differ from machine to machine"),
        ("a.txt", b"\xff\xfe", "not UTF-8 text"),
    ],
)
def test_data_in_disguise_is_named(name, data, why):
    """Each rule of suspicion, alone."""
    assert Bundle({name: data}).warnings == (f"{name} looks like data and is charged: {why}",)


def test_a_bundle_cannot_be_changed():
    """Neither a file nor an attribute, nor through the mapping that it was made of."""
    files = dict(PROGRAM)
    bundle = Bundle(files)
    files["late.py"] = b""
    assert "late.py" not in bundle.files
    with pytest.raises(TypeError):
        bundle.files["late.py"] = b""
    with pytest.raises(AttributeError):
        bundle.rule = "zip"


def test_a_bundle_can_be_pickled():
    """A callback that holds one can be sent to other processes."""
    bundle = Bundle(PROGRAM, {"torch": "2.4"}, "3.12.0", {"commit": "1" * 40, "dirty": False}, ("a note",), "zip")
    again = pickle.loads(pickle.dumps(bundle))
    assert again == bundle
    assert hash(again) == hash(bundle)
    assert again.manifest() == bundle.manifest()


def test_manifest_is_complete_and_plain():
    """All the keys that books hold, with the facts about a file worked out by hand."""
    manifest = Bundle({"a.py": b"1\n"}, {"torch": "2.4"}, "3.12.0").manifest()
    assert set(manifest) == {
        *("sha256", "rule", "bundle_bytes", "sizes", "files", "packages", "python", "git", "codecs", "warnings"),
    }
    assert manifest["files"] == [{"name": "a.py", "bytes": 2, "sha256": hashlib.sha256(b"1\n").hexdigest()}]
    assert (manifest["packages"], manifest["python"], manifest["git"]) == ({"torch": "2.4"}, "3.12.0", None)


# -- names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../a.py", "a/../b.py", "./a.py", "a//b.py", "", "a\\b.py", "C:/a.py", "a\0b", "\udcff.py", "a/"],
)
def test_names_that_leave_the_folder_are_refused(name):
    """A name that is not a relative POSIX path never gets into a bundle."""
    with pytest.raises(BundleError, match="expected relative POSIX file names"):
        Bundle({name: b""})


def test_a_file_cannot_also_be_a_folder():
    """Names that could not lie in one folder are refused."""
    with pytest.raises(BundleError, match="both as a file and as the folder"):
        Bundle({"a": b"", "a/b": b""})


@pytest.mark.parametrize("name", [".env", "conf/.env.local", "id_rsa", "server.PEM", ".git/config", "wandb/run-1/x"])
def test_secrets_are_refused(name):
    """A mapping with a secret in it is no bundle."""
    with pytest.raises(BundleError, match="expected no secrets"):
        Bundle({name: b""})


def test_unknown_rules_are_refused(tmp_path):
    """The message lists the rules there are."""
    with pytest.raises(BundleError, match="expected a size rule out of zip, bzip2 -9"):
        Bundle(PROGRAM, rule="gzip")
    with pytest.raises(BundleError, match="expected a size rule"):
        Bundle(PROGRAM).write(tmp_path / "x", rule="raw")


# -- malicious and damaged archives -----------------------------------------------------------------------------


def tar_of(*members, compress=lzma.compress):
    """Pack a tar of (name, type, data) members, links to /etc/passwd."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as opened:
        for name, kind, data in members:
            member = tarfile.TarInfo(name)
            member.type, member.size = kind, len(data)
            member.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            opened.addfile(member, io.BytesIO(data))
    return compress(buffer.getvalue())


def zip_of(*members, mode=stat.S_IFREG | 0o644, comment=b""):
    """Pack a zip of (name, data) members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.comment = comment
        for name, data in members:
            entry = zipfile.ZipInfo(name)
            entry.external_attr, entry.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            opened.writestr(entry, data)
    return buffer.getvalue()


FILE, LINK, HARD, DEVICE, FOLDER = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        (tar_of(("/etc/cron.d/x", FILE, b"1")), "is absolute"),
        (tar_of(("../x", FILE, b"1")), "'..' part"),
        (tar_of(("a/../../x", FILE, b"1")), "'..' part"),
        (tar_of(("x", LINK, b"")), "a link, device or folder"),
        (tar_of(("x", HARD, b"")), "a link, device or folder"),
        (tar_of(("x", DEVICE, b"")), "a link, device or folder"),
        (tar_of(("x", tarfile.FIFOTYPE, b"")), "a link, device or folder"),
        (tar_of(("x", FOLDER, b"")), "a link, device or folder"),
        (tar_of(("x", FILE, b"1"), ("x", FILE, b"2")), "each name once"),
        (tar_of(("x", FILE, b"1"), ("x/y", FILE, b"2")), "canonically packed|both as a file"),
        (tar_of(("x.py", FILE, b"1")), "canonically packed"),
        (tar_of(("../x", FILE, b"1"), compress=bz2.compress), "'..' part"),
        (zip_of(("../x", b"1")), "'..' part"),
        (zip_of(("/x", b"1")), "is absolute"),
        (zip_of(("x", b"/etc/passwd"), mode=stat.S_IFLNK | 0o777), "a link or folder"),
        (zip_of(("x/", b"")), "a link or folder"),
        (zip_of(("x", b"1"), comment=b"hidden"), "with more in it"),
        (b"MZ\x90\0" + bytes(100), "a file that begins with"),
        (b"", "a file that begins with"),
    ],
)
def test_malicious_archives_are_refused(tmp_path, packed, message):
    """Absolute and climbing names, links, devices, doubles and strangers: a one-line error, nothing written."""
    path = tmp_path / "bundle"
    path.write_bytes(packed)
    with pytest.raises(BundleError, match=message) as caught:
        Bundle.read(path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_with_a_name_twice_is_refused():
    """It is not known which of the two would be the program."""
    with pytest.raises(BundleError, match="each name once"):
        archive.unpack(zip_of(("x", b"1"), ("x", b"2")))


@pytest.mark.parametrize("rule", RULES)
def test_bombs_are_refused(rule):
    """A few hundred bytes that unpack to 20 MB stop at the limit."""
    packed = archive.pack({"zeros.txt": bytes(20_000_000)}, rule)
    assert len(packed) < 100_000
    with pytest.raises(BundleError, match="expected at most 1000000 bytes unpacked"):
        archive.unpack(packed, limit_bytes=1_000_000)


def test_long_files_are_not_read(tmp_path):
    """A file beyond the limit is refused before it is unpacked."""
    path = Bundle(PROGRAM).write(tmp_path / "bundle")
    with pytest.raises(BundleError, match="expected at most 10 bytes"):
        Bundle.read(path, limit_bytes=10)


@pytest.mark.parametrize("rule", RULES)
def test_damage_is_noticed(rule):
    """Truncated anywhere, or with a byte behind it: never another program."""
    packed = PACKED[rule]
    for length in range(6, len(packed), 7):
        with pytest.raises(BundleError):
            archive.unpack(packed[:length])
    for behind in (b"\0", b"\0" * 512, packed):
        with pytest.raises(BundleError):
            archive.unpack(packed + behind)


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_flipped_bits_never_end_in_another_exception(rule, position, flip):
    """A damaged archive is a BundleError, or by luck the same files."""
    packed = bytearray(PACKED[rule])
    packed[position % len(packed)] ^= flip
    try:
        _, files = archive.unpack(bytes(packed))
    except BundleError:
        return
    assert files == PROGRAM


def test_a_missing_file_is_one_line():
    """The message names the file, not its folder."""
    with pytest.raises(BundleError, match=r"expected a bundle in 'none.xz', got No such file"):
        Bundle.read("none.xz")


# -- on the disk ------------------------------------------------------------------------------------------------


def test_unpacking_twice_is_the_same(tmp_path):
    """Equal files stay, missing ones are written."""
    folder = Bundle({**PROGRAM, "pkg/sub/m.py": b"1"}).unpack(tmp_path / "out")
    (folder / "model.py").unlink()
    Bundle(PROGRAM).unpack(folder)
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == {*PROGRAM, "pkg/sub/m.py"}
    assert Bundle.of([folder]).files == {**PROGRAM, "pkg/sub/m.py": b"1"}


def test_unpacking_overwrites_nothing(tmp_path):
    """A different file in the way is refused before anything is written."""
    (tmp_path / "train.py").write_text("mine")
    with pytest.raises(BundleError, match=r"a different 'train.py'"):
        Bundle(PROGRAM).unpack(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["train.py"]
    assert (tmp_path / "train.py").read_text() == "mine"


@pytest.mark.parametrize("dangling", [True, False])
def test_unpacking_follows_no_links(tmp_path, dangling):
    """Neither a linked folder nor a linked file leads out of the folder, even to an equal file."""
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    folder.mkdir()
    if not dangling:
        (outside / "m.py").write_bytes(b"1")
    (folder / "pkg").symlink_to(outside)
    with pytest.raises(BundleError, match="got a link or file 'pkg'"):
        Bundle({"pkg/m.py": b"1"}).unpack(folder)
    (folder / "m.py").symlink_to(outside / "m.py")
    with pytest.raises(BundleError, match=r"got a link 'm.py'"):
        Bundle({"m.py": b"1"}).unpack(folder)
    assert len(list(outside.iterdir())) == (0 if dangling else 1)


def test_unpacking_stops_at_a_file_where_a_folder_should_be(tmp_path):
    """A file named like the package is in the way."""
    (tmp_path / "pkg").write_text("")
    with pytest.raises(BundleError, match="got a link or file 'pkg'"):
        Bundle({"pkg/m.py": b""}).unpack(tmp_path)


def test_writing_replaces_bundles_only(tmp_path):
    """A later bundle of the run takes the place of the earlier; somebody's script stays."""
    path = Bundle({"a.py": b"1"}).write(tmp_path / "bundle.tar.xz")
    Bundle({"a.py": b"2"}).write(path, rule="zip")
    assert Bundle.read(path).files == {"a.py": b"2"}
    script = tmp_path / "train.py"
    script.write_text("mine")
    with pytest.raises(BundleError, match=r"expected a new file or an older bundle, got 'train.py'"):
        Bundle({"a.py": b"1"}).write(script)
    assert script.read_text() == "mine"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["bundle.tar.xz", "train.py"]


# -- given files and folders ------------------------------------------------------------------------------------


def lay(folder, files):
    """Write text files, by name, into a folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_folders_are_swept_without_litter(tmp_path):
    """Caches, logs, environments and hidden files are passed over; a secret is passed over and named."""
    litter = ["__pycache__/a.pyc", "wandb/run-1/c", "lightning_logs/x", ".git/config", ".hidden", "pkg/.venv/x.py"]
    lay(tmp_path, dict.fromkeys(["train.py", "pkg/a.py", "pkg/prompt.txt", *litter], "1"))
    lay(tmp_path, {"pkg/.env": "KEY=1", "env/pyvenv.cfg": "", "env/lib/x.py": ""})
    bundle = Bundle.of([tmp_path])
    assert list(bundle.files) == ["pkg/a.py", "pkg/prompt.txt", "train.py"]
    assert bundle.warnings == ("pkg/.env was left out: its name is that of a secret",)


def test_names_are_relative_to_the_common_folder(tmp_path):
    """Files and folders given together keep their places."""
    lay(tmp_path, {"src/train.py": "import torch, json, absent", "conf/a.yaml": "a: 1", "other.py": ""})
    bundle = Bundle.of([tmp_path / "src" / "train.py", tmp_path / "conf"])
    assert list(bundle.files) == ["conf/a.yaml", "src/train.py"]
    assert set(bundle.packages) == {"torch"}
    assert list(Bundle.of(["src"], root=".").files) == ["src/train.py"]


@pytest.mark.parametrize(
    ("paths", "root", "message"),
    [
        ([], None, "expected files and folders, got none"),
        (["absent.py"], None, "got absent.py: check"),
        (["a.py"], "sub", "got 'a.py' outside"),
        ([".env"], None, "expected no secrets, got '.env'"),
        (["empty"], None, "no files but litter and secrets"),
    ],
)
def test_what_cannot_be_packed_is_said(tmp_path, paths, root, message):
    """Nothing, a missing file, a file outside, a secret, an empty folder."""
    lay(tmp_path, {"a.py": "", ".env": "", "sub/b.py": "", "empty/.hidden": ""})
    with pytest.raises(BundleError, match=message):
        Bundle.of([tmp_path / path for path in paths], root=tmp_path / root if root else None)


def test_a_link_to_a_secret_is_a_secret(tmp_path):
    """Another name does not make a key public."""
    lay(tmp_path, {"keys/id_rsa": "KEY", "src/train.py": ""})
    (tmp_path / "src" / "notes.txt").symlink_to(tmp_path / "keys" / "id_rsa")
    assert list(Bundle.of([tmp_path / "src"]).files) == ["train.py"]
