"""The pages."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import Response

from deepidea.web.access import viewer
from deepidea.web.rendering import render

router = APIRouter(include_in_schema=False)


@contextlib.asynccontextmanager
async def running(_: FastAPI) -> AsyncIterator[None]:
    """Keep what works beside the requests running."""
    yield


@router.get("/", dependencies=[Depends(viewer)])
def overview(request: Request) -> Response:
    """Show the state of the network at a glance."""
    return render(request, "base.html")
