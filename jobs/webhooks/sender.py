"""Sends one message: signed after the Standard Webhooks specification, to an address that was checked."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from datetime import UTC, datetime
from functools import cached_property

import httpx
from standardwebhooks import Webhook as Signer

from jobs.version import VERSION
from jobs.webhooks.addresses import AddressRefused, Receivers
from jobs.webhooks.claims import DeliveryClaim
from jobs.webhooks.deliveries import AttemptResult
from jobs.webhooks.networks import Address
from jobs.webhooks.urls import ReceiverUrl, read_url

ATTEMPT_SECONDS = 15.0
"""For all of an attempt, from the lookup of the name to the answer."""
CONNECT_SECONDS = 5.0
"""For one address of the receiver."""
ANSWER_BYTES = 1024
"""How much of an answer is read. The rest is of no use."""


class Sender:
    """Sends messages. `public_url` is where the service's own links lead, None if the operator has not said so."""

    def __init__(self, receivers: Receivers, public_url: str | None) -> None:
        self._receivers = receivers
        self._public_url = public_url.rstrip("/") if public_url else None

    async def send(self, claim: DeliveryClaim) -> AttemptResult:
        """One attempt. Whatever goes wrong with the receiver is a result. Raises LookupsBusy, with nothing sent."""
        at, start = datetime.now(UTC), time.monotonic()
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                answer, text = await self._post(claim, at)
        except TimeoutError:
            return _failed(at, start, f"no answer within {ATTEMPT_SECONDS:.0f} s")
        except (AddressRefused, ValueError) as refused:
            return _failed(at, start, str(refused))
        except (httpx.HTTPError, OSError) as failure:
            return _failed(at, start, f"{type(failure).__name__}: {_printable(str(failure)) or 'no details'}")
        return AttemptResult(
            at=at,
            seconds=time.monotonic() - start,
            status=answer.status_code,
            error=None if answer.is_success else _why_refused(answer),
            answer=text,
            retry_after=answer.headers.get("Retry-After"),
        )

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """With the usual authorities, or those of SSL_CERT_FILE. Loading them takes a while, so once."""
        return httpx.create_ssl_context()

    async def _post(self, claim: DeliveryClaim, at: datetime) -> tuple[httpx.Response, str]:
        url = read_url(claim.url)
        addresses = await self._receivers.addresses(url, claim.owner)
        body = self.body(claim)
        headers = {
            "Host": url.authority,
            "Content-Type": "application/json",
            "User-Agent": f"lit-compress/{VERSION}",
            "Accept-Encoding": "identity",
            **signed_headers(claim, at, body),
        }
        for address in addresses[:-1]:
            try:
                return await self._post_to(address, url, headers, body)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue  # nothing was sent: perhaps another of its addresses works
        return await self._post_to(addresses[-1], url, headers, body)

    async def _post_to(
        self, address: Address, url: ReceiverUrl, headers: dict[str, str], body: bytes
    ) -> tuple[httpx.Response, str]:
        # A client of its own: a kept connection to the same address may be that of another name.
        client = httpx.AsyncClient(
            verify=self._tls,
            trust_env=False,  # a proxy of the environment would look the name up again
            follow_redirects=False,
            timeout=httpx.Timeout(ATTEMPT_SECONDS, connect=CONNECT_SECONDS),
        )
        # TLS still asks for the name, and checks the certificate for it.
        named = {"sni_hostname": url.host}
        async with client:
            request = client.build_request(
                "POST", url.at(str(address)), headers=headers, content=body, extensions=named
            )
            answer = await client.send(request, stream=True)
            try:
                return answer, await _first_bytes(answer)
            finally:
                await answer.aclose()

    def body(self, claim: DeliveryClaim) -> bytes:
        """The message. Attempts differ in nothing but the time of their signature."""
        data = dict(claim.data)
        if self._public_url is not None and "links" in data:
            data["url"] = self._public_url + data["links"]["self"]
        message = {"type": claim.type, "timestamp": claim.created_at.astimezone(UTC).isoformat(), "data": data}
        return json.dumps(message, separators=(",", ":")).encode()


def signed_headers(claim: DeliveryClaim, at: datetime, body: bytes) -> dict[str, str]:
    """The headers by which a receiver knows the sender, the moment, and messages that it had before."""
    signatures = [Signer(secret).sign(claim.id, at, body.decode()) for secret in claim.secrets]
    return {
        "webhook-id": claim.id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


async def _first_bytes(answer: httpx.Response) -> str:
    content = b""
    async for piece in answer.aiter_raw():
        content += piece
        if len(content) >= ANSWER_BYTES:
            break
    return _printable(content[:ANSWER_BYTES].decode(errors="replace"))


def _printable(text: str) -> str:
    """Without what PostgreSQL can't store."""
    return text.replace("\0", "�").encode(errors="replace").decode()


def _failed(at: datetime, start: float, error: str) -> AttemptResult:
    return AttemptResult(at=at, seconds=time.monotonic() - start, error=error)


def _why_refused(answer: httpx.Response) -> str:
    said = f"the receiver answered {answer.status_code}"
    if answer.is_redirect:
        return f"{said}, a redirect, which is not followed: give the address that it leads to"
    return said
