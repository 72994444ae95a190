"""Downloads arrive whole and correct, or not at all."""

from __future__ import annotations

import hashlib
import io
import pathlib
import urllib.error
import urllib.request
from typing import Any

import pytest

from ncap_jax import errors
from ncap_jax.zoo.weights import download

CONTENT = b"weights" * 100
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
URL = "https://example.org/models/net.h5"


class Response(io.BytesIO):
    """What `urlopen` returns, announcing more or less than it holds."""

    def __init__(self, content: bytes, announced: int):
        super().__init__(content)
        self.headers = {"Content-Length": str(announced)}


class Site:
    """Stands in for the network: answers in turn, the last one for ever."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.asked: list[str] = []

    def urlopen(self, request: urllib.request.Request, timeout: float) -> Response:
        del timeout
        self.asked.append(request.full_url)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return Response(*answer)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    site = Site()
    monkeypatch.setattr(urllib.request, "urlopen", site.urlopen)
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(download, "_silent", {})
    monkeypatch.delenv("NCAP_OFFLINE", raising=False)
    return site


def test_a_file_and_its_digest(site: Site, tmp_path: pathlib.Path):
    site.answers = [(CONTENT, len(CONTENT))]
    target = tmp_path / "new folder" / "net.h5"
    assert download.fetch(URL, target, {"sha256": SHA256, "md5": MD5}) == SHA256
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["net.h5"]


def test_incomplete_downloads_are_tried_again(site: Site, tmp_path: pathlib.Path):
    cut = (CONTENT[:-9], len(CONTENT))
    site.answers = [cut, urllib.error.URLError("reset"), (CONTENT, len(CONTENT))]
    download.fetch(URL, tmp_path / "net.h5", {})
    assert site.asked == [URL] * 3
    assert (tmp_path / "net.h5").read_bytes() == CONTENT


def test_incomplete_for_good_is_refused_and_leaves_nothing(site: Site, tmp_path: pathlib.Path):
    site.answers = [(b"short", 99)]
    with pytest.raises(errors.WeightsError) as refusal:
        download.fetch(URL, tmp_path / "net.h5", {})
    assert refusal.value.cause == f"cannot download {URL}: 5 of 99 bytes arrived"
    assert refusal.value.remedy == (
        "Check the connection, or put net.h5 into the folder given by weights_dir "
        "(NCAP_WEIGHTS_DIR)"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("code", "attempts"), [(404, 1), (503, 3)])
def test_what_is_not_there_is_not_asked_for_again(
    code: int, attempts: int, site: Site, tmp_path: pathlib.Path
):
    site.answers = [urllib.error.HTTPError(URL, code, "No", {}, None)]  # type: ignore[arg-type]
    with pytest.raises(errors.WeightsError) as refusal:
        download.fetch(URL, tmp_path / "net.h5", {})
    assert refusal.value.cause == f"cannot download {URL}: HTTP Error {code}: No"
    assert len(site.asked) == attempts


@pytest.mark.parametrize(
    ("kind", "found"), [("sha256", SHA256), ("md5", MD5), ("sha256_prefix", SHA256)]
)
def test_another_file_is_refused_and_leaves_nothing(
    kind: str, found: str, site: Site, tmp_path: pathlib.Path
):
    site.answers = [(CONTENT, len(CONTENT))]
    target = tmp_path / "net.h5"
    with pytest.raises(errors.WeightsError) as refusal:
        download.fetch(URL, target, {kind: "0" * 8})
    message = "is not the published file: its {} is {}, not 00000000"
    assert refusal.value.cause == f"{URL} {message.format(kind, found)}"
    assert refusal.value.remedy == (
        "Download it again; if you want this very file, give its path as weights"
    )
    assert not list(tmp_path.iterdir())
    target.write_bytes(CONTENT)
    download.check_file(target, {kind: found[:8]})
    with pytest.raises(errors.WeightsError) as refusal:
        download.check_file(target, {kind: "0" * 8})
    assert refusal.value.cause == f"{target} {message.format(kind, found)}"


def test_a_host_that_cannot_be_reached_is_asked_once_only_for_a_while(
    site: Site, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    now = [100.0]
    monkeypatch.setattr(download.time, "monotonic", lambda: now[0])
    site.answers = [urllib.error.URLError("no name")]

    def asked(url: str) -> int:
        site.asked.clear()
        with pytest.raises(errors.WeightsError, match="no name"):
            download.fetch(url, tmp_path / "net.h5", {})
        return len(site.asked)

    other = "https://example.com/net.h5"
    assert [asked(URL), asked(URL), asked(other), asked(other)] == [3, 1, 3, 1]
    now[0] += download.SILENCE
    assert asked(URL) == 3
    site.answers = [(CONTENT, len(CONTENT))]
    download.fetch(URL, tmp_path / "net.h5", {})  # it is there again
    site.answers = [urllib.error.URLError("no name")]
    assert asked(URL) == 3


def test_a_host_that_answers_is_asked_again(site: Site, tmp_path: pathlib.Path):
    site.answers = [urllib.error.HTTPError(URL, 503, "No", {}, None)]  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(errors.WeightsError):
            download.fetch(URL, tmp_path / "net.h5", {})
    assert len(site.asked) == 6


def test_nothing_is_read_where_nothing_is_stated(tmp_path: pathlib.Path):
    download.check_file(tmp_path / "missing", {"sha256": None, "md5": None})


def test_offline_forbids_downloads(
    site: Site, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("NCAP_OFFLINE", "1")
    with pytest.raises(errors.WeightsError) as refusal:
        download.fetch(URL, tmp_path / "net.h5", {})
    assert refusal.value.cause == "net.h5 is not on this machine and NCAP_OFFLINE forbids downloads"
    assert refusal.value.remedy.startswith(f"Download {URL} elsewhere and put it")
    assert not site.asked


def test_plain_http_is_refused(site: Site, tmp_path: pathlib.Path):
    with pytest.raises(errors.WeightsError) as refusal:
        download.fetch("http://example.org/w.h5", tmp_path / "w.h5", {})
    assert str(refusal.value) == (
        "http://example.org/w.h5 is not an https address. Use an https address or a local file."
    )
    assert not site.asked


@pytest.mark.parametrize("url", ["https://a.org/b/net.h5?download=1", "folder/net.h5", "net.h5"])
def test_file_names(url: str):
    assert download.file_name(url) == "net.h5"
