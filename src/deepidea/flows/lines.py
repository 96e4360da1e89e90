"""CSV files as blocks of whole lines, made fit for a fast parser whatever tool wrote them.

A row is one line. Every line is checked to have as many cells as the header before anything parses it: parsers fill
rows that were cut short with nulls, and a detector would score those. Blank lines go, and so does the header where
it stands again in the middle, as it does in CSE-CIC-IDS2018. Bytes that are not UTF-8 are read as Windows-1252, the
encoding of the 0x96 in CICIDS2017's labels, one by one, so that nothing depends on where a block ends.
"""

from __future__ import annotations

import codecs
import csv
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
import numpy.typing as npt

from deepidea.errors import FileFormatError
from deepidea.flows.skipping import SkipCount, shown, skip_or_raise

__all__ = ["Block", "CsvLines"]

BLOCK_BYTES = 1 << 23
LONGEST_LINE = 1 << 24

_QUOTE, _NEWLINE, _RETURN = b'"\n\r'
_OTHER_SEPARATORS = ";\t|"
_WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def _windows_1252(error: UnicodeError) -> tuple[str, int]:
    """Decode the bytes that are not UTF-8; the five that Windows-1252 leaves open are taken as Latin-1."""
    assert isinstance(error, UnicodeDecodeError)  # registered for decoding alone
    wrong = error.object[error.start : error.end]
    return "".join(_char_of(byte) for byte in wrong), error.end


def _char_of(byte: int) -> str:
    try:
        return bytes([byte]).decode("cp1252")
    except UnicodeDecodeError:
        return chr(byte)


codecs.register_error("deepidea.windows_1252", _windows_1252)


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "deepidea.windows_1252")


