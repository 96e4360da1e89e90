"""Alerts that a sink refused, in a file until it takes them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from deepidea.detection.sinks.file import append_all, end_last_line
from deepidea.errors import SinkError, StorageError, StoreError
from deepidea.flows.atomic import replacing


class DeadLetters:
    """A sink's dead letters, alerts that it refused: a file with one JSON object a line.

    Parameters
    ----------
    folder
        Made with the first letter.
    sink
        Name of the sink, which names the file.
    """

    def __init__(self, folder: str | Path, sink: str) -> None:
        # Names of sinks hold slashes and colons; the hash keeps two apart that look the same without them.
        plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in sink).strip("-")[:60]
        self.path = Path(folder) / f"{plain}-{hashlib.blake2b(sink.encode(), digest_size=4).hexdigest()}.jsonl"

    def exist(self) -> bool:
        """Return whether there are any."""
        return self.path.exists()

    def add(self, alert_ids: Sequence[str], lines: Sequence[str], error: Exception) -> None:
        """Add letters; they are on the disk when this returns.

        Raises
        ------
        StorageError
            The disk does not take them.
        """
        if not lines:
            return
        about = {"error": str(error), "at": datetime.now(UTC).isoformat()}
        letters = [{"alert_id": i, **about, "line": line} for i, line in zip(alert_ids, lines, strict=True)]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b", buffering=0) as file:
                end_last_line(file)
                append_all(file, "".join(json.dumps(letter) + "\n" for letter in letters).encode())
                # The store forgets an alert once it is here: it must survive a power cut from now on.
                os.fsync(file.fileno())
        except OSError as problem:
            raise StorageError(f"cannot write dead letters to {self.path}: {problem}; free space there") from problem

    @contextlib.contextmanager
    def opened(self) -> Iterator[OpenLetters]:
        """Yield the letters; those that were kept, or not drawn, are in the file afterwards."""
        # The file is replaced as a whole after the letters were sent: a crash before that sends them again.
        try:
            with self.path.open(encoding="utf-8") as file:
                letters = OpenLetters(file)
                yield letters
                with replacing(self.path) as partial, partial.open("w", encoding="utf-8") as out:
                    out.writelines(letters.kept)
                    out.writelines(file)
            if not self.path.stat().st_size:
                self.path.unlink()
        except OSError as problem:
            if isinstance(problem, SinkError | StoreError | StorageError):
                raise
            raise StorageError(f"cannot read dead letters in {self.path}: {problem}") from problem


class OpenLetters:
    """Pairs of a letter's row in the file and the alert's line; rows that are no letter stay in the file."""

    def __init__(self, file: Iterator[str]) -> None:
        self._file = file
        self.kept: list[str] = []

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for row in self._file:
            try:
                line = json.loads(row)["line"]
            except (ValueError, KeyError, TypeError):
                self.kept.append(row)
            else:
                yield row, str(line)
