"""Discovery: which files belong to the program, however it is run, and which are free."""

import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

import prequential
from prequential.bundle import Bundle
from prequential.errors import BundleError

PRINT = "\nimport json\nfrom prequential import Bundle\nprint(json.dumps(Bundle.discover().manifest()))\n"


def lay(folder, files):
    """Write text files, by name, into a folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def names(files, folder, main="train.py", **options):
    """Lay out a project and name the files of its bundle."""
    lay(folder, files)
    return list(Bundle.discover(folder / main, **options).files)


def run(*arguments, cwd, given=None, **environment):
    """Run Python on a program that prints its manifest, and read that."""
    full = {**os.environ, "PYTHONPATH": "", **environment}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=full, input=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def named(manifest):
    """Names of the files in a manifest."""
    return [file["name"] for file in manifest["files"]]


# -- the closure of imports -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import a", {"a.py"}),
        ("def f():\n if x:\n  try:\n   import a\n  except ImportError:\n   import b", {"a.py", "b.py"}),
        ("import pkg.sub.m", {"pkg/__init__.py", "pkg/sub/__init__.py", "pkg/sub/m.py"}),
        ("from pkg import sub", {"pkg/__init__.py", "pkg/sub/__init__.py"}),
        ("from pkg.sub import name_in_sub", {"pkg/__init__.py", "pkg/sub/__init__.py"}),
        ("from pkg.sub import *", {"pkg/__init__.py", "pkg/sub/__init__.py", "pkg/sub/m.py"}),
        ("import pkg.relative", {"pkg/__init__.py", "pkg/relative.py", "pkg/sub/__init__.py", "pkg/sub/m.py"}),
        ("import pkg.climbs", {"pkg/__init__.py", "pkg/climbs.py"}),
        ("import cycle1", {"cycle1.py", "cycle2.py"}),
        ("import space.inner", {"space/inner.py"}),
        ("import importlib\nimportlib.import_module('a')", {"a.py"}),
        ("import_module('.sub', package='pkg')", {"pkg/__init__.py", "pkg/sub/__init__.py"}),
        ("__import__('a')", {"a.py"}),
        ("name = 'a'\n__import__(name)", set()),
        ("exec(open('a.py').read())", {"a.py"}),
        ("open('absent.py'); open(3); import_module(); import_module('')", set()),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a\nelse:\n    import b", {"b.py"}),
        ("from . import a", set()),
        ("import os, json, sys, os.path, pkg.absent", {"pkg/__init__.py"}),
        ("'import a'  # import b", set()),
    ],
)
def test_imports_are_followed(tmp_path, text, expected):
    """Each way to import, and the files it needs, beside the main script."""
    project = {
        **{"train.py": text, "a.py": "", "b.py": "", "unused.py": ""},
        **{"pkg/__init__.py": "", "pkg/sub/__init__.py": "__all__ = ['m', 'x']", "pkg/sub/m.py": ""},
        **{"pkg/relative.py": "from .sub import m\nfrom . import sub", "pkg/unused.py": ""},
        **{
            "pkg/climbs.py": "from ..a import x",
            "cycle1.py": "import cycle2",
            "cycle2.py": "import cycle1, train",
            "space/inner.py": "",
        },
    }
    assert set(names(project, tmp_path)) == {"train.py", *expected}


def test_what_cannot_be_parsed_is_charged_and_said(tmp_path):
    """A syntax error, a NUL and bytes that are no text stop nothing."""
    lay(tmp_path, {"train.py": "import bad, nul, binary", "bad.py": "def (:", "nul.py": "\0"})
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe\xfd")
    bundle = Bundle.discover(tmp_path / "train.py")
    assert list(bundle.files) == ["bad.py", "binary.py", "nul.py", "train.py"]
    assert "imports were not followed in what does not parse: bad.py, binary.py, nul.py" in bundle.warnings


def test_compiled_modules_are_charged_and_said(tmp_path):
    """An extension module of the project is its own."""
    suffix = __import__("importlib.machinery").machinery.EXTENSION_SUFFIXES[0]
    assert set(names({"train.py": "import fast", f"fast{suffix}": "ELF"}, tmp_path)) == {"train.py", f"fast{suffix}"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_modules_are_said(tmp_path):
    """A module without permission is left out, with a warning."""
    lay(tmp_path, {"train.py": "import locked", "locked.py": ""})
    (tmp_path / "locked.py").chmod(0)
    assert "locked.py was left out: Permission denied" in Bundle.discover(tmp_path / "train.py").warnings


def test_missing_imports_are_said(tmp_path):
    """A name found nowhere may be optional: it is said, not refused."""
    lay(tmp_path, {"train.py": "try:\n    import absent_package.x\nexcept ImportError: pass"})
    assert any("absent_package" in warning for warning in Bundle.discover(tmp_path / "train.py").warnings)


def test_a_main_script_inside_of_a_package(tmp_path):
    """The packages around it count, and absolute imports from the top are found."""
    project = dict.fromkeys(["pkg/__init__.py", "pkg/cli/__init__.py", "pkg/m.py", "pkg/cli/x.py"], "")
    project["pkg/cli/train.py"] = "import pkg.m\nfrom . import x"
    found = names(project, tmp_path, "pkg/cli/train.py", root=tmp_path)
    assert found == ["pkg/__init__.py", "pkg/cli/__init__.py", "pkg/cli/train.py", "pkg/cli/x.py", "pkg/m.py"]


def test_packages_around_count_without_being_imported(tmp_path):
    """They are run before the main script is."""
    assert names({"pkg/__init__.py": "", "pkg/t.py": ""}, tmp_path, "pkg/t.py") == ["pkg/__init__.py", "pkg/t.py"]


def test_the_folder_of_the_script_comes_first(tmp_path):
    """As Python searches it."""
    project = {"scripts/train.py": "import helper", "scripts/helper.py": "", "helper.py": ""}
    assert names(project, tmp_path, "scripts/train.py", root=tmp_path) == ["scripts/helper.py", "scripts/train.py"]


def test_a_notebook_file_counts_by_its_code(tmp_path):
    """Outputs and text are not program; magics do not hide the imports."""
    cells = [
        {"cell_type": "code", "source": ["%pip install x\n", "import a"], "outputs": ["much data" * 1_000]},
        {"cell_type": "markdown", "source": "import b"},
    ]
    lay(tmp_path, {"a.py": "", "b.py": "", "n.ipynb": json.dumps({"cells": cells})})
    bundle = Bundle.discover(tmp_path / "n.ipynb")
    assert list(bundle.files) == ["a.py", "n.py"]
    assert bundle.files["n.py"] == b"# %pip install x\nimport a\n"
    (tmp_path / "n.ipynb").write_text("no json")
    with pytest.raises(BundleError, match=r"expected a notebook, got 'n.ipynb'"):
        Bundle.discover(tmp_path / "n.ipynb")


# -- tiers ------------------------------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Give a function that installs a package into a site-packages folder, by hand."""
    folder = tmp_path / "lib" / "site-packages"
    folder.mkdir(parents=True)
    monkeypatch.syspath_prepend(folder)

    def install(package, files, direct_url=None):
        lay(folder, files)
        lay(
            folder / f"{package.replace('-', '_')}-1.2.dist-info",
            {
                "METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n",
                "RECORD": "".join(f"{name},,\n" for name in files),
                "top_level.txt": "".join({name.split("/")[0].removesuffix(".py") + "\n" for name in files}),
                **({"direct_url.json": json.dumps(direct_url)} if direct_url else {}),
            },
        )
        return folder

    return install


