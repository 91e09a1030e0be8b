"""Write audit.json and the reports."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.errors import BadInput, one_line
from auditor.plugin.registry import Registry
from auditor.run.folder import RunFolder

if TYPE_CHECKING:
    pass
from auditor.run.request import Outcome


def pick_formats(plugins: Registry, names: Sequence[str], paper: str = "a4") -> list[Any]:
    """The report formats called so, on that paper; audit.json is always written. Raises BadInput for an unknown one."""
    known = plugins.formats()
    for name in names:
        if name != "json" and name not in known:
            raise BadInput(f"--format {name}: no such format; expected some of {', '.join(['json', *known])}")
    return [_on_paper(known[name], paper) for name in dict.fromkeys(names) if name != "json"]


def prepare(formats: Sequence[Any]) -> None:
    """Let formats that take long to start begin already; what one cannot do, its ``render`` will say."""
    for form in formats:
        if begin := getattr(form, "prepare", None):
            with contextlib.suppress(Exception):
                begin()


def _on_paper(form: Any, paper: str) -> Any:
    """The format for this size of paper; a plugin's format need not know of paper."""
    return form.on(paper) if hasattr(form, "on") else form


def finish(audit: dict[str, Any], folder: RunFolder, formats: Sequence[Any]) -> Outcome:
    """Write audit.json, then every report; a report that breaks is named and does not take the others with it."""
    files = [folder.write_json("audit.json", audit)]
    problems: list[str] = []
    # what another process draws is begun first and asked for last: the others are written while it works
    first = sorted(formats, key=lambda fmt: not getattr(fmt, "paged", False))
    drawings = deque((fmt.file, drawn(fmt, audit, folder.path)) for fmt in first)
    while drawings:
        file, drawing = drawings.popleft()
        try:
            content = next(drawing)
            if content is None:
                drawings.append((file, drawing))
            else:
                files.append(folder.write(file, content))
        except Exception as error:
            problems.append(f"{file} was not written: {one_line(error)}")
    broken = any(p["status"] == "error" for p in audit["probes"]) or any(p["error"] for p in audit["plugins"])
    return Outcome(
        audit=audit, out=folder.path, files=files, incomplete=broken or bool(problems), problems=problems
    )  # fmt: skip


def drawn(fmt: Any, audit: Mapping[str, Any], folder: Path) -> Iterator[bytes | None]:
    """A report's bytes, after None where another process draws it."""
    content = fmt.render(audit, folder)
    if isinstance(content, Iterator):
        yield from content
    else:
        yield content
