"""Write audit.json and the reports."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from auditor.errors import BadInput, one_line
from auditor.findings.record import AuditRecord
from auditor.plugin.registry import Registry
from auditor.report import ReportFormat
from auditor.run.folder import RunFolder
from auditor.run.request import Outcome
from auditor.run.watch import Watch
from auditor.toml import nearest


def pick_formats(
    plugins: Registry, names: Sequence[str], paper: str = "a4", extent: str = "full"
) -> list[ReportFormat]:
    """Return the report formats with these names, for a paper size and extent of the PDF.

    Raises BadInput for an unknown name.

    "json" is not among them: audit.json is always written.
    """
    known: dict[str, ReportFormat] = plugins.formats()
    for name in names:
        if name != "json" and name not in known:
            hint = nearest(name, ["json", *known])
            raise BadInput(f"--format {name}: no such format{hint}; expected one of {', '.join(['json', *known])}")
        if not isinstance(known.get(name), ReportFormat | None):
            raise BadInput(f"--format {name}: not an auditor.report.ReportFormat; fix its plugin")
    return [known[name].on(paper, extent) for name in dict.fromkeys(names) if name != "json"]


def prepare(formats: Sequence[ReportFormat]) -> None:
    """Let slow formats start early; ``render`` reports their errors."""
    for report_format in formats:
        if report_format.prepare is not None:
            with contextlib.suppress(Exception):
                report_format.prepare()


def finish(
    audit: AuditRecord, folder: RunFolder, formats: Sequence[ReportFormat], watch: Watch | None = None
) -> Outcome:
    """Write audit.json, then every report. A report that breaks is named; the others are still written."""
    watch = watch or Watch()
    files = [folder.write_json("audit.json", audit)]
    lost = watch.casualties.reports
    problems = [f"{each.file} was not written: {lost[each.file]}" for each in formats if each.file in lost]
    # paged formats render in another process: start them first, collect them last
    ordered = sorted((each for each in formats if each.file not in lost), key=lambda each: not each.paged)
    waiting = deque((each.file, drawn(each, audit, folder.path)) for each in ordered)
    while waiting:
        file, drawing = waiting.popleft()
        watch.doing("report", file)
        try:
            content = next(drawing)
            if content is None:
                waiting.append((file, drawing))
            else:
                files.append(folder.write(file, content))
        except BaseException as error:
            if watch.ends_audit(error):
                raise
            problems.append(f"{file} was not written: {one_line(error)}")
    broken = any(probe["status"] == "error" for probe in audit["probes"]) or any(p["error"] for p in audit["plugins"])
    return Outcome(audit=audit, out=folder.path, files=files, incomplete=broken or bool(problems), problems=problems)


def drawn(report_format: ReportFormat, audit: AuditRecord, folder: Path) -> Iterator[bytes | None]:
    """Yield the bytes of a report, after None if another process renders it."""
    content = report_format.render(audit, folder)
    if isinstance(content, Iterator):
        yield from content
    else:
        yield content
