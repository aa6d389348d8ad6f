"""URLs of object stores: a bucket, and a key or a prefix in it."""

from __future__ import annotations

import re

STORE_SCHEMES = ("s3", "gs", "az")
_BUCKET = rf"({'|'.join(STORE_SCHEMES)})://[A-Za-z0-9][\w.-]*"
_PART = r"(?!\.{1,2}(/|$))[^/?#\x00-\x1f\x7f]+"
_PREFIX = re.compile(rf"{_BUCKET}(/{_PART})*/?")
_OBJECT = re.compile(rf"{_BUCKET}(/{_PART})*(/{_PART}|/)")


def store_prefix(url: str) -> str:
    """A bucket or a prefix, without a slash at its end. Raises ValueError."""
    if _PREFIX.fullmatch(url) is None:
        raise ValueError(
            f"{url!r} is not the URL of an object store: give s3://BUCKET or s3://BUCKET/PREFIX (or gs://, az://)"
        )
    return url.rstrip("/")


def dataset_url(url: str) -> str:
    """The URL of an object, or of a folder of objects if it ends in a slash. Raises ValueError."""
    if _OBJECT.fullmatch(url) is None:
        raise ValueError(
            f"{url!r} is not the URL of a data set in an object store: give s3://BUCKET/KEY, or s3://BUCKET/FOLDER/ "
            "with a slash at its end (or gs://, az://)"
        )
    return url
