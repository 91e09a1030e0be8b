"""What an audit shows on a terminal: a bar while it runs, a summary at the end; plain lines where there is no
terminal."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column, Table
from rich.text import Text

from auditor import numbers
from auditor.classifier import Classifier
from auditor.engine import Outcome, Progress, Silent
from auditor.report import documented
from auditor.report.summary import file_name, headline, sentences

if TYPE_CHECKING:
    from auditor.conformance import Report
    from auditor.rerun import Claim

_MARKS = {"pass": "green", "fail": "bold red", "inconclusive": "yellow", "informative": "cyan",
          "not-applicable": "dim", "error": "bold magenta"}  # fmt: skip


@contextlib.contextmanager
def progress(*, verbose: bool, quiet: bool) -> Iterator[Progress]:
    """Show an audit's progress while the context lasts."""
    with warnings.catch_warnings():
        if not verbose:
            # libraries' own warnings are for their developers; what matters to an audit is in its report
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
        try:
            if quiet:
                yield Silent()
                return
            console = Console(stderr=True, highlight=False)
            shown = _OnTerminal(console) if console.is_terminal else _Plain(console)
            with shown:
                yield shown
        finally:
            logging.disable(logging.NOTSET)


class _Plain:
    """One line when a probe begins and one when it ends; no escape codes, no bar."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._title = ""

    def __enter__(self) -> _Plain:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to tidy."""

    def say(self, message: str) -> None:
        """Print a line."""
        self._console.print(message, soft_wrap=True, markup=False)

    def begin(self, probe_id: str, images: int, position: int, probes: int) -> None:
        """Print which probe begins."""
        self.say(f"[{position + 1}/{probes}] {probe_id}: {images} images")

    def advance(self, images: int) -> None:
        """Nothing: a log is not a bar."""

    def end(self, record: Mapping[str, Any]) -> None:
        """Print how it ended."""
        text = f"    {record['id']}: {record['status']}"
        if record["status"] in {"error", "not-applicable"}:
            text += f": {record['reason']}"
        self.say(text)