def test_public_packages_are_named_and_free(tmp_path, installed):
    """Only those that own files import, by the name they are installed under."""
    installed("Public-Thing", {"thing/__init__.py": "import other"})
    installed("other", {"other.py": ""})
    lay(tmp_path / "p", {"train.py": "import thing.x, json"})
    bundle = Bundle.discover(tmp_path / "p" / "train.py")
    assert list(bundle.files) == ["train.py"]
    assert bundle.packages == {"Public-Thing": "1.2"}


def test_a_namespace_names_only_the_package_that_is_used(tmp_path, installed):
    """Two packages share a top-level name; one is imported."""
    installed("space-a", {"shared/a/__init__.py": ""})
    installed("space-b", {"shared/b/__init__.py": ""})
    lay(tmp_path / "p", {"train.py": "from shared import b"})
    assert Bundle.discover(tmp_path / "p" / "train.py").packages == {"space-b": "1.2"}


def test_a_package_copied_from_a_local_folder_is_charged(tmp_path, installed):
    """No receiver can install what lies only here."""
    direct_url = {"url": "file:///home/joe/mine", "dir_info": {}}
    installed("mine", {"mine/__init__.py": "from . import deep", "mine/deep.py": "", "mine/unused.py": ""}, direct_url)
    lay(tmp_path / "p", {"train.py": "import mine"})
    bundle = Bundle.discover(tmp_path / "p" / "train.py")
    assert list(bundle.files) == ["mine/__init__.py", "mine/deep.py", "train.py"]
    assert not bundle.packages


