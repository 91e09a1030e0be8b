"""The forecast of an audit: the price of a pass times the passes that each probe takes for an image."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from auditor import Conclusion, Meta, Probe
from auditor.findings.encoding import plain
from auditor.model.deployed import Price
from auditor.plugin import registry
from auditor.run import expected_time
from auditor.run.budget import Budget
from auditor.run.expected_time import Load, Passes, forecast, loads, passes_of, settings_digest


@dataclass(frozen=True, kw_only=True)
class Known(Probe):
    """A probe with a setting."""

    meta = Meta(id="sanity.known", title="Known", area="sanity", why="It is a test.")
    steps: int = 3

    def measure(self, classifier: Any, batch: Any, rng: Any) -> Any:
        raise NotImplementedError

    def conclude(self, records: Any) -> Conclusion:
        raise NotImplementedError


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """5 to 20 predictions and 2.5 to 10 gradients with three steps, others with other settings."""
    rows = {"other": [1.0, 1.0, 10.0, 5.0, 1.0], settings_digest(plain(asdict(Known()))): [5.0, 2.5, 20.0, 10.0, 2.0]}
    monkeypatch.setattr(expected_time, "_table", lambda: {"sanity.known": rows})


def test_settings_choose_the_measured_passes(table: None) -> None:
    assert passes_of(Known()) == Passes(5, 2.5, 20, 10, 2)
    assert passes_of(Known(steps=4)) == Passes(1, 1, 10, 5, 1)
    assert passes_of(registry.load().configure("attacks.fgsm", {}, where="test")) is None


def test_load_by_hand(table: None) -> None:
    """20 predictions of 10 ms and 10 gradients of 30 ms are half a second; a quarter of them, an eighth."""
    (load,), unknown = loads([Known()], Price(0.01, 0.03), 100)
    assert (load, unknown) == (Load(100, 0.125, 0.5, 2.0), [])
    assert load.seconds == pytest.approx(27)
    assert load.span == pytest.approx((14.5, 52))
    (load,), _ = loads([replace(Known(), samples=30)], Price(0.01, 0.03), 100)
    assert load.images == 30


def test_forecast_by_hand(table: None, clock: list[float]) -> None:
    (line,) = forecast([Known()], Price(0.01, 0.03), 100, None)
    assert line == (
        "Forecast: about 27 s (10 s to 78 s) for 100 images; a prediction takes 10 ms and a gradient 30 ms an image."
    )
    # 80 % of 20 s, less 2 s that are not for images, at a quarter of a second an image
    (line,) = forecast([Known()], Price(0.01, 0.03), 100, Budget(20, "--budget"))
    assert line.endswith("Within the time limit (20 s, --budget), about 56 images per probe fit (56 to 56).")
    (line,) = forecast([Known()], Price(0.01, 0.03), 100, Budget(100, "--budget"))
    assert line.endswith("all images of every probe fit.")


def test_probe_without_known_passes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expected_time, "_table", dict)
    line, other = forecast([Known()], Price(0.01, 0.03), 100, None)
    assert line.startswith("Forecast: about 1 s")
    assert other == "The forecast leaves out what is unknown: the passes of sanity.known."


@pytest.mark.parametrize(
    ("needed", "seconds", "share"),
    [([1, 1, 10], 8, 6), ([4, 4], 6, 3), ([1, 2, 3], 6, 3), ([5], 9, 5), ([], 9, 0), ([0.5, 8, 8], 9, 4.25)],
)
def test_share_that_probes_leave_over_goes_to_the_others(needed: list[float], seconds: float, share: float) -> None:
    assert expected_time._share(needed, seconds) == pytest.approx(share)


def test_passes_of_built_in_probes_are_known() -> None:
    """All but those that do not apply to the audits of the table: groups, other data, epsilons, other models."""
    plugins = registry.load()
    built_in = {name for name in plugins.probes if plugins.version_of(name) is None}
    unknown = {name for name in built_in if name not in expected_time._table()}
    others = {"attacks.adaptive", "attacks.own-epsilon", "performance.unknown-inputs"}
    assert unknown <= {"attacks.transfer", "corruptions.feature-noise", "bias.groups"} | others
    assert set(expected_time._table()) <= built_in


def test_forecast_is_printed_before_the_first_probe(
    auditor_cli: Callable[..., Result], digits: Path, tmp_path: Path
) -> None:
    arguments = ["run", digits / "digits-cnn.onnx", "--probe", "attacks.fgsm", "--samples", 40, "--format", "json"]
    result = auditor_cli(*arguments, "--trust-model", "--budget", "10m", "--out", "out")
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    (number,) = [i for i, line in enumerate(lines) if line.startswith("Forecast: about ")]
    assert "for 40 images; a prediction takes" in lines[number]
    assert "Within the time limit (10 min, --budget), all images of every probe fit." in lines[number]
    assert any(line.startswith("[1/1] attacks.fgsm") for line in lines[number + 1 :])
    (probe,) = json.loads((tmp_path / "out" / "audit.json").read_bytes())["probes"]
    # the passes of the table are those of today
    calls = probe["model_calls"]
    found = Passes(*expected_time._table()["attacks.fgsm"][settings_digest(probe["settings"])])
    assert 0.7 * found.fewest_predictions <= (calls["forward"] - calls["backward"]) / 40 <= 1.4 * found.predictions
    assert 0.7 * found.fewest_gradients <= calls["backward"] / 40 <= 1.4 * found.gradients
    result = auditor_cli(*arguments, "--trust-model", "--out", "out")
    assert "Images that an earlier run of this folder measured are not measured again." in result.stderr
