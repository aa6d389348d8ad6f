"""Models whose fields are described by the docstrings below them."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from collections.abc import Mapping

from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


class Documented(BaseModel):
    """Base of models of which a JSON schema describes each field by the docstring below it.

    pydantic's own `use_attribute_docstrings` reads them when a class is made, which takes half of the time in which
    the specification is imported, in every process. Here they are read when a schema is asked for.
    """

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        docstrings = _docstrings_of(cls)
        for name, field in cls.model_fields.items():
            # Some fields are in no answer.
            shown = properties.get(field.alias or name)
            if shown is not None and field.description is None and name in docstrings:
                shown["description"] = docstrings[name]
        return schema


def _docstrings_of(model: type[BaseModel]) -> dict[str, str]:
    """Of the model's own fields and of those that it inherits."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, Documented):
            found |= _docstrings_in(base.__module__).get(base.__qualname__, {})
    return found


@functools.cache
def _docstrings_in(module: str) -> Mapping[str, Mapping[str, str]]:
    """The fields' docstrings of each class at the top of a module, by the class's name."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: _docstrings_below(node) for node in tree.body if isinstance(node, ast.ClassDef)}


def _docstrings_below(node: ast.ClassDef) -> dict[str, str]:
    found: dict[str, str] = {}
    for field, after in zip(node.body, node.body[1:], strict=False):
        match field, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = inspect.cleandoc(text)
    return found
