"""Whether the process lives, and whether it can serve."""

from __future__ import annotations

from fastapi import APIRouter

from api.http.context import InContext
from api.http.problems import unavailable
from lit_spec.documented import Documented

router = APIRouter(tags=["health"])


class Health(Documented):
    """How the process is."""

    status: str
    """`alive` or `ready`."""


@router.get("/healthz")
async def healthz() -> Health:
    """The process lives. Looks at nothing else."""
    return Health(status="alive")


@router.get("/readyz")
async def readyz(context: InContext) -> Health:
    """Database, broker and storage are there and their disks take something; 503 says which is not and does not."""
    if faults := await context.readiness.faults():
        raise unavailable("; ".join(faults))
    return Health(status="ready")
