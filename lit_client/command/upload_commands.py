"""`litc uploads`: lists, shows and removes uploads."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from lit_client.command import display, output
from lit_client.command.completion import complete_upload
from lit_client.command.dataset_display import dataset_table
from lit_client.command.inspection_display import inspection_table
from lit_client.command.options import JsonOption, UrlOption
from lit_client.command.output import show
from lit_client.models import Upload
from lit_client.synchronous.client import Client

app = typer.Typer(help="Uploaded teachers and data sets.", invoke_without_command=True, pretty_exceptions_enable=False)

LimitOption = Annotated[int, typer.Option(min=1, help="How many at most.")]
UploadId = Annotated[str, typer.Argument(metavar="UPLOAD", help="An upload's id.", autocompletion=complete_upload)]


@app.callback()
def uploads(
    context: typer.Context, limit: LimitOption = 20, url: UrlOption = None, as_json: JsonOption = False
) -> None:
    """Uploaded teachers and data sets; without a command they are listed."""
    if context.invoked_subcommand is None:
        list_uploads(limit, url, as_json)


@app.command("list")
def list_uploads(limit: LimitOption = 20, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """List uploads, newest first."""
    with Client(url) as client:
        found = list(client.uploads(limit=limit))
    show([upload.model_dump(mode="json") for upload in found], display.uploads_table(found), as_json)


@app.command("show")
def show_upload(upload_id: UploadId, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show an upload, and what its inspection found."""
    with Client(url) as client:
        upload = client.get_upload(upload_id)
    if as_json:
        show(upload.model_dump(mode="json"), "", as_json)
    elif upload.inspection is not None:
        display.stdout.print(inspection_table(upload, upload.inspection))
    elif upload.dataset_inspection is not None:
        display.stdout.print(dataset_table(upload, upload.dataset_inspection))
    else:
        display.stdout.print(_upload_table(upload))


def _upload_table(upload: Upload) -> Table:
    table = Table("upload", upload.id)
    rows = [
        ("file", upload.filename),
        ("kind", str(upload.kind)),
        ("bytes", f"{upload.received:,} of {upload.size:,}"),
        ("inspection", str(upload.inspection_state or "")),
        ("unusable", "" if upload.inspection_error is None else str(upload.inspection_error)),
        ("created", display.format_time(upload.created_at)),
    ]
    for label, value in rows:
        if value:
            table.add_row(label, value)
    return table


@app.command("delete")
def delete_uploads(
    upload_ids: Annotated[
        list[str], typer.Argument(metavar="UPLOAD…", help="Uploads' ids.", autocompletion=complete_upload)
    ],
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove uploads. One that a job needs is kept, and doesn't keep the others."""
    with Client(url) as client:
        output.delete_each(upload_ids, client.delete_upload, as_json)
