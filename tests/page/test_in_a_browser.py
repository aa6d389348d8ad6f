"""The page as its users have it: in a browser, against a running service with a real worker."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lit_client import Client
from lit_client.folders import pack
from service.running import RunningService, own_environment
from tests.e2e.digits import ROOT, TEACHER
from tests.page.conftest import OpenPage

HOSTILE = "<img src=x onerror=\"document.title='taken'\"><b>"
PHONE = {"width": 380, "height": 800}
LITC = str(Path(sys.executable).with_name("litc"))
PIECE = 4 << 20


def test_from_the_first_visit_to_the_download(
    open_page: OpenPage, client: Client, digits_folder: Path, tmp_path: Path
) -> None:
    page = open_page()
    page.get_by_role("link", name="Start the first job").click()

    page.set_input_files("#teacher-file", TEACHER)
    recognised = page.locator(".inspection").nth(0)
    recognised.get_by_text("resnet", exact=False).wait_for()
    assert re.search(r"Blocks per section\s*6·6·6", recognised.inner_text())
    page.set_input_files("#dataset-folder", digits_folder)
    page.locator(".inspection").nth(1).get_by_text("An archive of image folders").wait_for()
    # The archive has the bytes that litc sends for the same folder, so the service knows the data again.
    pack(digits_folder, tmp_path / "digits.tar")
    [data] = [upload for upload in client.uploads() if upload.kind == "dataset"]
    assert (data.filename, data.sha256) == ("digits.tar", _sha256((tmp_path / "digits.tar").read_bytes()))

    # A wrong field is told at the field, and nothing is lost.
    page.get_by_label("Depth 8", exact=True).check()
    page.fill("#field-name", HOSTILE)
    page.fill("#field-tags", "first, small")
    page.fill("#field-alpha", "7")
    page.fill('[id="field-schedule.lit.epochs"]', "2")
    page.fill('[id="field-schedule.fine_tune.epochs"]', "1")
    page.get_by_label("PT2").uncheck()
    page.click("#start")
    page.locator('#field-alpha[aria-invalid="true"]').wait_for()
    assert "less than or equal to 1" in page.locator("#field-alpha-fault").inner_text()
    assert list(client.jobs()) == []
    page.fill("#field-alpha", "0.5")
    page.get_by_text("More fields").click()
    page.fill("#field-more", '{"student": {"depth": 8, "select": "even"}}')
    page.click("#start")

    # The job's own view, as the job runs.
    page.wait_for_url("**/#/jobs/job_*")
    page.get_by_role("heading", name="<img src=x").wait_for()
    assert page.locator("main img").count() == 0
    page.locator(".charts .main-svg").first.wait_for()
    page.locator(".job-head .badge.succeeded").wait_for()
    page.get_by_role("heading", name="Teacher against student").wait_for()
    assert page.locator(".steps li.done").count() == page.locator(".steps li").count() == 10
    assert page.locator(".block.kept").count() == 3
    assert page.locator(".block.dropped").count() == 15
    page.locator('[aria-label*="section 3"]').wait_for()
    assert page.locator(".events li").last.inner_text().endswith("Queued")

    [job] = list(client.jobs())
    assert (job.name, job.tags, job.request["exports"]) == (HOSTILE, ["first", "small"], ["onnx"])
    said = {artifact.name: artifact.sha256 for artifact in client.artifacts(job.id)}
    with page.expect_download() as download:
        page.get_by_role("link", name="Download model.safetensors").click()
    assert _sha256(Path(download.value.path()).read_bytes()) == said["model.safetensors"]
    page.get_by_text("Log", exact=True).click()
    page.locator(".log").get_by_text("epoch", exact=False).first.wait_for()

    # Once more, with another seed: what is sent is a merge patch of the request.
    page.locator("summary").get_by_text("Request", exact=True).click()
    page.fill("#rerun-request", page.input_value("#rerun-request").replace('"alpha": 0.5', '"alpha": 0.25'))
    assert page.locator(".patch").inner_text().split() == ["{", '"alpha":', "0.25", "}"]
    page.get_by_role("button", name="Run again").click()
    page.wait_for_url(lambda url: job.id not in url)
    page.get_by_role("button", name="Cancel job").click()
    page.locator(".job-head .badge.cancelled").wait_for()

    page.goto(page.url.split("#")[0] + "#/jobs?tag=first")
    row = page.get_by_role("row").filter(has_text="succeeded")
    assert HOSTILE in row.inner_text()
    assert "6·6·6 → 1·1·1" in row.inner_text()
    assert page.title() == "Jobs · LIT"


def test_by_keyboard_alone(open_page: OpenPage, client: Client) -> None:
    _teacher(client)
    page = open_page("#/jobs")
    page.get_by_role("heading", name="Jobs", exact=True).wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    _tab_to(page, 'a[href="#/new"]')
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="New job").wait_for()
    _tab_to(page, "#teacher-select")
    page.keyboard.type("teacher")
    _tab_to(page, "#dataset-select")
    page.keyboard.type("digits, b")
    _tab_to(page, 'input[name="student"]')
    page.keyboard.press("Space")
    _tab_to(page, "#field-name")
    page.keyboard.type("by keyboard")
    _tab_to(page, "#start")
    page.keyboard.press("Enter")
    page.wait_for_url("**/#/jobs/job_*")
    _tab_to(page, ".job-head button")
    page.keyboard.press("Enter")
    page.locator(".job-head .badge.cancelled").first.wait_for()
    [job] = [job for job in client.jobs() if job.name == "by keyboard"]
    assert job.request["dataset"] == {"builtin": "digits"}


def test_a_plan_on_a_phone_in_the_dark(open_page: OpenPage, client: Client) -> None:
    teacher = _teacher(client)
    page = open_page(f"#/new?teacher={teacher}&dataset=builtin:digits", viewport=PHONE, color_scheme="dark")
    page.get_by_label("Plan").check()
    page.fill("#study-students", "2")
    page.click("#start")
    page.wait_for_url("**/#/studies/study_*")
    page.locator(".badge.succeeded").first.wait_for()
    page.locator(".charts .main-svg").first.wait_for()
    assert page.get_by_role("link", name="Train the student of depth 8").count() == 1
    [study] = list(client.studies())
    routes = ["#/jobs", f"#/jobs/{study.best_job}", "#/new", "#/uploads", "#/studies", f"#/studies/{study.id}"]
    for route in routes:
        page.goto(page.url.split("#")[0] + route)
        page.locator("main h1").wait_for()
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], route
    # Bright text on dark; the switch wins over the system's scheme, also after a reload.
    assert _is_dark(page)
    for theme in ("light", "dark", "auto", "light"):
        page.get_by_role("button", name="Theme:").click()
        assert _is_dark(page) == (theme != "light")
    page.reload()
    assert not _is_dark(page)


def test_an_upload_goes_on_after_a_reload(open_page: OpenPage, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "noise.npz"
    file.write_bytes(b"\x93" * (PIECE + 1000))
    page = open_page("#/new")
    offsets: list[str] = []

    broken = True

    def break_after_the_first(route: Any) -> None:
        offsets.append(route.request.headers["upload-offset"])
        if broken and len(offsets) > 1:
            route.abort()
        else:
            route.continue_()

    # Kept until the end: a request that is sent while routes are taken away may never be answered.
    page.route("**/v1/uploads/*", _only_patch(break_after_the_first))
    page.set_input_files("#dataset-file", file)
    page.get_by_text("Sending noise.npz: 4.2 MB of 4.2 MB").wait_for()
    page.reload()
    broken = False
    page.set_input_files("#dataset-file", file)
    page.get_by_text("This data can't be used").wait_for()
    assert offsets[0] == "0"
    assert set(offsets[1:]) == {str(PIECE)}
    [upload] = [upload for upload in client.uploads() if upload.filename == file.name]
    assert (upload.received, upload.sha256) == (PIECE + 1000, _sha256(file.read_bytes()))


def test_small_parts_of_the_scripts(open_page: OpenPage) -> None:
    page = open_page()
    messages = page.evaluate(
        r"""async () => {
          const { messagesOf } = await import("/page/shared/events.js");
          const text = ': keep\nid: 1\nevent: queued\ndata: {"a":\r\ndata: "é"}\r\n\r\n'
            + 'event: progress\rdata:x\r\rdata: cut';
          const bytes = new TextEncoder().encode(text);
          const stream = new ReadableStream({
            start(controller) {
              for (const byte of bytes) controller.enqueue(Uint8Array.of(byte));
              controller.close();
            },
          });
          const found = [];
          for await (const message of messagesOf(stream)) found.push(message);
          return found;
        }"""
    )
    assert messages == [
        {"id": "1", "event": "queued", "data": '{"a":\n"é"}'},
        {"id": "", "event": "progress", "data": "x"},
    ]
    patch = page.evaluate(
        """async () => {
          const { mergePatch } = await import("/page/job/request.js");
          return mergePatch({a: 1, b: {c: 2, d: [1]}, e: 3}, {a: 1, b: {c: 4, d: [1, 2]}, f: {}});
        }"""
    )
    assert patch == {"e": None, "b": {"c": 4, "d": [1, 2]}, "f": {}}
    for size in (0, 55, 56, 64, 119, 1000):
        sha256 = page.evaluate(
            """async (size) => {
              const { sha256Of } = await import("/page/upload/sha256.js");
              return sha256Of(new Blob([new Uint8Array(size).fill(7)]));
            }""",
            size,
        )
        assert sha256 == _sha256(b"\x07" * size)


def test_a_service_with_keys_is_asked_with_one(open_page: OpenPage, service: RunningService, client: Client) -> None:
    page = open_page("#/jobs")
    page.get_by_role("heading", name="Jobs", exact=True).wait_for()
    with _a_key(service) as secret:
        page.reload()
        page.get_by_label("Key", exact=True).fill("lit_wrong")
        page.get_by_role("button", name="Use this key").click()
        page.get_by_text("The service doesn't know this key").wait_for()
        page.get_by_label("Key", exact=True).fill(secret)
        page.get_by_role("button", name="Use this key").click()
        # The key is an owner of its own, which has no jobs yet.
        page.get_by_role("heading", name="No jobs yet").wait_for()
        with Client(service.url, api_key=secret) as owner:
            job = owner.create_job(
                {"teacher": _teacher(owner), "dataset": {"builtin": "digits"}, "student": {"depth": 8}}
            )
            page.goto(f"{service.url}/#/jobs/{job.id}")
            page.get_by_role("button", name="Cancel job").click()
            page.locator(".job-head .badge.cancelled").first.wait_for()
        assert page.evaluate("[sessionStorage.length, localStorage.getItem('lit.key')]") == [1, None]
        page.get_by_role("button", name="Forget key").click()
        page.get_by_label("Key", exact=True).wait_for()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _teacher(client: Client) -> str:
    return client.wait_inspection(client.upload(TEACHER, "teacher").id).id


def _tab_to(page: Any, selector: str) -> None:
    """Press Tab until an element has the focus, which must then be visible."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
            return
    pytest.fail(f"Tab does not reach {selector}")


def _is_dark(page: Any) -> bool:
    red = re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[0]
    return int(red) < 128


def _only_patch(handle: Callable[[Any], None]) -> Callable[[Any], None]:
    def handler(route: Any) -> None:
        if route.request.method == "PATCH":
            handle(route)
        else:
            route.continue_()

    return handler


@contextmanager
def _a_key(service: RunningService) -> Iterator[str]:
    """A key, as long as the block lasts; afterwards the service is open again."""

    def litc(*words: str) -> subprocess.CompletedProcess[str]:
        environment = own_environment(service.log.parent / "data")
        return subprocess.run([LITC, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)

    made = litc("keys", "create", "page")
    assert made.returncode == 0, made.stderr
    try:
        yield made.stdout.strip()
    finally:
        assert litc("keys", "revoke", made.stderr.split()[1]).returncode == 0