class _Pace(ProgressColumn):
    """Images per second and time left; until both are known, how long the probe has been at work."""

    def render(self, task: Task) -> Text:
        """For example ``45 images/s, 0:12 left``."""
        if not task.speed or task.time_remaining is None:
            return Text(_clock(task.elapsed or 0))
        return Text(f"{task.speed:.{0 if task.speed >= 9.5 else 1}f} images/s, {_clock(task.time_remaining)} left")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class _OnTerminal:
    """A bar with the current probe, images done, images per second and time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Bar(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=4)), MofNCompleteColumn(), _Pace(),
            console=console, transient=True, expand=True,
        )  # fmt: skip
        self._task: Any = None
        self._begun = False

    def __enter__(self) -> _OnTerminal:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        self._console.print(message, markup=False)

    def begin(self, probe_id: str, images: int, position: int, probes: int) -> None:
        """A new bar for a new probe."""
        self._forget()
        self._task = self._bar.add_task(f"{position + 1}/{probes} {probe_id}", total=images)
        self._begun = False

    def advance(self, images: int) -> None:
        """Move the bar."""
        if self._task is None:
            return
        if self._begun:
            self._bar.advance(self._task, images)
        else:
            # what an earlier run has measured says nothing of this one's speed
            self._bar.reset(self._task, completed=images)
        self._begun = True

    def end(self, record: Mapping[str, Any]) -> None:
        """A line for the probe that ended."""
        self._forget()
        colour = _MARKS[record["status"]]
        self._console.print(f"[{colour}]{record['status']:>14}[/]  {record['id']}", highlight=False)

    def _forget(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None


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
    return _lines(short, {1: [_MARKS[probe["status"]] for probe in probes]}, {3}, width)


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
            shown = [numbers.value({**metric, **value}) for value in metric["values"]]
            shown.append(numbers.difference(metric, {**pair["difference"], "low": None, "high": None}))
            cells = [text.replace(" points", "") for text in shown]
            styles.append(_OUTCOMES.get(pair["outcome"], "dim"))
            rows.append(
                [probe["id"], *cells, numbers.probability(pair["p_adjusted"]), pair["outcome"].replace("-", " ")]
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
            table.add_row(f"  [{_CHECKED[check.outcome]}]{check.outcome}[/]", check.name, _escape(check.said))
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


def describe_model(path: Path, device: str, stated: Mapping[str, Any] | None = None, *, trust: bool = False) -> str:
    """What ``auditor inspect`` says of a model file; ``stated`` is what the command line says about it."""
    import numpy as np

    from auditor import engine, photographs, presets
    from auditor.classifier import first_line
    from auditor.errors import BadInput
    from auditor.images import Images

    classifier = engine.open_model(path, device, stated, trust=trust)
    if classifier.takes == "rows":
        # features have their own units, of which the file says nothing
        looked_at = np.random.default_rng(0).uniform(size=(16, *classifier.shape)).astype(np.float32)
    else:
        pixels = Images(photographs.source(), shape=classifier.shape)
        looked_at = pixels.pixels(pixels.ids[:16])
    try:
        classifier.predict(looked_at)
        classifier.verify(looked_at)
    except (ArithmeticError, RuntimeError) as error:
        raise BadInput(f"{path}: {first_line(error)}, asked about photographs; expected finite scores") from None
    a, p = classifier.artefact, classifier.preprocessing
    channels, height, width = p.shape
    tabular = classifier.takes == "rows"
    size = f"a row of {width} features" if tabular else f"{channels} x {height} x {width}"
    parity = classifier.parity
    rows = {
        "file": f"{path} ({path.stat().st_size:,} bytes)",
        "sha256": classifier.sha256,
        "format": a.format,
        "producer": a.details.get("producer", ""),
        "opset": ", ".join(f"{k} {v}" for k, v in a.details.get("opset", {}).items()),
        "runtime": a.runtime,
        "input": f"{a.details.get('input', 'image')}: {size}, {p.dtype}, {p.layout}, batch"
        f" {'of any size' if classifier.fixed_batch is None else f'always {classifier.fixed_batch}'}",
        "preprocessing": "features in their own units"
        if tabular
        else f"pixels to [{p.range[0]:g}, {p.range[1]:g}], mean {list(p.mean)}, std {list(p.std)},"
        f" {p.order}{f' ({preset})' if (preset := presets.name_of(p)) else ''}; from {classifier.preprocessing_source}",
        "output": _describe_output(classifier),
        "classes": ", ".join(classifier.classes[:10]) + (", ..." if classifier.n_classes > 10 else ""),
        "precision": a.precision,
        "parameters": f"{a.details.get('parameters', 0):,}",
        "operators": ", ".join(a.details.get("operators", [])),
        "access": f"{classifier.access}: {classifier.access_reason}",
        "parity": ""
        if parity is None
        else f"largest difference of a score {parity.max_abs_difference:.2g}, same label"
        f" for {100 * (parity.label_agreement or 0):.0f} % of {parity.n} {'rows' if tabular else 'photographs'}",
    }
    lines = [f"{name:<14} {value}" for name, value in rows.items() if value]
    return "\n".join(lines + [f"warning        {warning}" for warning in classifier.warnings])


def _describe_output(classifier: Classifier) -> str:
    """Classes, logits or probabilities, where they come from, and the outputs that are not read."""
    a, reading = classifier.artefact, classifier.reading
    parts = [f"{a.output}: " if a.output else "", f"{classifier.n_classes} classes, {reading.outputs}"]
    parts += [", one score for both"] if reading.single else []
    parts += [f", from a final {reading.activation}"] if reading.activation != "none" else []
    unread = [name for name in a.details.get("outputs", []) if name != a.output]
    return "".join([*parts, f"; not read: {', '.join(unread)}" if unread else ""])


def try_preprocessings(
    path: Path, data: Path, samples: int, device: str, stated: Mapping[str, Any], *, trust: bool = False
) -> str:
    """The usual preprocessings on labelled images, the best first, each with its accuracy and interval.

    Comes after ``describe_model``, which has tried the file in a child process.
    """
    import numpy as np

    from auditor import engine, environment, presets, registry, stats
    from auditor.errors import BadInput

    plugins = registry.load()
    request = engine.Request(model=path, data=data, stated=stated, trust_model=trust)
    suite = registry.Suite("inspect", "", ["*"], samples=samples)
    classifier, images = engine.open_audit(plugins, request, suite, environment.pick_device(device))
    if images.labels is None:
        raise BadInput(
            f"--data {data}: has no labels, so no preprocessing can be said to fit best; give labelled images"
        )
    candidates = {"as used": classifier.preprocessing} | presets.others(classifier.preprocessing)
    if len(candidates) == 1:
        return "No other preprocessing is usual for such an input."
    hits = dict.fromkeys(candidates, 0)
    for start in range(0, len(images), 256):
        pixels = images.pixels(images.ids[start : start + 256])
        for name, candidate in candidates.items():
            answers = presets.answers(classifier.with_preprocessing(candidate), pixels)
            hits[name] += int((answers == images.labels[start : start + 256]).sum())
    lines = []
    for name in sorted(candidates, key=lambda name: -hits[name]):
        value, low, high = (100 * (v or 0) for v in stats.wilson(hits[name], len(images)))
        called = f"{name} ({presets.name_of(candidates[name]) or 'no preset'})" if name == "as used" else name
        lines.append(f"{called:<24} {value:5.1f} % [{low:.1f}, {high:.1f}]")
    best = max(hits, key=lambda name: (hits[name], name == "as used"))
    chance = np.bincount(images.labels).max() / len(images)
    verdict = "The preprocessing in use fits best." if best == "as used" else f"Fits best: {best}."
    if hits[best] / len(images) <= chance:
        verdict = f"None does better than always naming the commonest class ({100 * chance:.1f} %)."
    return "\n".join([f"Accuracy by preprocessing (n = {len(images)}):", *lines, verdict])


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
