"""CSV files as blocks of whole lines, cleaned so that a fast parser can read them whatever tool wrote them.

A row is one line. Every line is checked to have as many cells as the header before it is parsed: parsers fill rows
that were cut short with nulls, and a detector would score those. Removed are blank lines and repeated headers, as in
CSE-CIC-IDS2018. Bytes that are not UTF-8 are decoded as Windows-1252, the encoding of the 0x96 in CICIDS2017's labels,
byte by byte, so that nothing depends on where a block ends.
"""

from __future__ import annotations

import codecs
import csv
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
import numpy.typing as npt

from deepidea.errors import FileFormatError
from deepidea.flows.skipping import SkipCount, quoted, skip_or_raise

__all__ = ["Block", "CsvLines"]

BLOCK_BYTES = 1 << 23
LONGEST_LINE = 1 << 24

_QUOTE, _NEWLINE, _RETURN = b'"\n\r'
_OTHER_SEPARATORS = ";\t|"
_WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def _windows_1252(error: UnicodeError) -> tuple[str, int]:
    """Decode the bytes that are not UTF-8; the five that Windows-1252 leaves open become Latin-1."""
    assert isinstance(error, UnicodeDecodeError)  # registered for decoding alone
    characters = ""
    for byte in error.object[error.start : error.end]:
        try:
            characters += bytes([byte]).decode("cp1252")
        except UnicodeDecodeError:
            characters += chr(byte)
    return characters, error.end


codecs.register_error("deepidea.windows_1252", _windows_1252)


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "deepidea.windows_1252")


