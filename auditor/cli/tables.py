"""What an audit shows on a terminal: a bar while it runs, a summary at the end; plain lines where there is no
terminal."""

from __future__ import annotations

import io
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from auditor.findings import formatting
from auditor.report import documented
from auditor.report.summary import file_name, headline, sentences
from auditor.run.request import Outcome

if TYPE_CHECKING:
    from auditor.conformance.package import Report
    from auditor.run.replay import Claim


MARKS = {"pass": "green", "fail": "bold red", "inconclusive": "yellow", "informative": "cyan",
          "not-applicable": "dim", "error": "bold magenta"}  # fmt: skip


def summary(outcome: Outcome, *, width: int | None = None) -> str:
    """Verdict, table of probes, the sentences that matter, where the report is; fits 80 columns, one line a probe."""
    console, sink = _console(width)
    audit = outcome.audit
    console.print()
    for line in _probe_lines(audit["probes"], console.width):
        console.print(line, no_wrap=True, overflow="ellipsis")
    console.print()
    if rows := documented.lines(audit):
        for line in _documented(rows, console.width):
            console.print(line, no_wrap=True, overflow="ellipsis")
        console.print()
    for text in [*_left_out(audit["probes"]), *sentences(audit)]:
        console.print(Text("\n").join(_hanging(console, text)))
    console.print()
    colour = {"pass": "bold green", "fail": "bold red"}.get(audit["verdict"], "bold yellow")
    reason = audit["verdict_reason"][:1].upper() + audit["verdict_reason"][1:]
    console.print(f"Verdict: [{colour}]{audit['verdict'].upper()}[/]. {_escape(reason)}.")
    for file in outcome.files:
        console.print(f"  {file}", soft_wrap=True, markup=False)
    return "\n".join(line.rstrip() for line in sink.getvalue().rstrip("\n").split("\n"))


def _hanging(console: Console, text: str) -> list[Text]:
    """A text as an item of a list, its further lines indented."""
    lines = Text(text).wrap(console, console.width - 2)
    return [Text("  " if number else "- ") + line for number, line in enumerate(lines)]


def _left_out(probes: Sequence[Mapping[str, Any]]) -> list[str]:
    """The probes that broke or were not applicable, with the reason."""
    said = {"error": "broke", "not-applicable": "not applicable"}
    ordered = sorted(probes, key=lambda probe: str(probe["status"]) != "error")
    return [f"{p['id']} {said[p['status']]}: {p['reason']}" for p in ordered if p["status"] in said]


def _probe_lines(probes: Sequence[Mapping[str, Any]], width: int) -> list[Text]:
    """The table of probes, one line each; a number that finds no room loses its interval."""
    rows = [("probe", "status", "headline", "n")]
    rows += [(probe["id"], _status(probe), headline(probe), str(probe["n"] or "-")) for probe in probes]
    others = sum(max(len(row[column]) for row in rows) for column in (1, 3)) + 3 * len(_GAP)
    room = width - others - min(max(len(row[0]) for row in rows), width - others - 12)
    short = [(*row[:2], row[2] if len(row[2]) <= room else row[2].partition(" [")[0][:room], row[3]) for row in rows]
    return _lines(short, {1: [MARKS[probe["status"]] for probe in probes]}, {3}, width)


_GAP = "  "


