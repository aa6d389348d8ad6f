"""The service's own commands (`litc serve`, `litc worker`, …), if its code is installed beside this package.

The wheel has only client and library; the service runs from a checkout or the container image. Its modules are
imported only when one of its commands is called, so that `litc jobs` stays fast.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import typer

from lit_client.errors import LitError

SUMMARIES = {
    "serve": "Run the whole service on this machine: API, worker, PostgreSQL and Valkey.",
    "api": "Run the API alone.",
    "worker": "Run a worker that trains.",
    "keys": "Create, list and revoke API keys.",
    "migrate": "Bring the database's schema up to date.",
    "backup": "Copy ledger and storage into a folder.",
    "restore": "Bring a backup into an empty service.",
}
PANEL = "The service (from a checkout or the container image)"


def asked_service_command(arguments: Sequence[str]) -> str | None:
    """The command of the service that `arguments` ask for, if they do."""
    asked = next((argument for argument in arguments if not argument.startswith("-")), None)
    return asked if asked in SUMMARIES else None


def add_service_commands(app: typer.Typer, asked: str | None) -> None:
    """Add the command that is asked for, or else a line for each in the help."""
    if asked is not None and add_checkout():
        _add_real(app, asked)
        return
    for name, summary in SUMMARIES.items():
        _add_explanation(app, name, summary)


def checkout_root() -> Path | None:
    """The folder that holds this package and the service, if both lie side by side."""
    root = Path(__file__).resolve().parents[2]
    # Both, because a folder of one of these names could belong to another package in site-packages.
    parts = (root / "service/commands", root / "migrations")
    return root if all(part.is_dir() for part in parts) else None


def add_checkout() -> bool:
    """Whether the service's code lies beside this package; if so, its modules can be imported from now on."""
    root = checkout_root()
    if root is not None and str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return root is not None


def _add_real(app: typer.Typer, name: str) -> None:
    command: Any = getattr(_import(f"service.commands.{name}", name), name)
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=name)
    else:
        app.command(name)(command)


def _import(module: str, command: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] in {
            "api",
            "jobs",
            "worker",
            "service",
            "lit_spec",
            "lit_core",
            "lit_client",
        }:
            raise
        raise LitError(
            f"`litc {command}` needs {error.name}, which is not installed here. Install the service's packages "
            'in the checkout: `pip install -e ".[core,service]" -c constraints.txt`.'
        ) from error


def _add_explanation(app: typer.Typer, name: str, summary: str) -> None:
    def explain() -> None:
        raise LitError(
            f"`litc {name}` belongs to the service, which the package lit-compress does not contain. Run it in a "
            "checkout of the repository (`pip install -e`), or use the container image. This installation can "
            "talk to a service elsewhere: set LIT_URL to its address."
        )

    app.command(
        name,
        help=summary,
        rich_help_panel=PANEL,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )(explain)
