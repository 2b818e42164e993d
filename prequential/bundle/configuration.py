"""The resolved configuration as canonical JSON: the same bytes for the same settings, in any process, on any machine.

- keys are sorted, numbers are plain, NaN and infinities are the strings ``"nan"``, ``"inf"``, ``"-inf"``;
- an object becomes its class's qualified name, a function its own; dataclasses and namespaces become their fields;
- an absolute path becomes relative if it lies under the root, else its last part; addresses (``at 0x…``) go;
- a tensor, array, byte string, or a text or collection beyond the limits becomes a short description, said in a note;
- the value of a password or key becomes ``"<secret>"``, said in a note.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

_MAX_ITEMS = 1_000
_MAX_CHARACTERS = 10_000
_MAX_DEPTH = 50
_MAX_DIGITS = 1_000

_SECRET_KEY = re.compile(
    r"(?i)(^|[_.-])(password|passwd|secret|credentials?|(api|access|auth|secret|private|hf|wandb)[_-]?(key|token))$"
)
_SECRET_VALUE = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{16})\b"
)
_SECRET = "<secret>"
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_BOUNDS = r"\s'\"=,;:()\[\]{}<>|"
_PATH = re.compile(rf"(?<![^{_BOUNDS}])(?:file://)?/(?![/{_BOUNDS}])[^{_BOUNDS}]*/[^{_BOUNDS}]*")
_WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]")


def canonical(config: Mapping[str, Any], root: Path) -> tuple[bytes, list[str]]:
    """Make a configuration canonical.

    Args:
        config: Settings by name, with any values.
        root: Folder that paths are made relative to.

    Returns:
        The bytes of ``config.json``, and notes about values that are not in it as they are.
    """
    reader = _Reader(root)
    plain = reader.value(config, ())
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode() + b"\n", reader.notes


class _Reader:
    """Turns values into plain JSON ones, and notes what is lost."""

    def __init__(self, root: Path) -> None:
        self.notes: list[str] = []
        self._roots = tuple(dict.fromkeys((str(root), str(root.resolve()))))
        self._above: list[int] = []  # ids of the containers around a value, against cycles

    def value(self, value: Any, where: tuple[str, ...]) -> Any:
        if value is None or value is True or value is False:
            return value
        if where and _SECRET_KEY.search(where[-1]) and isinstance(value, (str, bytes)):
            return self._secret(where)
        try:
            return self._plain(value, where)
        except Exception:  # an object that fails when it is looked at
            return _qualified(type(value))

    def _plain(self, value: Any, where: tuple[str, ...]) -> Any:
        if isinstance(value, enum.Enum):
            return f"{_qualified(type(value))}.{value.name}"
        if isinstance(value, int):
            number = int(value)
            return number if number.bit_length() < 3 * _MAX_DIGITS else self._described(value, where, "a long integer")
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else str(float(value))
        if isinstance(value, (str, PurePath)):
            return self._text(str(value), where)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return self._described(value, where, f"{len(value)} bytes", bytes(value))
        if (fields := _fields(value)) is not None:
            return self._collection(fields, value, where)
        return self._object(value, where)

    def _collection(self, fields: Mapping[Any, Any] | list[Any], value: Any, where: tuple[str, ...]) -> Any:
        if len(fields) > _MAX_ITEMS:
            return self._described(value, where, f"{len(fields)} items")
        if id(value) in self._above or len(self._above) > _MAX_DEPTH:
            return _qualified(type(value))
        self._above.append(id(value))
        try:
            if isinstance(fields, Mapping):
                return {
                    self._text(_key(key), where): self.value(item, (*where, _key(key))) for key, item in fields.items()
                }
            items = [self.value(item, where) for item in _without_secret_arguments(fields, self, where)]
            return sorted(items, key=json.dumps) if isinstance(value, AbstractSet) else items
        finally:
            self._above.pop()

    def _object(self, value: Any, where: tuple[str, ...]) -> Any:
        shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
        if shape is not None and dtype is not None and hasattr(value, "tolist"):
            if len(shape) == 0 and type(value).__module__.startswith("numpy"):  # a number with a type
                return self.value(value.item(), where)
            return self._described(value, where, f"shape {tuple(shape)}, {dtype}")
        if isinstance(value, functools.partial):
            return {"partial": _qualified(value.func), "arguments": self.value([value.args, value.keywords], where)}
        if isinstance(value, type) or hasattr(value, "__qualname__"):
            return _qualified(value)
        if type(value).__name__ in ("dtype", "device", "range", "slice", "datetime", "date", "timedelta", "Decimal"):
            return self._text(str(value), where)
        return _qualified(type(value))

    def _text(self, text: str, where: tuple[str, ...]) -> str:
        if len(text) > _MAX_CHARACTERS:
            return self._described(text, where, f"{len(text)} characters", text.encode("utf-8", "backslashreplace"))
        if _SECRET_VALUE.search(text):
            return self._secret(where)
        return _ADDRESS.sub("", self._without_machine(text))

    def _without_machine(self, text: str) -> str:
        """Shorten absolute paths: the whole text, or words of it."""
        if _WINDOWS_PATH.match(text):
            return self._shortened(text) if text.startswith(self._roots) else PureWindowsPath(text).name
        if re.match(r"/[^/\n][^\n]*$", text) and (" " not in text or text.count("/") > 1):
            return self._shortened(text)
        return _PATH.sub(lambda found: self._shortened(found.group().removeprefix("file://")), text)

    def _shortened(self, path: str) -> str:
        for root in self._roots:
            if path == root or path.startswith(root.rstrip("/\\") + "/"):
                return path[len(root) :].lstrip("/") or "."
        return Path(path).name

    def _described(self, value: Any, where: tuple[str, ...], what: str, data: bytes | None = None) -> str:
        digest = f", sha256 {hashlib.sha256(data).hexdigest()}" if data is not None else ""
        described = f"{_qualified(type(value))}: {what}"
        self.notes.append(f"config.json only describes {'.'.join(where) or 'a value'}, not charged: {described}")
        return described + digest

    def _secret(self, where: tuple[str, ...]) -> str:
        self.notes.append(f"config.json does not hold the value of {'.'.join(where) or 'a secret'}: it is a secret")
        return _SECRET

    def secret_argument(self, option: str, where: tuple[str, ...]) -> str:
        """Note a secret given on the command line, and what stands for it."""
        return self._secret((*where, option.lstrip("-")))


def _without_secret_arguments(items: list[Any], reader: _Reader, where: tuple[str, ...]) -> list[Any]:
    """Command lines: ``--password=X`` and ``--password X`` lose their X."""
    kept: list[Any] = []
    option = ""
    for item in items:
        text = item if isinstance(item, str) else ""
        name, equals, _ = text.partition("=")
        if option and not text.startswith("-"):
            kept.append(reader.secret_argument(option, where))
        elif equals and name.startswith("-") and _SECRET_KEY.search(name):
            kept.append(f"{name}={reader.secret_argument(name, where)}")
        else:
            kept.append(item)
        option = text if text.startswith("-") and not equals and _SECRET_KEY.search(text) else ""
    return kept


def _key(key: Any) -> str:
    return key if isinstance(key, str) else _qualified(key) if hasattr(key, "__qualname__") else str(key)


def _qualified(thing: Any) -> str:
    """``module.name`` of a class or function; of anything else, of its class."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__ or 'builtins'}.{named.__qualname__}"


def _fields(value: Any) -> Mapping[Any, Any] | list[Any] | None:
    """Look into a collection, a dataclass or a namespace; None for other objects."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (Sequence, AbstractSet)) and not isinstance(value, range):
        return list(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if type(value).__name__ in ("Namespace", "SimpleNamespace"):
        return dict(vars(value))
    return None