@pytest.mark.parametrize(
    ("direct_url", "warning"),
    [
        ({"url": "https://joe:pw@x/r", "vcs_info": {"vcs": "git", "commit_id": "abc"}}, "at commit abc"),
        ({"url": "file:///home/joe/x.whl", "archive_info": {}}, "from an archive on this machine"),
    ],
)
def test_packages_that_a_version_does_not_pin_are_said(tmp_path, installed, direct_url, warning):
    """From a repository, from a local archive: named, with a warning that holds no address."""
    installed("odd", {"odd.py": ""}, direct_url)
    lay(tmp_path / "p", {"train.py": "import odd"})
    bundle = Bundle.discover(tmp_path / "p" / "train.py")
    assert bundle.packages == {"odd": "1.2"}
    assert warning in " ".join(bundle.warnings)
    assert "joe" not in json.dumps(bundle.manifest())


def test_editable_packages_on_the_path_are_charged(tmp_path, installed, monkeypatch):
    """As pip leaves them with a .pth file: the source is on the path, the metadata says editable."""
    source = tmp_path / "checkout" / "src"
    lay(source, {"local/__init__.py": "import thing", "local/m.py": "", "local/unused.py": ""})
    installed("local", {}, {"url": source.as_uri(), "dir_info": {"editable": True}})
    installed("thing", {"thing.py": ""})
    monkeypatch.syspath_prepend(source)
    lay(tmp_path / "p", {"train.py": "from local import m"})
    bundle = Bundle.discover(tmp_path / "p" / "train.py")
    assert list(bundle.files) == ["local/__init__.py", "local/m.py", "train.py"]
    assert bundle.packages == {"thing": "1.2"}


def test_editable_packages_behind_a_finder_are_charged(tmp_path, monkeypatch):
    """As setuptools leaves them: a finder in `sys.meta_path` that maps the name to the source."""
    source = tmp_path / "checkout" / "mapped"
    lay(source, {"__init__.py": "", "m.py": ""})

    class Finder:
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            if name == "mapped":
                return types.SimpleNamespace(
                    origin=str(source / "__init__.py"), submodule_search_locations=[str(source)]
                )
            raise RuntimeError("somebody else's bug")

    Finder.__module__ = "__editable___mapped_1_0_finder"
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    lay(tmp_path / "p", {"train.py": "import mapped.m, absent"})
    assert list(Bundle.discover(tmp_path / "p" / "train.py").files) == ["mapped/__init__.py", "mapped/m.py", "train.py"]


def test_this_package_is_named_and_never_charged(tmp_path):
    """Whoever has the bundle and this library's version has the library, even where it is editable."""
    lay(tmp_path, {"train.py": "from prequential.integrations import lightning"})
    bundle = Bundle.discover(tmp_path / "train.py")
    assert list(bundle.files) == ["train.py"]
    assert bundle.packages == {"prequential": prequential.__version__}


def test_local_files_with_one_name_do_not_clash(tmp_path, monkeypatch):
    """A package outside of the root keeps its import name, unless the root has it."""
    lay(tmp_path / "path", {"tools/__init__.py": "1"})
    monkeypatch.syspath_prepend(tmp_path / "path")
    lay(tmp_path / "p", {"scripts/train.py": "import tools", "tools/__init__.py": "2"})
    files = Bundle.discover(tmp_path / "p" / "scripts" / "train.py", root=tmp_path / "p", extra=["tools"]).files
    assert files == {
        "elsewhere/tools/__init__.py": b"2",
        "scripts/train.py": b"import tools",
        "tools/__init__.py": b"1",
    }