def _as_utf8(data: bytes) -> bytes:
    if data.isascii():
        return data
    try:
        data.decode()
    except UnicodeDecodeError:
        return _decode(data).encode()
    return data


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of a CSV file that follow each other.

    Attributes
    ----------
    data
        UTF-8, every row one line, every line as many cells as there are columns.
    lines
        Number of each row's line in the file, counted from 1, int64 (n_rows,).
    """

    data: bytes
    lines: npt.NDArray[np.int64]


class CsvLines:
    r"""A CSV file, read once from beginning to end.

    Parameters
    ----------
    stream
        The open file, in bytes.
    source
        Its name in messages.
    header
        Column names of a file that has no header line.

    Attributes
    ----------
    columns
        Names as in the file; the second column of one name is ``<name>_duplicated_0``.
    separator
        ``,``, unless the header has none and one of ``;``, tab, ``|``.
    removed : Counter
        Lines removed so far: ``blank`` and ``header``.

    Raises
    ------
    FileFormatError
        The file is empty, or no readable CSV.

    Examples
    --------
    >>> import io
    >>> lines = CsvLines(io.BytesIO(b"a, b,a\n1,2,3\n\n4,5,6\n"), "flows.csv")
    >>> lines.columns
    ['a', ' b', 'a_duplicated_0']
    >>> [(block.data, block.lines.tolist()) for block in lines.blocks(None)]
    [(b'1,2,3\n4,5,6\n', [2, 4])]
    """

    def __init__(self, stream: IO[bytes], source: str, header: Sequence[str] | None = None) -> None:
        self._source = source
        self._raw = _whole_lines(stream, source)
        self._rest, self._line = self._begin(), 1
        self._header = b"" if header else self._take_header()
        text = _decode(self._header) if self._header else _decode(self._rest.partition(b"\n")[0])
        self.separator = _separator_of(text)
        self.columns = _renamed(header or self._cells_of(text))
        self.removed: Counter[str] = Counter()

    @property
    def looks_headless(self) -> bool:
        """Whether the names are mostly numbers: data rather than a header."""
        return 2 * sum(map(_is_number, self.columns)) > len(self.columns)

    def blocks(self, skipped: SkipCount | None) -> Iterator[Block]:
        """Yield the rows in order; lines that are not a row are counted in `skipped`.

        Raises
        ------
        CellError
            A line is not a row, and `skipped` is None.
        FileFormatError
            The file is damaged further on.
        """
        while self._rest:
            yield self._cleaned(self._rest, skipped)
            self._rest = next(self._raw, b"")

    def _begin(self) -> bytes:
        first = next(self._raw, b"")
        if first.startswith(_WIDE_MARKS):
            raise FileFormatError(f"cannot read {self._source}: it is UTF-16; save it as UTF-8")
        first = first.removeprefix(codecs.BOM_UTF8)
        if not first.strip():
            raise FileFormatError(f"cannot read {self._source}: it is empty; a CSV file needs a header line")
        return first

    def _take_header(self) -> bytes:
        """Return the first line that is not blank; what follows it stays in the block."""
        while not (taken := self._rest.partition(b"\n"))[0].strip():
            self._rest, self._line = taken[2], self._line + 1
        self._line += 1
        self._rest = taken[2] or next(self._raw, b"")
        return taken[0].rstrip(b"\r")

    def _cells_of(self, header: str) -> list[str]:
        # A return within the line: line ends of old Macs; a zero: a binary file.
        if "\r" in header or "\0" in header:
            raise FileFormatError(
                f"cannot read {self._source}: it is no text in lines that end in LF or CRLF; it begins with "
                f"{quoted(header)}"
            )
        try:
            # Only the header goes through Python's parser: one line of a file of millions.
            return next(csv.reader([header], delimiter=self.separator, strict=True))
        except csv.Error as error:
            raise FileFormatError(
                f"cannot read {self._source}: its header {quoted(header)} is not one line of names ({error})"
            ) from error

    def _cleaned(self, data: bytes, skipped: SkipCount | None) -> Block:
        """Return the lines that are rows, in UTF-8; remove, skip or refuse the others."""
        data = _as_utf8(data)
        odd, n_lines = self._odd_lines(data)
        first, self._line = self._line, self._line + n_lines
        if not odd.any():
            return Block(data, np.arange(first, first + n_lines))
        lines = data.split(b"\n")
        for index in np.flatnonzero(odd).tolist():
            self._remove(lines[index].rstrip(b"\r"), first + index, skipped)
        kept = np.flatnonzero(~odd)
        return Block(b"".join(lines[index] + b"\n" for index in kept.tolist()), kept + first)

    def _odd_lines(self, data: bytes) -> tuple[npt.NDArray[np.bool_], int]:
        """Return which lines may be no rows, bool (n_lines,), and how many lines there are.

        All lines of a block are checked at once: separators outside of quotes are summed between the line ends.
        """
        chars = np.frombuffer(data, np.uint8)
        ends = np.flatnonzero(chars == _NEWLINE)
        starts = np.concatenate(([0], ends[:-1] + 1))
        separators = chars == ord(self.separator)
        odd = np.zeros(len(ends), np.bool_)
        if b'"' in data:
            outside, odd = _outside_quotes(chars, ord(self.separator), starts)
            # A separator within quotes belongs to its cell.
            separators &= outside
        # separators per line, modulo 2**16, which numpy sums fastest
        widths = np.add.reduceat(separators.view(np.uint8), starts, dtype=np.uint16)
        odd |= widths != (len(self.columns) - 1) % (1 << 16)
        if len(self.columns) == 1:  # a blank line has as many separators as a row
            odd |= (ends - starts == 0) | ((ends - starts == 1) & (chars[starts] == _RETURN))
        if self._header and self._header in data:
            odd |= self._is_header(data, starts)
        return odd, len(ends)

    def _is_header(self, data: bytes, starts: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        again = np.zeros(len(starts), np.bool_)
        at = data.find(self._header)
        # Found by searching the whole block for the header's bytes, and then checked to be a line: most blocks hold
        # none.
        while at >= 0:
            line = int(np.searchsorted(starts, at, side="right")) - 1
            end = data.index(b"\n", at)
            again[line] |= data[int(starts[line]) : end].rstrip(b"\r") == self._header
            at = data.find(self._header, end)
        return again

    def _remove(self, line: bytes, number: int, skipped: SkipCount | None) -> None:
        """Count a line that is blank or the header again; skip or refuse any other."""
        if not line.strip() or line == self._header:
            self.removed["header" if line.strip() else "blank"] += 1
            return
        text, wanted = _decode(line), len(self.columns)
        cells = len("".join(text.split('"')[::2]).split(self.separator))  # of what is outside of quotes
        reason = f"{'fewer' if cells < wanted else 'more'} cells than columns"
        fact = f"{cells} cells instead of {wanted}"
        if cells == wanted:
            reason = fact = "a quote that neither begins nor ends a cell"
        message = f"cannot read {self._source}, line {number}: {fact} in {quoted(text)}"
        skip_or_raise(reason, 1, message, skipped)


def _whole_lines(stream: IO[bytes], source: str) -> Iterator[bytes]:
    """Yield blocks that end where a line ends."""
    rest = b""
    while data := _read(stream, source):
        data = rest + data
        cut = data.rfind(b"\n") + 1
        # An unfinished line waits for the next block; a line without end is refused, or it would gather the whole file.
        rest = data[cut:]
        if len(rest) > LONGEST_LINE:
            raise FileFormatError(
                f"cannot read {source}: a line is longer than {LONGEST_LINE >> 20} MiB; it is no CSV file"
            )
        if cut:
            yield data[:cut]
    if rest:
        yield rest + b"\n"


def _read(stream: IO[bytes], source: str) -> bytes:
    try:
        return stream.read(BLOCK_BYTES)
    except (EOFError, zlib.error, OSError) as error:  # what gzip raises when the file is cut off or damaged
        raise FileFormatError(f"cannot read {source}: it is damaged or truncated ({error}); fetch it again") from error


def _separator_of(header: str) -> str:
    if "," in header:
        return ","
    # A comma in the header decides; the others occur in names, too, so the most frequent is taken.
    best = max(_OTHER_SEPARATORS, key=header.count)
    return best if best in header else ","


def _renamed(names: Sequence[str]) -> list[str]:
    """Give the second column of one name another one, as polars would."""
    taken, renamed = set(names), list[str]()
    seen: dict[str, int] = {}
    for name in names:
        new = name
        while name in seen and new in taken:
            new, seen[name] = f"{name}_duplicated_{seen[name]}", seen[name] + 1
        seen.setdefault(name, 0)
        taken.add(new)
        renamed.append(new)
    return renamed


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _outside_quotes(
    chars: npt.NDArray[np.uint8], separator: int, starts: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which characters are outside quotes, bool (n_chars,), and which lines have wrong quotes, bool (n_lines,).

    The n-th quote of a line opens where n is odd and closes where it is even; a doubled quote within a cell closes and
    opens again. One that opens must begin a cell, one that closes must end it.
    """
    quotes = chars == _QUOTE
    per_line: npt.NDArray[np.int64] = np.add.reduceat(quotes.view(np.uint8), starts, dtype=np.int64)
    before = np.cumsum(per_line) - per_line  # quotes in the lines above, n_lines
    wrong = per_line % 2 == 1
    at = np.flatnonzero(quotes)
    line = np.repeat(np.arange(len(starts)), per_line)
    opens = (np.arange(len(at)) - before[line]) % 2 == 0
    beside = np.where(opens, np.where(at > 0, chars[at - 1], _NEWLINE), chars[at + 1])  # every block ends in a newline
    allowed = np.isin(beside, (separator, _NEWLINE, _QUOTE)) | (~opens & (beside == _RETURN))
    wrong[line[~allowed]] = True
    lengths = np.diff(starts, append=len(chars))
    within = np.cumsum(quotes, dtype=np.uint8) - np.repeat(before.astype(np.uint8), lengths)  # modulo 256 is enough
    return within & 1 == 0, wrong
