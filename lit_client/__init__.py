"""Client of the LIT service: upload a teacher, get back a shallower student. Needs no torch."""

from lit_client.client import Client, InspectionFailed
from lit_client.downloads import DownloadedFile
from lit_client.errors import (
    ChecksumError,
    FieldProblem,
    InspectedOtherwise,
    InvalidAddress,
    InvalidKey,
    LitError,
    ProblemError,
    ServiceUnreachable,
    TransferError,
    UnexpectedAnswer,
    WaitTimeout,
)

__all__ = [
    "ChecksumError",
    "Client",
    "DownloadedFile",
    "FieldProblem",
    "InspectedOtherwise",
    "InspectionFailed",
    "InvalidAddress",
    "InvalidKey",
    "LitError",
    "ProblemError",
    "ServiceUnreachable",
    "TransferError",
    "UnexpectedAnswer",
    "WaitTimeout",
]
