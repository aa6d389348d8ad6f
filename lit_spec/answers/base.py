"""The base of all answers."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from lit_spec.base import READING_ANSWER
from lit_spec.documented import Documented


class Answer(Documented):
    """Base of all answers. Only `read` tolerates what a newer service adds; making an answer checks every value."""

    model_config = ConfigDict(extra="ignore", from_attributes=True)

    @classmethod
    def read(cls, content: bytes) -> Self:
        """Parse the body of an answer as a client does, so that an older client works with a newer service.

        At every depth fields that this version does not know are ignored, and unknown values of an enum are kept.
        Raises pydantic.ValidationError for anything that is not such an answer.
        """
        return cls.model_validate_json(content, extra="ignore", context=READING_ANSWER)


class DocumentedAs:
    """Annotation of a dictionary that the OpenAPI document describes as `model`, or else as any object.

    What another version of LIT has stored may have other fields.
    """

    def __init__(self, model: type[BaseModel]) -> None:
        self.model = model

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        any_object: dict[str, Any] = handler(schema)
        return {"anyOf": [handler(self.model.__pydantic_core_schema__), any_object]}
