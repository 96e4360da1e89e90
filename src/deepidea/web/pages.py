"""Routes of the pages."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import APIRouter, FastAPI

router = APIRouter()


@contextlib.asynccontextmanager
async def running(_: FastAPI) -> AsyncIterator[None]:
    """Keep what works beside the requests running."""
    yield
