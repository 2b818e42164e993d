"""Names and contents that do not belong in a training program: secrets, litter, and data in disguise.

Secrets are never packed. Litter is passed over when a folder is swept. Data is packed and charged like everything
else, and named in the bundle's warnings by these rules, for a file:

- over 1 MB (10^6 bytes);
- with the suffix of a data, weight or archive format, or of a compiled module;
- not UTF-8 text, or with a line over 1,000 characters;
- Python with a literal (text, bytes, or a collection of nothing but literals) whose source is over 4,096 bytes.
"""

from __future__ import annotations

import ast
import re
import warnings
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

_SECRETS = (
    *(".env*", "*.pem", "*.key", "*.p12", "*.pfx", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "secrets.*"),
    *("*credentials*", ".netrc", "_netrc", ".pypirc", ".pgpass", ".htpasswd", "kaggle.json", ".ssh", ".aws", ".git"),
)
_WANDB_FOLDER = re.compile(
    r"(^|/)wandb($|/(offline-run-|run-|latest-run|debug|settings))"
)  # logs, settings, requirements
_LITTER = ("wandb", "__pycache__", "lightning_logs", "checkpoints", "node_modules", "*.pyc", "*.egg-info", ".*")

_LARGE_BYTES = 1_000_000
_LONG_LINE = 1_000
_LONG_LITERAL_BYTES = 4_096
_COMPILED = (".so", ".pyd", ".dylib", ".dll", ".pyc")
_DATA = (
    *(".csv", ".tsv", ".jsonl", ".parquet", ".arrow", ".feather", ".h5", ".hdf5", ".npy", ".npz", ".mat", ".db"),
    *(".pt", ".pth", ".ckpt", ".safetensors", ".onnx", ".gguf", ".bin", ".dat", ".pkl", ".pickle", ".joblib"),
    *(".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".7z", ".png", ".jpg", ".jpeg", ".gif", ".mp3", ".wav", ".mp4"),
)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(part.lower(), pattern) for part in name.split("/") for pattern in patterns)


def is_secret(name: str) -> bool:
    """Tell whether any part of a POSIX name is that of a key, password or repository, or of W&B's folder of runs."""
    return _matches(name, _SECRETS) or bool(_WANDB_FOLDER.search(name))


def is_litter(name: str) -> bool:
    """Tell whether any part of a POSIX name is that of a log, cache, checkpoint or hidden folder."""
    return _matches(name, _LITTER)


def suspicion(name: str, data: bytes) -> str | None:
    """Say why a file looks like data rather than program, or None; see the module's rules."""
    suffix = PurePosixPath(name).suffix.lower()
    if len(data) > _LARGE_BYTES:
        return f"{len(data)} bytes, over {_LARGE_BYTES}"
    if suffix in _COMPILED:
        return "compiled: its bytes differ from machine to machine"
    if suffix in _DATA:
        return f"{suffix} is a format of data"
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return "not UTF-8 text"
    if (longest := max(map(len, text.splitlines()), default=0)) > _LONG_LINE:
        return f"a line of {longest} characters"
    literal_bytes = _longest_literal(data) if suffix == ".py" else 0
    return f"a literal of {literal_bytes} bytes" if literal_bytes > _LONG_LITERAL_BYTES else None


def parse(source: bytes) -> ast.Module | None:
    """Parse Python source, or None if it does not parse; never warns, whatever the interpreter's warning filters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def _longest_literal(source: bytes) -> int:
    """Bytes of source of the longest literal, 0 if there is none or the source does not parse."""
    tree = parse(source)
    if tree is None:
        return 0
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    longest = 0
    for node in ast.walk(tree):
        if isinstance(node, (ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict)) and node.end_lineno:
            begin = starts[node.lineno - 1] + node.col_offset
            length = starts[node.end_lineno - 1] + (node.end_col_offset or 0) - begin
            if length > longest and _is_literal(node):
                longest = length
    return longest


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError):
        return False
    return True
