"""A time limit is kept: shares, batches that end in time, searches that are abandoned, smaller settings."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from click.testing import Result
from rich.console import Console

from auditor import Conclusion, Meta, Metric, Probe
from auditor.cli import progress
from auditor.errors import BadInput, OutOfTime
from auditor.model.deployed import Price
from auditor.plugin import registry
from auditor.plugin.duration import seconds, spoken
from auditor.plugin.suite import find_suite, read_suite
from auditor.run import measuring
from auditor.run.budget import MEASURING, Budget, Progressed, measure_in_sweeps
from auditor.run.opening import open_model
from auditor.run.pace import Pace
from auditor.run.request import Position

Cli = Callable[..., Result]


def batches(clock: list[float], prices: Sequence[float], limit: float | None, **options: Any) -> list[int]:
    """The sizes of the batches of images that take so many seconds each."""
    pace, sizes, start = Pace([str(i) for i in range(len(prices))], lambda: 32, seconds=limit, **options), [], 0
    for piece in pace:
        clock[0] += sum(prices[start : start + len(piece)])
        start += len(piece)
        sizes.append(len(piece))
        pace.finished(len(piece))
    return sizes


def test_without_a_limit_all_images_are_measured_in_full_batches(clock: list[float]) -> None:
    assert batches(clock, [5.0] * 70, None, guess=99.0) == [32, 32, 6]


def test_batches_begin_small_and_end_in_time(clock: list[float]) -> None:
    # 1 + 4 + 16 images in 21 seconds, 9 more fit into the rest of 30
    assert batches(clock, [1.0] * 70, 30.0, guess=30.0) == [1, 4, 16, 9]


def test_a_cheap_probe_is_measured_at_once(clock: list[float]) -> None:
    assert batches(clock, [0.01] * 20, 30.0, guess=0.1) == [20]


def test_slower_images_end_the_probe(clock: list[float]) -> None:
    assert batches(clock, [1.0] * 5 + [10.0] * 65, 30.0, guess=30.0) == [1, 4, 16]


def sweep(clock: list[float], limit: float, prices: dict[str, float], images: int = 30) -> dict[str, int]:
    """How many images of each probe are measured, at these seconds for an image."""
    done = dict.fromkeys(prices, 0)

    def advance(probe_id: str, share: float, number: int, probes: int) -> Progressed:
        assert number < probes
        fits = min(images - done[probe_id], int(share / prices[probe_id] + 1e-9))
        clock[0] += fits * prices[probe_id]
        done[probe_id] += fits
        return Progressed(fits, images - done[probe_id])

    measure_in_sweeps(Budget(limit, "--budget"), list(prices), n_later=0, advance=advance)
    return done


@pytest.mark.parametrize("order", [("cheap", "dear", "dearer"), ("dearer", "dear", "cheap")])
def test_what_a_cheap_probe_leaves_over_goes_to_the_others(clock: list[float], order: Sequence[str]) -> None:
    prices = {"cheap": 0.1, "dear": 2.0, "dearer": 3.0}
    begun = clock[0]
    done = sweep(clock, 63.0 / MEASURING, {name: prices[name] for name in order})
    assert done["cheap"] == 30
    # 60 seconds for two: 30 each, but for the image that does not fit
    assert 13 <= done["dear"] <= 16
    assert 9 <= done["dearer"] <= 10
    assert clock[0] - begun <= 63.0 + 1e-6


def test_a_probe_whose_image_does_not_fit_waits_for_a_longer_share(clock: list[float]) -> None:
    done = sweep(clock, 100.0 / MEASURING, {"a": 0.1, "b": 0.1, "c": 60.0})
    assert done == {"a": 30, "b": 30, "c": 1}


def test_later_probes_keep_their_share(clock: list[float]) -> None:
    budget = Budget(100.0 / MEASURING, "--budget")

    def advance(probe_id: str, share: float, number: int, probes: int) -> Progressed:
        clock[0] += share
        return Progressed(1, 1000)

    measure_in_sweeps(budget, ["a"], n_later=3, advance=advance)
    assert budget.left == pytest.approx(75.0)


@dataclass(frozen=True, kw_only=True)
class Endless(Probe):
    """Queries the model until the end of time, and catches what it can."""

    meta = Meta(id="sanity.endless", title="Endless search", area="sanity", why="It is a test.")
    queries: int = 10**9
    caught: ClassVar[list[str]] = []
    clock: ClassVar[list[float]] = [0.0]

    def measure(self, classifier: Any, batch: Any, rng: Any) -> Any:
        for _ in range(self.queries):
            self.clock[0] += 0.1
            try:
                classifier.predict(batch.pixels)
            except Exception as error:
                self.caught.append(str(error))
        return {"value": np.ones(len(batch))}

    def conclude(self, records: Any) -> Conclusion:
        metric = Metric(name="value", value=1.0, n=len(records.frame), unit="1")
        return Conclusion(metrics=[metric])


@pytest.fixture
def endless(with_probes: Callable[..., None], clock: list[float], monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Install ``Endless``, whose queries move the clock of the run; return the clock."""
    with_probes(Endless)
    monkeypatch.setattr(Endless, "clock", clock)
    return clock


