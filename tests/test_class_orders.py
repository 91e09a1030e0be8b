"""The order of the classes: which other order fits labels and predictions, and how often one is accused by chance."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from auditor.data.class_orders import common_orders, reordered
from auditor.findings.record import ProbeRecord
from auditor.plugin import registry
from auditor.policy.rules import read_policy
from auditor.policy.verdict import judge_all
from auditor.probes.base import Records, no_examples
from auditor.probes.class_orders import MATCHING, fitting_order, other_orders
from auditor.run.folder import Cost
from auditor.run.record import probe_record

NUMBERED = [str(i) for i in range(12)]
ALPHABET = [f"class {chr(97 + i)}" for i in range(10)]


def sampled(
    k: int, n: int, accuracy: float, seed: int, mapping: Any = None
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return labels, and predictions of a model with errors spread evenly; ``mapping`` moves the labels' outputs."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    wrong = (labels + rng.integers(1, k, n)) % k
    outputs = np.where(rng.random(n) < accuracy, labels, wrong)
    return labels, outputs if mapping is None else np.asarray(mapping)[outputs]


def ids(n: int) -> list[str]:
    return [f"image {i}" for i in range(n)]


def records(labels: Any, predictions: Any, classes: list[str], **others: pd.DataFrame) -> Records:
    frame = pd.DataFrame({"image_id": ids(len(labels)), "label": labels, "prediction": predictions})
    frame["correct"] = labels == predictions
    return Records(frame=frame, examples=no_examples(), classes=classes, labelled=True, others=others)


def concluded(probe_id: str, given: Records) -> ProbeRecord:
    probe = registry.load().configure(probe_id, {}, where="test")
    return probe_record(probe, Cost(), conclusion=probe.conclude(given), n=len(given.frame))


@pytest.mark.parametrize(
    ("classes", "mapping", "name"),
    [
        (NUMBERED, common_orders(NUMBERED)["alphabetical order"], "alphabetical order"),
        (sorted(NUMBERED), common_orders(sorted(NUMBERED))["natural order"], "natural order"),
        (["Zebra", "ant", "bee"], [2, 0, 1], "alphabetical order without regard to case"),
        (["no", "yes"], [1, 0], "the reverse order"),
        (ALPHABET, (np.arange(10) + 1) % 10, "every class one output later"),
        (ALPHABET, (np.arange(10) - 1) % 10, "every class one output earlier"),
        (ALPHABET, [3, 1, 2, 0, 4, 5, 6, 7, 8, 9], MATCHING),
        (ALPHABET, np.random.default_rng(0).permutation(10), MATCHING),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("accuracy", [0.6, 0.95])
def test_order_that_fits_is_found(classes: list[str], mapping: Any, name: str, accuracy: float) -> None:
    labels, predictions = sampled(len(classes), 400, accuracy, seed=1, mapping=mapping)
    found = fitting_order(other_orders(labels, predictions, ids(400), classes))
    assert found is not None
    # for three classes the sorted order is also a shift; both names are right
    assert found.name == name or len(classes) == 3
    assert list(found.mapping) == list(mapping)
    assert found.accuracy.value == pytest.approx(accuracy, abs=0.1)


def test_order_is_written_as_the_option_expects_it() -> None:
    """``--classes`` lists the names in the order of the outputs: labels 0 to 2 mean outputs 1, 2 and 0."""
    assert reordered(["a", "b", "c"], np.array([1, 2, 0])) == ["c", "a", "b"]
    found = fitting_order(other_orders(*sampled(3, 300, 0.9, 0, [1, 2, 0]), ids(300), ["a", "b", "c"]))
    assert found is not None
    assert "--classes c,a,b" in found.warning(["a", "b", "c"])


@pytest.mark.parametrize(("k", "n", "accuracy"), [(2, 40, 0.6), (2, 400, 0.95), (10, 100, 0.5), (10, 400, 0.9)])
def test_right_order_is_accused_in_at_most_five_per_cent_of_200_seeds(k: int, n: int, accuracy: float) -> None:
    classes = ALPHABET[:k]
    accused = [
        fitting_order(other_orders(*sampled(k, n, accuracy, seed), ids(n), classes)) is not None for seed in range(200)
    ]
    assert np.mean(accused) <= 0.05


def test_guessing_model_is_accused_of_no_order() -> None:
    """Answers that concentrate on two outputs fit some matching better than another, but no order is the model's."""
    accused = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 10, 300)
        # the answer depends on the class, as an untrained network's does, between two outputs
        predictions = np.where(rng.random(300) < (labels % 3 + 1) / 5, 0, 9)
        accused.append(fitting_order(other_orders(labels, predictions, ids(300), ALPHABET)) is not None)
    assert np.mean(accused) <= 0.05


