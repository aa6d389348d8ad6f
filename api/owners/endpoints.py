"""/v1/me and /v1/owners: who the caller is, and what owners use and may use."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body
from fastapi import Path as PathParameter
from sqlalchemy.orm import Session

from api.http.auth import ADMIN, InCaller
from api.http.bodies import JsonRoute
from api.http.context import Context, InContext, InSession
from jobs.ledger import quotas
from lit_spec.answers.owners import CallerKey, Me, OwnerQuotas
from lit_spec.requests.access import LONGEST_OWNER, QuotasRequest

router = APIRouter(prefix="/v1", tags=["owners"], route_class=JsonRoute)

OwnerInPath = Annotated[
    str,
    PathParameter(min_length=1, max_length=LONGEST_OWNER, pattern=r"^[!-~]+$", description="As in a key's `owner`."),
]


@router.get("/me")
def get_me(caller: InCaller, session: InSession, context: InContext) -> Me:
    """Who the service takes you for: owner, key, scopes; and what the owner uses and may use."""
    key = None
    if caller.key_id is not None and caller.key_name is not None:
        key = CallerKey(id=caller.key_id, name=caller.key_name)
    return Me(
        **dict(_show(session, context, caller.owner)),
        scopes=sorted(caller.scopes),
        key=key,
        subject=caller.subject,
        expires_at=caller.expires_at,
    )


@router.get("/owners/{owner:path}/quotas", dependencies=[ADMIN])
def get_quotas(owner: OwnerInPath, session: InSession, context: InContext) -> OwnerQuotas:
    """What an owner uses and may use. Any name is an owner's, also one that has made nothing yet."""
    return _show(session, context, owner)


@router.put("/owners/{owner:path}/quotas", dependencies=[ADMIN])
def set_quotas(
    owner: OwnerInPath, asked: Annotated[QuotasRequest, Body()], session: InSession, context: InContext
) -> OwnerQuotas:
    """Set an owner's quotas. Those that are left out are the service's; null is no limit."""
    quotas.replace(session, owner, asked.model_dump(exclude_unset=True))
    return _show(session, context, owner)


def _show(session: Session, context: Context, owner: str) -> OwnerQuotas:
    return OwnerQuotas(
        owner=owner,
        usage=quotas.usage(session, owner),
        quotas=quotas.effective(session, owner, context.settings.quotas),
    )
