"""The REST API, ``/api/v1``."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI

from deepidea.web.access import Actor, viewer

router = APIRouter(prefix="/api/v1")


@contextlib.asynccontextmanager
async def running(_: FastAPI) -> AsyncIterator[None]:
    """Keep what works beside the requests running."""
    yield


@router.get("/me")
def me(actor: Annotated[Actor, Depends(viewer)]) -> dict[str, str]:
    """Tell who asks, and as what."""
    return {"name": actor.name, "role": actor.role, "way": actor.way}
