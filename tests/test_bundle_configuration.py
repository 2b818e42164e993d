"""The canonical configuration: the same bytes for the same settings, and nothing of this machine."""

import argparse
import dataclasses
import datetime
import enum
import functools
import json
import math
import os
import random
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prequential.bundle import Bundle
from prequential.bundle.configuration import canonical

ROOT = Path("/home/joe/project")
NUMBERS = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.recursive(
    st.none() | NUMBERS | st.from_regex(r"\A[a-z ]{0,9}\Z"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.from_regex(r"\A[a-z]{1,5}\Z"), inner, max_size=4),
    max_leaves=12,
)


def read(value, root=ROOT):
    """Read what a value is in ``config.json``."""
    return json.loads(canonical({"x": value}, root)[0])["x"]


def notes(config):
    """List what is said about a configuration."""
    return canonical(config, ROOT)[1]


def reordered(value):
    """Give every mapping in a value another order."""
    if isinstance(value, dict):
        items = [(key, reordered(item)) for key, item in value.items()]
        random.Random(1).shuffle(items)
        return dict(items)
    return [reordered(item) for item in value] if isinstance(value, list) else value


@given(value=PLAIN)
def test_plain_values_stay_and_order_does_not_matter(value):
    """Plain settings are read back as they were; another order of keys gives the same bytes."""
    assert read(value) == value
    assert canonical({"x": value, "a": 1}, ROOT) == canonical({"a": 1, "x": reordered(value)}, ROOT)


def test_the_bytes_are_pinned():
    """Sorted keys, no spaces, ASCII, one newline at the end."""
    assert canonical({"b": [1, 0.1, None], "a": {"é": True}}, ROOT) == (
        b'{"a":{"\\u00e9":true},"b":[1,0.1,null]}\n',
        [],
    )


class Colour(enum.IntEnum):
    RED = 1


@dataclasses.dataclass
class Settings:
    lr: float
    path: Path


class Thing:
    def method(self):
        """Do nothing."""


class Broken:
    @property
    def shape(self):
        raise RuntimeError("no shape")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        ((1, (2,)), [1, [2]]),
        ({3, 1, 2}, [1, 2, 3]),
        ({1: 2, None: 3}, {"1": 2, "None": 3}),
        (np.float64(0.1), 0.1),
        (np.int32(7), 7),
        (np.bool_(True), True),
        (torch.float32, "torch.float32"),
        (torch.device("cpu"), "cpu"),
        (torch.Size([2, 3]), [2, 3]),
        (torch.nn.ReLU(), "torch.nn.modules.activation.ReLU"),
        (torch.nn.ReLU, "torch.nn.modules.activation.ReLU"),
        (Colour.RED, f"{__name__}.Colour.RED"),
        (Settings(0.1, ROOT / "a"), {"lr": 0.1, "path": "a"}),
        (argparse.Namespace(lr=1), {"lr": 1}),
        (types.SimpleNamespace(lr=1), {"lr": 1}),
        (types.MappingProxyType({"lr": 1}), {"lr": 1}),
        (Thing(), f"{__name__}.Thing"),
        (Thing().method, f"{__name__}.Thing.method"),
        (Broken(), f"{__name__}.Broken"),
        (len, "builtins.len"),
        (functools.partial(math.pow, 2), {"partial": "math.pow", "arguments": [[2], {}]}),
        (range(10**9), "range(0, 1000000000)"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (f"<{Thing.__name__} object at 0x7fa3deadbeef>", "<Thing object>"),
    ],
)
def test_objects_become_names_and_fields(value, expected):
    """Each kind of value that is no plain one."""
    assert read(value) == expected
    assert "0x" not in canonical({"x": value, "y": [object()]}, ROOT)[0].decode()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/home/joe/project/conf/a.yaml", "conf/a.yaml"),
        ("/home/joe/project", "."),
        ("/home/joe/projects/a", "a"),
        (Path("/data/joe/big corpus"), "big corpus"),
        (Path("conf/a.yaml"), "conf/a.yaml"),
        ("--data=/scratch/joe/x.bin", "--data=x.bin"),
        ("--config=/home/joe/project/conf/a.yaml", "--config=conf/a.yaml"),
        ("file:///scratch/joe/x.bin", "x.bin"),
        ("read /scratch/joe/x, then '/home/joe/project/y'", "read x, then 'y'"),
        ("C:\\Users\\joe\\x.bin", "x.bin"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("and/or", "and/or"),
        ("//", "//"),
        ("1 / 2", "1 / 2"),
        ("/", "/"),
        ({"/home/joe/project/a": 1}, {"a": 1}),
    ],
)
def test_paths_of_this_machine_go(value, expected):
    """Under the root relative, elsewhere the last part; what only looks like a path stays."""
    assert read(value) == expected


