"""`litc webhooks`: addresses that the service tells what happens, and what it has sent to them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated

import typer
from rich.table import Table

from lit_client.command import display, output
from lit_client.command.completion import complete_webhook
from lit_client.command.job_request import BadRequest
from lit_client.command.options import JsonOption, UrlOption
from lit_client.command.output import show
from lit_client.models import Webhook, WebhookDelivery, WebhookWithSecret
from lit_client.synchronous.client import Client

app = typer.Typer(
    help="Addresses that the service tells what happens.", no_args_is_help=True, pretty_exceptions_enable=False
)

WebhookId = Annotated[str, typer.Argument(metavar="WEBHOOK", help="A webhook's id.", autocompletion=complete_webhook)]
DeliveryId = Annotated[str, typer.Argument(metavar="DELIVERY", help="A delivery's id.")]
EventsOption = Annotated[
    list[str] | None,
    typer.Option("--event", help="Only this event, as job.succeeded; may be repeated. Default: all."),
]
TagsOption = Annotated[
    list[str] | None,
    typer.Option("--tag", help="Only jobs and studies with this tag, or one of several; may be repeated."),
]
NameOption = Annotated[str | None, typer.Option(help="A name to find the webhook by.")]


@app.command("create")
def create(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Where the service sends to, https://….")],
    events: EventsOption = None,
    tags: TagsOption = None,
    name: NameOption = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Send nothing until it is enabled.")] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a webhook. The secret of its signatures is shown this once."""
    with Client(url) as client:
        made = client.create_webhook(address, events=events, name=name, tags=tags or (), enabled=not disabled)
    _show_secret(made, as_json)


@app.command("list")
def list_webhooks(url: UrlOption = None, as_json: JsonOption = False) -> None:
    """List the webhooks, newest first."""
    with Client(url) as client:
        found = list(client.webhooks())
    show([one.model_dump(mode="json") for one in found], _webhooks_table(found), as_json)