def audited(cli: Cli, model: Path, folder: Path, suite: str, *options: object) -> dict[str, Any]:
    (folder / "s.toml").write_text(suite)
    result = cli("run", model, "--suite", "s.toml", "--samples", 20, "--format", "json", "--out", "out", *options)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads((folder / "out/audit.json").read_text())
    return found


def test_endless_search_is_abandoned(auditor_cli: Cli, digits: Path, endless: list[float], tmp_path: Path) -> None:
    suite = 'probes = ["sanity.endless", "performance.accuracy"]'
    begun = endless[0]
    audit = audited(auditor_cli, digits / "digits-cnn.onnx", tmp_path, suite, "--budget", "20s")
    assert endless[0] - begun < 20
    abandoned, accuracy = sorted(audit["probes"], key=lambda probe: probe["id"] == "performance.accuracy")
    assert abandoned["status"] == "inconclusive"
    assert "none of 20 images was measured: one takes longer than the probe's share" in abandoned["reason"]
    assert not Endless.caught, "a probe cannot catch the end of its time"
    assert accuracy["n"] == 20


def test_smaller_settings_of_the_suite_are_used_where_an_image_takes_too_long(
    auditor_cli: Cli, digits: Path, endless: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "_timed", lambda classifier, pixels: (0.1 * len(pixels), 0.0))
    suite = 'probes = ["sanity.endless"]\ntime_limit = "40s"\n[reduced."sanity.endless"]\nqueries = 3'
    audit = audited(auditor_cli, digits / "digits-cnn.onnx", tmp_path, suite)
    (probe,) = audit["probes"]
    assert (probe["n"], probe["settings"]["queries"]) == (20, 3)
    (warning,) = [text for text in audit["warnings"] if "sanity.endless" in text]
    assert "smaller settings" in warning
    assert "40 s, suite s" in warning


def test_budget_none_lifts_the_limit_of_the_suite(
    auditor_cli: Cli, digits: Path, with_probes: Callable[..., None], tmp_path: Path
) -> None:
    with_probes(Endless)
    suite = (
        'probes = ["sanity.endless"]\ntime_limit = "0.001s"\n[settings."sanity.endless"]\nqueries = 50\n'
        '[reduced."sanity.endless"]\nqueries = 3'
    )
    audit = audited(auditor_cli, digits / "digits-cnn.onnx", tmp_path, suite, "--budget", "none")
    assert audit["probes"][0]["settings"]["queries"] == 50
    assert audit["probes"][0]["n"] == 20


def test_passes_cost_their_price_whatever_the_clock_says(digits: Path) -> None:
    model = open_model(digits / "digits-cnn.onnx", "cpu")
    image = np.zeros((1, 1, 8, 8), dtype=np.float32)
    with model.calls.at_most(Price(1.0, 4.0), 2.5):
        for _ in range(3):
            model.predict(image)
        with pytest.raises(OutOfTime):
            model.predict(image)
    model.predict(image)
    with model.calls.at_most(Price(1.0, 4.0), 3.5):
        model.gradient(image)
        with pytest.raises(OutOfTime):
            model.gradient(image)


