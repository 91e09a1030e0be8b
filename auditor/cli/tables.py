"""Summaries on the terminal: audit, comparison, replay, plugin check. They fit 80 columns."""

from __future__ import annotations

import io
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from auditor.findings import formatting
from auditor.findings.comparison_record import ComparisonRecord, metric_of
from auditor.findings.comparison_record import Outcome as ComparisonOutcome
from auditor.findings.finding import Status
from auditor.findings.record import IntervalRecord, ProbeRecord, metric_spec
from auditor.report import documented
from auditor.report.gaps import STATUS_TEXTS
from auditor.report.group_gaps import severity_text
from auditor.report.plain_summary import plain_summary
from auditor.report.summary import file_name, headline, key_metric
from auditor.run.request import Outcome

if TYPE_CHECKING:
    from auditor.conformance.package import Report
    from auditor.run.replay import Claim

MARKS: dict[Status, str] = {
    "pass": "green",
    "fail": "bold red",
    "inconclusive": "yellow",
    "informative": "cyan",
    "not-applicable": "dim",
    "error": "bold magenta",
}
"""Style of each status."""

_OUTCOMES: dict[ComparisonOutcome, str] = {"better": "green", "worse": "bold red", "different": "yellow"}
_CHECKS = {"ok": "green", "FAILED": "bold red", "n/a": "dim"}
_GAP = "  "

_Row = Sequence[str]


def summary(outcome: Outcome, *, width: int | None = None) -> str:
    """Return the table of probes, reasons of missing results, the plain-language summary, the verdict and the files."""
    console, sink = _console(width)
    audit = outcome.audit
    console.print()
    _print_lines(console, _probe_lines(audit["probes"], console.width))
    if rows := documented.lines(audit):
        _print_lines(console, _documented_lines(rows, console.width))
    for text in [*_without_result(audit["probes"]), *plain_summary(audit)]:
        console.print(Text("\n").join(_list_item(console, text)))
    console.print()
    reason = audit.get("verdict_reason", "")
    colour = {"pass": "bold green", "fail": "bold red"}.get(audit["verdict"], "bold yellow")
    _print_verdict(console, audit["verdict"].upper(), reason[:1].upper() + reason[1:], colour)
    _print_files(console, outcome.files)
    return "\n".join(line.rstrip() for line in sink.getvalue().rstrip("\n").split("\n"))


def _print_lines(console: Console, lines: Sequence[Text]) -> None:
    for line in lines:
        console.print(line, no_wrap=True, overflow="ellipsis")
    console.print()


def _print_verdict(console: Console, verdict: str, reason: str, colour: str) -> None:
    console.print(f"Verdict: [{colour}]{verdict}[/]. {escape(reason)}.")


def _print_files(console: Console, files: Sequence[Path]) -> None:
    for file in files:
        console.print(f"  {file}", soft_wrap=True, markup=False)


def _list_item(console: Console, text: str) -> list[Text]:
    """Wrap a text as a list item with indented further lines."""
    lines = Text(text).wrap(console, console.width - 2)
    return [Text("  " if number else "- ") + line for number, line in enumerate(lines)]


def _without_result(probes: Sequence[ProbeRecord]) -> list[str]:
    """List the probes that broke or were not applicable, with the reason."""
    return [
        f"{probe['id']} {STATUS_TEXTS[status]}: {probe['reason']}"
        for status in ("error", "not-applicable")
        for probe in probes
        if probe["status"] == status
    ]


def _probe_lines(probes: Sequence[ProbeRecord], width: int) -> list[Text]:
    """Return the table of probes, one line each; a number that does not fit loses its interval."""
    rows: list[_Row] = [("probe", "status", "key metric", "n", "units")]
    rows += [(probe["id"], _status(probe), headline(probe), _images(probe), _units(probe)) for probe in probes]
    if not any(row[4] for row in rows[1:]):
        rows = [row[:4] for row in rows]
    other_columns = sum(max(len(row[column]) for row in rows) for column in range(len(rows[0])) if column not in {0, 2})
    other_columns += (len(rows[0]) - 1) * len(_GAP)
    room = width - other_columns - min(max(len(row[0]) for row in rows), width - other_columns - 12)
    fitting = [(*row[:2], _shortened(row[2], room), *row[3:]) for row in rows]
    return _lines(fitting, {1: [MARKS[probe["status"]] for probe in probes]}, {3, 4}, width)


