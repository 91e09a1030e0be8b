"""A probe that misbehaves costs only itself; memory and time that run out cost nothing that was measured."""

from __future__ import annotations

import importlib.metadata
import json
import os
import types
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import Result

from auditor import (
    Attack,
    Conclusion,
    Corruption,
    Example,
    Finding,
    FinishedRun,
    Meta,
    Metric,
    NotApplicable,
    Probe,
    ThreatModel,
    hookimpl,
)
from auditor.errors import BadInput
from auditor.model import deployed
from auditor.model.artefact import Artefact
from auditor.plugin import registry
from auditor.report import ReportFormat
from auditor.run import measuring
from auditor.run.folder import RunFolder
from auditor.run.opening import open_model
from auditor.run.request import Interrupted, Outcome, Request
from auditor.run.session import run
from auditor.run.writing import finish, prepare

META = Meta(id="sanity.bad", title="Misbehaves", area="sanity", why="It is a test.")


@dataclass(frozen=True, kw_only=True)
class Bad(Probe):
    """Well-behaved as it stands; the tests below break it in one place each."""

    meta = META

    def measure(self, classifier: Any, batch: Any, rng: Any) -> Any:
        return {"value": batch.probabilities.max(axis=1)}

    def conclude(self, records: Any) -> Conclusion:
        metric = Metric(name="value", value=float(records.frame["value"].mean()), n=len(records.frame), unit="1")
        return Conclusion(metrics=[metric], findings=[Finding(id="sanity.bad/x", title="x", statement="n = 1")])


def broken(**methods: Any) -> type[Probe]:
    return dataclass(frozen=True, kw_only=True)(type("Broken", (Bad,), methods))


Plug = Callable[..., None]


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Plug:
    """Install a plugin with these probes and hooks for the length of a test."""
    entries = importlib.metadata.entry_points(group="auditor.plugins")

    def call(*probes: type[Probe], **hooks: Any) -> None:
        module = types.ModuleType("third")
        module.auditor_probes = hookimpl(lambda: list(probes), specname="auditor_probes")  # type: ignore[attr-defined]
        for name, function in hooks.items():
            setattr(module, name, hookimpl(function, specname=name))
        entry = types.SimpleNamespace(
            name="third", dist=types.SimpleNamespace(name="third", version="1.0"), load=lambda: module
        )
        # other libraries ask for their plugins, too, and remember the answer
        monkeypatch.setattr(
            "importlib.metadata.entry_points", lambda group: [*entries, entry] if group == "auditor.plugins" else []
        )

    return call


@pytest.fixture
def audit(digits: Path, tmp_path: Path) -> Callable[..., Outcome]:
    """Audit 30 digits with the plugin's probe and accuracy."""

    def call(**options: Any) -> Outcome:
        given: dict[str, Any] = {"probes": ["sanity.bad", "performance.accuracy"], "samples": 30, "batch_size": 8}
        return run(Request(model=digits / "digits-cnn.onnx", out=tmp_path / "run", formats=(), **given | options))

    return call


def record(outcome: Outcome, probe_id: str = "sanity.bad") -> dict[str, Any]:
    found: dict[str, Any] = next(p for p in outcome.audit["probes"] if p["id"] == probe_id)
    return found


def test_rows_changed_by_one_probe_are_unchanged_for_the_next(plug: Plug, audit: Callable[..., Outcome]) -> None:
    """Rows that several probes need are read once."""
    seen: list[list[Any]] = []

    def conclude(self: Any, records: Any) -> Conclusion:
        frame = records.others["performance.accuracy"]
        seen.append(frame["confidence"].tolist())
        frame["confidence"] = 0.0
        del frame["prediction"]
        return Conclusion(metrics=[Metric(name="value", value=1.0, n=len(frame), unit="1")])

    def meta(number: int) -> Meta:
        return replace(META, id=f"sanity.bad-{number}")

    depends = ("performance.accuracy",)
    plug(*(broken(conclude=conclude, meta=meta(number), depends_on=depends) for number in range(2)))
    outcome = audit(probes=["performance.accuracy", "sanity.bad-0", "sanity.bad-1"])
    assert not outcome.incomplete
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert min(seen[0]) > 0


