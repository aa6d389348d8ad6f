"""A service without jobs, and one browser for the whole folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from examples.digits import screenshots
from lit_client import Client
from service.running import RunningService
from tests.e2e.digits import members

EXPECTED = re.compile("^Failed to load resource: the server responded with a status of 4|net::ERR_FAILED$")
"""What the browser itself says of answers that a test asks for."""
VIOLATIONS = (
    "addEventListener('securitypolicyviolation', (e) => console.error('CSP', e.violatedDirective, e.sourceFile))"
)


@pytest.fixture
def service(shared_service: RunningService) -> RunningService:
    """Nothing is left of earlier tests, as at a person's first visit."""
    with Client(shared_service.url) as client:
        for study in list(client.studies()):
            if not study.finished:
                client.cancel_study(study.id)
                client.wait_study(study.id, timeout=60)
            client.delete_study(study.id)
        for job in list(client.jobs()):
            if not job.finished:
                client.cancel(job.id)
                client.wait_job(job.id, timeout=60)
            client.delete_job(job.id)
        for upload in list(client.uploads()):
            client.delete_upload(upload.id)
    return shared_service


@pytest.fixture
def client(service: RunningService) -> Iterator[Client]:
    with Client(service.url) as made:
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Closed after the file's tests: while Playwright runs, no other test of the process can run an event loop."""
    with ExitStack() as opened:
        try:
            yield opened.enter_context(screenshots.browser())
        except screenshots.NoBrowser as missing:
            pytest.skip(str(missing))


OpenPage = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any, service: RunningService) -> Iterator[OpenPage]:
    """Opens a route such as `#/jobs` in a browser of its own. At the end nothing may have gone wrong in the pages."""
    contexts, wrong = [], []

    def note(message: Any) -> None:
        if message.type in {"error", "warning"} and not EXPECTED.search(message.text):
            wrong.append(message.text)

    def opened(route: str = "", **options: Any) -> Any:
        context = browser.new_context(viewport=options.pop("viewport", {"width": 1280, "height": 900}), **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(90_000)
        page.add_init_script(VIOLATIONS)
        page.on("console", note)
        page.on("pageerror", lambda failure: wrong.append(str(failure)))
        page.goto(f"{service.url}/{route}")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of digits in a folder for each class, and what a system leaves beside them."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    for name, content in members(200).items():
        path = folder / Path(name).relative_to("digits")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / ".DS_Store").write_bytes(b"x")
    return folder
