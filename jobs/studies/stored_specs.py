"""Reads the specification of a stored study, also one that an earlier version of LIT has stored."""

from __future__ import annotations

from typing import Any

from jobs.database.models import Study
from jobs.ledger.stored_specs import Unreadable, read_stored
from jobs.studies.kinds.kind_of import kind_of
from jobs.studies.kinds.trials import Kind, StudySpec
from lit_spec import SpecError
from lit_spec.requests.study import STUDY_VERSION
from lit_spec.requests.upgrades import upgrade_study


def is_newer(study: Study) -> bool:
    """Whether only processes of a newer version can advance the study."""
    return study.study_version > STUDY_VERSION


def read_study(study: Study) -> tuple[StudySpec, Kind[Any]]:
    """Raises Unreadable."""
    spec = read_stored(StudySpec, upgrade_study, study.spec, study.study_version)
    try:
        return spec, kind_of(spec)
    except SpecError as refused:
        raise Unreadable(f"this version of LIT refuses the stored specification ({refused})") from refused
