"""Units of images (patients, persons, videos): from the data to intervals, splits, warnings and comparisons."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from PIL import Image

from auditor import statistics
from auditor.compare.differences import compare_values
from auditor.data.dataset import Images
from auditor.data.duplicates import count_near_duplicates, thumbnail
from auditor.errors import BadInput
from auditor.findings.finding import Conclusion
from auditor.findings.metric import Metric
from auditor.model.tabular import of_table
from auditor.plugin import registry
from auditor.plugin.suite import find_suite
from auditor.plugins.attacks.universal import Universal
from auditor.plugins.bias._slice_search import find_slices
from auditor.plugins.performance.accuracy import Accuracy
from auditor.probes.base import Randomness, Records, RunContext, no_examples
from auditor.probes.splits import held_out_images, training_images
from auditor.report.html import render_html
from auditor.report.markdown import render_markdown
from auditor.run.manifest import records_key
from auditor.run.opening import open_audit
from auditor.run.record import ignores_units
from auditor.run.request import Request

Cli = Callable[..., Result]
PLUGINS = registry.load()
N = 30
SUITE = 'probes = ["performance.accuracy"]\n'


@pytest.fixture(scope="module")
def model(digits: Path) -> Path:
    return digits / "digits-cnn.onnx"


@pytest.fixture
def data(digits: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write thirty digits, each ``copies`` times, with further arrays."""

    def call(copies: int = 1, name: str = "data.npz", **arrays: Any) -> Path:
        with np.load(digits / "digits-test.npz") as stored:
            images, labels = (np.repeat(stored[key][:N], copies, axis=0) for key in ("images", "labels"))
        np.savez(tmp_path / name, images=images, labels=labels, **arrays)
        return tmp_path / name

    return call


def opened(model: Path, data: Path, unit: str | None = None) -> Any:
    """Open the data as an audit does with ``--unit``."""
    overrides = {} if unit is None else {"data": {"unit": unit}}
    request = Request(model=model, data=data, trust_model=True, overrides=overrides)
    return open_audit(PLUGINS, request, find_suite("full", PLUGINS), "cpu")[1]


def audited(cli: Cli, folder: Path, *arguments: object) -> dict[str, Any]:
    (folder / "suite.toml").write_text(SUITE)
    result = cli("run", *arguments, "--suite", "suite.toml", "--out", "run", "--format", "json", "--trust-model")
    assert result.exit_code == 0, result.output
    record: dict[str, Any] = json.loads((folder / "run" / "audit.json").read_text(encoding="utf-8"))
    return {**record, "output": result.output}


# the column


def manifest(folder: Path, columns: str, *rows: str) -> Path:
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(np.random.default_rng(ord(name[0])).integers(0, 255, (8, 8), dtype=np.uint8)).save(
            folder / name
        )
    (folder / "t.csv").write_text("\n".join([columns, *rows]) + "\n")
    return folder / "t.csv"


def test_column_unit_of_a_manifest_names_units_and_is_no_group(tmp_path: Path, model: Path) -> None:
    images = opened(
        model, manifest(tmp_path, "image,label,unit,camera", "a.png,0,p1,x", "b.png,1,p2,y", "c.png,1,p1,y")
    )
    assert (images.units, images.unit_name) == (["p1", "p2", "p1"], "unit")
    assert images.groups == {"camera": ["x", "y", "y"]}


@pytest.mark.parametrize("columns", ["image,label,patient", "image,label,patient,unit"])
def test_stated_column_takes_the_place_of_the_column_unit(columns: str, tmp_path: Path, model: Path) -> None:
    rows = ["a.png,0,p1", "b.png,1,p2", "c.png,1,p1"]
    if columns.endswith("unit"):
        rows = [f"{row},u{i}" for i, row in enumerate(rows)]
    images = opened(model, manifest(tmp_path, columns, *rows), unit="patient")
    assert (images.units, images.unit_name) == (["p1", "p2", "p1"], "patient")
    assert images.groups == ({"unit": ["u0", "u1", "u2"]} if columns.endswith("unit") else {})


def test_unknown_unit_column_is_refused(tmp_path: Path, model: Path) -> None:
    path = manifest(tmp_path, "image,label,camera", "a.png,0,x")
    with pytest.raises(BadInput, match=r"has no column 'patient' for the units .*; it has camera"):
        opened(model, path, unit="patient")


