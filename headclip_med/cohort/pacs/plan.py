"""Predict from and to an archive: its series become cases, and what was made of them is pushed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from headclip_med.base.errors import HeadclipError, InputError, OutputError
from headclip_med.base.names import DICOM_FORMATS
from headclip_med.cohort.options import CaseOptions
from headclip_med.cohort.outcome import CaseOutcome, Watcher
from headclip_med.cohort.pacs.access import Access
from headclip_med.cohort.pacs.address import Address, is_address, parse_address, parse_service
from headclip_med.cohort.pacs.archive import Progress, check_pacs_extra, pseudonym, with_retries
from headclip_med.cohort.pacs.open import check_choice, open_archive, series_of
from headclip_med.cohort.pacs.pull import PULLED_NAME, Cancel, PulledCases, pull_series, remove_spool
from headclip_med.cohort.pacs.push import PushOutcome, dicom_objects, push_files, push_json, push_problems
from headclip_med.reading.inputs import CaseInput, expand_inputs

SPOOL_NAME = ".pacs-spool"
PUSHED_FORMATS = ("seg", "pm", "sr", "sc")  # written for a push where no DICOM format is asked for


@dataclass(frozen=True)
class NetworkSource:
    """Pulls a series when it is called. Credentials are read only then, so that it can go to another process.

    Attributes:
        address: of the series.
        folder: where to.
    """

    address: Address
    folder: Path

    def __call__(self, progress: Progress | None = None, cancel: Cancel | None = None) -> Path:
        """Pull the series, see :func:`headclip_med.cohort.pacs.pull.pull_series`.

        Args:
            progress: Told of instances there, and in all.
            cancel: Whether to stop.

        Returns:
            The folder with the whole series.

        Raises:
            HeadclipError: It cannot be pulled.
        """
        access = Access.from_environment()
        archive, study, series = open_archive(self.address, access), self.address.study, self.address.series
        if study is None or series is None:
            raise InputError("A series must be named with its study", "a part of it")
        pull_series(archive, study, series, self.folder, access.attempts, progress, cancel)
        return self.folder


@dataclass(frozen=True)
class KnownContent:
    """Asks the archive whether a series still has the instances that a finished case was made from.

    Attributes:
        address: of the series.
        out: folder of the results.
    """

    address: Address
    out: Path

    def __call__(self) -> str | None:
        """Give the hash of their content, or None where that is not known.

        Returns:
            The hash, as hexadecimal digits.
        """
        study, series = str(self.address.study), str(self.address.series)
        try:
            access = Access.from_environment()
            archive = open_archive(self.address, access)
            listed = with_retries(lambda: archive.instances(study, series), access.attempts)
        except HeadclipError:
            return None  # the pull will say why
        return PulledCases(self.out).content_of(pseudonym(series), (instance.uid for instance in listed))


@dataclass(frozen=True)
class FailedSource:
    """Raises what went wrong when the series of a study were listed: the other cases still run.

    Attributes:
        error: to be raised.
    """

    error: HeadclipError

    def __call__(self, progress: Progress | None = None, cancel: Cancel | None = None) -> Path:
        """Raise the error.

        Args:
            progress, cancel: Not asked.

        Returns:
            Never anything.
        """
        raise self.error


@dataclass
class NetworkRun:
    """Holds what one run has to do with archives.

    Attributes:
        cases: of all inputs, local ones first.
        options: with DICOM formats where they are pushed.
        out, spool: folders of the results and of pulled series.
        target: where to push, None for nowhere.
        keep_spool: whether pulled series stay when their case is done.
        pushed: what became of each case's objects.
        warnings: to say before anything is sent.
    """

    cases: list[CaseInput]
    options: CaseOptions
    out: Path
    spool: Path
    target: Address | None = None
    keep_spool: bool = False
    pushed: dict[str, PushOutcome] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything that should be pushed is in the archive."""
        return all(outcome.ok for outcome in self.pushed.values())

    def watching(self, inner: Watcher, say: Callable[[str], None]) -> Watcher:
        """Make a watcher that also pushes and tidies up after each case.

        Args:
            inner: is told everything too.
            say: gets errors.

        Returns:
            ``inner`` itself where no archive is involved.
        """
        uses_network = self.target is not None or any(case.fetch is not None for case in self.cases)
        return _CaseEnds(self, inner, say) if uses_network else inner

    def as_json(self) -> dict[str, Any]:
        """Give what ``predict --json`` adds.

        Returns:
            Plain JSON values.
        """
        return {} if self.target is None else {"push": {name: push_json(made) for name, made in self.pushed.items()}}