@pytest.mark.parametrize(
    ("value", "described"),
    [
        (torch.zeros(3, 4), "torch.Tensor: shape (3, 4), torch.float32"),
        (np.zeros(3), "numpy.ndarray: shape (3,), float64"),
        (list(range(2_000)), "builtins.list: 2000 items"),
        (dict.fromkeys(range(2_000)), "builtins.dict: 2000 items"),
        ("x" * 20_000, "builtins.str: 20000 characters"),
        (b"123", "builtins.bytes: 3 bytes"),
        (10**2_000, "builtins.int: a long integer"),
    ],
)
def test_large_values_are_described_and_said(value, described):
    """Data in the settings is neither packed nor passed over in silence."""
    assert read(value).startswith(described)
    assert len(json.dumps(read(value))) < 150
    assert notes({"module": {"x": value}}) == [f"config.json only describes module.x, not charged: {described}"]


def test_cycles_and_depth_end():
    """A setting that holds itself, and one nested without end."""
    cycle = {"a": 1}
    cycle["self"] = cycle
    assert read(cycle) == {"a": 1, "self": "builtins.dict"}
    deep = []
    for _ in range(500):
        deep = [deep]
    assert "builtins.list" in json.dumps(read(deep))
    shared = [1]
    assert read([shared, shared]) == [[1], [1]]


@pytest.mark.parametrize("key", ["api_key", "wandb_api_key", "password", "AUTH_TOKEN", "client-secret", "hf_token"])
def test_secrets_in_settings_go(key):
    """Values of keys and passwords are replaced, and said; on the command line too."""
    assert json.loads(canonical({key: "hunter2"}, ROOT)[0]) == {key: "<secret>"}
    assert notes({key: "hunter2"}) == [f"config.json does not hold the value of {key}: it is a secret"]
    arguments = [f"--{key}=hunter2", f"--{key}", "hunter2", "--lr", "1"]
    assert read(arguments) == [f"--{key}=<secret>", f"--{key}", "<secret>", "--lr", "1"]


def test_words_like_secrets_stay():
    """Special tokens are settings; a key is known by its form as well."""
    tokens = {"eos_token": "</s>", "max_tokens": 5, "tokenizer": "gpt2", "key": "a", "secret_size": "b"}
    assert read(tokens) == tokens
    assert read("hf_" + "a" * 30) == "<secret>"


def test_the_bundle_holds_the_configuration(tmp_path):
    """It lies in ``config.json``, and what it leaves out is in the warnings."""
    (tmp_path / "train.py").write_text("")
    bundle = Bundle.discover(tmp_path / "train.py", config={"path": tmp_path / "a", "data": torch.zeros(2)})
    assert json.loads(bundle.files["config.json"]) == {"path": "a", "data": "torch.Tensor: shape (2,), torch.float32"}
    assert "config.json only describes data" in bundle.warnings[0]
    assert str(tmp_path) not in json.dumps(bundle.manifest())


def test_two_processes_agree(tmp_path):
    """Other hash seeds, other addresses, other folders: the same bundle."""
    text = (
        "import sys\nfrom prequential import Bundle\nclass Net: pass\n"
        "config = {'names': {'a', 'b', 'c'}, 'net': Net(), 'net class': Net, 'f': lambda: 0}\n"
        "config['here'] = sys.path[0] + '/x'\n"
        "print(Bundle.discover(config=config).sha256)\n"
    )
    found = set()
    for name, seed in (("one", "1"), ("two", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.py").write_text(text)
        command, full = (
            [sys.executable, "train.py", "--out=/scratch/" + name + "/out"],
            {**os.environ, "PYTHONHASHSEED": seed},
        )
        done = subprocess.run(command, cwd=tmp_path / name, env=full, capture_output=True, text=True, check=True)
        found.add(done.stdout)
    assert len(found) == 1
