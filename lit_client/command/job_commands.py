"""Commands about jobs that exist: `litc jobs`, `job`, `logs`, `events`, `metrics`, `download`, `delete` and others."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from lit_client.command import display, output
from lit_client.command.completion import complete_job
from lit_client.command.compress import follow_to_end
from lit_client.command.job_request import BadRequest, parse_changes
from lit_client.command.options import JsonOption, SetOption, UrlOption
from lit_client.command.output import show, show_line
from lit_client.command.progress_bar import event_line
from lit_client.command.transfers import fetch
from lit_client.errors import LitError
from lit_client.models import Event, Metric
from lit_client.synchronous.client import Client

app = typer.Typer()

SCORES = ("accuracy", "agreement", "psnr")

JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job's id.", autocompletion=complete_job)]
FollowOption = Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has finished.")]


@app.command("jobs")
def list_jobs(
    state: Annotated[str | None, typer.Option(help="queued, running, succeeded, failed or cancelled.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only jobs with this tag.")] = None,
    name: Annotated[str | None, typer.Option(help="Only jobs with this name.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    with Client(url) as client:
        jobs = list(client.jobs(state=state, tag=tag, name=name, limit=limit))
    show([job.model_dump(mode="json") for job in jobs], display.jobs_table(jobs), as_json)


@app.command("job")
def show_job(
    job_id: JobId,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the job until it has finished; exit codes as of compress.")
    ] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one job, or follow it until it has finished."""
    with Client(url) as client:
        job = client.job(job_id)
        if wait and not job.finished:
            job = follow_to_end(client, job)
    output.show_job(job, as_json)
    if wait:
        raise typer.Exit(output.exit_code_of_job(job))


@app.command("logs")
@app.command("log", hidden=True)
def show_log(
    job_id: JobId,
    follow: FollowOption = False,
    attempt: Annotated[int | None, typer.Option(min=1, help="Number of an attempt; by default the newest.")] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print what the trainer wrote."""
    if follow and attempt is not None:
        raise BadRequest("--follow shows the newest attempt: leave out --attempt.")
    with Client(url) as client:
        if not follow:
            text = client.log(job_id, attempt)
            output.write_piece(_log_json(text) + "\n" if as_json else text)
            return
        with output.ends_when_interrupted():
            for text in client.follow_log(job_id):
                output.write_piece(_log_json(text) + "\n" if as_json else text)


def _log_json(text: str) -> str:
    return output.as_line({"log": text})


@app.command("events")
def show_events(
    job_id: JobId,
    follow: FollowOption = False,
    after: Annotated[int, typer.Option(min=0, help="Only events after this number.")] = 0,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print what has happened to a job; with --json each event is a line."""

    def tell(event: Event) -> None:
        line = f"{event.seq:>5}  {display.format_time(event.created_at)}  {event_line(event)}"
        show_line(event.model_dump(mode="json"), line, as_json)

    with Client(url) as client:
        if follow:
            with output.ends_when_interrupted():
                for event in client.follow(job_id, after=after):
                    tell(event)
            return
        while items := client.events(job_id, after=after).items:
            for event in items:
                tell(event)
            after = items[-1].seq


@app.command("metrics")
def show_metrics(
    job_id: JobId,
    names: Annotated[list[str] | None, typer.Option("--name", help="Only this number; may be repeated.")] = None,
    phase: Annotated[str | None, typer.Option(help="Only this phase: lit, fine_tune or prune.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="As CSV: phase, epoch, name, value.")] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a job's numbers per phase and epoch."""
    if as_csv and as_json:
        raise BadRequest("Both --csv and --json are given: give one of them.")
    with Client(url) as client:
        found = client.metrics(job_id, phase=phase)
    there = sorted({metric.name for metric in found})
    if missing := sorted(set(names or []) - set(there)):
        raise LitError(f"{job_id} has no {', '.join(missing)}" + (f"; it has {', '.join(there)}." if there else "."))
    chosen = [metric for metric in found if not names or metric.name in names]
    if as_csv:
        typer.echo(_as_csv(chosen), nl=False)
    else:
        show([metric.model_dump(mode="json") for metric in chosen], metrics_table(chosen), as_json)


def _as_csv(metrics: Sequence[Metric]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["phase", "epoch", "name", "value"])
    writer.writerows([metric.phase, metric.epoch, metric.name, metric.value] for metric in metrics)
    return text.getvalue()


def metrics_table(metrics: Sequence[Metric]) -> display.FittedTable:
    """A row for each epoch, a column for each name. The scores are the last to be left out."""
    names = list(dict.fromkeys(metric.name for metric in metrics))
    rows: dict[tuple[str, int], dict[str, str]] = {}
    for metric in metrics:
        row = rows.setdefault((metric.phase, metric.epoch), {"phase": metric.phase, "epoch": str(metric.epoch)})
        row[metric.name] = f"{metric.value:.4g}"
    cells: list[dict[str, Any]] = [{**dict.fromkeys(names, ""), **row} for row in rows.values()]

    def make(left_out: Collection[str]) -> Table:
        table = display.table_of(["phase", "epoch", *names], cells, left_out)
        for column in table.columns[1:]:
            column.justify = "right"
        return table

    return display.FittedTable(make, sorted(names, key=_importance)[:-1])


def _importance(name: str) -> int:
    """The losses of single sections are the first to be left out, and the scores the last."""
    if name.endswith(SCORES):
        return 3
    if name[-1].isdigit():
        return 0
    return 2 if "loss" in name else 1


@app.command("cancel")
def cancel_job(job_id: JobId, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Cancel a job; a running one stops within seconds."""
    with Client(url) as client:
        job = client.cancel(job_id)
    show(job.model_dump(mode="json"), f"{job.id}: {job.state}{' (cancel requested)' * (not job.finished)}", as_json)


@app.command("rerun")
def rerun_job(job_id: JobId, settings: SetOption = None, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Run a job's request again as a new job, with changes if `--set` gives any."""
    with Client(url) as client:
        job = client.rerun(job_id, parse_changes(settings or []))
    show(job.model_dump(mode="json"), job.id, as_json)


@app.command("download")
def download_job(
    job_id: JobId,
    folder: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")],
    names: Annotated[list[str] | None, typer.Option("--file", help="Only this file; may be repeated.")] = None,
    bundle: Annotated[
        bool, typer.Option("--bundle", help="Only bundle.zip, which has all files, in place of the single ones.")
    ] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Download and verify a job's files. Continues where an earlier download stopped."""
    if bundle and names:
        raise BadRequest("Both --file and --bundle are given: give one of them.")
    with Client(url) as client:
        files = fetch(client, job_id, folder, names, bundle=bundle)
    output.show_files(files, as_json)


@app.command("delete")
def delete_jobs(
    job_ids: Annotated[list[str], typer.Argument(metavar="JOB…", help="Jobs' ids.", autocompletion=complete_job)],
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove finished jobs with their files. One that can't be removed doesn't keep the others."""
    with Client(url) as client:
        output.delete_each(job_ids, client.delete_job, as_json)
