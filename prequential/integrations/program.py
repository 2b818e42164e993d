"""The training program of a run: found when it begins, found again when it ends, written beside its book."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prequential.account import Account
from prequential.bundle import Bundle
from prequential.errors import Harmless
from prequential.tokenbytes import TokenBytes

BUNDLE_NAME = "bundle.tar.xz"


class Program:
    """Keeps a run's bundle up to date.

    Args:
        wanted: ``"auto"`` to find the program, a ready `Bundle`, or None to leave it out.
        token_bytes: Bytes per token, for the tokenizer's files; None if unknown.
        configuration: Called for the resolved configuration.
    """

    def __init__(
        self, wanted: Any, token_bytes: TokenBytes | None, configuration: Callable[[], Mapping[str, Any]]
    ) -> None:
        self._wanted, self._configuration = wanted, configuration
        self._files = token_bytes.files if token_bytes is not None else {}
        self.bundle: Bundle | None = wanted if isinstance(wanted, Bundle) else self._found()

    @property
    def manifest(self) -> dict[str, Any] | None:
        """What a book's header says of the bundle; None if it is left out."""
        return self.bundle.manifest() if self.bundle is not None else None

    @property
    def bundle_bytes(self) -> int | None:
        """Size of the bundle; None if it is left out."""
        return self.bundle.bundle_bytes if self.bundle is not None else None

    def look_again(self, account: Account) -> dict[str, Any]:
        """Find the program once more; if modules imported while training made it another one, that one is charged.

        Returns:
            Facts for the end of the book.
        """
        again = self._found() if self._wanted == "auto" and self.bundle is not None else None
        if again is not None and self.bundle is not None and again.sha256 != self.bundle.sha256:
            account.note("bundle_changed", "the training program held other files at the end than at the start")
            self.bundle, account.bundle_bytes = again, again.bundle_bytes
        # Also where it was exchanged before a resume: the header has the first one then.
        changed = self.bundle is not None and self.bundle.sha256 != account.bundle.get("sha256")
        return {"bundle": self.manifest} if changed else {}

    def written(self, book: Path) -> list[Path]:
        """Write the bundle beside the book; return both files, or the book alone."""
        return [book] if self.bundle is None else [book, self.bundle.write(book.with_name(BUNDLE_NAME))]

    def _found(self) -> Bundle | None:
        if self._wanted != "auto":
            return None
        with Harmless("the training program is left out of the total"):
            return Bundle.discover(config=self._configuration(), tokenizer_files=self._files)
        return None