def raises(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("one by none")


def leaves(*_: Any, **__: Any) -> Any:
    raise SystemExit(0)


ONE = [Example(image_id="000000")]
BROKEN = {
    "measure raises": ({"measure": raises}, "ZeroDivisionError: one by none"),
    "measure exits": ({"measure": leaves}, "SystemExit"),
    "examples raises": ({"examples": raises}, "ZeroDivisionError"),
    "draw raises": (
        {"examples": lambda self, records: [Example(image_id=records.frame["image_id"][0])], "draw_example": raises},
        "ZeroDivisionError",
    ),
    "conclude raises": ({"conclude": raises}, "ZeroDivisionError"),
    "an example of no image": ({"examples": lambda self, records: [Example(image_id="absent")]}, "absent"),
    "columns of unequal length": ({"measure": lambda self, c, b, r: {"value": np.zeros(len(b) + 1)}}, "expected 8"),
    "rows that are no images": (
        {"measure": lambda self, c, b, r: {"row": np.array([len(b)]), "value": np.zeros(1)}},
        "column 'row' has the value 8",
    ),
    "no columns": ({"measure": lambda self, c, b, r: None}, "NoneType"),
    "no conclusion": ({"conclude": lambda self, records: None}, "NoneType"),
    "a metric that fits no schema": (
        {"conclude": lambda self, records: Conclusion(metrics=[Metric(name="value", value=1.0, n=1, unit="parsec")])},
        "parsec",
    ),
    "a metric that is no number": (
        {"conclude": lambda self, records: Conclusion(metrics=[Metric(name="value", value="much", n=1)])},  # type: ignore[arg-type]
        "much",
    ),
    "something that is no JSON": (
        {"conclude": lambda self, records: Conclusion(metrics=[Metric(name="v", value=1.0, n=1, at={"x": object()})])},  # type: ignore[dict-item]
        "cannot be stored in audit.json",
    ),
}


def test_probe_can_declare_itself_not_applicable(plug: Plug, audit: Callable[..., Outcome]) -> None:
    def declines(*_: Any) -> Any:
        raise NotApplicable("the model has no convolution")

    plug(broken(measure=declines))
    outcome = audit()
    found = record(outcome)
    assert not outcome.incomplete
    assert (found["status"], found["reason"]) == ("not-applicable", "the model has no convolution")


@pytest.mark.parametrize(("methods", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_probe_is_named_and_the_others_run(
    plug: Plug, audit: Callable[..., Outcome], methods: dict[str, Any], message: str
) -> None:
    plug(broken(**methods))
    outcome = audit()
    bad = record(outcome)
    assert outcome.incomplete
    assert (bad["status"], bad["severity"], bad["metrics"]) == ("error", "none", [])
    assert message in bad["reason"]
    assert "Traceback" in (outcome.out / "records/sanity.bad/error.txt").read_text()
    assert record(outcome, "performance.accuracy")["metrics"][0]["value"] > 0.9
    assert outcome.audit["verdict"] != "pass"


def test_command_names_the_broken_probe_and_exits_with_3(
    plug: Plug, auditor_cli: Callable[..., Result], digits: Path
) -> None:
    plug(broken(measure=raises))
    model = digits / "digits-cnn.onnx"
    result = auditor_cli("run", model, "--probe", "sanity.bad", "--samples", 20, "--format", "json", "--out", "run")
    assert result.exit_code == 3
    assert "sanity.bad" in result.output
    assert "ZeroDivisionError" in result.output


def test_fixed_probe_removes_its_error_file(plug: Plug, audit: Callable[..., Outcome]) -> None:
    plug(broken(conclude=raises))
    audit()
    plug(Bad)
    outcome = audit()
    assert not outcome.incomplete
    assert not (outcome.out / "records/sanity.bad/error.txt").exists()


def test_nan_is_written_as_null(plug: Plug, audit: Callable[..., Outcome]) -> None:
    plug(broken(measure=lambda self, c, b, r: {"value": np.full(len(b), np.nan)}))
    outcome = audit()
    assert record(outcome)["metrics"][0]["value"] is None
    assert not outcome.incomplete


def test_threat_model_that_raises_is_an_error(plug: Plug, audit: Callable[..., Outcome]) -> None:
    """threat_model is asked for the record, even for that of an error."""
    kind = broken(threat_model=lambda self: raises() if self.samples else None)
    plug(kind)
    suite = audit().out / "suite.toml"
    suite.write_text('probes = ["sanity.bad"]\n[settings."sanity.bad"]\nsamples = 5\n')
    outcome = audit(suite=str(suite), probes=())
    assert record(outcome)["status"] == "error"


class Wild(Attack):
    """Returns what the test states."""

    meta = replace(META, id="attacks.wild", area="attacks")

    def threat_model(self) -> ThreatModel:
        return ThreatModel(goal="any", knowledge="none", norm="linf", budget="8/255")

    def levels(self) -> Sequence[dict[str, Any]]:
        return [{"norm": norm, "epsilon": 8 / 255} for norm in ("linf", "l2", "l1")]


def wild(perturb: Callable[[Any], Any]) -> type[Probe]:
    methods = {"perturb": lambda self, c, batch, r, level: perturb(batch.pixels)}
    return dataclass(frozen=True, kw_only=True)(type("Wild", (Wild,), methods))


@pytest.mark.parametrize("perturb", [lambda x: x + 5, lambda x: x * 0 - 1, lambda x: 1 - x], ids=["+5", "-1", "1-x"])
def test_attack_is_clipped_to_its_budget(
    plug: Plug, audit: Callable[..., Outcome], perturb: Callable[[Any], Any]
) -> None:
    plug(wild(perturb))
    outcome = audit(probes=["attacks.wild"])
    assert not outcome.incomplete
    rows = [pq.read_table(path).to_pylist() for path in (outcome.out / "records/attacks.wild").glob("shard-*.parquet")]
    attacked = [row for part in rows for row in part if row["epsilon"]]
    assert attacked
    for row in attacked:
        assert row[row["norm"]] <= row["epsilon"] + 1e-6, "float32 rounds by as much"
        assert row["linf"] > 0
    for path in outcome.out.glob("evidence/*.png"):
        assert path.stat().st_size


@pytest.mark.parametrize(
    ("perturb", "message"),
    [
        (lambda x: x * np.nan, "NaN or infinity"),
        (lambda x: x + np.inf, "NaN or infinity"),
        (lambda x: x[:, :, :4], "returned shape"),
        (lambda x: x[:1], "returned shape"),
        (lambda x: None, "returned shape|TypeError|NaN"),
    ],
    ids=["NaN", "infinity", "cropped", "one image", "None"],
)
def test_attack_without_images_is_an_error(
    plug: Plug, audit: Callable[..., Outcome], perturb: Callable[[Any], Any], message: str
) -> None:
    plug(wild(perturb))
    bad = record(audit(probes=["attacks.wild"]), "attacks.wild")
    assert bad["status"] == "error"
    assert any(part in bad["reason"] for part in message.split("|"))


def test_corruption_is_clipped_to_the_pixel_range(plug: Plug, audit: Callable[..., Outcome]) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Bright(Corruption):
        meta = replace(META, id="corruptions.bright", area="corruptions")

        def levels(self) -> Sequence[dict[str, Any]]:
            return [{"kind": "brightness", "severity": 1.0}]

        def perturb(self, classifier: Any, batch: Any, rng: Any, level: Any) -> Any:
            return batch.pixels + 9

    plug(Bright)
    outcome = audit(probes=["corruptions.bright"])
    assert not outcome.incomplete
    table = pq.read_table(next((outcome.out / "records/corruptions.bright").glob("shard-*.parquet")))
    assert max(table["linf"].to_pylist()) <= 1


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory. Tried to allocate"), MemoryError()], ids=str)
def test_out_of_memory_halves_the_batch_without_losing_images(
    plug: Plug, audit: Callable[..., Outcome], error: Exception
) -> None:
    batch_sizes: list[int] = []

    def measure(self: Any, classifier: Any, batch: Any, rng: Any) -> Any:
        if len(batch) > 3:
            raise error
        batch_sizes.append(len(batch))
        return {"value": batch.probabilities.max(axis=1)}

    plug(broken(measure=measure))
    outcome = audit(batch_size=16)
    assert (max(batch_sizes), sum(batch_sizes)) == (2, 30)
    assert record(outcome)["metrics"][0]["n"] == 30
    assert not outcome.incomplete


def test_out_of_memory_frees_the_tensors_of_failed_attempts(
    plug: Plug, audit: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    monkeypatch.setattr(measuring, "free_memory", lambda: alive.append(sum(ref() is not None for ref in failed)))

    def measure(self: Any, classifier: Any, batch: Any, rng: Any) -> Any:
        if len(batch) > 3:
            large = torch.zeros(4)
            failed.append(weakref.ref(large))
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return {"value": batch.probabilities.max(axis=1)}

    plug(broken(measure=measure))
    audit(batch_size=16, probes=["sanity.bad"])
    assert len(failed) > 2
    assert alive.count(0) == len(alive) >= len(failed)


def test_out_of_memory_in_the_deployed_model_frees_the_failed_attempt(
    linear_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = open_model(linear_model(tmp_path / "m.onnx", np.eye(3), np.zeros(3), (3, 1, 1)), "cpu", trust=True)
    real, failed, alive = classifier.artefact.scores, [], []

    def scores(inputs: Any) -> Any:
        if len(inputs) > 4:
            large = torch.zeros(4)
            failed.append(weakref.ref(large))
            raise RuntimeError("Failed to allocate memory")
        return real(inputs)

    classifier.artefact = replace(classifier.artefact, scores=scores)
    monkeypatch.setattr(deployed, "free_memory", lambda: alive.append(sum(ref() is not None for ref in failed)))
    classifier.batch_size = 16
    assert classifier.predict(np.zeros((20, 3, 1, 1), np.float32)).shape == (20, 3)
    assert (classifier.batch_size, alive) == (4, [0, 0])


@pytest.mark.parametrize(("device", "expected"), [("cuda:0", 2048), ("cpu", 512)])
def test_batch_size_is_chosen_by_finished_work_and_without_a_cap_on_a_gpu(
    device: str, expected: int, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    pending = [0.0]

    class Model:
        access, batch_size, calls, fixed_batch = "white-box", 32, types.SimpleNamespace(), None
        artefact = types.SimpleNamespace(endpoint=None)

        def predict(self, images: Any) -> None:
            clock[0] += 1e-4

        def gradient(self, images: Any) -> None:
            # a GPU returns at once; up to 2048 images take equally long
            pending[0] += 1e-3 * max(1, (len(images) / 2048) ** 1.5)

    def finish(name: str) -> None:
        assert name == device
        clock[0], pending[0] = clock[0] + pending[0], 0.0

    class FiveThousand:
        def __len__(self) -> int:
            return 5000

        def pixels(self, ids: Any) -> Any:
            return np.zeros((512, 1, 1, 1), np.float32)

    monkeypatch.setattr(measuring, "finish", finish)
    model = Model()
    model.device = device
    images = FiveThousand()
    measuring.choose_batch_size(types.SimpleNamespace(classifier=model, images=images), None, [])
    assert model.batch_size == expected


def test_out_of_memory_for_a_single_image_is_an_error(plug: Plug, audit: Callable[..., Outcome]) -> None:
    def measure(*_: Any) -> Any:
        raise MemoryError("out of memory")

    plug(broken(measure=measure))
    assert record(audit())["status"] == "error"


def test_ctrl_c_keeps_measured_records(plug: Plug, audit: Callable[..., Outcome]) -> None:
    measured_ids: list[str] = []

    def measure(self: Any, classifier: Any, batch: Any, rng: Any) -> Any:
        if len(measured_ids) == 16:
            raise KeyboardInterrupt
        measured_ids.extend(batch.ids)
        return {"value": batch.probabilities.max(axis=1)}

    plug(broken(measure=measure))
    with pytest.raises(Interrupted):
        audit(probes=["sanity.bad"])
    measured_ids.append("past the interruption")
    assert record(audit(probes=["sanity.bad"]))["n"] == 30
    assert len(measured_ids) == 31
    assert len(set(measured_ids)) == 31


@pytest.mark.parametrize(
    ("needs", "message"),
    [({"groups"}, "no group columns"), ({"labels"}, "no labels"), ({"gradients"}, "black box")],
    ids=str,
)
def test_probe_with_unmet_requirements_is_not_applicable(
    plug: Plug, audit: Callable[..., Outcome], tmp_path: Path, needs: set[Any], message: str
) -> None:
    """The data has pixels and nothing else, and the model no copy."""
    artefact = Artefact(
        format="onnx",
        runtime="test",
        input_shape=(None, 1, 8, 8),
        input_dtype="float32",
        scores=lambda x: x.reshape(len(x), -1)[:, :3],
        copy_reason="there is none",
    )
    plug(
        broken(meta=replace(META, needs=frozenset(needs)), measure=raises),
        auditor_open_model=lambda path, device: artefact,
    )
    np.savez(tmp_path / "bare.npz", images=np.random.default_rng(0).integers(0, 255, (30, 8, 8), dtype=np.uint8))
    model = tmp_path / "model.bin"
    model.write_bytes(b"model")
    outcome = run(
        Request(
            model=model,
            data=tmp_path / "bare.npz",
            out=tmp_path / "run",
            formats=(),
            probes=["sanity.bad"],
            trust_model=True,
        )
    )
    assert record(outcome)["status"] == "not-applicable"
    assert message in record(outcome)["reason"]
    assert not outcome.incomplete


def test_model_opener_that_raises_is_named_and_the_next_one_is_tried(plug: Plug, audit: Callable[..., Outcome]) -> None:
    plug(Bad, auditor_open_model=lambda path, device: raises())
    outcome = audit()
    assert outcome.incomplete
    assert record(outcome)["status"] == "informative"
    assert outcome.audit["plugins"] == [
        {"name": "third:third", "version": "1.0", "error": "auditor_open_model raised ZeroDivisionError: one by none"}
    ]


def test_object_that_is_no_report_format_is_refused(plug: Plug, digits: Path, tmp_path: Path) -> None:
    plug(Bad, auditor_report_formats=lambda: [types.SimpleNamespace(name="gilt", file="gilt.txt", render=raises)])
    with pytest.raises(BadInput, match="--format gilt: not an auditor"):
        run(Request(model=digits / "digits-cnn.onnx", out=tmp_path / "run", formats=("gilt",), probes=["sanity.bad"]))


def test_broken_report_does_not_prevent_other_reports(plug: Plug, digits: Path, tmp_path: Path) -> None:
    fmt = ReportFormat(name="gilt", file="gilt.txt", render=raises)
    plug(Bad, auditor_report_formats=lambda: [fmt])
    outcome = run(
        Request(
            model=digits / "digits-cnn.onnx",
            out=tmp_path / "run",
            formats=("gilt", "md"),
            probes=["sanity.bad"],
            samples=20,
        )
    )
    assert outcome.incomplete
    assert outcome.problems[0].startswith("gilt.txt was not written: ZeroDivisionError")
    assert {path.name for path in outcome.files} == {"audit.json", "summary.md"}


def test_formats_are_prepared_early_and_errors_are_ignored() -> None:
    done: list[str] = []

    def torn() -> None:
        raise OSError("out of paper")

    formats = [
        ReportFormat(name="torn", file="torn.pdf", render=lambda *_: b"", prepare=torn),
        ReportFormat(name="html", file="report.html", render=lambda *_: b""),
        ReportFormat(name="pdf", file="report.pdf", render=lambda *_: b"", prepare=lambda: done.append("pdf")),
    ]
    prepare(formats)
    assert done == ["pdf"]


def test_paged_formats_start_first_and_are_collected_last(tmp_path: Path) -> None:
    done: list[str] = []

    def on_paper(audit: object, run: Path) -> Iterator[bytes | None]:
        done.append("begun")
        yield None
        done.append("drawn")
        yield b"paper"

    def on_screen(audit: object, run: Path) -> bytes:
        done.append("screen")
        return b"screen"

    def torn(audit: object, run: Path) -> bytes:
        raise OSError("out of paper")

    formats = [
        ReportFormat(name="html", file="report.html", render=on_screen),
        ReportFormat(name="torn", file="torn.pdf", render=torn, paged=True),
        ReportFormat(name="pdf", file="report.pdf", render=on_paper, paged=True),
    ]
    folder = RunFolder(tmp_path / "run")
    outcome = finish({"probes": [], "plugins": []}, folder, formats)
    folder.close()
    assert done == ["begun", "screen", "drawn"]
    assert (tmp_path / "run" / "report.pdf").read_bytes() == b"paper"
    assert (tmp_path / "run" / "report.html").read_bytes() == b"screen"
    (problem,) = outcome.problems
    assert problem.startswith("torn.pdf was not written: OSError: out of paper")


def test_finished_run_is_published_and_cannot_be_changed(audit: Callable[..., Outcome], plug: Plug) -> None:
    seen: list[FinishedRun] = []

    def publish(run: FinishedRun) -> None:
        seen.append(run)
        run.audit["verdict"] = "pass"
        (run.folder / "audit.json").write_text("{}")

    plug(auditor_run_finished=publish)
    outcome = audit(probes=["performance.accuracy"])
    assert [run.folder for run in seen] == [outcome.out]
    stored = json.loads((outcome.out / "audit.json").read_text())
    assert stored["verdict"] == outcome.audit["verdict"] == "incomplete"
    assert outcome.problems == [
        "plugin third:third 1.0: auditor_run_finished changed audit.json, which was restored",
    ]
    assert outcome.incomplete


def test_publisher_that_raises_is_named(audit: Callable[..., Outcome], plug: Plug) -> None:
    def publish(run: FinishedRun) -> None:
        raise ConnectionError(f"no server for {run.folder.name}")

    plug(auditor_run_finished=publish)
    outcome = audit(probes=["performance.accuracy"])
    assert len(outcome.problems) == 1
    assert outcome.problems[0].startswith(
        "plugin third:third 1.0: auditor_run_finished: ConnectionError: no server for run"
    )


def test_plugins_are_left_out_on_request(plug: Plug, audit: Callable[..., Outcome], monkeypatch: Any) -> None:
    plug(Bad)
    assert "sanity.bad" in registry.load().probes
    monkeypatch.setenv(registry.ONLY, "third")
    assert "sanity.bad" in registry.load().probes
    monkeypatch.setenv(registry.ONLY, "thrid")
    with pytest.raises(BadInput, match=r"--only-plugins thrid: no such plugin \(did you mean 'third'\?\)"):
        registry.load()
    monkeypatch.setenv(registry.ONLY, "")
    assert "sanity.bad" not in registry.load().probes
    outcome = audit(probes=["performance.accuracy"])
    assert "Installed plugins were not loaded, as requested: third." in outcome.audit["warnings"]


def test_options_choose_plugins(plug: Plug, auditor_cli: Callable[..., Result]) -> None:
    plug(Bad)
    assert "sanity.bad" in auditor_cli("probes").output
    assert "sanity.bad" in auditor_cli("probes", "--only-plugins", "third").output
    assert "sanity.bad" not in auditor_cli("probes", "--no-plugins").output
    both = auditor_cli("probes", "--no-plugins", "--only-plugins", "third")
    assert "exclude each other" in both.output
    assert registry.ONLY not in os.environ
