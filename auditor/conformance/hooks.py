"""The checks of what a plugin provides next to probes: formats, families, suites, policies, reports, publishers."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.conformance.bench import Bench, Planned
from auditor.conformance.formats import check_copy, check_pictures, check_same_scores, check_source, classifier_of
from auditor.conformance.subject import Breach
from auditor.errors import AuditorError, BadInput, NotApplicable
from auditor.plugin.registry import called, check_probe
from auditor.plugin.suite import read_suite
from auditor.policy.rules import read_policy

if TYPE_CHECKING:
    from auditor.plugin.family import ProbeFamily
    from auditor.report import ReportFormat

_OPENERS = {"model format": "auditor_open_model", "data source": "auditor_open_images"}


def of_hooks(bench: Bench) -> Iterator[Planned]:
    """Plan the checks of everything that the package provides next to probes."""
    for subject, hook in _OPENERS.items():
        if bench.implementations(hook):
            yield from _of_a_format(bench, subject, hook)
    for family in _offered(bench, "auditor_probe_families"):
        yield Planned(f"family {family.name}", "generates probes", partial(_generates, family))
    for path in _offered(bench, "auditor_suites"):
        yield Planned(f"suite {path.stem}", "can be read", partial(_reads_suite, bench, path))
    for path in _offered(bench, "auditor_policies"):
        yield Planned(f"policy {path.stem}", "can be read", partial(_reads_policy, bench, path))
    for report in _offered(bench, "auditor_report_formats"):
        yield from _of_a_report(bench, report)
    if bench.implementations("auditor_run_finished"):
        yield Planned("publisher", "publishes a run", partial(_publishes, bench))


def _offered(bench: Bench, hook: str) -> list[Any]:
    """Return what the package provides by a hook."""
    found: list[Any] = []
    for implementation in bench.implementations(hook):
        # the registry calls these hooks, too: a hook that raises fails the check "loads"
        with contextlib.suppress(Exception):
            found += called(implementation)
    return found


def _of_a_format(bench: Bench, subject: str, hook: str) -> Iterator[Planned]:
    """Plan the checks of a model or data format."""

    @cache
    def example() -> tuple[Path, Any]:
        return _example(bench, hook)

    def check(name: str, function: Callable[..., object]) -> Planned:
        return Planned(subject, name, lambda: function(*example()))

    yield Planned(subject, "leaves other files alone", partial(_ignores_others, bench, hook))
    if hook == "auditor_open_model":
        yield check("opens an example", classifier_of)
        yield check("same scores in any batch", check_same_scores)
        yield check("copy computes the same", check_copy)
    else:
        yield check("opens an example", check_source)
        yield check("reads pictures", check_pictures)
    yield check("refuses a damaged file", lambda path, _: _refuses_damage(bench, hook, path))


def _open(bench: Bench, hook: str, path: Path) -> Any:
    """Open a file by the package's own hooks; None if it is not of a format of the package."""
    found = (called(each, path=path, device="cpu", trust=False, output="") for each in bench.implementations(hook))
    return next((opened for opened in found if opened is not None), None)


def _example(bench: Bench, hook: str) -> tuple[Path, Any]:
    """Return the first example file that the hook opens, and what it is opened as."""
    folder = bench.folder / "examples" / hook
    folder.mkdir(parents=True)
    for implementation in bench.implementations("auditor_example_files"):
        for path in called(implementation, folder=folder):
            if (opened := _open(bench, hook, path)) is not None:
                return path, opened
    raise Breach(
        f"no file to check {hook} with: write a small one in the hook auditor_example_files(folder) and return its path"
    )


def _ignores_others(bench: Bench, hook: str) -> None:
    """Check that a file of an unknown format is left to other plugins."""
    path = bench.folder / "other.unknown-format"
    path.write_bytes(b"\0not a file of this format\n")
    if _open(bench, hook, path) is not None:
        raise Breach(f"{hook} opens {path.name}; return None for files of other formats")


