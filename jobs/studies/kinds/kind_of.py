"""The kinds of studies, by their requests."""

from __future__ import annotations

from typing import Any, assert_never

from jobs.studies.kinds.compare import Compare
from jobs.studies.kinds.depth import Depth
from jobs.studies.kinds.plan import Plan
from jobs.studies.kinds.search import Search
from jobs.studies.kinds.trials import Kind, StudySpec
from lit_spec.requests.study import CompareRequest, DepthRequest, PlanRequest, SearchRequest


def kind_of(spec: StudySpec) -> Kind[Any]:
    """Raises SpecError where request and teacher don't go together; its field is one of the study's."""
    match spec.request:
        case CompareRequest():
            return Compare(spec, spec.request)
        case SearchRequest():
            return Search(spec, spec.request)
        case DepthRequest():
            return Depth(spec, spec.request)
        case PlanRequest():
            return Plan(spec, spec.request)
        case _:
            assert_never(spec.request)
