"""What a store would keep of batches for their source to remember."""

from __future__ import annotations

from collections.abc import Iterable

from deepidea.detection.sources.source import FlowBatch


def memory_of(batches: Iterable[FlowBatch]) -> dict[str, list[bytes]]:
    """Return the entries of each part of the memory behind batches."""
    memory: dict[str, list[bytes]] = {}
    for batch in batches:
        for change in batch.memory:
            kept = memory.get(change.part, []) if change.append else []
            memory[change.part] = kept if change.data is None else [*kept, change.data]
    return memory
