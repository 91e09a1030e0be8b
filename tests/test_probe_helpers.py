"""Helpers that probes share: norms, levels, tables, example grids."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import records

from auditor import Metric
from auditor.algorithms.norms import image_norms
from auditor.probes.attack_findings import drop_text
from auditor.probes.example_grid import example_grid
from auditor.probes.grid_search import robust_accuracy, success_rate
from auditor.probes.levels import budget_text, epsilon_levels
from auditor.probes.metric_tables import epsilon_table, lowest, metric_table
from auditor.probes.plots import accuracy_points


@pytest.mark.parametrize(("norm", "order"), [("linf", np.inf), ("l2", 2), ("l1", 1)])
def test_image_norms_equal_numpys(norm: str, order: float) -> None:
    images = np.random.default_rng(0).normal(size=(5, 3, 4, 4)).astype(np.float32)
    expected = np.linalg.norm(images.reshape(5, -1).astype(np.float64), ord=order, axis=1)
    np.testing.assert_allclose(image_norms(images, norm), expected, rtol=1e-12)


def test_image_norms_of_no_images_are_empty() -> None:
    assert image_norms(np.zeros((0, 3, 4, 4), dtype=np.float32)).shape == (0,)


def test_budget_text_names_the_largest_epsilon_of_each_norm() -> None:
    assert budget_text((4 / 255, 8 / 255), (0.5,), (12.0,)) == "epsilon up to 8/255 in L-inf, 0.5 in L2, 12 in L1"
    assert budget_text((), ()) == "no budget"


def test_epsilon_levels_are_weakest_first() -> None:
    levels = epsilon_levels((0.2, 0.1), (), snrs=(20, 40))
    assert [(level["norm"], level["epsilon"]) for level in levels] == [
        ("linf", 0.1),
        ("linf", 0.2),
        ("snr", pytest.approx(0.01)),
        ("snr", pytest.approx(0.1)),
    ]


def metric(value: float | None, **at: Any) -> Metric:
    return Metric(name="robust_accuracy", value=value, n=7, at=at)


def test_metric_table_has_keys_metrics_and_n() -> None:
    table = metric_table("T", {"class": "text"}, {"accuracy": "percent"}, [(("a",), (metric(0.5),))])
    assert table.columns == ["class", "accuracy", "n"]
    assert table.formats == ["text", "percent", "count"]
    assert table.rows == [["a", {"value": 0.5, "low": None, "high": None}, 7]]


def test_metric_table_names_the_column_of_n_if_the_others_differ() -> None:
    fewer = Metric(name="attack_success_rate", value=0.5, n=4)
    columns = {"accuracy": "percent", "success": "percent"}
    different = metric_table("T", {}, columns, [((), (metric(0.5), fewer))], caption="Held out.")
    assert (different.caption, different.rows[0][-1]) == ("Held out. n: of accuracy.", 7)
    assert (
        metric_table("T", {}, columns, [((), (metric(0.5), metric(0.4)))], caption="Held out.").caption == "Held out."
    )


def test_epsilon_table_formats_epsilon_by_norm() -> None:
    linf = epsilon_table("linf", "robust accuracy", [metric(1.0, norm="linf", epsilon=0.1)])
    assert (linf.title, linf.formats[0]) == ("Robust accuracy by epsilon, L∞", "n/255")
    assert epsilon_table("l2", "robust accuracy", []).formats[0] == "number"


def test_lowest_metric_ignores_missing_values() -> None:
    assert lowest([metric(None), metric(0.4), metric(0.6)]).value == 0.4


def test_accuracy_points_have_the_share_at_each_size() -> None:
    distance = np.array([0.1, 0.2, np.inf])
    points = accuracy_points((0.0, 0.15, 1.0), lambda size: distance > size)
    assert [point.y for point in points] == pytest.approx([1, 2 / 3, 1 / 3])
    assert {point.n for point in points} == {3}


def test_drop_text_says_unchanged() -> None:
    assert drop_text("accuracy", metric(0.5), metric(0.5)) == "accuracy is unchanged at 50.0 %"
    assert drop_text("accuracy", metric(0.5), metric(0.25)) == "accuracy falls from 50.0 % to 25.0 %"


def test_grid_search_counts_only_correct_images_as_successes() -> None:
    correct, misclassified = [True, True, False], [True, False, True]
    assert robust_accuracy(correct, misclassified, {}).value == pytest.approx(1 / 3)
    success = success_rate(correct, misclassified, {})
    assert (success.value, success.n) == (0.5, 2)


def test_example_that_rounding_repaired_is_omitted() -> None:
    rows = [
        {
            "example": i,
            "image_id": f"{i}",
            "at": json.dumps({"position": i}),
            "picture": name,
            "file": f"{i}{name}.png",
            "label": 0,
            "prediction": 1,
            "confidence": 0.9,
            "success": success,
            "factor": 1.0,
        }
        for i, success in enumerate((True, False))
        for name in ("clean", "moved")
    ]
    shown = records(pd.DataFrame({"image_id": []}), examples=pd.DataFrame(rows))
    (grid,) = example_grid(
        shown, "T", ["clean", "moved"], must_succeed="moved", row_text=lambda level, _: f"at {level['position']}"
    )
    assert [row.label for row in grid.rows] == ["0; at 0"]
    assert "1 further examples are omitted" in grid.caption
    assert example_grid(records(pd.DataFrame({"image_id": []})), "T", ["clean"]) == []
