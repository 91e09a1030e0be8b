"""The smallest perturbation over all attacks, and the order in which probes run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import as_attack, records

from auditor import Conclusion, Curve, Meta, Probe
from auditor.plugins.metrics.adversarial_distance import AdversarialDistance
from auditor.probes.distances import attack_records, norms_of, smallest
from auditor.run.selection import _dependencies_first


def rows(*attacked: tuple[str, float, bool], wrong: tuple[str, ...] = ()) -> pd.DataFrame:
    """Build the records of an L2 attack from (image, distance, success), with every image at epsilon 0."""
    images = dict.fromkeys([image for image, *_ in attacked] + list(wrong))
    clean = [(image, 0.0, 0.0, False) for image in images]
    table = [*clean, *((image, 1.0, distance, success) for image, distance, success in attacked)]
    frame = pd.DataFrame(table, columns=["image_id", "epsilon", "l2", "success"])
    return as_attack(frame, norm="l2", prediction=frame["image_id"].isin(wrong).astype(int))


def test_smallest_distance_is_that_of_the_best_attack_on_each_image() -> None:
    others = {
        "attacks.one": rows(("a", 0.5, True), ("b", 0.7, True), ("c", 0.1, False), wrong=("d",)),
        "attacks.two": rows(("a", 0.4, True), ("b", 0.9, True), ("c", 0.2, False), wrong=("d",)),
        "attacks.without-a-norm": pd.DataFrame({"image_id": ["a"], "success": [True]}),
    }
    attacks = attack_records(others)
    assert list(attacks) == ["attacks.one", "attacks.two"]
    assert norms_of(attacks) == ["l2"]
    found = smallest(attacks, "l2").sort_index()
    assert found["distance"].tolist() == [0.4, 0.7, np.inf, 0.0]
    assert found["attack"].tolist() == ["attacks.two", "attacks.one", "", ""]
    assert np.isnan(found["snr_db"][["c", "d"]]).all()
    assert not len(smallest(attacks, "l1"))


def probe(probe_id: str, *depends_on: str) -> Probe:
    def nothing(*_: Any) -> Any:
        return Conclusion()

    meta = Meta(id=probe_id, title="x", area="metrics", why="x")
    return type("P", (Probe,), {"meta": meta, "depends_on": depends_on, "measure": nothing, "conclude": nothing})()


def test_probes_run_after_the_probes_they_depend_on() -> None:
    probes = [
        probe("metrics.all", "metrics.*"),
        probe("metrics.b", "attacks.*"),
        probe("attacks.x"),
        probe("metrics.circle", "metrics.all"),
        probe("metrics.c", "metrics.b"),
        probe("attacks.y", "attacks.x"),
    ]
    order = [p.meta.id for p in _dependencies_first(probes)]
    assert sorted(order) == sorted(p.meta.id for p in probes)
    assert order[:4] == ["attacks.x", "attacks.y", "metrics.b", "metrics.c"]


def test_median_distance_uses_only_searched_images() -> None:
    """A sweep finds distances only up to its next epsilon, so it must not raise the median."""
    sweep = rows(*((image, 1.0, True) for image in "abcd"))
    search = rows(("a", 0.1, True), ("b", 0.2, True), ("c", 0.3, False)).assign(searched=True)
    others = {"attacks.sweep": sweep, "attacks.search": search}
    found = smallest(others, "l2").sort_index()
    assert found["distance"].tolist() == [0.1, 0.2, 1.0, 1.0]
    assert found["searched"].tolist() == [True, True, True, False]
    conclusion = AdversarialDistance().conclude(records(sweep[:0], others=others))
    median = next(metric for metric in conclusion.metrics if metric.name == "distance_median")
    assert (median.value, median.n) == (0.2, 3)
    curve = conclusion.findings[0].evidence[0]
    assert isinstance(curve, Curve)
    assert [(point.x, point.y) for point in curve.series[0].points] == [
        (0.0, 1.0),
        (0.1, pytest.approx(2 / 3)),
        (0.2, pytest.approx(1 / 3)),
        (1.0, 0.0),
    ]
