"""State that is saved with the position of a source: open flows of the meter, host context.

A part of the state is a list of entries: a snapshot, then what was appended to it. It is written in the transaction
that moves the position, so after a restart state and position agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from deepidea.store.tables import ALERTS, DRIFT_COUNTS, ENGINES, FLOW_COUNTS, LOSSES, SOURCE_MEMORY, SOURCES

__all__ = ["MAX_MEMORY_BYTES", "MemoryChange", "read_memory", "rename_source", "write_memory"]

MAX_MEMORY_BYTES = 128 << 20  # of one entry


@dataclass(frozen=True, slots=True)
class MemoryChange:
    """A new entry of one part of a source's memory.

    Parameters
    ----------
    part : str
        Name of the part: ``meter``, ``hosts``, ...
    data : bytes or None
        The entry; None empties the part.
    append : bool
        Whether it is added after the entries of the part, or replaces them.
    """

    part: str
    data: bytes | None
    append: bool = False


def write_memory(connection: sa.Connection, source: str, changes: Sequence[MemoryChange]) -> None:
    """Write changes of a source's memory."""
    table = SOURCE_MEMORY.c
    for change in changes:
        of_part = sa.and_(table.source == source, table.part == change.part)
        number = 0
        if change.append:
            following = sa.select(sa.func.coalesce(sa.func.max(table.seq) + 1, 0)).where(of_part)
            number = connection.execute(following).scalar_one()
        else:
            connection.execute(SOURCE_MEMORY.delete().where(of_part))
        if change.data is not None:
            row = {"source": source, "part": change.part, "seq": number, "data": change.data}
            connection.execute(SOURCE_MEMORY.insert().values(row))


def read_memory(connection: sa.Connection, source: str) -> Mapping[str, list[bytes]]:
    """Return the entries of each part of a source's memory, in order."""
    table = SOURCE_MEMORY.c
    wanted = sa.select(table.part, table.data).where(table.source == source).order_by(table.part, table.seq)
    memory: dict[str, list[bytes]] = {}
    for part, data in connection.execute(wanted):
        memory.setdefault(part, []).append(bytes(data))
    return memory


def rename_source(connection: sa.Connection, old: str, new: str) -> None:
    """Rename a source in all tables, unless the old name is unknown or the new one is taken."""
    names = set(connection.execute(sa.select(SOURCES.c.name).where(SOURCES.c.name.in_([old, new]))).scalars())
    if names != {old}:
        return
    connection.execute(ENGINES.delete().where(ENGINES.c.source == new))
    connection.execute(SOURCES.update().where(SOURCES.c.name == old).values(name=new))
    for table in (LOSSES, SOURCE_MEMORY, FLOW_COUNTS, DRIFT_COUNTS, ENGINES, ALERTS):
        connection.execute(table.update().where(table.c.source == old).values(source=new))
