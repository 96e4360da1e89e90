"""Every source of flows by name, and the one that an address stands for.

A new source is a class with the members of `Source` and one entry at the end of this module; a room above registers its
own. The entry has a function that imports the class: a source may need what is not installed.
"""

from __future__ import annotations

import contextlib
import difflib
import gzip
import pkgutil
import socket
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from deepidea.errors import DataError, SourceError

if TYPE_CHECKING:
    from deepidea.detection.sources.source import Source

__all__ = ["SOURCES", "SourceInfo", "begins_with", "open_source", "register_source", "source_of"]

# How captures begin: pcap of either byte order and resolution, and pcapng.
PCAP_MARKS = (b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4", b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\x3c\x4d", b"\x0a\x0d\x0d\x0a")
_MOST_FILES = 2_000  # of a folder, read for its kind


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What is known of a kind of source before one is opened.

    Parameters
    ----------
    name
        Name in the registry. ``<name>:<address>`` names this kind outright.
    title
        For people.
    example
        An address of this kind.
    home
        Its class, ``module:Class``, imported when an address is opened; called with the address, `follow` where it
        `waits`, and options.
    matches
        Whether an address is of this kind. It may look at the file, not open a connection.
    schema
        Schema of its flows; ``any`` for tables.
    replayable
        Whether it can resume from a position.
    waits
        Whether it can wait for more when asked to (`follow`). A live source always does.
    live
        Whether it has no end of its own.
    """

    name: str
    title: str
    example: str
    home: str
    matches: Callable[[str], bool]
    schema: str = "conn"
    replayable: bool = False
    waits: bool = False
    live: bool = False

    def load(self) -> Callable[..., Source]:
        """Import and return the class."""
        return cast("Callable[..., Source]", pkgutil.resolve_name(self.home))


_registry: dict[str, SourceInfo] = {}
SOURCES: Mapping[str, SourceInfo] = MappingProxyType(_registry)
"""Every kind of source by name; an address is of the first kind that it matches."""


def register_source(info: SourceInfo) -> SourceInfo:
    """Add a kind of source and return it; registering it again does nothing.

    Raises
    ------
    ValueError
        Another kind has the name.
    """
    if _registry.get(info.name, info) is not info:
        raise ValueError(f"source {info.name} is registered already; choose another name")
    _registry[info.name] = info
    return info


def source_of(address: str, *, follow: bool = False) -> SourceInfo:
    """Return which kind of source an address stands for.

    Parameters
    ----------
    address
        A file, folder, interface, URL or ``-``; with ``<name>:`` in front, of that kind whatever it looks like.
    follow
        Then the kind of a log that does not exist yet is known by its name.

    Raises
    ------
    DataError
        It is of no kind; what comes near is named.

    Examples
    --------
    >>> source_of("unix:///run/suricata/eve.sock").name, source_of("-").name, source_of("eve:events.txt").name
    ('unix', 'stdin', 'eve')
    """
    # "zeek:log.txt" names its kind; "redis://..." is a URL, and a file may be called "zeek"
    named = _registry.get(address.partition(":")[0])
    if named is not None and named.name != address and "://" not in address:
        return named
    found = next((info for info in _registry.values() if info.matches(address)), None)
    if found is None and follow and _may_come(address):
        found = _registry[_sensor_by_name(address)]
    if found is None:
        raise DataError(f"{_why_not(address)}{_nearest(address)}; kinds of sources: {', '.join(_registry)}")
    return found


def open_source(address: str, *, follow: bool = False, **options: Any) -> Source:
    """Return the source that an address stands for; nothing is read before its batches are asked for.

    Parameters
    ----------
    address
        A file, folder, interface, URL or ``-``: see `source_of`. ``kafka://`` and ``redis://`` are known after
        :func:`deepidea.adapters.registration.register_adapters`.
    follow
        Wait for more where the file ends now.
    **options
        For the source's constructor.

    Raises
    ------
    DataError
        The address stands for none, for one that cannot be followed, or one that has no such option.
    MissingExtraError
        The source needs what is not installed.

    Examples
    --------
    >>> open_source("unix:///run/suricata/eve.sock").schema
    'conn'
    """
    info = source_of(address, follow=follow)
    if follow and not (info.waits or info.live):
        raise DataError(f"cannot follow {address}: it is {info.title}, which does not grow; read it without --follow")
    if info.waits:
        options["follow"] = follow
    bare = address.removeprefix(f"{info.name}:") if "://" not in address else address
    make = info.load()
    try:
        return make(bare, **options)
    except TypeError as error:  # an option that it does not have, or of another type
        raise DataError(f"cannot open {address}, {info.title}: {error}") from error


def _content(address: str) -> str | None:
    """Return the kind that a file or folder shows by what is in it, None where there is none or it shows no kind."""
    path = Path(address)
    try:
        if path.is_dir():
            # A folder may hold millions of files; the first that shows a kind decides.
            files = (file for _, file in zip(range(_MOST_FILES), sorted(path.rglob("*")), strict=False))
            return next((kind for file in files if file.is_file() and (kind := _kind_of(file))), None)
        return _kind_of(path) if path.is_file() else _kind_of_glob(address)
    except OSError as error:
        raise SourceError(f"cannot read {address}: {error.strerror or error}; check its permissions") from error


def _kind_of_glob(address: str) -> str | None:
    folder = Path(address).parent
    is_glob = "*" in address and folder.is_dir()
    return "table" if is_glob and any(map(_is_table, folder.glob(Path(address).name))) else None


def _is_table(path: Path) -> bool:
    return path.is_file() and _kind_of(path) == "table"


def _kind_of(path: Path) -> str | None:
    """Return the kind of a file, by its first bytes."""
    from deepidea.detection.sources.follow import beginning_of
    from deepidea.detection.sources.logs import sensor_of

    data, whole = _first(path)
    if data.startswith(b"PAR1"):
        return "table"
    if data.startswith(PCAP_MARKS):
        return "pcap"
    begins = beginning_of(data, whole=whole) or data
    sensor = sensor_of(begins)
    # CSV begins with nothing of its own, so here the name decides; an empty file has no header, whatever its name.
    is_table = path.name.lower().removesuffix(".gz").endswith(".csv") and bool(data)
    return sensor or ("table" if is_table else None)


def _first(path: Path) -> tuple[bytes, bool]:
    """Return the first bytes of a file, unpacked, and whether they are all."""
    from deepidea.detection.sources.follow import LONGEST_BEGINNING, beginning_of

    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream = gzip.GzipFile(fileobj=file) if packed else file
        data = b""
        # read on until the first line that is no comment is whole, or LONGEST_BEGINNING is reached
        with contextlib.suppress(EOFError, zlib.error, gzip.BadGzipFile):  # its reader raises it
            data = stream.read(1 << 14)
            while beginning_of(data, whole=False) is None and (more := stream.read(1 << 16)):
                data += more
        return data, len(data) < LONGEST_BEGINNING


def _holds(kind: str) -> Callable[[str], bool]:
    return lambda address: "://" not in address and address != "-" and _content(address) == kind


def begins_with(*prefixes: str) -> Callable[[str], bool]:
    """Return whether an address begins with one of these, in capitals or not."""
    return lambda address: address.lower().startswith(prefixes)


def _is_interface(address: str) -> bool:
    return address in _interfaces() and not Path(address).exists()


def _interfaces() -> list[str]:
    with contextlib.suppress(OSError):
        return [name for _, name in socket.if_nameindex()]
    return []


def _may_come(address: str) -> bool:
    path = Path(address)
    return "://" not in address and not path.exists() and path.parent.is_dir() and bool(_sensor_by_name(address))


def _sensor_by_name(address: str) -> str:
    name = Path(address).name.lower()
    if name.startswith("conn") and ".log" in name:
        return "zeek"
    return "eve" if name.startswith("eve") and ".json" in name else ""


def _why_not(address: str) -> str:
    path = Path(address)
    if "://" in address:
        return f"{address.partition('://')[0]!r} is no kind of source URL"
    if not path.exists():
        return f"there is no file, folder or interface {address!r}"
    if path.is_dir():
        return f"folder {address!r} holds no flows of a known kind"
    return f"{address!r} is neither a table, a conn.log, EVE nor a capture"


def _nearest(address: str) -> str:
    near = difflib.get_close_matches(address, list(_suggestions(address)), n=3, cutoff=0.6)
    return f"; nearest: {', '.join(near)}" if near else ""


def _suggestions(address: str) -> Iterator[str]:
    yield from _interfaces()
    scheme, sep, rest = address.partition("://")
    if sep:
        kinds = sorted({info.example.partition("://")[0] for info in _registry.values() if "://" in info.example})
        yield from (f"{kind}://{rest}" for kind in difflib.get_close_matches(scheme, kinds, n=2))
        return
    folder = Path(address).parent
    with contextlib.suppress(OSError):
        yield from (str(path) for path in folder.iterdir() if str(path) != address)


_LOG: dict[str, Any] = {"replayable": True, "waits": True}
_HOME = "deepidea.detection.sources"
# In this order they are asked: cheap tests of the text first, then those that open the file.
for _info in (
    SourceInfo(
        "stdin", "lines of Zeek or EVE on the standard input", "-", f"{_HOME}.lines:StdinSource",
        lambda address: address == "-", live=True,
    ),
    SourceInfo(
        "unix", "EVE over a UNIX socket", "unix:///run/eve.sock", f"{_HOME}.lines:UnixSource", begins_with("unix://"),
        live=True,
    ),
    SourceInfo(
        "netflow", "NetFlow and IPFIX", "netflow://0.0.0.0:2055", f"{_HOME}.netflow:NetFlowSource",
        begins_with("netflow://", "ipfix://"), live=True,
    ),
    SourceInfo("zeek", "Zeek's conn.log", "conn.log", f"{_HOME}.logs:ZeekSource", _holds("zeek"), **_LOG),
    SourceInfo("eve", "Suricata's EVE file", "eve.json", f"{_HOME}.logs:EveSource", _holds("eve"), **_LOG),
    SourceInfo(
        "pcap", "a packet capture", "capture.pcap", f"{_HOME}.packets:PacketSource", _holds("pcap"), schema="cicflow",
        **_LOG,
    ),
    SourceInfo(
        "table", "a table of flows", "flows.parquet", f"{_HOME}.tables:TableSource", _holds("table"), schema="any",
        replayable=True,
    ),
    SourceInfo(
        "interface", "a network interface", "eth0", f"{_HOME}.packets:InterfaceSource", _is_interface,
        schema="cicflow", live=True,
    ),
):  # fmt: skip
    register_source(_info)
