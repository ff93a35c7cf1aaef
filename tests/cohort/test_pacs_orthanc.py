"""Against a real Orthanc: find, pull, predict, push, read back, and what is left when it is killed on the way."""

from __future__ import annotations

import gc
import json
import logging
import socket
import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dicom_series import CtSeries
from orthanc import PASSWORD, USER, Orthanc, Wire, free_port
from pydicom import dcmread
from typer.testing import CliRunner, Result

from headclip_med.cli.main import app
from headclip_med.cohort.pacs.access import Access
from headclip_med.cohort.pacs.address import parse_address
from headclip_med.cohort.pacs.archive import PacsUnavailableError, pseudonym
from headclip_med.cohort.pacs.open import open_archive
from headclip_med.cohort.pacs.pull import SeriesSpool, pull_series

SECRETS = (PASSWORD, "wrong-secret-99", "Secret^Person", "SECRET-ID")


def forgets_sockets(test: Any) -> Any:
    """pynetdicom drops a socket that could not connect without closing it; it is collected within the test, quietly."""
    quiet = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
    return pytest.mark.usefixtures("_collected")(quiet(test))


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """One archive for all tests; whoever kills it starts it again."""
    archive = Orthanc(tmp_path_factory.mktemp("orthanc"))
    archive.start()
    try:
        yield archive
    finally:
        archive.kill()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Orthanc]:
    """An empty archive for one test."""
    archive = Orthanc(tmp_path / "orthanc")
    archive.start()
    try:
        yield archive
    finally:
        archive.kill()