def test_failed_labels_check_invalidates_every_verdict_on_accuracy() -> None:
    labels, predictions = sampled(10, 400, 0.95, 0, (np.arange(10) + 1) % 10)
    given = records(labels, predictions, ALPHABET)
    given.frame["confidence"] = 0.9
    given.frame["probabilities"] = list(np.eye(10)[predictions] * 0.9 + 0.01)
    judged = judge_all([concluded(i, given) for i in ("performance.accuracy", "sanity.labels")], read_policy("default"))
    accuracy, check = judged
    assert (check["status"], check["severity"]) == ("fail", "high")
    assert "every class one output later" in check["findings"][0]["statement"]
    assert (accuracy["status"], accuracy["severity"], accuracy["invalidated_by"]) == (
        "inconclusive", "none", "sanity.labels",
    )  # fmt: skip
    assert check["warnings"] == accuracy["warnings"]
    assert "--classes class j" not in check["warnings"][0], "names with spaces need a file"
    assert "--classes FILE" in check["warnings"][0]


def test_good_model_passes_the_labels_check() -> None:
    given = records(*sampled(10, 400, 0.95, 0), ALPHABET)
    assert judge_all([concluded("sanity.labels", given)], read_policy("default"))[0]["status"] == "pass"


def preprocessings(labels: Any, used: Any, **others: Any) -> Records:
    """Return records of sanity.preprocessing: predictions with the one in use and whether others are correct."""
    parts = [pd.DataFrame({"image_id": ids(len(labels)), "preprocessing": "", "correct": used == labels})]
    for name, predictions in others.items():
        parts.append(parts[0].assign(preprocessing=name, correct=predictions == labels))
    frame = pd.concat(part.assign(label=labels, prediction=used) for part in parts)
    return Records(frame=frame, examples=no_examples(), classes=ALPHABET, labelled=True)


def test_preset_is_accused_only_if_it_beats_the_commonest_class() -> None:
    labels, right = sampled(10, 400, 0.9, 0)
    nothing = np.full(400, 3)
    weak = np.where(np.arange(400) % 12 == 0, labels, (labels + 1) % 10)
    accused = concluded("sanity.preprocessing", preprocessings(labels, nothing, imagenet=right))
    assert accused["metrics"][0]["value"] > 0.5
    doubted = concluded("sanity.preprocessing", preprocessings(labels, (labels + 5) % 10, imagenet=weak))
    assert doubted["metrics"][0]["value"] is None
    assert "not more accurate than always answering the commonest class" in doubted["caveat"]


def test_the_better_explanation_of_order_and_preset_is_accused() -> None:
    """Swapped names are not blamed on the preset, and a wrong preset is not blamed on the names."""
    labels, swapped = sampled(10, 400, 0.9, 0, [1, 0, *range(2, 10)])
    # reversed channels happen to give a little more
    lucky = np.where((np.arange(400) % 9 == 0) & (labels < 2), labels, swapped)
    given = preprocessings(labels, swapped, bgr=lucky)
    doubted = concluded("sanity.preprocessing", given)
    assert "see sanity.labels" in doubted["caveat"] or doubted["metrics"][0]["low"] <= 0
    accused = concluded("sanity.labels", records(labels, swapped, ALPHABET, **{"sanity.preprocessing": given.frame}))
    assert accused["metrics"][0]["value"] > 0.1

    labels, partly = sampled(10, 400, 0.5, 1, [1, 0, *range(2, 10)])
    right = sampled(10, 400, 0.95, 1)[1]
    given = preprocessings(labels, partly, unit=right)
    yielding = concluded("sanity.labels", records(labels, partly, ALPHABET, **{"sanity.preprocessing": given.frame}))
    assert yielding["metrics"][0]["value"] is None
    assert "see sanity.preprocessing" in yielding["caveat"]
    assert concluded("sanity.preprocessing", given)["metrics"][0]["value"] > 0.3


def test_reversed_classes_are_named_before_a_preset_that_fits_as_well() -> None:
    """With two classes, a preset that permutes the answers is as good as the reverse order."""
    labels = np.arange(60) % 2
    reverse = 1 - labels
    given = replace(preprocessings(labels, reverse, bgr=labels), classes=["no", "yes"])
    doubted = concluded("sanity.preprocessing", given)
    assert "(the reverse order) explains the data at least as well" in doubted["caveat"]
    others = {"sanity.preprocessing": given.frame}
    accused = concluded("sanity.labels", records(labels, reverse, ["no", "yes"], **others))
    assert accused["metrics"][0]["value"] == 1
    assert "Another preprocessing (bgr) explains the data as well" in accused["findings"][0]["statement"]


def test_preset_that_gives_a_second_constant_answer_is_not_accused() -> None:
    labels = np.repeat(np.arange(10), 20)
    second = np.where(labels < 2, labels, 0)
    doubted = concluded("sanity.preprocessing", preprocessings(labels, np.zeros(200, int), caffe=second))
    assert doubted["metrics"][0]["value"] is None
    assert "no image of 8 of the 10 classes is classified correctly" in doubted["caveat"]
