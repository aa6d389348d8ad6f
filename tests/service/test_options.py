"""Options of the service's commands are checked as their environment variables are, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lit_client.command import NOWHERE, litc

URLS = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x", "REDIS_URL": "redis://127.0.0.1:1"}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in URLS:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("serve", "--port", "70000"), "--port: Input should be less than or equal to 65535."),
        (("serve", "--port", "-1"), "--port: Input should be greater than or equal to 0."),
        (("api", "--port", "65536"), "--port: Input should be less than or equal to 65535."),
        (("serve", "--host", ""), "--host: '' is not a host name or an IP address."),
        (("api", "--host", "http://localhost"), "--host: 'http://localhost' is not a host name or an IP address."),
        (
            ("worker", "--devices", "cpu,tpu"),
            "--devices: 'cpu,tpu' are not devices of a worker: give one or more of cpu, cuda, separated by commas.",
        ),
    ],
)
@pytest.mark.parametrize("urls", [{}, URLS])
def test_a_wrong_option_is_named_in_one_sentence_and_nothing_starts(
    words: tuple[str, ...],
    sentence: str,
    urls: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, url in urls.items():
        monkeypatch.setenv(name, url)
    done = litc(NOWHERE, *words)
    assert (done.returncode, done.stdout, done.stderr.splitlines()) == (2, "", [sentence])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("host", ["no-such-host.invalid", "ü" * 60])
def test_a_name_without_an_address_names_the_option(host: str, tmp_path: Path) -> None:
    done = litc(NOWHERE, "serve", "--host", host)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith(f"Can't listen on {host} port 8000 (")
    assert line.endswith("choose another with --host or --port.")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_number_of_workers_names_the_option(tmp_path: Path) -> None:
    done = litc(NOWHERE, "serve", "--workers", "-1")
    assert done.returncode == 2
    assert "--workers" in done.stderr
    assert list(tmp_path.iterdir()) == []