def test_row_without_a_unit_is_refused(tmp_path: Path, model: Path) -> None:
    path = manifest(tmp_path, "image,label,unit", "a.png,0,p1", "b.png,1,", "c.png,1,p1")
    with pytest.raises(BadInput, match=r"1 of 3 rows have no unit, the first is b\.png; give every row a unit"):
        opened(model, path)


def test_units_of_an_npz(model: Path, data: Callable[..., Path]) -> None:
    units = np.arange(N) // 3
    assert opened(model, data(units=units)).units == [str(u) for u in units]
    people = opened(model, data(groups_person=units), unit="person")
    assert (people.units, people.groups) == ([str(u) for u in units], {})
    with pytest.raises(BadInput, match=r"units has shape \[2\]; expected \[30\]"):
        opened(model, data(units=[1, 2]))


def test_unit_column_of_a_table_is_no_feature_and_no_group() -> None:
    from auditor.data.dataset import Source

    columns = {"a": [0.1, 0.2], "unit": ["p1", "p2"], "b": [1.5, 2.5], "patient": [7.0, 8.0], "label": [0, 1]}
    source = Source(path="t.csv", ids=["0", "1"], read=lambda i: (b"", None), columns=columns)  # type: ignore[arg-type, return-value]
    nothing: dict[str, Any] = {"label": None, "groups": None, "features": None}
    rows, how = of_table(source, 3, "float32", **nothing)
    assert (rows.units, rows.groups, [f.name for f in how.features]) == (["p1", "p2"], {}, ["a", "b", "patient"])
    rows, how = of_table(source, 2, "float32", **nothing, unit="patient")
    assert (rows.units, rows.unit_name, [f.name for f in how.features]) == (["7", "8"], "patient", ["a", "b"])