def _lines(
    rows: Sequence[Sequence[str]], styles: Mapping[int, Sequence[str]], right: Container[int], width: int
) -> list[Text]:
    """A table whose rows are one line each: the first row its head, the first column cut where the width is too small.

    ``styles`` are those of a column's cells below the head; ``right`` the columns whose cells end at the same place.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    # a plugin may call its probe as it likes
    widths[0] = min(widths[0], max(width - sum(widths[1:]) - len(_GAP) * (len(widths) - 1), 12))
    lines = []
    for position, row in enumerate(rows):
        line = Text()
        for column, cell in enumerate(row):
            shown = cell if len(cell) <= widths[column] else cell[: widths[column] - 1] + "…"
            style = "bold" if position == 0 else styles[column][position - 1] if column in styles else ""
            padded = f"{shown:>{widths[column]}}" if column in right else f"{shown:<{widths[column]}}"
            line.append(_GAP if column else "").append(padded, style=style)
        lines.append(line)
    return lines


def _status(probe: Mapping[str, Any]) -> str:
    """The status, and the severity of a failure."""
    status = {"not-applicable": "n/a"}.get(probe["status"], str(probe["status"]))
    return status + (f" ({probe['severity']})" if probe["severity"] != "none" else "")


def _documented(rows: Sequence[tuple[str, str, str, str]], width: int) -> list[Text]:
    """A line a number, below a line for whom it is documented of."""
    names = [row[0].partition(": ") for row in rows]
    # the column before says "–" already
    table = [
        (f"  {name}", *row[1:3], row[3].replace("no number documented", "–"))
        for (_, _, name), row in zip(names, rows, strict=True)
    ]
    head, *lines = _lines([("documented beside measured", "documented", "measured", ""), *table], {}, {1, 2}, width)
    found = [head]
    for position, line in enumerate(lines):
        if position == 0 or names[position][0] != names[position - 1][0]:
            found.append(Text(names[position][0]))
        found.append(line)
    return found


_OUTCOMES = {"better": "green", "worse": "bold red", "different": "yellow"}


def comparison(told: Mapping[str, Any], files: Sequence[Path], *, width: int | None = None) -> str:
    """What ``auditor compare`` says: what differs, the headline numbers or the leaderboard, the verdict; 80 columns."""
    console, sink = _console(width)
    runs = told["runs"]
    for run in runs:
        console.print(f"{run['name']}  {run['path']}: {file_name(run['model']['path'])}, {run['data']['n']} images",
                      markup=False)  # fmt: skip
    for item in told["differences"]:
        values = "; ".join(f"{run['name']}: {value}" for run, value in zip(runs, item["values"], strict=True))
        console.print(f"- {item['what']} ({values}): {item['effect']}", markup=False)
    for probe in told["probes"]:
        if probe["reason"]:
            console.print(f"- {probe['id']} is not compared: {probe['reason']}", markup=False)
    console.print()
    for line in (_headlines if len(runs) == 2 else _leaderboard)(told, console.width):
        console.print(line, no_wrap=True, overflow="ellipsis")
    console.print()
    colour = {"better": "bold green", "worse": "bold red"}.get(told["verdict"], "bold yellow")
    verdict = told["verdict"].replace("-", " ").upper()
    console.print(f"Verdict: [{colour}]{verdict}[/]. {_escape(told['verdict_reason'])}.")
    for file in files:
        console.print(f"  {file}", soft_wrap=True, markup=False)
    return sink.getvalue().rstrip("\n")


def _headlines(told: Mapping[str, Any], width: int) -> list[Text]:
    rows = [["probe", *(run["name"] for run in told["runs"]), "change", "p", "outcome"]]
    styles = []
    for probe in told["probes"]:
        for metric in probe["metrics"]:
            if not metric["headline"]:
                continue
            (pair,) = metric["pairs"]
            shown = [formatting.value({**metric, **value}) for value in metric["values"]]
            shown.append(formatting.difference(metric, {**pair["difference"], "low": None, "high": None}))
            cells = [text.replace(" points", "") for text in shown]
            styles.append(_OUTCOMES.get(pair["outcome"], "dim"))
            rows.append(
                [probe["id"], *cells, formatting.probability(pair["p_adjusted"]), pair["outcome"].replace("-", " ")]
            )
    return _lines(rows, {len(rows[0]) - 1: styles}, range(1, len(rows[0]) - 1), width)


def _leaderboard(told: Mapping[str, Any], width: int) -> list[Text]:
    rows = [["run", "rank", "better", "worse", "no difference"]]
    for row in told["leaderboard"]:
        run = told["runs"][row["run"]]
        numbered = [str(row[name]) for name in ("rank", "better", "worse", "no_difference")]
        rows.append([f"{run['name']} {file_name(run['model']['path'])}", *numbered])
    return _lines(rows, {}, range(1, 5), width)


def claimed(claims: Sequence[Claim], *, verbose: bool = False, width: int | None = None) -> str:
    """What ``auditor replay`` says: finding by finding, with the pictures that differ; 80 columns."""
    console, sink = _console(width)
    for claim in claims:
        held = sum(picture.holds for picture in claim.pictures)
        style = "green" if claim.holds else "bold red"
        line = Text("holds  " if claim.holds else "DIFFERS", style=style)
        console.print(line.append(f"  {claim.finding}: {held} of {len(claim.pictures)} pictures", style="default"))
        for text in Text(claim.statement).wrap(console, console.width - 9):
            console.print(Text(" " * 9, style="dim") + text, style="dim")
        for picture in claim.pictures:
            if verbose or not picture.holds:
                console.print(f"         {picture.text}", soft_wrap=True, markup=False)
    pictures = [picture for claim in claims for picture in claim.pictures]
    held = sum(picture.holds for picture in pictures)
    ending = f"{held} of {len(pictures)} stored pictures get the answer that the report states."
    console.print(f"{sum(claim.holds for claim in claims)} of {len(claims)} claims hold: {ending}", soft_wrap=True)
    return sink.getvalue().rstrip("\n")


_CHECKED = {"ok": "green", "FAILED": "bold red", "n/a": "dim"}


def conformity(report: Report, *, quiet: bool = False, width: int | None = None) -> str:
    """What ``auditor plugin check`` says: probe by probe and check by check; 80 columns."""
    console, sink = _console(width)
    for probe in ["", *report.probes]:
        checks = [check for check in report.checks if check.probe == probe and (check.outcome == "FAILED" or not quiet)]
        if not checks:
            continue
        console.print(probe or f"{report.package} {report.version}", markup=False, style="bold")
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for check in checks:
            table.add_row(f"  [{_CHECKED[check.outcome]}]{check.outcome}[/]", check.name, _escape(check.message))
        console.print(table)
    failed, probes = len(report.failed), len(report.probes)
    done = len([check for check in report.checks if check.outcome != "n/a"])
    of = f"{probes} probe{'s' if probes != 1 else ''} of {report.package}, {done} checks"
    console.print(f"{of}: [bold red]{failed} FAILED[/]" if failed else f"{of}: [bold green]all hold[/]")
    return "\n".join(line.rstrip() for line in sink.getvalue().splitlines())


def _console(width: int | None) -> tuple[Console, io.StringIO]:
    """A console that writes into a text as the terminal would show it: colours only where it has them."""
    sink = io.StringIO()
    real = Console()
    console = Console(
        file=sink, width=width or min(real.width, 100), force_terminal=real.is_terminal, no_color=real.no_color,
        highlight=False,
    )  # fmt: skip
    return console, sink


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
