"""What a caller may do."""

from __future__ import annotations

from collections.abc import Iterable

from lit_spec.base import OpenEnum


class Scope(OpenEnum):
    READ = "read"
    """Look at what is the owner's: GET and HEAD."""
    SUBMIT = "submit"
    """Change what is the owner's: every other method."""
    ADMIN = "admin"
    """Manage keys and quotas of all owners, and read the audit log. Includes the others."""


GRANTED_SCOPES = tuple(scope.value for scope in Scope)
USUAL_SCOPES = (Scope.READ, Scope.SUBMIT)
"""Of a key that is made without naming any."""


def with_included(scopes: Iterable[Scope]) -> frozenset[Scope]:
    """The scopes together with those that they include."""
    given = frozenset(scopes)
    return frozenset(Scope) if Scope.ADMIN in given else given