def test_sidecar_and_option_state_the_unit(
    tmp_path: Path, digits: Path, data: Callable[..., Path], auditor_cli: Cli
) -> None:
    """Precedence: command line, then sidecar."""
    (tmp_path / "m.onnx").write_bytes((digits / "digits-cnn.onnx").read_bytes())
    sidecar = (digits / "digits-cnn.onnx.audit.toml").read_text().partition("[data]")[0]
    (tmp_path / "m.onnx.audit.toml").write_text(f'{sidecar}\n[data]\nunit = "person"\n')
    path = data(groups_person=np.arange(N) // 2, groups_video=np.arange(N) // 10)
    assert audited(auditor_cli, tmp_path, "m.onnx", "--data", path)["data"]["units"] == {"name": "person", "n": 15}
    record = audited(auditor_cli, tmp_path, "m.onnx", "--data", path, "--unit", "video")
    assert record["data"]["units"] == {"name": "video", "n": 3}


# the audit


def test_ten_copies_give_the_interval_of_the_originals(
    tmp_path: Path, model: Path, data: Callable[..., Path], auditor_cli: Cli
) -> None:
    """The known answer, from the file to audit.json and the reports; without units, a warning."""
    one = audited(auditor_cli, tmp_path, model, "--data", data())
    ten = audited(auditor_cli, tmp_path, model, "--data", data(10, units=np.repeat(np.arange(N), 10)))
    blind = audited(auditor_cli, tmp_path, model, "--data", data(10))
    found = [record["probes"][0]["metrics"][0] for record in (one, ten, blind)]
    assert [(m["n"], m["units"]) for m in found] == [(N, None), (10 * N, N), (10 * N, None)]
    assert (found[1]["low"], found[1]["high"]) == (found[0]["low"], found[0]["high"])
    assert found[2]["low"] > found[0]["low"]
    assert [record["data"]["near_duplicates"] for record in (one, ten, blind)] == [0, 10 * N, 10 * N]
    warning = "300 of 300 images are nearly equal to another one, and the data states no units"
    assert [any(warning in text for text in record["warnings"]) for record in (one, ten, blind)] == [False, False, True]
    assert ten["output"].splitlines()[-1]
    row = next(line for line in ten["output"].splitlines() if line.startswith("performance.accuracy"))
    assert row.split()[-2:] == ["300", "30"]
    record = {key: value for key, value in ten.items() if key != "output"}
    html = render_html(record, tmp_path / "run").decode()  # type: ignore[arg-type]
    assert "300 labelled images of 30 units (unit)" in html
    assert "n = 300, 30 units" in html
    assert "| 300, 30 units |" in render_markdown(record, tmp_path / "run").decode()  # type: ignore[arg-type]


def test_other_units_give_other_intervals_without_another_measurement(
    tmp_path: Path, model: Path, data: Callable[..., Path], auditor_cli: Cli
) -> None:
    records = tmp_path / "run" / "records" / "performance.accuracy"
    first = audited(auditor_cli, tmp_path, model, "--data", data(units=np.arange(N)))
    files = sorted(records.glob("shard-*"))
    second = audited(auditor_cli, tmp_path, model, "--data", data(units=np.arange(N) // 5))
    assert sorted(records.glob("shard-*")) == files
    assert "so measured again" not in second["output"]
    assert first["data"]["sha256"] != second["data"]["sha256"]
    one, other = (record["probes"][0]["metrics"][0] for record in (first, second))
    assert (one["units"], other["units"]) == (30, 6)
    assert other["low"] < one["low"]
    assert any("belong to 6 units (column unit). With fewer than 10" in text for text in second["warnings"])


def test_rows_of_a_probe_that_splits_the_images_depend_on_the_units(model: Path, data: Callable[..., Path]) -> None:
    def key(probe: Any, path: Path) -> str:
        request = Request(model=model, data=path, trust_model=True)
        classifier, images = open_audit(PLUGINS, request, find_suite("full", PLUGINS), "cpu")
        return records_key(
            probe, images.ids, plugin_version=None, probes=[], classifier=classifier, images=images, seed=0
        )

    paths = [data(name="a.npz", units=np.arange(N)), data(name="b.npz", units=np.arange(N) // 5)]
    assert len({key(Accuracy(), path) for path in paths}) == 1
    assert len({key(Universal(), path) for path in paths}) == 2


def test_probe_that_ignores_units_is_inconclusive(
    tmp_path: Path, model: Path, data: Callable[..., Path], auditor_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason stands where the verdict is; without units the verdict counts."""

    def conclude(self: Accuracy, records: Records) -> Conclusion:
        correct = records.frame["prediction"] == records.frame["label"]
        return Conclusion(metrics=[statistics.proportion("accuracy", correct)])

    monkeypatch.setattr(Accuracy, "conclude", conclude)
    stated, alone = (
        audited(auditor_cli, tmp_path, model, "--data", path)["probes"][0]
        for path in (data(units=np.arange(N)), data(name="alone.npz"))
    )
    assert stated["status"] == "inconclusive"
    assert "its intervals assume independent images, but the data states units" in stated["reason"]
    assert "independent" not in alone["reason"]


def test_probe_that_ignores_units_is_named() -> None:
    def conclusion(units: int | None, low: float | None) -> Conclusion:
        return Conclusion(metrics=[Metric(name="x", value=0.5, low=low, high=low, n=9, units=units)])

    assert ignores_units(conclusion(None, 0.4))
    assert not ignores_units(conclusion(3, 0.4))
    assert not ignores_units(conclusion(None, None))


# splits


def test_split_keeps_units_together() -> None:
    ids = [f"{i:03d}" for i in range(200)]
    units = {image: f"patient {int(image) // 10}" for image in ids}

    class Chosen:
        predictions = labels = np.zeros(1)

        def __init__(self, ids: Any) -> None:
            self.ids = ids

        def take(self, _: Any) -> Any:
            return self

    rng = Randomness(0, "attacks.universal")
    run = RunContext(classifier=None, probes=[], ids=ids, batch=Chosen, rng=rng, units=units)  # type: ignore[arg-type]
    training, held_out = training_images(run, 1000).ids, held_out_images(run)
    assert sorted([*training, *held_out]) == ids
    assert not {units[i] for i in training} & {units[i] for i in held_out}
    assert len(held_out) % 10 == 0
    # without units as before
    alone = replace(run, units=None)
    assert held_out_images(alone) != held_out


def test_slices_are_searched_and_tested_on_different_patients() -> None:
    """Each patient has an own look and is wrong on all images or on none: no slice is confirmed by its own patient."""
    rng, confirmed = np.random.default_rng(0), {True: 0, False: 0}
    for seed in range(8):
        patient = np.repeat(np.arange(60), 10)
        wrong = np.random.default_rng(seed).random(60)[patient] < 0.2
        features = rng.normal(size=(60, 4))[patient] * 5 + rng.normal(size=(600, 4)) * 0.1
        frame = pd.DataFrame(
            {
                "image_id": [f"{seed}-{i:03d}" for i in range(600)],
                "label": 0,
                "prediction": wrong.astype(int),
                "features": list(features.astype(np.float32)),
            }
        )
        for stated in (True, False):
            given = frame.assign(unit=[f"{seed} {p}" for p in patient]) if stated else frame
            records = Records(frame=given, examples=no_examples(), classes=["0", "1"], labelled=True)
            confirmed[stated] += len(find_slices(records, clusters=20, minimum=5, candidates=5).confirmed)
    assert confirmed[False] >= 8
    assert confirmed[True] <= 1


# comparison of runs


def test_comparison_tests_units_not_images() -> None:
    """Nine patients improve and one gets worse, ten images each."""
    ids = [f"{i:03d}" for i in range(200)]
    patients = pd.Series([i // 10 for i in range(200)], index=ids)
    second = pd.Series((patients < 9).astype(int), index=ids)
    first = pd.Series((patients == 9).astype(int), index=ids)
    values: list[pd.Series | None] = [first, second]
    metrics: list[Any] = [
        {"name": "accuracy", "value": float(s.mean()), "low": 0.0, "high": 1.0, "n": 200, "unit": "fraction", "at": {}}
        for s in (first, second)
    ]
    alone, clustered = (compare_values((0, 1), metrics, values, units) for units in (None, patients))
    assert clustered["p"] == pytest.approx(statistics.mcnemar_two_sided(9, 1))
    assert alone["p"] == pytest.approx(statistics.mcnemar_two_sided(90, 10))
    width = [pair["difference"]["high"] - pair["difference"]["low"] for pair in (alone, clustered)]
    assert width[1] > 2.5 * width[0]
    assert alone["only"] == clustered["only"] == [10, 90]


# near-duplicates


def near(pictures: list[Any]) -> int:
    thumbnails = [thumbnail(np.asarray(p)) for p in pictures]
    return count_near_duplicates(thumbnails, [np.asarray(p).tobytes().hex() for p in pictures])


def photograph(seed: int, size: int = 48) -> Any:
    """A picture of slow changes with some detail, (3, size, size)."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(40, 210, (6, 6, 3), dtype=np.uint8)).resize(
        (size, size), Image.Resampling.BICUBIC
    )
    slow = np.asarray(coarse, dtype=np.float64).transpose(2, 0, 1)
    return (slow + rng.normal(0, 5, slow.shape)).clip(0, 255).astype(np.uint8)


def jpeg(pixels: Any) -> Any:
    stored = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(stored, "JPEG", quality=75)
    return np.asarray(Image.open(stored)).transpose(2, 0, 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p,
        jpeg,
        lambda p: (p * 0.8 + 20).astype(np.uint8),
        lambda p: np.asarray(
            Image.fromarray(p.transpose(1, 2, 0)).resize((96, 96)).resize((48, 48)), dtype=np.uint8
        ).transpose(2, 0, 1),
    ],
    ids=["copy", "JPEG", "brightness", "rescaled"],
)
def test_copy_is_a_near_duplicate(change: Callable[[Any], Any]) -> None:
    pictures = [photograph(seed) for seed in range(50)]
    assert near([*pictures, change(pictures[7])]) == 2


def test_different_images_are_no_near_duplicates(digits: Path) -> None:
    with np.load(digits / "digits-test.npz") as stored:
        scanned = [np.asarray(image)[None] if image.ndim == 2 else image for image in stored["images"]]
    assert near(scanned) == 0
    assert near([photograph(seed) for seed in range(200)]) == 0


def test_plain_images_are_compared_by_their_bytes() -> None:
    black, white = np.zeros((3, 8, 8), np.uint8), np.full((3, 8, 8), 255, np.uint8)
    assert thumbnail(black) is None
    assert near([black, white]) == 0
    assert near([black, white, black]) == 2


def test_few_near_duplicates_are_recorded_without_a_warning(model: Path, data: Callable[..., Path]) -> None:
    assert isinstance(opened(model, data()), Images)
    assert opened(model, data()).near_duplicates == 0
