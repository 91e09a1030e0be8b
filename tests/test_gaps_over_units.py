"""Gaps between groups over units: copies change no conclusion, patients raise no false alarm, real gaps are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest

from auditor import Conclusion, Metric, statistics
from auditor.conformance.units import copied
from auditor.plugins.bias import _fairness, _fairness_over_units
from auditor.plugins.bias.classes import Classes
from auditor.plugins.bias.counterfactual_occlusion import CounterfactualOcclusion
from auditor.plugins.bias.groups import Groups
from auditor.plugins.bias.robustness import RobustnessBias
from auditor.plugins.bias.slices import Slices
from auditor.probes.base import Probe, Records, no_examples
from auditor.probes.gap_statistics import UnitValues, means, medians, share_cell, shares
from auditor.probes.gaps import Stratum, find_gaps
from auditor.run.record import ignores_units
from auditor.statistics import UnitCounts

PROBES: dict[str, Callable[[], Probe]] = {
    "groups": Groups,
    "classes": Classes,
    "robustness": RobustnessBias,
    "slices": Slices,
    "occlusion": partial(CounterfactualOcclusion, minimum=10),
}


def images(n: int, seed: int = 0) -> pd.DataFrame:
    """Return images of three classes with all columns that the probes read; camera y is worse in every respect."""
    rng = np.random.default_rng(seed)
    labels, camera = rng.integers(0, 3, n), rng.choice(["x", "y"], n)
    wrong = rng.random(n) < np.where(camera == "y", 0.5, 0.05) + 0.3 * (labels == 2)
    change = rng.normal(-0.2, 0.05, (n, 3)) - 0.3 * (camera == "y")[:, None]
    return pd.DataFrame(
        {
            "image_id": [f"{i:05d}" for i in range(n)],
            "label": labels,
            "prediction": np.where(wrong, (labels + 1) % 3, labels),
            "correct": ~wrong,
            "confidence": rng.random(n),
            "group:camera": camera,
            "group:sex": rng.choice(["f", "m"], n),
            "features": list((rng.normal(size=(n, 3)) + 9 * (camera == "y")[:, None]).astype(np.float32)),
            "source": "pixels",
            "change": list(change.astype(np.float32)),
            "change_control": list(rng.normal(0, 0.05, (n, 3)).astype(np.float32)),
            "flipped": rng.random(n) < 0.5,
            "flipped_control": rng.random(n) < 0.1,
            "named": list(rng.integers(0, 4, (n, 1))),
            "cells": 4,
        }
    )


def attacked(frame: pd.DataFrame, seed: int = 1) -> pd.DataFrame:
    """Return records of an attack that needs less on images of camera y."""
    rng = np.random.default_rng(seed)
    needed = rng.exponential(np.where(frame["group:camera"] == "y", 4, 20)) / 255
    levels = [frame.assign(norm="linf", epsilon=0.0, success=False)]
    levels += [frame.assign(norm="linf", epsilon=e / 255, success=needed < e / 255) for e in (2, 4, 8, 16, 32)]
    return pd.concat(levels, ignore_index=True)


def records(frame: pd.DataFrame) -> Records:
    classes = ["cat", "dog", "owl"]
    others = {"attacks.one": attacked(frame)}
    return Records(frame=frame, examples=no_examples(), classes=classes, labelled=True, others=others)


@pytest.mark.parametrize("name", PROBES)
def test_ten_copies_of_every_image_give_the_conclusions_of_the_originals(name: str) -> None:
    """The same findings, intervals and p-values, also if every image is its own unit."""
    given = records(images(400))
    own = replace(given, frame=_own_units(given.frame), others={k: _own_units(f) for k, f in given.others.items()})
    alone, single, ten = (PROBES[name]().conclude(each) for each in (given, own, copied(given)))
    assert not ignores_units(ten)
    assert [f.id for f in alone.findings] == [f.id for f in single.findings] == [f.id for f in ten.findings]
    assert [(m.name, m.at) for m in alone.metrics] == [(m.name, m.at) for m in ten.metrics]
    gaps = 0
    for without, one, copies in zip(alone.metrics, single.metrics, ten.metrics, strict=True):
        assert (without.units, one.units, copies.units, copies.n) == (None, one.n, one.n, 10 * one.n)
        assert ends(copies) == pytest.approx(ends(one), abs=1e-9), one
        if "against" in one.at:
            assert ends(one) == pytest.approx(ends(without), abs=1e-9)
            gaps += bool(one.low)
    assert gaps
    assert p_values_of(alone) == p_values_of(single) == p_values_of(ten)


def _own_units(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(unit=frame["image_id"])


def ends(metric: Metric) -> tuple[Any, ...]:
    return metric.value, metric.low, metric.high


def p_values_of(conclusion: Conclusion) -> list[str]:
    """Return the p-values of the findings about one gap."""
    texts = [f.statement for f in conclusion.findings if f.metric is not None and "against" in f.metric.at]
    return [text.partition("Corrected p ")[2].partition(" (")[0] for text in texts]


def test_test_of_ten_copies_is_fishers_of_the_originals() -> None:
    rng = np.random.default_rng(2)
    one, other = rng.random(37) < 0.6, rng.random(53) < 0.9
    cells = [UnitCounts.of(np.repeat(hits, 10), np.repeat(np.arange(len(hits)), 10)) for hits in (one, other)]
    expected = statistics.fisher_lower((int(one.sum()), 37), (int(other.sum()), 53))
    assert statistics.fisher_lower_over_units(cells[0], cells[1]) == expected
    assert cells[0].interval() == pytest.approx(statistics.wilson(int(one.sum()), 37))
    # 100 % in one group: its design effect is that of the other
    perfect = UnitCounts.of(np.ones(530), np.repeat(np.arange(53), 10))
    expected = statistics.fisher_lower((int(one.sum()), 37), (53, 53))
    assert statistics.fisher_lower_over_units(cells[0], perfect) == expected


@pytest.mark.parametrize("hits", [[1, 0, 1, 1, 0, 1], [1] * 6, [0] * 6])
def test_design_effect_of_one_group_is_that_of_its_effective_n(hits: list[int]) -> None:
    units = np.array([0, 0, 0, 1, 2, 2])
    assert 6 / statistics.design_effect(UnitCounts.of(hits, units)) == pytest.approx(
        statistics.effective_n(hits, units)
    )


@pytest.mark.parametrize("n", [12, 25, 40])
@pytest.mark.parametrize("interval", [statistics.median_interval, statistics.mean_interval])
def test_interval_of_ten_copies_is_that_of_the_originals(interval: Callable[..., Any], n: int) -> None:
    values = np.random.default_rng(n).normal(size=n)
    units = np.repeat(np.arange(n), 10)
    for confidence in (0.95, 0.999):
        one = interval(values, confidence=confidence)
        assert interval(np.repeat(values, 10), confidence=confidence, units=units) == pytest.approx(one)
    assert interval(values, units=np.arange(n)) == pytest.approx(interval(values))


def test_median_of_unequal_units_is_within_its_interval() -> None:
    """One patient has half of the images: the interval is wide, and its ends are values."""
    values = np.r_[np.full(100, 5.0), np.arange(100.0)]
    value, low, high = statistics.median_interval(values, units=np.r_[np.zeros(100), np.arange(1, 101)])
    assert low is not None
    assert high is not None
    assert low < (value or 0) < high


# false alarms


def patients(rng: np.random.Generator, k: int, spread: float, accuracy: float) -> tuple[Any, Any]:
    """Return hits and units of ``k`` patients with 2 to 18 images, whose accuracies differ (beta distribution)."""
    chance = rng.beta(accuracy * spread, (1 - accuracy) * spread, k)
    units = np.repeat(np.arange(k), rng.integers(2, 19, k))
    return rng.random(len(units)) < chance[units], units


def stratum(cells: dict[str, Any], statistic: Any, **options: Any) -> Stratum:
    return Stratum(gap="gap", cells=cells, statistic=statistic, at={"group": "kind"}, **options)


@pytest.mark.parametrize(("spread", "accuracy"), [(0.5, 0.9), (1.0, 0.7), (0.2, 0.97)])
def test_patients_without_a_gap_raise_an_alarm_in_at_most_five_per_cent(spread: float, accuracy: float) -> None:
    """Six groups of 20 to 100 patients; their images, taken for independent, raise one in most data sets."""
    rng, found = np.random.default_rng(0), {True: 0, False: 0}
    for _ in range(200):
        groups = {str(k): patients(rng, k, spread, accuracy) for k in (20, 21, 30, 40, 60, 100)}
        for over_units in found:
            cells = {name: share_cell(hits, units if over_units else None) for name, (hits, units) in groups.items()}
            gaps = find_gaps([stratum(cells, shares(over_units=over_units))])
            found[over_units] += any(gap.significant for gap in gaps)
    assert found[True] <= 10
    assert found[False] >= 100


@pytest.mark.parametrize("statistic", [medians(over_units=True), means(over_units=True)])
def test_numbers_of_patients_without_a_gap_raise_an_alarm_in_at_most_five_per_cent(statistic: Any) -> None:
    rng, found = np.random.default_rng(0), 0
    for _ in range(150):
        cells = {}
        for k in (12, 20, 30, 60):
            units = np.repeat(np.arange(k), rng.integers(2, 19, k))
            cells[str(k)] = UnitValues(rng.exponential(size=k)[units] + rng.exponential(size=len(units)), units)
        found += any(gap.significant for gap in find_gaps([stratum(cells, statistic, worse=1)]))
    assert found <= 8


def test_audit_of_patients_without_a_gap_rarely_reports_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """All groupings and rates of ``bias.groups``, on images of 150 patients who differ strongly."""
    for module, name in ((_fairness, "fairness_statistics"), (_fairness_over_units, "fairness_statistics_over_units")):
        monkeypatch.setattr(module, name, partial(getattr(module, name), resamples=5))
    rng, found = np.random.default_rng(0), {True: 0, False: 0}
    for _ in range(20):
        hits, units = patients(rng, 150, 0.5, 0.85)
        labels = rng.integers(0, 2, len(hits))
        frame = pd.DataFrame({"label": labels, "prediction": labels ^ ~hits, "correct": hits})
        for name, values in {"group:sex": "fm", "group:skin": "1234"}.items():
            frame[name] = rng.choice(list(values), 150)[units]
        frame["image_id"] = [f"{i:05d}" for i in range(len(frame))]
        for over_units in found:
            given = frame.assign(unit=units.astype(str)) if over_units else frame
            read = replace(records(images(9)), frame=given, classes=["cat", "dog"], others={})
            metrics = Groups().conclude(read).metrics
            found[over_units] += any(m.low for m in metrics if "against" in m.at)
    assert found[True] <= 1
    assert found[False] >= 10


# gaps that exist


def test_gap_between_patients_is_found_with_its_units() -> None:
    rng = np.random.default_rng(4)
    cells = {name: share_cell(*patients(rng, k, 2.0, p)) for name, k, p in (("a", 150, 0.95), ("b", 80, 0.6))}
    (gap,) = find_gaps([stratum(cells, shares(over_units=True))])
    assert gap.significant
    assert (gap.group, gap.metric.units) == ("b", 150)
    assert ", 80 units) against" in gap.statement("Accuracy")
    assert "(Fisher over units, Holm over 2 comparisons)" in gap.statement("Accuracy")


def test_unit_in_both_groups_is_counted_once() -> None:
    cells = {name: share_cell(hits, np.arange(30)) for name, hits in (("a", np.ones(30)), ("b", np.arange(30) > 20))}
    (gap,) = find_gaps([stratum(cells, shares(over_units=True))])
    assert (gap.metric.n, gap.metric.units) == (60, 30)


def test_groups_of_few_units_are_not_compared() -> None:
    """Two patients with 30 images each: enough images, too few patients."""
    frame = images(90).assign(**{"group:camera": ["x"] * 60 + ["y"] * 30})
    frame["unit"] = [f"{i // 30}" for i in range(60)] + [f"{i}" for i in range(100, 130)]
    conclusion = Groups().conclude(records(frame))
    finding = next(f for f in conclusion.findings if f.id == "bias.groups/camera")
    assert finding.statement == (
        "Undecided: fewer than two values of camera have at least 20 units (n = 30, 30 units)."
        " Too small to compare: x (2 units)."
    )
    assert finding.metric is not None
    assert finding.metric.value is None


def test_confusions_are_tested_over_units() -> None:
    """Six patients are confused in one direction and two in the other: ten images each tell no more than one."""
    frame = images(60).assign(label=0, prediction=0)
    frame.loc[:5, ["label", "prediction"]] = [0, 1]
    frame.loc[6:7, ["label", "prediction"]] = [1, 0]
    one, ten = (Classes().conclude(given).findings[-1] for given in (records(frame), copied(records(frame))))
    blind = replace(copied(records(frame)), frame=copied(records(frame)).frame.drop(columns="unit"))
    tables: list[Any] = [f.evidence[0] for f in (one, ten, Classes().conclude(blind).findings[-1])]
    assert [t.rows[0][3] for t in tables] == ["0.29", "0.29", "8.6e-06"]
    assert "exact sign-flip tests over units, Holm" in ten.statement


def test_medians_of_units_are_numpys() -> None:
    rng = np.random.default_rng(0)
    values, units = np.where(rng.random(90) < 0.2, np.inf, rng.normal(size=90)), rng.integers(0, 20, 90)
    expected = [np.median(values[units == unit]) for unit in dict.fromkeys(units.tolist())]
    assert statistics.unit_medians(values, units) == pytest.approx(expected)
