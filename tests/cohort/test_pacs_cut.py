"""DICOMweb answers that end early, at any byte: never an instance, always worth another attempt."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from dicom_series import CtSeries

pytest.importorskip("dicomweb_client", reason="needs the extra pacs")

from headclip_med.cohort.pacs.access import Access
from headclip_med.cohort.pacs.address import parse_address
from headclip_med.cohort.pacs.archive import InstanceFound, PacsError, PacsUnavailableError, StoredFile
from headclip_med.cohort.pacs.dicomweb import DicomwebArchive
from headclip_med.cohort.pacs.pull import SeriesSpool
from headclip_med.cohort.pacs.push import dicom_objects


class Canned:
    """A server that answers every request with the same bytes and hangs up."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self.answer = b""
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            with client:
                received = b""
                while b"\r\n\r\n" not in received:
                    received += client.recv(65536)
                client.sendall(self.answer)
                client.shutdown(socket.SHUT_WR)


@pytest.fixture
def canned() -> Iterator[Canned]:
    server = Canned()
    yield server
    server.close()


@pytest.fixture
def file(tmp_path: Path) -> StoredFile:
    """One small instance on disk."""
    CtSeries(slices=1).write(tmp_path / "source")
    return dicom_objects(tmp_path / "source")[0]


def _multipart(content: bytes, framing: str) -> bytes:
    body = b"--cut-here\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--cut-here--\r\n"
    head = b'HTTP/1.1 200 OK\r\nContent-Type: multipart/related; type="application/dicom"; boundary=cut-here\r\n'
    if framing == "length":
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    if framing == "chunked":
        chunks = [body[begin : begin + 200] for begin in range(0, len(body) - 60, 200)]
        chunks[-1:] = [body[200 * (len(chunks) - 1) : -20], body[-20:]]  # the last boundary in one piece
        coded = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + coded + b"0\r\n\r\n"
    return head + b"Connection: close\r\n\r\n" + body


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_an_instance_cut_anywhere_is_not_kept(canned: Canned, file: StoredFile, tmp_path: Path, framing: str) -> None:
    archive = DicomwebArchive(parse_address(f"dicomweb://127.0.0.1:{canned.port}/x"), Access(timeout_s=5))
    spool = SeriesSpool(tmp_path / "spool", file.study, file.series)
    spool.open()
    wanted, content = [InstanceFound(file.uid, "")], file.path.read_bytes()
    whole = _multipart(content, framing)
    end = whole.rindex(b"--cut-here--") + len(b"--cut-here--")  # what follows says nothing
    for cut in [*range(0, 260, 7), *range(260, end - 40, 61), *range(end - 40, end)]:
        canned.answer = whole[:cut]
        with pytest.raises(PacsUnavailableError):
            archive.fetch(file.study, file.series, wanted, spool.keep)
        assert not spool.has(file.uid), cut
    canned.answer = whole
    archive.fetch(file.study, file.series, wanted, spool.keep)
    assert [path.read_bytes() for path in spool.folder.iterdir()] == [content]


def test_a_file_without_multipart_is_taken_and_a_cut_one_is_not(
    canned: Canned, file: StoredFile, tmp_path: Path
) -> None:
    archive = DicomwebArchive(parse_address(f"dicomweb://127.0.0.1:{canned.port}/x"), Access(timeout_s=5))
    spool = SeriesSpool(tmp_path / "spool", file.study, file.series)
    spool.open()
    wanted, content = [InstanceFound(file.uid, "")], file.path.read_bytes()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom\r\nConnection: close\r\n\r\n"
    for cut in (len(content) - 1, len(content) - 100):
        canned.answer = head + content[:cut]
        with pytest.raises(PacsUnavailableError, match="cut off"):
            archive.fetch(file.study, file.series, wanted, spool.keep)
    canned.answer = head + content
    archive.fetch(file.study, file.series, wanted, spool.keep)
    assert [path.read_bytes() for path in spool.folder.iterdir()] == [content]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/secret\r\nContent-Length: 0\r\n\r\n", "a redirect"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>", "must answer as DICOMweb"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\n[1,2", "cut off"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n[1]", "something else"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", r"service unavailable \(503\)"),
        (b"HTTP/1.1 418 Teapot\r\nContent-Length: 0\r\n\r\n", r"\(418\)"),
        (b"junk\r\n\r\n", "must answer at"),
        (b"", "must answer at"),
    ],
)
def test_other_answers_are_told_in_words(canned: Canned, answer: bytes, message: str) -> None:
    archive = DicomwebArchive(parse_address(f"dicomweb://127.0.0.1:{canned.port}/x"), Access(timeout_s=5))
    canned.answer = answer
    with pytest.raises(PacsError, match=message) as told:
        archive.instances("1.2.3", "1.2.4")
    assert "secret" not in str(told.value)
    assert "1.2.3" not in str(told.value)
