"""Display the progress of an audit."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

from auditor.cli.tables import MARKS
from auditor.findings.record import ProbeRecord
from auditor.run.library_warnings import hide_library_warnings
from auditor.run.request import Position, Progress, Silent


@contextlib.contextmanager
def progress(*, verbose: bool, quiet: bool) -> Iterator[Progress]:
    """Display the progress of an audit while the context lasts; hide library warnings unless ``verbose``."""
    with contextlib.nullcontext() if verbose else hide_library_warnings():
        if quiet:
            yield Silent()
            return
        console = Console(stderr=True, highlight=False)
        with _OnTerminal(console) if console.is_terminal else _Plain(console) as display:
            yield display


_SILENCE = 8.0
"""Seconds without a line in a log. It is looked at every second, so no step is silent for ten seconds."""


class _Plain:
    """One line when a probe begins, one when it ends, and others before it is silent for ten seconds.

    No escape codes, no bar.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._last = self._begun = time.monotonic()
        self._over = threading.Event()
        self._probe, self._images, self._done, self._before = "", 0, 0, 0

    def __enter__(self) -> _Plain:
        threading.Thread(target=self._keep_talking, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the lines between."""
        self._over.set()

    def say(self, message: str) -> None:
        """Print a line."""
        with self._lock:
            self._console.print(message, soft_wrap=True, markup=False)
            self._last = time.monotonic()

    def begin(self, probe_id: str, images: int, position: Position) -> None:
        """Print the probe that begins, and its share of the time limit."""
        share = ""
        if position.seconds is not None and position.left is not None:
            share = f", at most {_clock(position.seconds)} of {_clock(position.left)} left"
        self.say(f"[{position.number + 1}/{position.probes}] {probe_id}: {images} images{share}")
        self._probe, self._images, self._done, self._before = probe_id, images, 0, -1
        self._begun = time.monotonic()

    def advance(self, images: int) -> None:
        """Count the images for the lines between."""
        self._done += images
        if self._before < 0:
            # images of an earlier run do not count towards the speed
            self._before = images

    def _keep_talking(self) -> None:
        while not self._over.wait(1.0):
            if time.monotonic() - self._last >= _SILENCE:
                self.say(f"    {self._state()}")

    def _state(self) -> str:
        elapsed = time.monotonic() - self._begun
        if not self._probe:
            return f"opening model and data, {_clock(elapsed)}"
        text = f"{self._probe}: {self._done} of {self._images} images after {_clock(elapsed)}"
        fresh = self._done - self._before if self._before >= 0 else 0
        return f"{text}, about {_clock(elapsed / fresh * (self._images - self._done))} to go" if fresh > 0 else text

    def end(self, record: ProbeRecord) -> None:
        """Print the status of the probe."""
        text = f"    {record['id']}: {record['status']}"
        if record["status"] in {"error", "not-applicable"}:
            text += f": {record['reason']}"
        self.say(text)


class _Pace(ProgressColumn):
    """Images per second and time left, or the elapsed time until both are known."""

    def render(self, task: Task) -> Text:
        """Format for example ``45 images/s, 0:12 left``."""
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
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=4)),
            MofNCompleteColumn(),
            _Pace(),
            console=console,
            transient=True,
            expand=True,
        )
        self._task: TaskID | None = None
        self._started = False

    def __enter__(self) -> _OnTerminal:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        self._console.print(message, markup=False)

    def begin(self, probe_id: str, images: int, position: Position) -> None:
        """Start a new bar."""
        self._remove_task()
        left = "" if position.left is None else f" {_clock(position.left)} left,"
        self._task = self._bar.add_task(f"{position.number + 1}/{position.probes}{left} {probe_id}", total=images)
        self._started = False

    def advance(self, images: int) -> None:
        """Move the bar."""
        if self._task is None:
            return
        if self._started:
            self._bar.advance(self._task, images)
        else:
            # images of an earlier run do not count towards the speed
            self._bar.reset(self._task, completed=images)
        self._started = True

    def end(self, record: ProbeRecord) -> None:
        """Print the status of the probe."""
        self._remove_task()
        colour = MARKS[record["status"]]
        self._console.print(f"[{colour}]{record['status']:>14}[/]  {record['id']}", highlight=False)

    def _remove_task(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
