"""A real OpenID Connect issuer on loopback: discovery document, key set, tokens; its keys can be rotated."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

AUDIENCE = "lit"
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class Issuer:
    """`published` is what its key set has; `private` signs."""

    def __init__(self) -> None:
        self.private: dict[str, PrivateKey] = {}
        self.published: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.url = ""
        self.named: str | None = None
        """The issuer in the discovery document, if it is not this one."""

    def add_key(self, key_id: str, *, elliptic: bool = False) -> None:
        if elliptic:
            curve_key = ec.generate_private_key(ec.SECP256R1())
            public = ECAlgorithm.to_jwk(curve_key.public_key(), as_dict=True)
            self.private[key_id] = curve_key
        else:
            rsa_key = rsa.generate_private_key(65537, 2048)
            public = RSAAlgorithm.to_jwk(rsa_key.public_key(), as_dict=True)
            self.private[key_id] = rsa_key
        self.published.append({**public, "kid": key_id, "use": "sig"})

    def token(self, key_id: str, algorithm: str = "RS256", **changes: Any) -> str:
        """A token; a claim that is changed to None is left out."""
        now = int(time.time())
        claims = {"iss": self.url, "aud": AUDIENCE, "sub": "alice", "iat": now, "nbf": now, "exp": now + 300, **changes}
        given = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(given, self.private[key_id], algorithm=algorithm, headers={"kid": key_id})

    def answer(self, path: str) -> dict[str, Any] | None:
        self.asked.append(path)
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.named or self.url, "jwks_uri": f"{self.url}/keys"}
        return {"keys": self.published} if path == "/keys" else None


@contextmanager
def issuing() -> Iterator[Issuer]:
    issuer = Issuer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = issuer.answer(self.path)
            content = json.dumps(found).encode()
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
