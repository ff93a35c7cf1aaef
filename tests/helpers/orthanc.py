"""A real Orthanc on loopback, started and killed by tests, and a connection to it that can be cut."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests

USER, PASSWORD = "tester", "orthanc-secret-57"
AE_TITLE = "ORTHANC"
_PLUGINS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc", "/usr/local/share/orthanc/plugins")
_START_S = 20.0


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Orthanc:
    """One archive with its storage in ``folder``; it survives :meth:`kill` as a disk survives a power cut.

    With ``tls``, PEM files of a key and a certificate, it speaks DICOM over TLS only. Its HTTPS is no use: Debian's
    1.10.1 ends in a segmentation fault at the first request.
    """

    def __init__(self, folder: Path, tls: tuple[Path, Path] | None = None) -> None:
        self.folder, self.tls = folder, tls
        self.http_port, self.dicom_port, self.sink_port = free_port(), free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def web(self) -> str:
        return f"dicomweb://127.0.0.1:{self.http_port}/dicom-web"

    @property
    def dimse(self) -> str:
        return f"dimse{'s' if self.tls else ''}://{AE_TITLE}@127.0.0.1:{self.dicom_port}"

    def start(self) -> None:
        """Start it and wait for its first answer; skip the test where that cannot be."""
        program, plugin = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin"), _plugin()
        if program is None or plugin is None:
            pytest.skip("no Orthanc with its DICOMweb plugin (Debian: orthanc, orthanc-dicomweb)")
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "orthanc.json"
        config.write_text(json.dumps(self._config(plugin)))
        with (self.folder / "orthanc.log").open("ab") as log:
            process = subprocess.Popen([program, str(config)], stdout=log, stderr=log, cwd=self.folder)
        self._process, end = process, time.monotonic() + _START_S
        while time.monotonic() < end and process.poll() is None:
            try:
                self.get("/system")
                return
            except requests.exceptions.ConnectionError:
                time.sleep(0.05)
        self.kill()
        pytest.skip(f"Orthanc does not start: {(self.folder / 'orthanc.log').read_text()[-300:]}")

    def kill(self) -> None:
        """SIGKILL; also the end of every test, as it takes three seconds less than a farewell."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=20)

    def get(self, path: str) -> Any:
        """The answer of its own REST interface."""
        answer = requests.get(f"http://127.0.0.1:{self.http_port}{path}", auth=(USER, PASSWORD), timeout=10)
        answer.raise_for_status()
        return answer.json()

    def stored(self) -> list[str]:
        """SOPInstanceUIDs of everything it holds, sorted, doubled ones twice."""
        return sorted(found["MainDicomTags"]["SOPInstanceUID"] for found in self.get("/instances?expand"))

    def _config(self, plugin: str) -> dict[str, Any]:
        return {
            "Name": "headclip-med test",
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "HttpPort": self.http_port,
            "DicomPort": self.dicom_port,
            "DicomAet": AE_TITLE,
            "DicomCheckCalledAet": True,
            "DicomCheckModalityHost": True,
            "DicomModalities": {
                "us": ["HEADCLIP-MED", "127.0.0.1", free_port()],
                "sink": ["SINK", "127.0.0.1", self.sink_port],
            },
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD},
            "Plugins": [plugin],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            **self._tls_config(),
        }

    def _tls_config(self) -> dict[str, Any]:
        if self.tls is None:
            return {}
        key, certificate = self.tls
        return {
            "DicomTlsEnabled": True,
            "DicomTlsPrivateKey": str(key),
            "DicomTlsCertificate": str(certificate),
            "DicomTlsTrustedCertificates": str(certificate),
            "DicomTlsRemoteCertificateRequired": False,
        }


class Wire:
    """A TCP connection in the middle: counts bytes each way, and can call ``cut`` once there are enough of them.

    With ``tls``, PEM files of a key and a certificate, it ends TLS, as a proxy before an archive does.
    """

    def __init__(self, port: int, tls: tuple[Path, Path] | None = None) -> None:
        self._target, self._tls = port, None
        if tls is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(tls[1], tls[0])
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self.down = self.up = 0
        self.cut_down: int | None = None
        self.cut_up: int | None = None
        self.cut: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = [self._server]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Close every socket."""
        with self._lock:
            for one in self._sockets:
                one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
                client = client if self._tls is None else self._tls.wrap_socket(client, server_side=True)
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                if self._server.fileno() < 0:
                    return
                client.close()
                continue
            with self._lock:
                self._sockets += [client, server]
            threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, is_down: bool) -> None:
        try:
            while piece := source.recv(4096):
                if self._is_enough(len(piece), is_down):
                    self.cut()  # half of the last piece still arrives
                    target.sendall(piece[: len(piece) // 2])
                    break
                target.sendall(piece)
        except OSError:
            pass
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _is_enough(self, count: int, is_down: bool) -> bool:
        """Whether the limit of one direction is reached; only once."""
        with self._lock:
            if is_down:
                self.down += count
                reached = self.cut_down is not None and self.down >= self.cut_down
                self.cut_down = None if reached else self.cut_down
            else:
                self.up += count
                reached = self.cut_up is not None and self.up >= self.cut_up
                self.cut_up = None if reached else self.cut_up
            return reached


def _plugin() -> str | None:
    found = (Path(folder) / "libOrthancDicomWeb.so" for folder in _PLUGINS)
    return next((str(path) for path in found if path.exists()), None)
