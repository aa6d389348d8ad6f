"""Conditional answers (RFC 9110): the ETag of an answer, and the GET that waits until an answer has changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from api.http.context import Context, InContext
from api.http.long_polls import Wait
from api.http.problems import Problem
from api.http.shown_answers import ShownAnswer, etag_of

AnswerT = TypeVar("AnswerT", bound=BaseModel)

IfNoneMatch = Annotated[str | None, Header(description="The ETag of the answer that the caller has.")]
IfMatch = Annotated[str | None, Header(description="Do it only if the thing still has this ETag; otherwise 412.")]

NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "The caller has this answer already."}}


def require_unchanged(if_match: str | None, answer: Callable[[], BaseModel]) -> None:
    """Refuse to change a thing that has changed since the caller looked at it. `answer` is what GET would answer now.

    Raises Problem 412.
    """
    if if_match is not None:
        require_match(if_match, etag_of(answer().model_dump_json().encode()))


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


@dataclass(frozen=True)
class Conditions:
    """The conditions of a GET or HEAD."""

    if_none_match: str | None
    if_match: str | None

    def not_modified(self, etag: str, headers: dict[str, str]) -> Response | None:
        """The answer 304, or None if the caller doesn't have this ETag. Raises Problem 412."""
        if self.if_match is not None:
            require_match(self.if_match, etag)
        return Response(status_code=304, headers=headers) if self.knows(etag) else None

    def respond(self, shown: ShownAnswer, method: str) -> Response:
        """The answer to a GET or HEAD: the thing itself, or 304. Raises Problem 412."""
        headers = {"ETag": shown.etag, "Cache-Control": "no-cache", **shown.headers}
        if (not_modified := self.not_modified(shown.etag, headers)) is not None:
            return not_modified
        headers["Content-Length"] = str(len(shown.content))
        return Response(b"" if method == "HEAD" else shown.content, media_type="application/json", headers=headers)

    def knows(self, etag: str) -> bool:
        """Whether the caller has what this ETag stands for."""
        return self.if_none_match is not None and matches(self.if_none_match, etag)


async def _conditions(if_none_match: IfNoneMatch = None, if_match: IfMatch = None) -> Conditions:
    return Conditions(if_none_match, if_match)


UnderConditions = Annotated[Conditions, Depends(_conditions)]


@dataclass(frozen=True)
class ConditionalGet:
    """A GET or HEAD of something that changes."""

    request: Request
    context: Context
    conditions: Conditions
    wait: int

    async def answer(
        self,
        topic: str,
        read: Callable[[], AnswerT],
        is_finished: Callable[[AnswerT], bool],
        headers: Callable[[AnswerT], dict[str, str]] = lambda _: {},
    ) -> Response:
        """What `read` returns, with its ETag; or 304, or 412 for If-Match.

        The answer is held back for up to `wait` seconds, until `is_finished` holds or, with If-None-Match, until the
        answer has changed. `read` blocks and is called again at each change of `topic`. `headers` makes more headers
        for the answer.
        """

        def show() -> ShownAnswer:
            found = read()
            return ShownAnswer.of(found, finished=is_finished(found), headers=headers(found))

        return await self.answer_with(topic, lambda: run_in_threadpool(show))

    async def answer_with(self, topic: str, look: Callable[[], Awaitable[ShownAnswer]]) -> Response:
        """Like `answer`, for a `look` that doesn't block."""

        def is_worth_telling(seen: ShownAnswer) -> bool:
            return seen.finished if self.conditions.if_none_match is None else not self.conditions.knows(seen.etag)

        shown = await self.context.long_polls.until(topic, self.wait, look, is_worth_telling)
        return self.conditions.respond(shown, self.request.method)


async def _conditional_get(
    request: Request, context: InContext, conditions: UnderConditions, wait: Wait = 0
) -> ConditionalGet:
    return ConditionalGet(request, context, conditions, wait)


InConditionalGet = Annotated[ConditionalGet, Depends(_conditional_get)]
