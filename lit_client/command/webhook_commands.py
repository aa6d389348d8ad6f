"""`litc webhooks`: endpoints that the service tells of what happens, and what it has sent to them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any

import typer
from rich.table import Table

from lit_client.command import display, output
from lit_client.command.completion import complete_webhook
from lit_client.command.job_request import BadRequest
from lit_client.command.options import JsonOption, UrlOption
from lit_client.command.output import show
from lit_client.synchronous.client import Client

app = typer.Typer(
    help="Endpoints that the service tells of what happens.", no_args_is_help=True, pretty_exceptions_enable=False
)

WebhookId = Annotated[str, typer.Argument(metavar="WEBHOOK", help="An endpoint's id.", autocompletion=complete_webhook)]
EventsOption = Annotated[
    list[str] | None,
    typer.Option("--event", help="Only this type, as job.succeeded; may be repeated. Default: all."),
]
NameOption = Annotated[str | None, typer.Option(help="A name to find the endpoint by.")]


@app.command("create")
def create(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Where the service sends to, https://….")],
    events: EventsOption = None,
    name: NameOption = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Send nothing until it is enabled.")] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register an endpoint. The secret of its signatures is shown this once."""
    fields = {"events": events, "name": name, "enabled": False if disabled else None}
    with Client(url) as client:
        made = client.create_webhook(address, **{key: value for key, value in fields.items() if value is not None})
    _show_secret(made, as_json)


@app.command("list")
def list_webhooks(url: UrlOption = None, as_json: JsonOption = False) -> None:
    """List the endpoints."""
    with Client(url) as client:
        found = list(client.webhooks())
    columns = {"id": "id", "name": "name", "url": "url", "events": "events", "enabled": "enabled"}
    show(found, _table(columns, found, ["name", "events"]), as_json)


@app.command("show")
def show_webhook(webhook_id: WebhookId, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show an endpoint."""
    with Client(url) as client:
        found = client.webhook(webhook_id)
    show(found, _one(found), as_json)


@app.command("update")
def update(
    webhook_id: WebhookId,
    address: Annotated[str | None, typer.Option("--address", help="Where the service sends to.")] = None,
    events: EventsOption = None,
    name: NameOption = None,
    enabled: Annotated[bool | None, typer.Option("--enable/--disable", help="Whether anything is sent.")] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change an endpoint."""
    given = {"url": address, "events": events, "name": name, "enabled": enabled}
    fields = {key: value for key, value in given.items() if value is not None}
    if not fields:
        raise BadRequest("Nothing is to be changed: give --address, --event, --name, --enable or --disable.")
    with Client(url) as client:
        changed = client.change_webhook(webhook_id, **fields)
    show(changed, _one(changed), as_json)


@app.command("delete")
def delete(
    webhook_ids: Annotated[
        list[str], typer.Argument(metavar="WEBHOOK…", help="Endpoints' ids.", autocompletion=complete_webhook)
    ],
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove endpoints with their deliveries."""
    with Client(url) as client:
        output.delete_each(webhook_ids, client.delete_webhook, as_json)


@app.command("test")
def send_ping(webhook_id: WebhookId, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Send a ping to an endpoint."""
    with Client(url) as client:
        answer = client.test_webhook(webhook_id)
    show(answer, _sent(answer, webhook_id), as_json)


@app.command("deliveries")
def deliveries(
    webhook_id: WebhookId,
    state: Annotated[str | None, typer.Option(help="Only deliveries in this state, as dead.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what was sent to an endpoint, newest first, and what came of it."""
    with Client(url) as client:
        found = list(client.deliveries(webhook_id, state=state, limit=limit))
    rows = [{**one, "attempts": _attempts(one)} for one in found]
    columns = {"id": "id", "type": "event", "state": "state", "attempts": "attempts", "created_at": "created"}
    show(found, _table(columns, rows, ["created"]), as_json)


@app.command("redeliver")
def redeliver(
    webhook_id: WebhookId,
    delivery_id: Annotated[str, typer.Argument(metavar="DELIVERY", help="A delivery's id.")],
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a delivery again."""
    with Client(url) as client:
        answer = client.redeliver(webhook_id, delivery_id)
    show(answer, _sent(answer, webhook_id), as_json)


@app.command("rotate-secret")
def rotate_secret(webhook_id: WebhookId, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Make a new secret, and show it this once. The old one signs too for a day."""
    with Client(url) as client:
        answer = client.rotate_webhook_secret(webhook_id)
    _show_secret(answer, as_json)


def _show_secret(answer: Mapping[str, Any], as_json: bool) -> None:
    """The secret alone is on stdout, so that a script can take it."""
    if not as_json:
        display.stderr.print(f"Endpoint {answer.get('id', '')}. The secret is shown this once, so note it now:")
    show(answer, str(answer.get("secret")), as_json)


def _sent(answer: Mapping[str, Any], webhook_id: str) -> str:
    return f"Delivery {answer.get('id')}: {answer.get('state', 'sent')}. Look: litc webhooks deliveries {webhook_id}"


def _attempts(delivery: Mapping[str, Any]) -> str:
    """Their number, and how the last one ended."""
    attempts = delivery.get("attempts")
    if not isinstance(attempts, list):
        return _text(attempts)
    last = attempts[-1] if attempts else {}
    ended = last.get("error") or last.get("status") or ""
    return f"{len(attempts)}: {ended}" if ended else str(len(attempts))


def _one(found: Mapping[str, Any]) -> Table:
    table = Table("webhook", _text(found.get("id")))
    for name, value in found.items():
        if name != "id" and value is not None:
            table.add_row(name.replace("_", " "), _text(value))
    return table


def _table(columns: Mapping[str, str], found: list[dict[str, Any]], dispensable: list[str]) -> display.FittedTable:
    """`columns`: headings by field."""
    rows = [{heading: _text(one.get(field)) for field, heading in columns.items()} for one in found]

    def make(left_out: Collection[str]) -> Table:
        return display.table_of(list(columns.values()), rows, left_out)

    return display.FittedTable(make, dispensable)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "all"
    return "" if value is None else str(value)