# -- however it is run ------------------------------------------------------------------------------------------


def test_a_running_script(tmp_path):
    """Script, imports, loaded modules that no syntax shows; nothing of this machine in the manifest."""
    lay(tmp_path, {"train.py": "import a\n__import__('b'[:1])" + PRINT, "a.py": "", "b.py": "", "unused.py": ""})
    manifest = run("train.py", "--lr=1", cwd=tmp_path)
    assert named(manifest) == ["a.py", "b.py", "config.json", "train.py"]
    assert manifest["packages"] == {"prequential": prequential.__version__}
    assert manifest["python"] == ".".join(map(str, sys.version_info[:3]))
    assert str(tmp_path) not in json.dumps(manifest)


def test_what_is_loaded_is_where_it_was_loaded_from(tmp_path):
    """A path that was searched for a while, and a debugger's module in a hidden folder of the project."""
    lay(tmp_path, {"far/a.py": "", ".tool/debugger.py": ""})
    text = "import sys\nsys.path[:0] = ['../far', '../project/.tool']\nimport a\n__import__('debug' + 'ger')\n"
    text += "del sys.path[:2]"
    lay(tmp_path / "project", {"train.py": text + PRINT, ".tool/debugger.py": ""})
    assert named(run("train.py", cwd=tmp_path / "project")) == ["a.py", "config.json", "train.py"]


def test_a_running_module_of_a_package(tmp_path):
    """``python -m pkg.train``: the ``__init__`` of each package around counts."""
    lay(tmp_path, {"pkg/__init__.py": "", "pkg/sub/__init__.py": "", "pkg/sub/train.py": "from ..m import x" + PRINT})
    lay(tmp_path, {"pkg/m.py": "x = 1", "pkg/unused.py": ""})
    manifest = run("-m", "pkg.sub.train", cwd=tmp_path)
    expected = ["config.json", "pkg/__init__.py", "pkg/m.py", "pkg/sub/__init__.py", "pkg/sub/train.py"]
    assert named(manifest) == expected


def test_a_running_package(tmp_path):
    """``python -m pkg`` runs its ``__main__``."""
    lay(tmp_path, {"pkg/__init__.py": "", "pkg/__main__.py": PRINT, ".git/HEAD": ""})
    assert named(run("-m", "pkg", cwd=tmp_path)) == ["config.json", "pkg/__init__.py", "pkg/__main__.py"]


def test_a_running_command(tmp_path):
    """``python -c`` is its own text."""
    lay(tmp_path, {"a.py": ""})
    manifest = run("-I", "-c", "import sys; sys.path.insert(0, '.'); import a" + PRINT, cwd=tmp_path)
    assert named(manifest) == ["a.py", "command.py", "config.json"]


def test_a_program_without_source_is_refused(tmp_path):
    """Standard input leaves nothing to pack: one line says so."""
    program = (
        "import json\nfrom prequential import Bundle\ntry:\n    Bundle.discover()\n"
        "except Exception as e:\n    print(json.dumps([type(e).__name__, str(e)]))"
    )
    kind, message = run("-", cwd=tmp_path, given=program)
    assert kind == "BundleError"
    assert message.startswith("expected a script, a module or a notebook")


def test_a_profiled_script(tmp_path):
    """Where a tool of the standard library runs the script, the command line names it."""
    silent_end = "import os, sys\nsys.stdout.flush()\nos._exit(0)\n"  # the profile is printed otherwise
    lay(tmp_path, {"train.py": "import a" + PRINT + silent_end, "a.py": ""})
    assert named(run("-m", "cProfile", "-o", "out", "train.py", cwd=tmp_path)) == ["a.py", "config.json", "train.py"]


