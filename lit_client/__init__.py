"""Client of the LIT service: upload a teacher, get back a shallower student. Needs no torch."""

from lit_client.asynchronous.client import AsyncClient
from lit_client.compressed import Compressed
from lit_client.errors import (
    ChecksumError,
    FieldProblem,
    InspectedOtherwise,
    InspectionFailed,
    InvalidAddress,
    InvalidKey,
    JobFailed,
    LitError,
    MissingCore,
    ProblemError,
    ServiceUnreachable,
    TransferError,
    UnexpectedAnswer,
    WaitTimeout,
)
from lit_client.files import DownloadedFile
from lit_client.synchronous.client import Client

__all__ = [
    "AsyncClient",
    "ChecksumError",
    "Client",
    "Compressed",
    "DownloadedFile",
    "FieldProblem",
    "InspectedOtherwise",
    "InspectionFailed",
    "InvalidAddress",
    "InvalidKey",
    "JobFailed",
    "LitError",
    "MissingCore",
    "ProblemError",
    "ServiceUnreachable",
    "TransferError",
    "UnexpectedAnswer",
    "WaitTimeout",
]
