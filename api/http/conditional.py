"""Conditional answers (RFC 9110): the ETag of an answer, and the GET that waits until an answer has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Header, Request, Response
from pydantic import BaseModel

from api.http.context import Context
from api.http.problems import Problem

AnswerT = TypeVar("AnswerT", bound=BaseModel)

IfNoneMatch = Annotated[str | None, Header(description="The ETag of the answer that the caller has.")]
IfMatch = Annotated[str | None, Header(description="Do it only if the thing still has this ETag; otherwise 412.")]

NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "The caller has this answer already."}}


def etag_of(text: str) -> str:
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def require_unchanged(if_match: str | None, answer: Callable[[], BaseModel]) -> None:
    """Refuse to change a thing that has changed since the caller looked at it. `answer` is what GET would answer now.

    Raises Problem 412.
    """
    if if_match is not None:
        require_match(if_match, etag_of(answer().model_dump_json()))


def require_match(if_match: str, etag: str) -> None:
    """By the strong comparison (RFC 9110, section 13.1.1), so a tag with W/ never matches. Raises Problem 412."""
    tags = [tag.strip() for tag in if_match.split(",")]
    if etag not in tags and "*" not in tags:
        detail = f"the ETag is {etag}, which If-Match doesn't name: look at what has changed, and decide again"
        raise Problem(412, "precondition-failed", detail, headers={"ETag": etag})


def matches(if_none_match: str, etag: str) -> bool:
    """By the weak comparison (RFC 9110, section 13.1.2), so W/ before a tag makes no difference."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or "*" in tags


async def answer_conditionally(
    request: Request,
    context: Context,
    *,
    topic: str,
    wait: int,
    if_none_match: str | None,
    if_match: str | None,
    read: Callable[[], AnswerT],
    is_finished: Callable[[AnswerT], bool],
    headers: Callable[[AnswerT], dict[str, str]] = lambda _: {},
) -> Response:
    """Answer GET or HEAD with what `read` returns and its ETag, with 304, or with 412 for If-Match.

    The answer is held back for up to `wait` seconds, until `is_finished` holds or, with If-None-Match, until the answer
    has changed. `read` blocks and is called again at each change of `topic`. `headers` makes more headers for the
    answer.
    """

    def read_with_etag() -> tuple[AnswerT, bytes, str]:
        answer = read()
        text = answer.model_dump_json()
        return answer, text.encode(), etag_of(text)

    def is_worth_telling(seen: tuple[AnswerT, bytes, str]) -> bool:
        answer, _, etag = seen
        return is_finished(answer) if if_none_match is None else not matches(if_none_match, etag)

    found, content, etag = await context.long_polls.until(topic, wait, read_with_etag, is_worth_telling)
    sent = {"ETag": etag, "Cache-Control": "no-cache", **headers(found)}
    if if_match is not None:
        require_match(if_match, etag)
    if if_none_match is not None and matches(if_none_match, etag):
        return Response(status_code=304, headers=sent)
    sent["Content-Length"] = str(len(content))
    shown = b"" if request.method == "HEAD" else content
    return Response(shown, media_type="application/json", headers=sent)