def test_configuration_files_on_the_command_line_are_charged(tmp_path):
    """As LightningCLI and others take them; data on the command line is not configuration."""
    files = {"train.py": PRINT, "a.yaml": "lr: 1", "conf/b.json": "{}", "c.py": "lr = 1", "data.json": "", "d.yaml": ""}
    lay(tmp_path, files)
    arguments = [
        "fit",
        "--config",
        "a.yaml",
        "--trainer.config=conf/b.json",
        "c.py",
        "--data=data.json",
        "-c",
        "absent",
    ]
    assert named(run("train.py", *arguments, cwd=tmp_path)) == [
        "a.yaml",
        "c.py",
        "conf/b.json",
        "config.json",
        "train.py",
    ]


def test_a_command_that_an_installer_wrote(tmp_path):
    """The wrapper is not source; the local package that it starts is."""
    lay(tmp_path / "src", {"mine/__init__.py": "", "mine/cli.py": PRINT})
    wrapper = tmp_path / "bin" / "train"
    lay(tmp_path / "bin", {"train": "from mine.cli import Bundle\n"})
    code = (
        f"import sys, sysconfig, runpy\nsys.argv = [{str(wrapper)!r}]\n"
        f"paths = {{**sysconfig.get_paths(), 'scripts': {str(wrapper.parent)!r}}}\n"
        "sysconfig.get_paths = lambda: paths\n"
        f"sys.path.insert(0, {str(tmp_path / 'src')!r})\n"
        f"sys.modules['__main__'].__file__ = {str(wrapper)!r}\nexec(open({str(wrapper)!r}).read())"
    )
    assert named(run("-c", code, cwd=tmp_path)) == ["config.json", "src/mine/__init__.py", "src/mine/cli.py"]


def test_a_notebook(tmp_path, monkeypatch):
    """The cells that were run, joined; one with a mistake does not hide the imports of the others."""
    lay(tmp_path, {"a.py": ""})
    notebook = types.ModuleType("__main__")
    notebook.In = ["", "import a", "def (:", "Bundle.discover()"]
    notebook.get_ipython = lambda: None
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    monkeypatch.syspath_prepend(tmp_path)
    bundle = Bundle.discover(root=tmp_path)
    assert {"a.py", "notebook.py"} <= set(bundle.files)
    assert bundle.files["notebook.py"] == b"import a\n\ndef (:\n\nBundle.discover()\n"


def test_under_pytest_there_is_no_program_of_its_own(monkeypatch):
    """Other people's main script is not the program; an empty project has none."""
    main = types.ModuleType("__main__")
    main.__file__ = str(Path(pytest.__file__).with_name("__main__.py"))
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(sys, "argv", [main.__file__])
    with pytest.raises(BundleError, match="expected a training program"):
        Bundle.discover()


def test_a_running_process_is_searched_quickly(tmp_path, monkeypatch):
    """Thousands of loaded modules, as beside torch, take no second; those of the project count."""
    lay(tmp_path, {"train.py": "", "a.py": ""})
    for number in range(5_000):
        module = types.ModuleType(f"big.m{number}")
        module.__file__ = str(tmp_path / ".venv" / "lib" / "site-packages" / "big" / f"m{number}.py")
        monkeypatch.setitem(sys.modules, module.__name__, module)
    main, loaded = types.ModuleType("__main__"), types.ModuleType("a")
    main.__file__, loaded.__file__ = str(tmp_path / "train.py"), str(tmp_path / "a.py")
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setitem(sys.modules, "a", loaded)
    monkeypatch.setitem(sys.modules, "odd", object())
    begin_s = time.process_time()
    bundle = Bundle.discover()
    assert {"a.py", "train.py"} <= set(bundle.files)
    assert not any("big" in name for name in bundle.files)
    assert time.process_time() - begin_s < 1


# -- secrets, extra, exclude, tokenizer -------------------------------------------------------------------------


def test_imported_secrets_are_left_out_and_said(tmp_path):
    """A module of keys is not passed on."""
    lay(tmp_path, {"train.py": "import aws_credentials", "aws_credentials.py": "KEY = 1"})
    bundle = Bundle.discover(tmp_path / "train.py")
    assert list(bundle.files) == ["train.py"]
    assert bundle.warnings == ("aws_credentials.py was left out: its name is that of a secret",)


