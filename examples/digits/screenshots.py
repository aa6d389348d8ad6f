"""Pictures of the web page for the docs: `make screenshots`, or `python examples/digits/screenshots.py`.

Starts the service with a temporary folder, runs the demo's job and two small studies, and writes
docs/images/page-*.png. It needs Debian's chromium and the Python package playwright. `picture_of_job` is for others,
such as the demo.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

# A script's own folder is on the path, but the service's code lies in the repository's root.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lit_client import Client
from service.running import running_service

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs/images"
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESKTOP = {"width": 1200, "height": 900}
PHONE = {"width": 380, "height": 800}
MOST_HEIGHT = 1100
"""In pixels. What is below is cut off, so that a picture stays small."""
SHORT = {"lit": {"epochs": 2}, "fine_tune": {"epochs": 1}}


class NoBrowser(Exception):
    """There is no browser to take pictures with. The message says what is missing."""


@dataclass(frozen=True)
class Picture:
    """What is taken: a route of the page such as `#/jobs`, once `ready` (a CSS selector) is seen."""

    name: str
    route: str
    ready: str
    dark: bool = False
    phone: bool = False


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless chromium. Raises NoBrowser."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise NoBrowser("the Python package playwright is not installed") from None
    chromium = shutil.which("chromium")
    if chromium is None:
        raise NoBrowser("chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        try:
            yield opened
        finally:
            opened.close()


def picture_of_job(url: str, job_id: str, path: Path) -> None:
    """Write a PNG of the page of a finished job of the service at `url`. Raises NoBrowser."""
    with browser() as opened:
        take(opened, url, Picture(path.stem, f"#/jobs/{job_id}", ".charts .main-svg"), path)


def take(opened: Browser, url: str, picture: Picture, path: Path) -> None:
    context = opened.new_context(
        viewport=PHONE if picture.phone else DESKTOP,  # type: ignore[arg-type] - a TypedDict of playwright's own
        color_scheme="dark" if picture.dark else "light",
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(f"{url}/{picture.route}")
    page.locator(picture.ready).last.wait_for()
    page.wait_for_function("document.fonts.status === 'loaded'")
    # The picture is of the whole page, and what sticks to the window's end would cover its middle.
    height = min(MOST_HEIGHT, page.evaluate("document.documentElement.scrollHeight"))
    page.set_viewport_size({"width": (PHONE if picture.phone else DESKTOP)["width"], "height": height})
    # Charts follow the window's size in the next frames.
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=path)
    context.close()


def main() -> int:
    try:
        with (
            browser() as opened,
            tempfile.TemporaryDirectory(prefix="lit-pictures-") as folder,
            running_service(Path(folder)) as service,
            Client(service.url) as client,
        ):
            for picture in prepare(client):
                path = IMAGES / f"page-{picture.name}.png"
                take(opened, service.url, picture, path)
                print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")
    except NoBrowser as missing:
        print(f"No pictures can be taken: {missing}")
        return 1
    return 0


def prepare(client: Client) -> list[Picture]:
    """Run the job and the studies that are shown."""
    from examples.digits.demo import REQUEST, TEACHER

    teacher = client.wait_inspection(client.upload(TEACHER, "teacher").id).id
    base: dict[str, Any] = {"teacher": teacher, "dataset": {"builtin": "digits"}}
    plan = client.create_study({"kind": "plan", "name": "What would each depth keep?", "job": base})
    compared = {**base, "student": {"depth": 8}, "schedule": SHORT}
    compare = client.create_study(
        {"kind": "compare", "name": "LIT against KD", "methods": ["lit", "kd"], "seeds": [0, 1], "job": compared}
    )
    job = client.create_job(REQUEST | {"teacher": teacher, "tags": ["demo"]})
    for study in (plan, compare):
        client.wait_study(study.id)
    client.wait_job(job.id)
    waiting = client.create_job({**base, "name": "all defaults", "student": {"target": {"latency_ratio": 2}}})
    for event in client.follow(waiting.id):
        if event.type == "epoch":
            break
    charts = ".charts .main-svg"
    return [
        Picture("jobs", "#/jobs", ".badge.running"),
        Picture("jobs-phone", "#/jobs", ".badge.running", dark=True, phone=True),
        Picture("job", f"#/jobs/{job.id}", charts),
        Picture("job-dark", f"#/jobs/{job.id}", charts, dark=True),
        Picture("job-phone", f"#/jobs/{job.id}", charts, phone=True),
        Picture("plan", f"#/studies/{plan.id}", charts),
        Picture("study-dark", f"#/studies/{compare.id}", charts, dark=True),
        Picture("new", f"#/new?teacher={teacher}&dataset=builtin:digits", "#depth-8"),
    ]


if __name__ == "__main__":
    sys.exit(main())