def plan_network(
    inputs: Sequence[str],
    out: Path,
    options: CaseOptions,
    *,
    push: str | None = None,
    spool: Path | None = None,
    keep_spool: bool = False,
    reserved: Iterable[str] = (),
) -> NetworkRun:
    """Turn inputs of both kinds into the cases of a run. Only studies are asked for their series, nothing is pulled.

    Args:
        inputs: paths and addresses.
        out: folder of the results.
        options: of every case.
        push: address of the archive to push to.
        spool: folder of pulled series, ``.pacs-spool`` in ``out`` by default.
        keep_spool: whether pulled series stay when their case is done.
        reserved: names that no case may have.

    Returns:
        What to run.

    Raises:
        InputError: an address, the environment, or options that do not go together.
        MissingExtraError: an address without the packages for it.
    """
    remote = [text for text in inputs if is_address(text)]
    local = [text for text in inputs if not is_address(text)]
    addresses = [parse_address(text) for text in remote]
    target = None if push is None else parse_service(push, "The archive to push to")
    reserved = [*reserved, PULLED_NAME]
    if not addresses and target is None:
        return NetworkRun(expand_inputs(inputs, reserved), options, out, out / SPOOL_NAME)
    check_pacs_extra()
    if addresses and local and options.ask.series is not None:
        raise InputError(
            "--series must choose within files or within archives", "inputs of both kinds", "Run them apart"
        )
    spool = spool or out / SPOOL_NAME
    access = Access.from_environment()
    warnings = {access.warning_for(address) for address in (*addresses, *([target] if target else []))} - {None}
    cases = [case for address in addresses for case in _cases(address, access, out, spool, options.ask.series)]
    cases = list({case.name: case for case in cases}.values())
    if addresses:
        options = replace(options, ask=replace(options.ask, series=None))  # chosen; each folder holds one series
    if target is not None and not set(DICOM_FORMATS) & set(options.formats):
        options = replace(options, formats=(*options.formats, *PUSHED_FORMATS))
    named = expand_inputs(local, [*reserved, *(case.name for case in cases)])
    return NetworkRun(
        [*named, *cases], options, out, spool, target, keep_spool, warnings=tuple(sorted(map(str, warnings)))
    )


def _cases(address: Address, access: Access, out: Path, spool: Path, wanted: str | None) -> list[CaseInput]:
    """One case per series; named so that nothing of the patient is in it."""
    archive, study = open_archive(address, access), check_choice(address, wanted)
    try:
        found = series_of(archive, address, wanted, access.attempts)
    except HeadclipError as error:
        name = pseudonym(study, "study")
        return [CaseInput(name, spool / name, FailedSource(error))]
    return [_case(replace(address, study=series.study, series=series.uid), out, spool) for series in found]


def _case(address: Address, out: Path, spool: Path) -> CaseInput:
    name = pseudonym(str(address.series))
    return CaseInput(name, spool / name, NetworkSource(address, spool / name), KnownContent(address, out))


class _CaseEnds(Watcher):
    """Passes everything on, and after each case pushes its objects and removes what was pulled for it."""

    def __init__(self, run: NetworkRun, inner: Watcher, say: Callable[[str], None]) -> None:
        self.run, self.inner, self.say = run, inner, say
        self._pulled = {case.name: case.source for case in run.cases if case.fetch is not None}

    def case_started(self, number: int, cases: int, name: str) -> None:
        self.inner.case_started(number, cases, name)

    def slices_done(self, done: int, total: int) -> None:
        self.inner.slices_done(done, total)

    def case_ended(self, outcome: CaseOutcome) -> None:
        self.inner.case_ended(outcome)
        if outcome.status not in ("done", "skipped") or outcome.folder is None:
            return
        if self.run.target is not None:
            self._push(outcome.name, outcome.folder, self.run.target)
        source = self._pulled.get(outcome.name)
        if not isinstance(source, Path):
            return
        try:
            PulledCases(self.run.out).remember(outcome.name, source, outcome.folder)
        except OutputError as error:  # costs no more than another pull
            self.say(f"{outcome.name}: {error}")
        if not self.run.keep_spool:
            remove_spool(source)

    def _push(self, name: str, folder: Path, target: Address) -> None:
        try:
            access = Access.from_environment()
            archive, files = open_archive(target, access), dicom_objects(folder)
            made = push_files(archive, files, access.attempts, self.inner.slices_done)
        except HeadclipError as error:  # the cases that follow are worth trying
            made = PushOutcome(0, 0, (), 1, str(error))
        self.run.pushed[name] = made
        for problem in push_problems(made, f"headclip-med pacs push {self.run.out} {target.service}"):
            self.say(f"{name}: {problem}")