@pytest.mark.parametrize("extra", [".env", "conf/*.key", "wandb", ".git"])
def test_secrets_are_refused_as_extra(tmp_path, extra):
    """Asked for by name, a secret is an error, not a warning."""
    lay(tmp_path, {"train.py": "", ".env": "", "conf/a.key": "", "wandb/run-1/x": "", ".git/config": ""})
    with pytest.raises(BundleError, match="expected no secrets"):
        Bundle.discover(tmp_path / "train.py", extra=[extra])


def test_extra_and_exclude(tmp_path):
    """Files, folders and globs come in; names that match a glob go out, and are said."""
    files = {
        "train.py": "import a",
        "a.py": "",
        "conf/a.yaml": "",
        "conf/b.yaml": "",
        "p/x.txt": "",
        "p/deep/y.txt": "",
    }
    found = names(files, tmp_path, extra=["conf/*.yaml", "p"], exclude=["a.py", "p/deep/*"])
    assert found == ["conf/a.yaml", "conf/b.yaml", "p/x.txt", "train.py"]
    assert "a.py was left out: excluded on request" in Bundle.discover(tmp_path / "train.py", exclude=["a.py"]).warnings
    with pytest.raises(BundleError, match="got 'absent', which names nothing"):
        Bundle.discover(tmp_path / "train.py", extra=["absent"])


def test_tokenizer_files_are_charged(tmp_path):
    """They lie in a folder of their own."""
    lay(tmp_path, {"train.py": ""})
    bundle = Bundle.discover(tmp_path / "train.py", tokenizer_files={"merges.txt": b"a b"})
    assert bundle.files == {"tokenizer/merges.txt": b"a b", "train.py": b""}


def test_a_missing_main_script_is_refused():
    """The message names the file."""
    with pytest.raises(BundleError, match=r"expected the main script, got 'none.py'"):
        Bundle.discover("none.py")


# -- git --------------------------------------------------------------------------------------------------------


def git(folder, *arguments):
    """Run git as nobody in particular."""
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_git_commit_and_state(tmp_path):
    """Clean, changed, new and ignored files of the bundle; other files of the work tree do not count."""
    lay(tmp_path, {"sub/train.py": "import m", "sub/m.py": "", "other.txt": "", ".gitignore": "ignored.py"})
    assert Bundle.discover(tmp_path / "sub" / "train.py").git is None
    git(tmp_path, "init", "-q")
    assert Bundle.discover(tmp_path / "sub" / "train.py").git is None
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "x")
    before = Bundle.discover(tmp_path / "sub" / "train.py")
    assert list(before.files) == ["sub/m.py", "sub/train.py"]
    assert len(before.git["commit"]) == 40
    assert before.git["dirty"] is False
    lay(tmp_path, {"other.txt": "changed", "new.txt": ""})
    assert Bundle.discover(tmp_path / "sub" / "train.py").git["dirty"] is False
    lay(tmp_path, {"sub/m.py": "x = 1"})
    assert Bundle.discover(tmp_path / "sub" / "train.py").git["dirty"] is True
    git(tmp_path, "checkout", "-q", ".")
    lay(tmp_path, {"sub/ignored.py": "", "sub/run.py": "import ignored"})
    git(tmp_path, "add", "sub/run.py")
    git(tmp_path, "commit", "-qm", "y")
    after = Bundle.discover(tmp_path / "sub" / "run.py")
    assert after.git["dirty"] is True
    assert Bundle.discover(tmp_path / "sub" / "train.py").sha256 == before.sha256


def test_without_git_there_is_no_revision(tmp_path, monkeypatch):
    """No git on the machine: nothing is known, nothing fails."""
    lay(tmp_path, {"train.py": "", ".git/HEAD": ""})
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Bundle.discover(tmp_path / "train.py").git is None


def test_names_do_not_depend_on_a_linked_root(tmp_path):
    """A project reached through a linked folder has the same bundle."""
    lay(tmp_path / "real", {"train.py": "import pkg.m", "pkg/__init__.py": "", "pkg/m.py": ""})
    Path(tmp_path / "link").symlink_to(tmp_path / "real")
    assert Bundle.discover(tmp_path / "link" / "train.py") == Bundle.discover(tmp_path / "real" / "train.py")
    crossed = Bundle.discover(tmp_path / "link" / "train.py", root=tmp_path / "real")
    assert list(crossed.files) == ["pkg/__init__.py", "pkg/m.py", "train.py"]