@pytest.mark.parametrize(("text", "value"), [("90s", 90), ("10m", 600), (" 1.5 h", 5400)])
def test_times(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["5", "0s", "", "m", "-3m", "5 minutes", "1e3s", "9" * 5000 + "s"])
def test_times_need_a_number_and_a_unit(text: str) -> None:
    with pytest.raises(ValueError, match="such as 90s, 10m or 2h"):
        seconds(text)


def test_times_are_spoken_to_the_precision_of_a_forecast() -> None:
    assert [spoken(value) for value in (0.2, 40, 420, 12600)] == ["1 s", "40 s", "7 min", "3.5 h"]


def test_suite_refuses_an_unknown_reduced_setting_and_a_limit_without_a_unit(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('probes = ["attacks.pgd"]\n[reduced."attacks.pgd"]\nsteps = 3')
    with pytest.raises(BadInput, match=r"reduced: attacks.pgd has no setting 'steps'"):
        read_suite(path, registry.load())
    path.write_text('probes = ["attacks.pgd"]\ntime_limit = "30"')
    with pytest.raises(BadInput, match="a time with its unit"):
        read_suite(path, registry.load())


def test_reduced_settings_are_smaller() -> None:
    """No number of the full suite's smaller settings is above that of its full ones."""
    plugins = registry.load()
    suite = find_suite("full", plugins)
    for probe_id, values in suite.reduced.items():
        full = plugins.configure(probe_id, suite.settings.get(probe_id, {}), where="full")
        for name, value in values.items():
            before = getattr(full, name)
            smaller = value <= before if isinstance(value, int) else len(value) < len(before)
            assert smaller, f"{probe_id}.{name}: {value} for {before}"


def test_log_shows_shares_and_is_never_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SILENCE", 0.2)
    sink = io.StringIO()
    with progress._Plain(Console(file=sink, width=120)) as log:
        log.begin("attacks.pgd", 48, Position(2, 41, seconds=35.0, left=1630.0))
        log.advance(8)
        log.advance(4)
        deadline = time.monotonic() + 10
        while "after" not in sink.getvalue() and time.monotonic() < deadline:
            time.sleep(0.1)
    first, second = sink.getvalue().splitlines()[:2]
    assert first == "[3/41] attacks.pgd: 48 images, at most 0:35 of 27:10 left"
    assert second.startswith("    attacks.pgd: 12 of 48 images after 0:0")
    assert second.endswith("to go")


@dataclass(frozen=True, kw_only=True)
class Breaking(Probe):
    """Breaks while it measures."""

    meta = Meta(id="sanity.breaking", title="Broken", area="sanity", why="It is a test.")
    measured: ClassVar[list[str]] = []

    def measure(self, classifier: Any, batch: Any, rng: Any) -> Any:
        self.measured.append("once")
        raise ZeroDivisionError("one by none")

    def conclude(self, records: Any) -> Conclusion:
        raise AssertionError("it has no records")


def test_broken_and_inapplicable_probes_say_so_within_a_limit(
    auditor_cli: Cli, digits: Path, with_probes: Callable[..., None], tmp_path: Path
) -> None:
    """Not that their time was too short."""
    with_probes(Breaking)
    (tmp_path / "s.toml").write_text('probes = ["sanity.breaking", "attacks.transfer"]')
    arguments = ("--suite", "s.toml", "--samples", 20, "--format", "json", "--out", "out", "--budget", "10m")
    assert auditor_cli("run", digits / "digits-cnn.onnx", *arguments).exit_code == 3
    probes = {probe["id"]: probe for probe in json.loads((tmp_path / "out/audit.json").read_text())["probes"]}
    assert probes["sanity.breaking"]["status"] == "error"
    assert "ZeroDivisionError: one by none" in probes["sanity.breaking"]["reason"]
    assert Breaking.measured == ["once"]
    assert probes["attacks.transfer"]["status"] == "not-applicable"
    assert "--surrogate" in probes["attacks.transfer"]["reason"]
