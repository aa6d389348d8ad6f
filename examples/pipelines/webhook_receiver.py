"""Download each accepted student as soon as the service tells of it: `uvicorn webhook_receiver:app`.

Needs `pip install fastapi uvicorn standardwebhooks lit-compress`, and LIT_URL, LIT_API_KEY and LIT_WEBHOOK_SECRET, the
`secret` that `POST /v1/webhooks` with `{"url": "https://…/lit", "events": ["job.succeeded"]}` has answered.
"""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import BackgroundTasks, FastAPI, HTTPException, Request
from standardwebhooks import Webhook, WebhookVerificationError

from lit_client import Client

app = FastAPI()
webhook = Webhook(os.environ["LIT_WEBHOOK_SECRET"])
students = Path(os.environ.get("STUDENTS", "students"))


@app.post("/lit", status_code=204)
async def receive(request: Request, tasks: BackgroundTasks) -> None:
    try:
        message = webhook.verify(await request.body(), dict(request.headers))
    except WebhookVerificationError as wrong:
        raise HTTPException(400, "The signature is wrong.") from wrong
    if message["type"] == "job.succeeded" and message["data"]["accepted"] is not False:
        # After the answer, because a download may take longer than the service waits.
        tasks.add_task(download, message["data"]["id"])


def download(job: str) -> None:
    """A message that comes twice downloads nothing twice: a complete file is not downloaded again."""
    with Client() as client:
        client.download(job, students / job)