@pytest.fixture
def _collected() -> Iterator[None]:
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADCLIP_DEBUG", raising=False)
    for name in ("TOKEN", "CA", "CERT", "KEY", "AET"):
        monkeypatch.delenv(f"HEADCLIP_PACS_{name}", raising=False)
    monkeypatch.setenv("HEADCLIP_PACS_USER", USER)
    monkeypatch.setenv("HEADCLIP_PACS_PASSWORD", PASSWORD)
    monkeypatch.setenv("HEADCLIP_PACS_TIMEOUT", "10")
    monkeypatch.setenv("HEADCLIP_PACS_ATTEMPTS", "1")
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def run(caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    """Runs the command line; in the end no secret and no patient may be in its output or any log."""
    caplog.set_level(logging.DEBUG)
    said: list[str] = []

    def invoke(*arguments: object) -> Result:
        ran = CliRunner().invoke(app, [str(argument) for argument in arguments])
        said.append(ran.output + ran.stderr)
        return ran

    yield invoke
    everything = "\n".join([*said, *(record.getMessage() for record in caplog.records)])
    assert not [secret for secret in SECRETS if secret in everything]


@pytest.fixture
def series(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[CtSeries, Path]:
    """Twelve slices of 48 × 40 on disk, of their own series in every test."""
    seed = sum(map(ord, request.node.name))
    return CtSeries(slices=12, rows=48, columns=40, seed=seed).write(tmp_path / "source"), tmp_path / "source"


def _study(folder: Path) -> str:
    return str(dcmread(next(folder.glob("*.dcm")), stop_before_pixels=True).StudyInstanceUID)


def _contents(folder: Path) -> set[bytes]:
    return {path.read_bytes() for path in folder.rglob("*.dcm")}


def _uids(folder: Path) -> list[str]:
    return sorted(str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in folder.rglob("*.dcm"))


def _predict(run: Any, pack: Path, *arguments: object) -> Result:
    ran: Result = run("predict", "--model", pack, "--device", "cpu", "--threshold", "0.4", *arguments)
    return ran


def test_what_is_stored_by_stow_is_found_by_qido_and_pulled_to_the_byte(
    run: Any, orthanc: Orthanc, series: tuple[CtSeries, Path], tmp_path: Path
) -> None:
    made, folder = series
    assert run("pacs", "echo", orthanc.web).exit_code == 0
    ran = run("pacs", "push", folder, orthanc.web)
    assert (ran.exit_code, ran.stdout) == (0, f"{orthanc.web}: 12 stored, 0 there already\n")
    assert run("pacs", "push", folder, orthanc.web).stdout.endswith("0 stored, 12 there already\n")
    study = _study(folder)
    listed = json.loads(run("pacs", "find", f"{orthanc.web}/studies/{study}", "--json").stdout)["series"]
    assert {"name": pseudonym(made.uid), "modality": "CT", "number": 4, "instances": 12} in listed
    assert made.uid not in json.dumps(listed)
    out = tmp_path / "pulled"
    ran = run("pacs", "pull", f"{orthanc.web}/studies/{study}/series/{made.uid}", "-o", out)
    assert ran.stdout == f"{pseudonym(made.uid)}: 12 instances → {out / pseudonym(made.uid)}\n"
    assert _contents(out) == _contents(folder)
    assert (out / pseudonym(made.uid)).stat().st_mode & 0o777 == 0o700
    assert all(made.uid not in path.name for path in out.rglob("*"))


def test_what_is_stored_by_c_store_is_found_by_c_find_and_comes_by_c_get(
    run: Any, orthanc: Orthanc, series: tuple[CtSeries, Path], tmp_path: Path
) -> None:
    made, folder = series
    assert run("pacs", "echo", orthanc.dimse).exit_code == 0
    assert run("pacs", "push", folder, orthanc.dimse).stdout == f"{orthanc.dimse}: 12 stored, 0 there already\n"
    assert run("pacs", "push", folder, orthanc.dimse).stdout.endswith("0 stored, 12 there already\n")
    study = _study(folder)
    listed = json.loads(run("pacs", "find", f"{orthanc.dimse}/{study}", "--json").stdout)["series"]
    assert {"name": pseudonym(made.uid), "modality": "CT", "number": 4, "instances": 12} in listed
    out = tmp_path / "pulled"
    assert run("pacs", "pull", f"{orthanc.dimse}/{study}/{made.uid}", "--out", out).exit_code == 0
    _assert_datasets_equal(out, folder)
    studies = json.loads(run("pacs", "find", orthanc.dimse, "--modality", "CT", "--limit", "1", "--json").stdout)
    assert [study["modalities"] for study in studies["studies"]] == [["CT"]]


def _assert_datasets_equal(first: Path, second: Path) -> None:
    by_uid = [{str((ds := dcmread(path)).SOPInstanceUID): ds for path in f.rglob("*.dcm")} for f in (first, second)]
    assert by_uid[0].keys() == by_uid[1].keys()
    for uid, dataset in by_uid[0].items():
        assert dataset == by_uid[1][uid]


def test_identifiers_are_shown_only_where_they_are_asked_for(
    orthanc: Orthanc, series: tuple[CtSeries, Path], run: Any
) -> None:
    _, folder = series
    run("pacs", "push", folder, orthanc.web)
    for service in (orthanc.web, orthanc.dimse):
        shown = CliRunner().invoke(app, ["pacs", "find", service, "--keep-identifiers"]).stdout
        assert "Secret^Person" in shown
        assert _study(folder) in shown
        assert "SECRET-ID" not in run("pacs", "find", service).stdout
        assert _study(folder) not in run("pacs", "find", service, "--json").stdout


def test_c_move_sends_to_another_application(
    run: Any, orthanc: Orthanc, series: tuple[CtSeries, Path], tmp_path: Path
) -> None:
    from pynetdicom import AE, evt

    made, folder = series
    run("pacs", "push", folder, orthanc.web)
    came: list[str] = []

    def received(event: Any) -> int:
        came.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    sink = AE("SINK")
    sink.add_supported_context("1.2.840.10008.5.1.4.1.1.2")
    server = sink.start_server(
        ("127.0.0.1", orthanc.sink_port), block=False, evt_handlers=[(evt.EVT_C_STORE, received)]
    )
    try:
        ran = run("pacs", "move", f"{orthanc.dimse}/{_study(folder)}/{made.uid}", "--to", "SINK")
    finally:
        server.shutdown()
    assert (ran.exit_code, ran.stdout) == (0, "12 objects sent to SINK\n")
    assert sorted(came) == _uids(folder)
    ran = run("pacs", "move", f"{orthanc.dimse}/{_study(folder)}", "--to", "NOBODY")
    assert ran.exit_code == 1
    assert "must move what is asked for" in ran.stderr


@pytest.mark.parametrize("protocol", ["web", "dimse"])
def test_a_prediction_from_the_archive_is_that_from_the_files(
    run: Any, orthanc: Orthanc, series: tuple[CtSeries, Path], tmp_path: Path, tiny_pack: Path, protocol: str
) -> None:
    made, folder = series
    run("pacs", "push", folder, orthanc.web)
    service = orthanc.web if protocol == "web" else orthanc.dimse
    out, local = tmp_path / "out", tmp_path / "local"
    ran = _predict(run, tiny_pack, f"{service}/{_study(folder)}/{made.uid}", "--out", out, "--format", "nifti,json")
    assert ran.exit_code == 0, ran.stderr
    assert ran.stdout.startswith(f"{pseudonym(made.uid)}: score 0.")
    assert not (out / ".pacs-spool").exists()
    assert _predict(run, tiny_pack, folder, "--out", local, "--format", "nifti,json").exit_code == 0
    ours, theirs = (json.loads((f / "result.json").read_text()) for f in (out / pseudonym(made.uid), local / "source"))
    assert ours["pred_score"] == theirs["pred_score"]
    assert ours["findings"] == theirs["findings"]
    if protocol == "web":
        assert ours["source"]["content_sha256"] == theirs["source"]["content_sha256"]
    maps = [nib.load(f / "anomaly_map.nii.gz") for f in (out / pseudonym(made.uid), local / "source")]
    np.testing.assert_array_equal(maps[0].affine, maps[1].affine)
    np.testing.assert_array_equal(np.asanyarray(maps[0].dataobj), np.asanyarray(maps[1].dataobj))
    text = (out / pseudonym(made.uid) / "result.json").read_text() + (out / "run.json").read_text()
    assert not [word for word in (*SECRETS, made.uid, _study(folder), str(orthanc.http_port)) if word in text]


def test_results_are_pushed_read_back_equal_and_never_twice(
    run: Any, fresh: Orthanc, series: tuple[CtSeries, Path], tmp_path: Path, tiny_pack: Path
) -> None:
    pytest.importorskip("highdicom")
    made, folder = series
    run("pacs", "push", folder, fresh.web)
    study, out = f"{fresh.web}/studies/{_study(folder)}", tmp_path / "out"
    ran = _predict(run, tiny_pack, study, "--out", out, "--push", fresh.web, "--format", "json", "--json")
    assert ran.exit_code == 0, ran.stderr
    case = out / pseudonym(made.uid)
    objects = {path.name for path in case.glob("*.dcm")}
    assert len(objects) >= 4
    pushed = json.loads(ran.stdout)["push"][case.name]
    assert pushed == {"stored": len(objects), "already_there": 0, "refused": {}, "waiting": 0, "error": None}
    assert fresh.stored() == sorted([*_uids(folder), *_uids(case)])
    for path in case.glob("*.dcm"):
        series_uid = str(dcmread(path, stop_before_pixels=True).SeriesInstanceUID)
        assert run("pacs", "pull", f"{study}/series/{series_uid}", "-o", tmp_path / "back").exit_code == 0
        run("pacs", "pull", f"{fresh.dimse}/{_study(folder)}/{series_uid}", "-o", tmp_path / "back-dimse")
    assert _contents(tmp_path / "back") == _contents(case)
    _assert_datasets_equal(tmp_path / "back-dimse", case)
    # What we pushed is no input: the study still holds one series of images.
    ran = _predict(run, tiny_pack, study, "--out", out, "--push", fresh.web, "--format", "json", "--resume", "--json")
    told = json.loads(ran.stdout)
    assert [found["status"] for found in told["cases"]] == ["skipped"]
    assert told["push"][case.name]["already_there"] == len(objects)
    assert fresh.stored() == sorted([*_uids(folder), *_uids(case)])


@forgets_sockets
@pytest.mark.parametrize("protocol", ["web", "dimse"])
def test_an_archive_killed_in_the_middle_of_a_pull_loses_nothing(
    fresh: Orthanc, series: tuple[CtSeries, Path], tmp_path: Path, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, folder = series
    CliRunner().invoke(app, ["pacs", "push", str(folder), fresh.web])
    wire = Wire(fresh.http_port if protocol == "web" else fresh.dicom_port)
    service = fresh.web if protocol == "web" else fresh.dimse
    port = service.split(":")[-1].partition("/")[0]
    address = parse_address(f"{service.replace(port, str(wire.port))}/{_study(folder)}/{made.uid}")
    kept: list[str] = []
    keep = SeriesSpool.keep

    def counted(self: SeriesSpool, uid: str, content: bytes) -> None:
        keep(self, uid, content)
        kept.append(uid)

    monkeypatch.setattr(SeriesSpool, "keep", counted)
    wire.cut, wire.cut_down = fresh.kill, 30_000  # in the middle of an instance of 4 kB

    def pull(attempts: int) -> int:
        archive = open_archive(address, Access.from_environment())
        return pull_series(archive, _study(folder), made.uid, tmp_path / "pulled", attempts)

    try:
        with pytest.raises(PacsUnavailableError, match=r"[1-9]\d? of 12 instances are there and stay"):
            pull(1)
        assert 0 < len(kept) < 12
        first = list(kept)
        waited: list[float] = []

        def wait(seconds: float) -> None:  # the archive comes back during the second pause
            waited.append(seconds)
            if len(waited) == 2:
                fresh.start()

        monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=wait))
        assert pull(5) == 12
        assert len(waited) == 2
    finally:
        wire.close()
    assert sorted(kept) == _uids(folder)  # each of them once
    assert kept[: len(first)] == first
    if protocol == "web":
        assert _contents(tmp_path / "pulled") == _contents(folder)
    else:
        _assert_datasets_equal(tmp_path / "pulled", folder)


@forgets_sockets
@pytest.mark.parametrize("protocol", ["web", "dimse"])
def test_an_archive_killed_in_the_middle_of_a_push_gets_the_rest_once(
    run: Any, fresh: Orthanc, series: tuple[CtSeries, Path], tmp_path: Path, protocol: str
) -> None:
    _, folder = series
    wire = Wire(fresh.http_port if protocol == "web" else fresh.dicom_port)
    service = fresh.web if protocol == "web" else fresh.dimse
    port = service.split(":")[-1].partition("/")[0]
    wire.cut, wire.cut_up = fresh.kill, 30_000
    try:
        ran = run("pacs", "push", folder, service.replace(port, str(wire.port)))
        assert ran.exit_code == 1
        assert "object(s) are not there yet; finish with: headclip-med pacs push" in ran.stderr
        stored = int(ran.stdout.split(": ")[1].split()[0])
        assert 0 < stored < 12
        fresh.start()
        before = fresh.stored()
        assert stored <= len(before) < 12  # one may have arrived without an answer
        ran = run("pacs", "push", folder, service)
        assert ran.exit_code == 0, ran.stderr
        assert f"{12 - len(before)} stored, {len(before)} there already" in ran.stdout
    finally:
        wire.close()
    assert fresh.stored() == _uids(folder)


def test_wrong_answers_are_one_message_each(
    run: Any, orthanc: Orthanc, series: tuple[CtSeries, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = series
    out = tmp_path / "out"
    ran = run("pacs", "pull", f"{orthanc.web}/studies/1.2.3/series/1.2.4", "-o", out)
    assert (ran.exit_code, ran.stderr.count("error:")) == (1, 1)
    assert "must be in the archive; given: none of these UIDs" in ran.stderr
    ran = run("pacs", "pull", f"{orthanc.dimse}/1.2.3/1.2.4", "-o", out)
    assert "must be in the archive; given: none of these UIDs" in ran.stderr
    ran = run("pacs", "echo", orthanc.web.replace("dicom-web", "elsewhere"))
    assert ran.exit_code == 1
    assert "not found (404)" in ran.stderr
    ran = run("pacs", "echo", orthanc.dimse.replace("ORTHANC@", "OTHER@"))
    assert ran.exit_code == 1
    assert "Check the AE titles" in ran.stderr
    monkeypatch.setenv("HEADCLIP_PACS_PASSWORD", "wrong-secret-99")
    for command in (("echo", orthanc.web), ("find", orthanc.web), ("push", folder, orthanc.web)):
        ran = run("pacs", *command)
        assert (ran.exit_code, ran.stderr.count("error:")) == (1, 1)
        assert "must accept the credentials; given: it refused them (401)" in ran.stderr
    monkeypatch.setenv("HEADCLIP_PACS_AET", "STRANGER")
    ran = run("pacs", "find", orthanc.dimse)
    assert ran.exit_code == 1, ran.output


def test_a_bad_address_does_not_stop_the_other_cases(
    run: Any, orthanc: Orthanc, series: tuple[CtSeries, Path], tmp_path: Path, tiny_pack: Path
) -> None:
    made, folder = series
    run("pacs", "push", folder, orthanc.web)
    good, bad = f"{orthanc.web}/{_study(folder)}/{made.uid}", f"{orthanc.web}/1.2.3/1.2.4"
    nowhere = f"dicomweb://127.0.0.1:{free_port()}/x/studies/1.2.5"
    ran = _predict(run, tiny_pack, bad, good, nowhere, "--out", tmp_path / "out", "--format", "json", "--json")
    assert ran.exit_code == 1
    told = {case["name"]: case["status"] for case in json.loads(ran.stdout)["cases"]}
    study = pseudonym("1.2.5", "study")
    assert told == {pseudonym(made.uid): "done", pseudonym("1.2.4"): "failed", study: "failed"}


@forgets_sockets
@pytest.mark.parametrize("scheme", ["dicomweb://127.0.0.1:{}/x", "dimse://X@127.0.0.1:{}"])
def test_no_server_and_a_silent_one_are_told_in_words(run: Any, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = run("pacs", "echo", scheme.format(free_port()))
    assert (ran.exit_code, ran.stderr.count("error:")) == (1, 1)
    assert "must answer at 127.0.0.1:" in ran.stderr
    monkeypatch.setenv("HEADCLIP_PACS_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ran = run("pacs", "echo", scheme.format(silent.getsockname()[1]))
    assert (ran.exit_code, ran.stderr.count("error:")) == (1, 1)
    assert "127.0.0.1:" in ran.stderr


def _certificate(folder: Path) -> tuple[Path, Path]:
    import ipaddress

    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(timezone.utc)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    key_path, path = folder / "key.pem", folder / "certificate.pem"
    pem = serialization.Encoding.PEM
    nothing = serialization.NoEncryption()
    key_path.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, nothing))
    path.write_bytes(made.public_bytes(pem))
    return key_path, path


@forgets_sockets
def test_tls_needs_a_trusted_certificate_and_then_carries_everything(
    run: Any, series: tuple[CtSeries, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, folder = series
    monkeypatch.setenv("HEADCLIP_PACS_TIMEOUT", "2")
    certificate = _certificate(tmp_path)
    archive = Orthanc(tmp_path / "orthanc", tls=certificate)
    archive.start()
    wire = Wire(archive.http_port, tls=certificate)
    web = f"dicomwebs://127.0.0.1:{wire.port}/dicom-web"
    try:
        for service in (web, archive.dimse):
            ran = run("pacs", "echo", service)
            assert (ran.exit_code, ran.stderr.count("error:")) == (1, 1)
            assert "certificate" in ran.stderr
            ran = run("pacs", "echo", service.replace("s://", "://"))
            assert (ran.exit_code, ran.stderr.count("error:")) == (1, 1)
        monkeypatch.setenv("HEADCLIP_PACS_CA", str(tmp_path / "certificate.pem"))
        assert run("pacs", "push", folder, web).stdout == f"{web}: 12 stored, 0 there already\n"
        assert run("pacs", "push", folder, archive.dimse).stdout == f"{archive.dimse}: 0 stored, 12 there already\n"
        for number, end in enumerate((f"{web}/{{}}/{{}}", f"{archive.dimse}/{{}}/{{}}")):
            out = tmp_path / f"pulled{number}"
            assert run("pacs", "pull", end.format(_study(folder), made.uid), "-o", out).exit_code == 0
            _assert_datasets_equal(out, folder)
    finally:
        wire.close()
        archive.kill()
