"""The commands in the documentation: every fenced block of bash or Python, and why some of them are not run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "examples/paper/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
SHELLS = {"bash", "sh", "console"}
FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
CONTROL = {"|", "||", "&", "&&", ";", "(", ")", "|&", ">", "<", ">>", "{", "}", "then", "do", "else"}


class Reason(StrEnum):
    """Why a block is not run: `<!-- not run: REASON -->` in the line before it."""

    DOCKER = "needs Docker"
    GPU = "needs a GPU"
    KUBERNETES = "needs Kubernetes"
    INTERNET = "needs the internet"
    ROOT = "needs root"
    HOURS = "takes hours"
    FILES = "needs your files"
    """A teacher, data or the id of a job that the reader has."""
    SERVERS = "needs your servers"
    """A database, a tracking server, a receiver of webhooks, an identity provider."""
    QUIET = "needs a quiet machine"
    ELSEWHERE = "is tested elsewhere"
    """The tests themselves and the demo."""


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    """Empty for plain text."""
    text: str
    reason: Reason | None
    """None: it is run."""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """In the page's order. Raises ValueError for a reason that isn't one of `Reason`."""
    text = page.read_text()
    return [
        Block(
            page,
            text.count("\n", 0, found.start("language")) + 1,
            found["language"],
            found["text"],
            Reason(found["reason"]) if found["reason"] else None,
        )
        for found in FENCE.finditer(text)
    ]


def all_blocks(*languages: str) -> list[Block]:
    return [block for page in PAGES for block in blocks_of(page) if block.language in languages]


def commands(script: str, name: str) -> Iterator[list[str]]:
    """The words of each call of the program `name`, from its name to the end of the command."""
    without_comments = re.sub(r"(^|\s)#[^\n]*", r"\1", script.replace("\\\n", " "))
    lexer = shlex.shlex(without_comments.replace("\n", " ;\n"), posix=True, punctuation_chars=True)
    lexer.commenters = ""
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word in CONTROL or set(word) <= set("();<>|&"):
            if words:
                yield words
            words = []
        elif words:
            words.append(word)
        elif Path(word.removeprefix("$(").removeprefix("$")).name == name:
            words = [name]