def _refuses_damage(bench: Bench, hook: str, path: Path) -> None:
    """Check that half a file is refused with one sentence, or not taken for one of the format."""
    if path.is_dir():
        raise NotApplicable("the example is a folder")
    content = path.read_bytes()
    damaged = path.with_name(f"damaged{''.join(path.suffixes)}")
    damaged.write_bytes(content[: len(content) // 2])
    try:
        opened = _open(bench, hook, damaged)
        if opened is not None and hook == "auditor_open_model":
            classifier_of(damaged, opened)
    except AuditorError:
        return
    except Exception as error:
        raise Breach(
            f"{hook} raises {type(error).__name__} for half a file ({error}); raise auditor.BadInput with one sentence:"
            " what, where, what to do"
        ) from None


def _generates(family: ProbeFamily) -> None:
    """Check that the names of a family are unique and that its first probe keeps the rules of probes."""
    members = list(family.members())
    ids = {family.probe_id(member) for member in members}
    if not members or len(ids) < len(members):
        raise Breach(f"members returned {len(members)} names with {len(ids)} ids; expected names with unique ids")
    for member in members:
        try:
            kind = family.probe(member)
        except BadInput:
            continue
        check_probe(kind)
        if kind.meta.id != family.probe_id(member):
            raise Breach(f"the probe of {member} has the id {kind.meta.id}; expected {family.probe_id(member)}")
        return
    raise Breach(f"refuses all of its {len(members)} members")


def _reads_suite(bench: Bench, path: Path) -> None:
    if bench.plugins.suites().get(path.stem) != path:
        raise Breach(f"another suite is called {path.stem}; rename the file")
    read_suite(path, bench.plugins)


def _reads_policy(bench: Bench, path: Path) -> None:
    known = bench.plugins.policies()
    if known.get(path.stem) != path:
        raise Breach(f"another policy is called {path.stem}; rename the file")
    read_policy(path.stem, bench.plugins.probes, policies=known)


def _of_a_report(bench: Bench, report: ReportFormat) -> Iterator[Planned]:
    subject = f"report format {getattr(report, 'name', report)}"
    yield Planned(subject, "is a report format", partial(_is_a_report, bench, report))
    yield Planned(subject, "is a pure view", partial(_is_pure, bench, report))


def _is_a_report(bench: Bench, report: Any) -> None:
    """Check type, name and file name."""
    from auditor.report import ReportFormat

    if not isinstance(report, ReportFormat):
        raise Breach(f"auditor_report_formats returned {type(report).__name__}; expected auditor.ReportFormat")
    if report.name not in bench.plugins.formats():
        raise Breach(f"the name {report.name!r} is not registered")
    file = Path(report.file)
    if file.is_absolute() or ".." in file.parts or report.file in {"audit.json", "manifest.json"}:
        raise Breach(f"file is {report.file!r}; expected a file name in the run folder that is not taken")
    others = {each.file: name for name, each in bench.plugins.formats().items() if name != report.name}
    if report.file in others:
        raise Breach(f"file is {report.file!r}, as of the format {others[report.file]}; choose another name")


def _is_pure(bench: Bench, report: ReportFormat) -> None:
    """Check that rendering twice gives the same bytes and changes neither the audit nor the run folder."""
    from auditor.run.writing import drawn

    audit, run = bench.outcome.audit, bench.outcome.out
    given, before = copy.deepcopy(audit), _files(run)
    page = report.on("a4")
    one, two = (b"".join(part for part in drawn(page, given, run) if part is not None) for _ in range(2))
    if given != audit:
        raise Breach("render changed the audit; work on a copy")
    if _files(run) != before:
        raise Breach("render wrote into the run folder; return the bytes of the file")
    if not one or one != two:
        raise Breach(f"render returned {len(one)} and {len(two)} bytes for the same audit; expected the same bytes")


def _files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def _publishes(bench: Bench) -> None:
    """Check that the hook ran without an error at the end of a real audit, and changed no file of the run."""
    problems = [problem for problem in bench.outcome.problems if "auditor_run_finished" in problem]
    if problems:
        raise Breach(problems[0])