@app.command("show")
def show_webhook(webhook_id: WebhookId, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show a webhook, and why it is disabled."""
    with Client(url) as client:
        found = client.webhook(webhook_id)
    _show_webhook(found, as_json)


@app.command("update")
def update(
    webhook_id: WebhookId,
    address: Annotated[str | None, typer.Option("--address", help="Where the service sends to.")] = None,
    events: EventsOption = None,
    all_events: Annotated[bool, typer.Option("--all-events", help="All events.")] = False,
    tags: TagsOption = None,
    no_tags: Annotated[bool, typer.Option("--no-tags", help="All jobs and studies, whatever their tags.")] = False,
    name: NameOption = None,
    enabled: Annotated[bool | None, typer.Option("--enable/--disable", help="Whether anything is sent.")] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change a webhook. What is not given stays as it is."""
    if (events and all_events) or (tags and no_tags):
        raise BadRequest("Both a list and its end are given: leave out --all-events and --no-tags, or the lists.")
    given = {"url": address, "events": events, "tags": tags, "name": name, "enabled": enabled}
    changes: dict[str, object] = {key: value for key, value in given.items() if value is not None}
    changes |= ({"events": None} if all_events else {}) | ({"tags": None} if no_tags else {})
    if not changes:
        raise BadRequest("Nothing is to be changed: give --address, --event, --tag, --name, --enable or --disable.")
    with Client(url) as client:
        changed = client.change_webhook(webhook_id, **changes)
    _show_webhook(changed, as_json)


@app.command("delete")
def delete(
    webhook_ids: Annotated[
        list[str], typer.Argument(metavar="WEBHOOK…", help="Webhooks' ids.", autocompletion=complete_webhook)
    ],
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove webhooks with their deliveries."""
    with Client(url) as client:
        output.delete_each(webhook_ids, client.delete_webhook, as_json)


@app.command("test")
def send_ping(webhook_id: WebhookId, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Send a ping."""
    with Client(url) as client:
        sent = client.test_webhook(webhook_id)
    _show_sent(sent, as_json)


@app.command("deliveries")
def deliveries(
    webhook_id: WebhookId,
    state: Annotated[str | None, typer.Option(help="Only those that are pending, delivered or dead.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what was sent to a webhook, newest first, and what came of it."""
    with Client(url) as client:
        found = list(client.deliveries(webhook_id, state=state, limit=limit))
    show([one.model_dump(mode="json") for one in found], _deliveries_table(found), as_json)


@app.command("delivery")
def show_delivery(
    webhook_id: WebhookId, delivery_id: DeliveryId, url: UrlOption = None, as_json: JsonOption = False
) -> None:
    """Show the attempts to deliver a message."""
    with Client(url) as client:
        found = client.delivery(webhook_id, delivery_id)
    show(found.model_dump(mode="json"), _attempts_table(found), as_json)


@app.command("redeliver")
def redeliver(
    webhook_id: WebhookId, delivery_id: DeliveryId, url: UrlOption = None, as_json: JsonOption = False
) -> None:
    """Send a message again."""
    with Client(url) as client:
        sent = client.redeliver(webhook_id, delivery_id)
    _show_sent(sent, as_json)


@app.command("rotate-secret")
def rotate_secret(webhook_id: WebhookId, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Make a new secret, and show it this once. The old one signs too for a day."""
    with Client(url) as client:
        changed = client.rotate_webhook_secret(webhook_id)
    _show_secret(changed, as_json)


def _show_secret(made: WebhookWithSecret, as_json: bool) -> None:
    """The secret alone is on stdout, so that a script can take it."""
    if not as_json:
        display.stderr.print(f"Webhook {made.id}. The secret is shown this once, so note it now:")
    show(made.model_dump(mode="json"), made.secret, as_json)


def _show_sent(sent: WebhookDelivery, as_json: bool) -> None:
    look = f"litc webhooks delivery {sent.webhook_id} {sent.id}"
    show(sent.model_dump(mode="json"), f"{sent.id} is {sent.state}. What comes of it: {look}", as_json)


def _show_webhook(webhook: Webhook, as_json: bool) -> None:
    table = Table("webhook", webhook.id)
    rows = {
        "name": webhook.name,
        "address": webhook.url,
        "events": _listed(webhook.events),
        "tags": _listed(webhook.tags),
        "enabled": _enabled(webhook),
        "failing since": display.format_time(webhook.failing_since),
        "two secrets until": display.format_time(webhook.previous_secret_until),
        "created": display.format_time(webhook.created_at),
    }
    for label, value in rows.items():
        if value:
            table.add_row(label, value)
    show(webhook.model_dump(mode="json"), table, as_json)


def _webhooks_table(found: Sequence[Webhook]) -> display.FittedTable:
    cells = [
        {
            "id": one.id,
            "name": one.name or "",
            "address": one.url,
            "events": _listed(one.events),
            "tags": _listed(one.tags),
            "enabled": _enabled(one),
        }
        for one in found
    ]
    return _fitted(cells, ["id", "name", "address", "events", "tags", "enabled"], ["tags", "name", "events"])


def _deliveries_table(found: Sequence[WebhookDelivery]) -> display.FittedTable:
    cells = [
        {
            "id": one.id,
            "event": one.type,
            "state": str(one.state),
            "failures": str(one.failures),
            "last error": one.attempts[-1].error or "" if one.attempts else "",
            "next attempt": display.format_time(one.next_attempt_at),
            "created": display.format_time(one.created_at),
        }
        for one in found
    ]
    columns = ["id", "event", "state", "failures", "last error", "next attempt", "created"]
    return _fitted(cells, columns, ["created", "failures", "next attempt"])


def _attempts_table(delivery: WebhookDelivery) -> Table:
    table = Table("attempt", "at", "seconds", "status", "error", "answer", title=f"{delivery.type}: {delivery.state}")
    for one in delivery.attempts:
        status = "" if one.status is None else str(one.status)
        at = display.format_time(one.at)
        table.add_row(str(one.number), at, f"{one.seconds:.3f}", status, one.error or "", one.answer or "")
    return table


def _fitted(cells: list[dict[str, str]], columns: list[str], dispensable: list[str]) -> display.FittedTable:
    def make(left_out: Collection[str]) -> Table:
        return display.table_of(columns, cells, left_out)

    return display.FittedTable(make, dispensable)


def _enabled(webhook: Webhook) -> str:
    if webhook.enabled:
        return "yes"
    return "no" if webhook.disabled is None else f"no: {webhook.disabled.reason}"


def _listed(values: Sequence[str] | None) -> str:
    return ", ".join(values) if values else "all"
