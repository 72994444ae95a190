"""Downloading a published file: over HTTPS, whole or not at all, checked against its digests."""

from __future__ import annotations

import hashlib
import http.client
import logging
import math
import pathlib
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping

from ncap_jax import caching, errors, files

PAUSES = (2.0, 8.0)  # seconds before the second and the third attempt
# A host that could not be reached at all is asked once only for each further file in these seconds:
# of a long list without a network every model would take as long as its pauses.
SILENCE = 300.0
TIMEOUT = 60.0  # seconds without a byte
CHUNK = 1 << 20

log = logging.getLogger("ncap_jax")

# Host -> when it last could not be reached, by `time.monotonic`.
_silent: dict[str, float] = {}


class _Incomplete(Exception):
    """Fewer bytes arrived than the server announced."""


_FAILURES = (
    urllib.error.URLError,
    http.client.HTTPException,
    TimeoutError,
    ConnectionError,
    _Incomplete,
)


def fetch(url: str, target: pathlib.Path, checks: Mapping[str, str | None]) -> str:
    """Download a file to `target`, atomically.

    Args:
        url: its address, https only (file URLs serve tests and mirrors).
        target: written only when the content is complete and correct.
        checks: what the publisher states: `sha256`, `md5`, `sha256_prefix`, in hex.

    Returns:
        The SHA-256 of the content in hex.

    Raises:
        WeightsError: offline, unreachable, incomplete, or not the file the publisher describes.
    """
    if urllib.parse.urlsplit(url).scheme not in ("https", "file"):
        raise errors.WeightsError(
            f"{url} is not an https address", "Use an https address or a local file"
        )
    if caching.offline():
        raise errors.WeightsError(
            f"{target.name} is not on this machine and NCAP_OFFLINE forbids downloads",
            f"Download {url} elsewhere and put it under that name into the folder given by "
            "weights_dir (NCAP_WEIGHTS_DIR), or unset NCAP_OFFLINE",
        )
    host = urllib.parse.urlsplit(url).netloc
    silent = time.monotonic() - _silent.get(host, -math.inf) < SILENCE
    for pause in (None,) if silent else (*PAUSES, None):
        try:
            found = _fetch_once(url, target, checks)
        except _FAILURES as error:
            # 404 and the like stay as they are.
            permanent = isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500
            if permanent or pause is None:
                if not isinstance(error, (urllib.error.HTTPError, _Incomplete)):
                    _silent[host] = time.monotonic()
                raise errors.WeightsError(
                    f"cannot download {url}: {error}",
                    f"Check the connection, or put {target.name} into the folder given by "
                    "weights_dir (NCAP_WEIGHTS_DIR)",
                ) from error
            time.sleep(pause)
        else:
            _silent.pop(host, None)
            return found
    raise AssertionError("the last pause is None")


def file_name(url: str) -> str:
    """The last part of a URL's or file's path."""
    return pathlib.PurePosixPath(urllib.parse.urlsplit(url).path).name


def _fetch_once(url: str, target: pathlib.Path, checks: Mapping[str, str | None]) -> str:
    log.info("downloading %s", url)
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    request = urllib.request.Request(url, headers={"User-Agent": "ncap_jax"})
    with files.atomic_file(target) as file:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            expected = response.headers.get("Content-Length")
            while chunk := response.read(CHUNK):
                sha256.update(chunk)
                md5.update(chunk)
                file.write(chunk)
        if expected is not None and file.tell() != int(expected):
            raise _Incomplete(f"{file.tell()} of {expected} bytes arrived")
        check_digests(url, sha256.hexdigest(), md5.hexdigest(), checks)
    return sha256.hexdigest()


def check_file(path: pathlib.Path, checks: Mapping[str, str | None]) -> None:
    """Check a local file against what its publisher states; nothing is read if nothing is stated.

    Raises:
        WeightsError: another digest.
    """
    if any(checks.values()):
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            md5 = hashlib.file_digest(file, "md5").hexdigest()
        check_digests(str(path), sha256, md5, checks)


def check_digests(source: str, sha256: str, md5: str, checks: Mapping[str, str | None]) -> None:
    """Compare digests with what the publisher states.

    Raises:
        WeightsError: one differs.
    """
    found = {"sha256": sha256, "md5": md5, "sha256_prefix": sha256}
    for kind, expected in checks.items():
        if expected and not found[kind].startswith(expected):
            raise errors.WeightsError(
                f"{source} is not the published file: its {kind} is {found[kind]}, not {expected}",
                "Download it again; if you want this very file, give its path as weights",
            )