def _images(probe: ProbeRecord) -> str:
    """Return n of the key metric; without a key metric that of the probe."""
    metric = key_metric(probe)
    return str((metric["n"] if metric else probe["n"]) or "-")


def _units(probe: ProbeRecord) -> str:
    """Return the number of units of the key metric; empty if its interval is not over units."""
    units = probe["metrics"][0].get("units") if probe["metrics"] else None
    return "" if units is None else str(units)


def _shortened(number: str, room: int) -> str:
    return number if len(number) <= room else number.partition(" [")[0][:room]


def _lines(rows: Sequence[_Row], styles: Mapping[int, Sequence[str]], right: Container[int], width: int) -> list[Text]:
    """Return a table with one line per row; the first row is the head.

    The first column is cut if the table is wider than ``width``. ``styles`` are those of the cells of a column below
    the head; the columns in ``right`` are right-aligned.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    widths[0] = min(widths[0], max(width - sum(widths[1:]) - len(_GAP) * (len(widths) - 1), 12))
    lines = []
    for position, row in enumerate(rows):
        line = Text()
        for column, cell in enumerate(row):
            text = cell if len(cell) <= widths[column] else cell[: widths[column] - 1] + "…"
            style = "bold" if position == 0 else styles[column][position - 1] if column in styles else ""
            padded = f"{text:>{widths[column]}}" if column in right else f"{text:<{widths[column]}}"
            line.append(_GAP if column else "").append(padded, style=style)
        lines.append(line)
    return lines


def _status(probe: ProbeRecord) -> str:
    """Return the status, and the severity of a failure."""
    status = "n/a" if probe["status"] == "not-applicable" else probe["status"]
    return status + (f" ({probe['severity']})" if probe["severity"] != "none" else "")


def _documented_lines(rows: Sequence[documented.Line], width: int) -> list[Text]:
    """Return a line per published number, grouped by owner."""
    head = ("documented and measured", "documented", "measured", "")
    table = [
        # the documented column has a dash already
        (f"  {row.name}", row.documented, row.measured, row.comparison.replace("no number documented", "–"))
        for row in rows
    ]
    first, *lines = _lines([head, *table], {}, {1, 2}, width)
    found = [first]
    for position, line in enumerate(lines):
        if position == 0 or rows[position].owner != rows[position - 1].owner:
            found.append(Text(rows[position].owner))
        found.append(line)
    return found


def comparison(result: ComparisonRecord, files: Sequence[Path], *, width: int | None = None) -> str:
    """Return the differences between runs, the key metrics or the leaderboard, the verdict and the files."""
    console, sink = _console(width)
    for line in _comparison_notes(result):
        console.print(line, markup=False)
    console.print()
    rows = _key_metrics if len(result["runs"]) == 2 else _leaderboard
    _print_lines(console, rows(result, console.width))
    colour = {"better": "bold green", "worse": "bold red"}.get(result["verdict"], "bold yellow")
    _print_verdict(console, result["verdict"].replace("-", " ").upper(), result["verdict_reason"], colour)
    _print_files(console, files)
    return sink.getvalue().rstrip("\n")


def _comparison_notes(result: ComparisonRecord) -> list[str]:
    """List the runs, their differences and the probes that are not compared."""
    runs = result["runs"]
    lines = [
        f"{run['name']}  {run['path']}: {file_name(run['model']['path'])}, {run['data']['n']} images" for run in runs
    ]
    for item in result["differences"]:
        values = "; ".join(f"{run['name']}: {value}" for run, value in zip(runs, item["values"], strict=True))
        lines.append(f"- {item['what']} ({values}): {item['effect']}")
    worst = {gap["run"]: gap for gap in reversed(result.get("gaps", []))}
    lines += [
        f"- {runs[run]['name']}: worst gap between groups, {severity_text(gap['severity'])}: {gap['statement']}"
        for run, gap in sorted(worst.items())
    ]
    lines += [f"- {probe['id']} is not compared: {probe['reason']}" for probe in result["probes"] if probe["reason"]]
    return lines


def _key_metrics(result: ComparisonRecord, width: int) -> list[Text]:
    rows = [["probe", *(run["name"] for run in result["runs"]), "change", "p", "outcome"]]
    styles = []
    for probe in result["probes"]:
        for metric in (metric for metric in probe["metrics"] if metric["headline"]):
            (pair,) = metric["pairs"]
            spec = metric_spec(probe.get("metric_specs", []), metric["name"])
            numbers = [formatting.value(metric_of(metric, value), spec) for value in metric["values"]]
            change: IntervalRecord = {**pair["difference"], "low": None, "high": None}
            numbers.append(formatting.difference(metric["unit"], change))
            cells = [number.replace(" points", "") for number in numbers]
            styles.append(_OUTCOMES.get(pair["outcome"], "dim"))
            outcome = pair["outcome"].replace("-", " ")
            rows.append([probe["id"], *cells, formatting.probability(pair["p_adjusted"]), outcome])
    return _lines(rows, {len(rows[0]) - 1: styles}, range(1, len(rows[0]) - 1), width)


def _leaderboard(result: ComparisonRecord, width: int) -> list[Text]:
    rows = [["run", "rank", "better", "worse", "no difference"]]
    for row in result["leaderboard"]:
        run = result["runs"][row["run"]]
        counts = [str(count) for count in (row["rank"], row["better"], row["worse"], row["no_difference"])]
        rows.append([f"{run['name']} {file_name(run['model']['path'])}", *counts])
    return _lines(rows, {}, range(1, 5), width)


def replayed_claims(claims: Sequence[Claim], *, verbose: bool = False, width: int | None = None) -> str:
    """Return the claims of a replay with the images whose prediction differs; with all images if ``verbose``."""
    console, sink = _console(width)
    for claim in claims:
        _print_claim(console, claim, verbose=verbose)
    images = [image for claim in claims for image in claim.images]
    n_holding = sum(image.holds for image in images)
    ending = f"{n_holding} of {len(images)} stored images have the reported prediction."
    console.print(f"{sum(claim.holds for claim in claims)} of {len(claims)} claims hold: {ending}", soft_wrap=True)
    return sink.getvalue().rstrip("\n")


def _print_claim(console: Console, claim: Claim, *, verbose: bool) -> None:
    n_holding = sum(image.holds for image in claim.images)
    line = Text("holds  " if claim.holds else "DIFFERS", style="green" if claim.holds else "bold red")
    console.print(line.append(f"  {claim.finding}: {n_holding} of {len(claim.images)} images", style="default"))
    indent = " " * 9
    for text in Text(claim.statement).wrap(console, console.width - len(indent)):
        console.print(Text(indent, style="dim") + text, style="dim")
    for image in claim.images:
        if verbose or not image.holds:
            console.print(f"{indent}{image.text}", soft_wrap=True, markup=False)


def conformity(report: Report, *, quiet: bool = False, width: int | None = None) -> str:
    """Return the result of a plugin check, probe by probe; only failed checks if ``quiet``."""
    console, sink = _console(width)
    for subject in report.subjects:
        checks = [c for c in report.checks if c.subject == subject and (c.outcome == "FAILED" or not quiet)]
        if not checks:
            continue
        console.print(subject or f"{report.package} {report.version}", markup=False, style="bold")
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for check in checks:
            table.add_row(f"  [{_CHECKS[check.outcome]}]{check.outcome}[/]", check.name, escape(check.message))
        console.print(table)
    n_failed, n_probes = len(report.failed), len(report.probes)
    n_checks = sum(check.outcome != "n/a" for check in report.checks)
    probes = f"{formatting.counted(n_probes, 'probe')} of " if n_probes else ""
    total = f"{probes}{report.package}, {n_checks} checks"
    result = f"[bold red]{n_failed} FAILED[/]" if n_failed else "[bold green]all passed[/]"
    console.print(f"{total}: {result}")
    return "\n".join(line.rstrip() for line in sink.getvalue().splitlines())


def _console(width: int | None) -> tuple[Console, io.StringIO]:
    """Return a console that writes to a text, with the colours and at most the width of the terminal."""
    sink = io.StringIO()
    terminal = Console()
    console = Console(
        file=sink,
        width=width or min(terminal.width, 100),
        force_terminal=terminal.is_terminal,
        no_color=terminal.no_color,
        highlight=False,
    )
    return console, sink
