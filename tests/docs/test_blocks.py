"""Every command in the documentation is one that exists: its options, routes, parameters, modules and functions."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import typer

import lit_core
from docs.site import reference
from lit_client import AsyncClient, Client
from lit_client.command.cli import app
from lit_client.command.service_commands import SUMMARIES
from lit_spec import JobRequest
from tests.docs.blocks import ROOT, SHELLS, Block, all_blocks, blocks_of, commands

SCRIPTS = all_blocks(*SHELLS)
SYNOPSES = [block for block in all_blocks("text") if block.text.startswith("litc ")]
PYTHON = all_blocks("python")
METHODS = {"-d": "post", "--data": "post", "--data-binary": "post", "-F": "post", "--head": "head", "-I": "head"}
INLINE = re.compile(r"`(litc [^`\n]+)`")


def named(blocks: list[Block]) -> Any:
    return pytest.mark.parametrize("block", blocks, ids=str)


@named(SCRIPTS)
def test_scripts_have_no_mistake_that_the_shell_sees(block: Block) -> None:
    checked = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert not re.search(r"^\$ ", block.text, re.M), "without a prompt, so that it can be copied"


@named([*SCRIPTS, *SYNOPSES])
def test_options_of_litc_exist(block: Block) -> None:
    for words in litc_calls(block):
        assert unknown_options(words) == [], " ".join(words)


def test_options_of_litc_in_sentences_exist() -> None:
    pages = {block.page for block in all_blocks(*SHELLS, "text", "python", "json", "")}
    wrong = [
        f"{page.name}: {said}"
        for page in pages
        for said in INLINE.findall(page.read_text())
        if unknown_options(re.findall(r"[^\s\[\]|,]+", said))
    ]
    assert wrong == []


def litc_calls(block: Block) -> Iterator[list[str]]:
    if block.language == "text":
        yield from (re.findall(r"[^\s\[\]()|]+", line) for line in block.text.splitlines())
    else:
        yield from commands(block.text, "litc")


def unknown_options(words: list[str]) -> list[str]:
    """Subcommands, options and fields of `--set` that litc does not have, among the words of one call of it."""
    command: Any = command_for(words[1] if words[1] in SUMMARIES else None)
    known = {"--help", "--install-completion", *options_of(command)}
    words = words[1:] if words[1] in SUMMARIES else words
    fields = {*JobRequest.model_fields, "register", "PATH"}
    wrong = []
    for before, word in pairwise(words):
        commands_here = getattr(command, "commands", {})
        if word in commands_here:
            command = commands_here[word]
            known |= options_of(command)
        elif before == "--set":
            wrong += [] if re.split(r"[.=]", word)[0] in fields else [word]
        elif re.match(r"--?[a-z]", word):
            wrong += [] if word.split("=")[0].rstrip("…") in known else [word]
        elif commands_here and re.fullmatch("[a-z]+", word) and word not in SUMMARIES:
            wrong.append(word)
    return wrong


def options_of(command: Any) -> set[str]:
    return {option for each in command.params for option in (*each.opts, *each.secondary_opts)}


@cache
def command_for(name: str | None) -> Any:
    """`litc`, or one of its commands that run the service, which are imported only when they are called."""
    if name is None:
        return typer.main.get_command(app)
    made: Any = getattr(importlib.import_module(f"service.commands.{name}"), name)
    if isinstance(made, typer.Typer):
        return typer.main.get_command(made)
    holder = typer.Typer()
    holder.command(name)(made)
    return typer.main.get_command(holder)


@named([block for block in SCRIPTS if "/v1/" in block.text])
def test_routes_and_parameters_of_curl_exist(block: Block) -> None:
    paths = reference.document()["paths"]
    for words in commands(block.text, "curl"):
        for word in words:
            if "/v1/" not in word:
                continue
            url = urlsplit(word[word.index("/v1/") :])
            path = next((known for known in paths if fits(known, url.path)), None)
            assert path is not None, word
            method = method_of(words)
            assert method in paths[path], f"{method} {word}"
            taken = {each["name"] for each in paths[path][method].get("parameters", []) if each["in"] == "query"}
            assert {name for name, _ in parse_qsl(url.query, keep_blank_values=True)} <= taken, word


def fits(known: str, path: str) -> bool:
    pattern = re.sub(r"\{[^}]*\}", "[^/]+", known)
    return re.fullmatch(pattern, re.sub(r"\$\{?\w+\}?", "x", path)) is not None


def method_of(words: list[str]) -> str:
    if "-X" in words:
        return words[words.index("-X") + 1].lower()
    return next((METHODS[word] for word in words if word in METHODS), "get")


@named(PYTHON)
def test_python_is_valid_and_names_what_exists(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        match node:
            case ast.ImportFrom(module=str(module), names=names):
                assert all(hasattr(importlib.import_module(module), each.name) for each in names), module
            case ast.Import(names=names):
                assert all(find_spec(each.name) for each in names)
            case ast.Attribute(value=ast.Name(id="client"), attr=name):
                assert hasattr(Client, name), name
                assert hasattr(AsyncClient, name), name
            case ast.Attribute(value=ast.Name(id="lit_core"), attr=name):
                assert name in lit_core.__all__


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    asked = {words[1] for block in SCRIPTS for words in commands(block.text, "make")}
    assert asked
    assert asked <= targets


def test_a_reason_must_be_one_of_the_list(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- not run: is boring -->\n```bash\ntrue\n```\n")
    with pytest.raises(ValueError, match="is boring"):
        blocks_of(page)


def test_mistakes_are_found() -> None:
    assert unknown_options(["litc", "compress", "--dept", "14"]) == ["--dept"]
    assert unknown_options(["litc", "compres"]) == ["compres"]
    assert unknown_options(["litc", "keys", "create", "ci", "--ownr", "x"]) == ["--ownr"]
    assert unknown_options(["litc", "rerun", "JOB", "--set", "sede=1"]) == ["sede=1"]
    assert unknown_options(["litc", "worker", "--devices", "cpu"]) == []
    assert next(commands('X=$(curl -s "$URL/v1/jobs" | field id)\nA=1 litc job "a b" # c', "litc"))[:3] == [
        "litc",
        "job",
        "a b",
    ]
    assert not fits("/v1/jobs/{job_id}", "/v1/job/$JOB")
