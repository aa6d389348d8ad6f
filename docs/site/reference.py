"""The API reference, in Markdown, from the OpenAPI document that the service itself serves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import groupby
from typing import Any

from api.app import create_app
from api.http import problems
from jobs.settings import Settings

JSON = dict[str, Any]
OPERATIONS = "operations.md"
OBJECTS = "objects.md"
LONGEST_DEFAULT = 40
"""Characters. Longer defaults are whole objects, whose own fields show them."""


@cache
def document() -> JSON:
    """The OpenAPI document, which nobody may change. Nothing is connected to for it."""
    settings = Settings(DATABASE_URL="postgresql://127.0.0.1/lit", REDIS_URL="redis://127.0.0.1:6379/0")
    return create_app(settings, keyless=True).openapi()


def pages() -> dict[str, str]:
    """The text of each page by its file's name."""
    described = document()
    return {OPERATIONS: "\n".join(_operations(described)), OBJECTS: "\n".join(_objects(described))}


def _operations(described: JSON) -> Iterator[str]:
    yield "# API reference: requests\n"
    yield (
        "Every request that the service takes, written from its OpenAPI document. [HTTP API](../api.md) explains the "
        f"conventions and shows a whole session. The objects in them are [on their own page]({OBJECTS}).\n"
    )
    found = [(p, m, o) for p, methods in described["paths"].items() for m, o in methods.items()]
    for tag, members in groupby(found, key=lambda each: each[2]["tags"][0]):
        yield f"## {tag.capitalize()}\n"
        for path, method, operation in members:
            yield from _operation(path, method, operation, described)
    yield "## Problems\n"
    yield "An error is a problem document. Its `type` is one of these:\n"
    yield "| `type` | Title |\n|---|---|"
    for name, title in sorted(problems.TITLES.items()):
        yield f"| `{problems.PREFIX}{name}` | {title} |"
    yield ""


def _operation(path: str, method: str, operation: JSON, described: JSON) -> Iterator[str]:
    yield f"### {operation['summary']}: `{method.upper()} {path}`\n"
    yield f"{operation['description']}\n"
    if parameters := operation.get("parameters"):
        yield "| Parameter | In | Type | Description |\n|---|---|---|---|"
        for each in parameters:
            required = " **Required.**" if each.get("required") and each["in"] != "path" else ""
            kind = _type(each["schema"])
            yield f"| `{each['name']}` | {each['in']} | {kind} | {_cell(each.get('description', ''))}{required} |"
        yield ""
    for media_type, body in operation.get("requestBody", {}).get("content", {}).items():
        yield f"**Body** (`{media_type}`): {_type(body['schema']) if 'schema' in body else 'the bytes'}\n"
        for example in examples(body, described):
            yield f"```json\n{json.dumps(example, indent=2)}\n```\n"
    yield "| Answer | Body | Meaning |\n|---|---|---|"
    for code, answer in operation["responses"].items():
        content = answer.get("content", {})
        kinds = ", ".join(
            f"{_type(each['schema'])} (`{media_type}`)" if each.get("schema") else f"`{media_type}`"
            for media_type, each in content.items()
        )
        name = "4xx, 5xx" if code == "default" else code
        yield f"| {name} | {kinds} | {_cell(answer['description'])} |"
    yield ""


def examples(body: JSON, described: JSON) -> list[Any]:
    """The examples of a body of one media type: its own, or those of each schema that it may have."""
    schema = body.get("schema", {})
    if found := schema.get("examples"):
        return list(found)
    models = [each["$ref"].rsplit("/", 1)[1] for each in [schema, *schema.get("oneOf", [])] if "$ref" in each]
    return [example for model in models for example in described["components"]["schemas"][model].get("examples", [])]


def _objects(described: JSON) -> Iterator[str]:
    yield "# API reference: objects\n"
    yield (
        f"The objects in the bodies of [requests]({OPERATIONS}) and in their answers, in alphabetical order. A field "
        "without a default is required in a request.\n"
    )
    for name, schema in sorted(described["components"]["schemas"].items()):
        yield f"## {name}\n"
        if text := schema.get("description"):
            yield f"{_plain(text)}\n"
        if "enum" in schema:
            yield f"One of {_values(schema['enum'])}.\n"
        elif "properties" not in schema:
            yield f"{_type(schema)}\n"
        else:
            yield "| Field | Type | Default | Description |\n|---|---|---|---|"
            required = set(schema.get("required", []))
            for field, each in schema["properties"].items():
                default = "" if field in required else _default(each)
                yield f"| `{field}` | {_type(each)} | {default} | {_cell(each.get('description', ''))} |"
            yield ""


def _default(schema: JSON) -> str:
    if "default" not in schema:
        return "null"
    text = json.dumps(schema["default"])
    return f"`{text}`" if len(text) <= LONGEST_DEFAULT else "see its fields"


def _type(schema: JSON) -> str:  # noqa: PLR0911 - one return for each form of a schema
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}]({OBJECTS}#{name.lower()})"
    for together in ("anyOf", "oneOf", "allOf"):
        if together in schema:
            return " or ".join(dict.fromkeys(_type(each) for each in schema[together]))
    if "enum" in schema:
        return _values(schema["enum"])
    if "const" in schema:
        return _values([schema["const"]])
    match schema.get("type"):
        case "array":
            if "prefixItems" in schema:
                return f"[{', '.join(_type(each) for each in schema['prefixItems'])}]"
            return f"list of {_type(schema.get('items', {}))}"
        case "object":
            of = schema.get("additionalProperties")
            return f"object of {_type(of)}" if isinstance(of, dict) and of else "object"
        case "string":
            return {"date-time": "time", "binary": "file"}.get(schema.get("format", ""), "string")
        case None:
            return "any value"
        case other:
            return f"{other}{_limits(schema)}"


def _limits(schema: JSON) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": "\\>", "maximum": "≤", "exclusiveMaximum": "\\<"}
    return "".join(f" {sign} {schema[name]:g}" for name, sign in signs.items() if name in schema)


def _values(values: Iterable[Any]) -> str:
    return ", ".join(f"`{json.dumps(each) if not isinstance(each, str) else each}`" for each in values)


def _plain(text: str) -> str:
    """Without the indentation of docstrings, which Markdown would take for code, and with no HTML."""
    text = "\n".join(line.strip() for line in text.splitlines())
    return re.sub(r"<(?=[a-zA-Z/])", "&lt;", text)


def _cell(text: str) -> str:
    return " ".join(_plain(text).split()).replace("|", "\\|")