def _as_utf8(data: bytes) -> bytes:
    try:
        if not data.isascii():
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
    r"""A CSV file that is read once, from its beginning to its end.

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
        Names as they stand in the file; the second column of one name is ``<name>_duplicated_0``.
    separator
        ``,`` unless the header holds none of them and one of ``;``, tab, ``|`` instead.

    Raises
    ------
    FileFormatError
        The file is empty, or not CSV that can be read.

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

    @property
    def looks_headless(self) -> bool:
        """Whether the names are mostly numbers: data rather than a header."""
        return 2 * sum(_is_number(name) for name in self.columns) > len(self.columns)

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
            raise FileFormatError(
                f"a CSV file must be UTF-8 or Windows-1252, however: {self._source} is UTF-16; save it as UTF-8"
            )
        first = first.removeprefix(codecs.BOM_UTF8)
        if not first.strip():
            raise FileFormatError(f"a CSV file must have a header line, however: {self._source} is empty")
        return first

    def _take_header(self) -> bytes:
        """Return the first line that is not blank; what follows it stays in the block."""
        while not (taken := self._rest.partition(b"\n"))[0].strip():
            self._rest, self._line = taken[2], self._line + 1
        self._line += 1
        self._rest = taken[2] or next(self._raw, b"")
        return taken[0].rstrip(b"\r")

    def _cells_of(self, header: str) -> list[str]:
        if "\r" in header or "\0" in header:
            raise FileFormatError(
                f"a CSV file must be text in lines that end in LF or CRLF, however: the first line of {self._source} "
                f"is {shown(header)}; it is of another kind"
            )
        try:
            return next(csv.reader([header], delimiter=self.separator, strict=True))
        except csv.Error as error:
            raise FileFormatError(
                f"a header must be one line of names, however: {self._source} begins with {shown(header)} ({error})"
            ) from error

    def _cleaned(self, data: bytes, skipped: SkipCount | None) -> Block:
        """Return the lines that are rows, in UTF-8, and see to the others."""
        data = _as_utf8(data)
        odd, n_lines = self._odd_lines(data)
        first, self._line = self._line, self._line + n_lines
        if not odd.any():
            return Block(data, np.arange(first, first + n_lines))
        lines = data.split(b"\n")
        for index in np.flatnonzero(odd).tolist():
            self._judge(lines[index].rstrip(b"\r"), first + index, skipped)
        kept = np.flatnonzero(~odd)
        return Block(b"".join(lines[index] + b"\n" for index in kept.tolist()), kept + first)

    def _odd_lines(self, data: bytes) -> tuple[npt.NDArray[np.bool_], int]:
        """Return which lines are not plainly rows, bool (n_lines,), and how many lines there are."""
        chars = np.frombuffer(data, np.uint8)
        ends = np.flatnonzero(chars == _NEWLINE)
        starts = np.concatenate(([0], ends[:-1] + 1))
        separators = chars == ord(self.separator)
        odd = np.zeros(len(ends), np.bool_)
        if b'"' in data:
            outside, odd = _outside_quotes(chars, ord(self.separator), starts)
            separators &= outside
        widths = np.add.reduceat(separators.view(np.uint8), starts, dtype=np.uint16)  # modulo 2**16: the fastest
        odd |= widths != (len(self.columns) - 1) % (1 << 16)
        if len(self.columns) == 1:  # a blank line has as many separators as a row
            odd |= (ends - starts == 0) | ((ends - starts == 1) & (chars[starts] == _RETURN))
        if self._header and self._header in data:
            odd |= self._is_header(data, starts)
        return odd, len(ends)

    def _is_header(self, data: bytes, starts: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        again = np.zeros(len(starts), np.bool_)
        at = data.find(self._header)
        while at >= 0:
            line = int(np.searchsorted(starts, at, side="right")) - 1
            end = data.index(b"\n", at)
            again[line] |= data[int(starts[line]) : end].rstrip(b"\r") == self._header
            at = data.find(self._header, end)
        return again

    def _judge(self, line: bytes, number: int, skipped: SkipCount | None) -> None:
        """Pass over a line that is blank or the header again; refuse any other."""
        if not line.strip() or line == self._header:
            return
        text = _decode(line)
        cells = len(_bare(text).split(self.separator))
        if cells == len(self.columns):
            reason = fact = "a quote that neither begins nor ends a cell"
        else:
            reason, fact = f"{'fewer' if cells < len(self.columns) else 'more'} cells than columns", f"{cells} cells"
        skip_or_raise(
            reason,
            1,
            f"a row must be one line of {len(self.columns)} cells, however: {fact} in {shown(text)} "
            f"({self._source} line {number})",
            skipped,
        )


def _bare(text: str) -> str:
    """Return a line without what stands in quotes."""
    return "".join(text.split('"')[::2])


def _whole_lines(stream: IO[bytes], source: str) -> Iterator[bytes]:
    """Yield blocks that end where a line ends."""
    rest = b""
    while data := _read(stream, source):
        data = rest + data
        cut = data.rfind(b"\n") + 1
        rest = data[cut:]
        if len(rest) > LONGEST_LINE:
            raise FileFormatError(
                f"a line must be shorter than {LONGEST_LINE >> 20} MiB, however: {source} has a longer one; "
                "it is not a CSV file"
            )
        if cut:
            yield data[:cut]
    if rest:
        yield rest + b"\n"


def _read(stream: IO[bytes], source: str) -> bytes:
    try:
        return stream.read(BLOCK_BYTES)
    except (EOFError, zlib.error, OSError) as error:  # what gzip raises when the file is cut off or damaged
        raise FileFormatError(
            f"a file must be readable to its end, however: {source} is damaged or cut off ({error}); fetch it again"
        ) from error


def _separator_of(header: str) -> str:
    if "," in header:
        return ","
    return max(_OTHER_SEPARATORS, key=header.count) if any(s in header for s in _OTHER_SEPARATORS) else ","


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
    """Return what stands outside quotes, bool (n_chars,), and the lines whose quotes are wrong, bool (n_lines,).

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
