"""Sanity probes: a well-behaved model passes, and each check fails on a model or attack with that defect."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from auditor import Attack, Meta, NotApplicable, Records, ThreatModel
from auditor.algorithms.planted_control import plant, random_point
from auditor.data.dataset import Batch
from auditor.errors import BadInput
from auditor.model.artefact import Artefact
from auditor.model.classifier import Classifier
from auditor.model.deployed import DeployedModel
from auditor.model.preprocessing import Preprocessing
from auditor.plugins.attacks.autoattack import Autoattack
from auditor.plugins.attacks.carlini_wagner import CarliniWagner
from auditor.plugins.attacks.deepfool import DeepFool
from auditor.plugins.attacks.fgsm import Fgsm
from auditor.plugins.attacks.hopskipjump import HopSkipJump
from auditor.plugins.attacks.minimum_norm import FastMinimumNorm
from auditor.plugins.attacks.noise import Noise
from auditor.plugins.attacks.pgd import Pgd
from auditor.plugins.attacks.simba import Simba
from auditor.plugins.attacks.square import Square
from auditor.plugins.performance.accuracy import Accuracy
from auditor.plugins.sanity.determinism import Determinism
from auditor.plugins.sanity.gradient_masking import GradientMasking
from auditor.plugins.sanity.positive_control import PositiveControl
from auditor.policy.rules import read_policy
from auditor.policy.verdict import judge_all
from auditor.probes.base import Randomness, RunContext
from auditor.run.request import Request
from auditor.run.session import run

RNG = Randomness(0, "test")
SHAPE = (1, 4, 4)


def model(scores: Any, copy: Any = None, classes: int = 3, **how: Any) -> Classifier:
    """Return a classifier from a function of pixels (n, 1, 4, 4) to logits, optionally with a copy."""
    artefact = Artefact(
        format="onnx", runtime="numpy", input_shape=(None, *SHAPE), input_dtype="float32", copy=copy, scores=scores
    )
    given: dict[str, Any] = {"path": "model", "sha256": "0" * 64, "n_classes": classes, "outputs": "logits"}
    return DeployedModel(artefact, Preprocessing(shape=SHAPE), **given | how)


def pictures(n: int = 24) -> np.ndarray:
    return np.random.default_rng(1).uniform(0.3, 0.7, (n, *SHAPE)).astype(np.float32)


def batch_of(classifier: Classifier, pixels: np.ndarray) -> Batch:
    probabilities = classifier.predict(pixels)
    ids = tuple(f"{i:03d}" for i in range(len(pixels)))
    return Batch(ids=ids, pixels=pixels, labels=probabilities.argmax(axis=1), probabilities=probabilities)


def records_of(batch: Batch, columns: Any, **more: Any) -> Records:
    """Return records of a probe's columns, as the session does."""
    rows = np.asarray(columns.get("row", np.arange(len(batch))))
    frame = pd.DataFrame(
        {"image_id": np.array(batch.ids)[rows], "label": batch.labels[rows], "prediction": batch.predictions[rows]}
        | {name: list(values) for name, values in columns.items() if name != "row"}
    )
    given: dict[str, Any] = {"examples": pd.DataFrame({"example": []}), "classes": ["a", "b", "c"], "labelled": True}
    return Records(frame=frame, **given | more)


WEIGHTS = np.random.default_rng(2).normal(size=(3, 16)).astype(np.float32)


def linear(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(len(pixels), -1) @ WEIGHTS.T


def batch_dependent(pixels: np.ndarray) -> np.ndarray:
    """Normalise over the batch, as batch normalisation in training mode does."""
    return linear(pixels - pixels.mean(axis=0))


class RandomScores:
    """Draw a random number at every call."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        scores = linear(pixels)
        return scores + self.rng.normal(size=scores.shape).astype(np.float32)


def test_deterministic_model_agrees_with_itself() -> None:
    classifier = model(linear)
    batch = batch_of(classifier, pictures())
    conclusion = Determinism().conclude(records_of(batch, Determinism().measure(classifier, batch, RNG)))
    assert (conclusion.metrics[0].value, conclusion.metrics[0].n) == (1.0, 24)
    assert [m.value for m in conclusion.metrics[1:]] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(("scores", "repeatable"), [(RandomScores(), False), (batch_dependent, True)])
def test_random_and_batch_dependent_models_are_detected(scores: Any, repeatable: bool) -> None:
    classifier = model(scores)
    batch = batch_of(classifier, pictures())
    conclusion = Determinism().conclude(records_of(batch, Determinism().measure(classifier, batch, RNG)))
    differences = {m.at["asked"]: m.value for m in conclusion.metrics[1:]}
    assert (differences["again"] == 0) == repeatable
    assert differences["one image at a time"] > 0.01
    assert conclusion.metrics[0].value < 0.9


def test_determinism_is_inconclusive_without_images() -> None:
    empty = Records(frame=pd.DataFrame({"image_id": []}), examples=pd.DataFrame(), classes=["a"], labelled=True)
    assert Determinism().conclude(empty).inconclusive


def record(probe_id: str, metric: str, *values: float, **at: Any) -> dict[str, Any]:
    """Return a probe's record with a metric of n = 100 for each value."""
    common = {"name": metric, "n": 100, "unit": "fraction"}
    metrics = [
        common
        | {"value": value, "low": value - 0.01, "high": value, "at": {key: names[i] for key, names in at.items()}}
        for i, value in enumerate(values)
    ]
    given = {"status": "informative", "severity": "none", "reason": "", "findings": []}
    return given | {"id": probe_id, "metrics": metrics}


VOIDING = """
[[rule]]
probe = "attacks.pgd"
metric = "robust_accuracy"
at_least = { high = 0.5 }
reason = "r"
source = "s"
[[rule]]
probe = "attacks.fgsm"
metric = "robust_accuracy"
at_least = { high = 0.5 }
reason = "r"
source = "s"
[[rule]]
probe = "sanity.determinism"
metric = "control"
at_least = { low = 0.9 }
reason = "r"
source = "s"
[[void]]
when = "sanity.determinism"
probes = ["attacks.*"]
except = ["attacks.noise"]
reason = "the measurement is void"
source = "s"
"""


def judged(tmp_path: Path, policy: str, *records: dict[str, Any]) -> dict[str, str]:
    (tmp_path / "policy.toml").write_text(policy)
    # twice, because a judged run can be judged again
    read = read_policy(str(tmp_path / "policy.toml"))
    again = judge_all(judge_all(records, read), read)
    for probe in again:
        if probe["status"] == "inconclusive":
            assert probe["reason"].startswith("the measurement is void (sanity.determinism failed")
            assert probe["reason"].count("void") == 1
    return {probe["id"]: probe["status"] for probe in again}


@pytest.mark.parametrize(
    ("control", "pgd", "status"),
    [(1.0, 0.9, "pass"), (0.2, 0.9, "inconclusive"), (0.2, 0.1, "fail"), (1.0, 0.1, "fail")],
)
def test_failed_check_invalidates_a_pass_and_keeps_a_failure(
    tmp_path: Path, control: float, pgd: float, status: str
) -> None:
    attack = record("attacks.pgd", "robust_accuracy", pgd)
    check = record("sanity.determinism", "control", control)
    assert judged(tmp_path, VOIDING, attack, check)["attacks.pgd"] == status


def test_failed_check_keeps_excepted_probes(tmp_path: Path) -> None:
    rule = VOIDING[: VOIDING.index("[[rule]]", 5)].replace("pgd", "noise")
    check = record("sanity.determinism", "control", 0.2)
    noise = record("attacks.noise", "robust_accuracy", 0.9)
    assert judged(tmp_path, rule + VOIDING, noise, check)["attacks.noise"] == "pass"


def test_named_by_invalidates_only_named_probes(tmp_path: Path) -> None:
    attacks = [record(i, "robust_accuracy", 0.9) for i in ("attacks.pgd", "attacks.fgsm")]
    check = record("sanity.determinism", "control", 1.0, 0.1, attack=["attacks.pgd", "attacks.fgsm"])
    found = judged(tmp_path, VOIDING + 'named_by = "attack"\n', *attacks, check)
    assert found == {"attacks.pgd": "pass", "attacks.fgsm": "inconclusive", "sanity.determinism": "fail"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('[[void]]\nwhen = "sanity.no"\nprobes = ["*"]\nreason = "r"\nsource = "s"', "names the probe 'sanity.no'"),
        ('[[void]]\nprobes = ["*"]\nreason = "r"\nsource = "s"', "has no when"),
        ('[[void]]\nwhen = "sanity.parity"\nprobes = []\nreason = "r"\nsource = "s"', "expected a list of ids"),
        ('[[void]]\nwhen = "sanity.parity"\nprobe = ["*"]', "unknown key 'probe'"),
        ("void = 3", "one table"),
    ],
)
def test_invalid_void_entry_is_rejected(tmp_path: Path, entry: str, message: str) -> None:
    (tmp_path / "policy.toml").write_text(entry)
    with pytest.raises(BadInput, match=message):
        read_policy(str(tmp_path / "policy.toml"), ["sanity.parity"])


@dataclass(frozen=True, kw_only=True)
class Prepared(Accuracy):
    """A probe with the other probes and the number of images."""

    others: tuple[str, ...] = ()
    images: int = 0

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Any:
        return {"images": np.full(len(batch), self.images), **super().measure(classifier, batch, rng)}


PREPARED: list[Any] = []


def prepare(self: Accuracy, run: Any) -> Accuracy:
    PREPARED.append([probe.meta.id for probe in run.probes])
    return Prepared(images=len(run.batch(run.ids)), **vars(self))


def test_probe_is_prepared_once_and_only_if_rows_are_missing(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Accuracy, "prepare", prepare)
    PREPARED.clear()
    dependencies: list[str] = []
    monkeypatch.setattr(Accuracy, "fingerprint", lambda self, probes: list(dependencies))
    request = Request(
        model=digits / "digits-cnn.onnx",
        probes=["performance.accuracy", "sanity.parity"],
        samples=20,
        batch_size=8,
        out=tmp_path / "run",
        formats=(),
    )
    assert "images" not in str(run(request).audit["probes"][0]["settings"])
    run(request)
    assert PREPARED == [["performance.accuracy", "sanity.parity"]]
    rows = pd.concat(pd.read_parquet(path) for path in (tmp_path / "run/records/performance.accuracy").glob("shard-*"))
    assert set(rows["images"]) == {20}
    dependencies.append("another second model")
    run(request)
    assert len(PREPARED) == 2, "a changed fingerprint invalidates the rows"


class Linear(torch.nn.Module):
    """The copy of the linear model; functions before and after it mask its gradients."""

    def __init__(self, mask: Any = None, before: Any = None) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.tensor(WEIGHTS))
        self.mask, self.before = mask or (lambda z: z), before or (lambda x: x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mask(self.before(x).flatten(1) @ self.weights.T)


def masked(mask: Any = None, before: Any = None, **how: Any) -> Classifier:
    copy = Linear(mask, before)
    return model(lambda x: copy(torch.from_numpy(x)).detach().numpy(), copy, **how)


MASKS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "unmasked": ({}, set()),
    "scaled, with logits": ({"mask": lambda z: 1e4 * z}, set()),
    "softmax that underflows": (
        {"mask": lambda z: (1e5 * z).softmax(1), "outputs": "probabilities"},
        {"zero-gradient", "tiny-gradient", "random-step", "unbounded"},
    ),
    "softmax for logits": ({"mask": lambda z: z.softmax(1)}, {"softmax"}),
    "quantised scores": (
        {"mask": lambda z: z + (torch.round(z) - z).detach() - (z - z.detach())},
        {"zero-gradient", "tiny-gradient", "unbounded"},
    ),
    "shattered": ({"before": lambda x: x + 0.05 * torch.sin(1e4 * x)}, {"first-order"}),
    "reversed": ({"mask": lambda z: 2 * z.detach() - z}, {"random-step", "first-order", "unbounded"}),
}


@pytest.mark.parametrize("name", MASKS)
def test_masked_gradients_are_detected_and_others_are_not(name: str) -> None:
    how, expected = MASKS[name]
    classifier = masked(**how)
    probe = GradientMasking(iterations=5)
    batch = batch_of(classifier, pictures(40))
    conclusion = probe.conclude(records_of(batch, probe.measure(classifier, batch, RNG)))
    rows = {m.at["check"]: m for m in conclusion.metrics[1:]}
    verdicts = {row[0]: row[3] for row in conclusion.findings[0].evidence[0].rows}
    seen = {check for (check, _), verdict in zip(rows.items(), verdicts.values(), strict=True) if verdict == "masked"}
    assert expected <= seen
    assert conclusion.metrics[0].value == len(seen)
    assert bool(expected) == bool(seen), seen


def attack_frame(distances: Any, epsilons: Any, ids: Any) -> pd.DataFrame:
    """Return rows of an attack with the given distance per image, at every epsilon and at 0."""
    rows = [
        {"image_id": i, "epsilon": e, "linf": e, "l2": e, "l1": e, "success": 0 < d <= e}
        for i, d in zip(ids, distances, strict=True)
        for e in (0.0, *epsilons)
    ]
    constant = {"label": 0, "prediction": 0, "norm": "linf", "snr_db": 1.0}
    attack = {"searched": False, "surrogate_misclassified": False, "component": ""}
    return pd.DataFrame(rows).assign(**constant, **attack)


def test_gradient_masking_compares_attacks() -> None:
    classifier = masked()
    probe = GradientMasking(iterations=3)
    batch = batch_of(classifier, pictures(40))
    never, small = np.full(40, 9.0), np.full(40, 0.01)
    half = np.where(np.arange(40) < 20, 0.01, 9.0)
    frames = {
        "attacks.fgsm": attack_frame(half, [8 / 255], batch.ids),
        "attacks.pgd": attack_frame(never, [4 / 255, 8 / 255], batch.ids),
        "attacks.square": attack_frame(small, [8 / 255], batch.ids),
        "attacks.far": attack_frame(small, [32 / 255], batch.ids),
    }
    # an attack that fails at the larger epsilon
    small_success = frames["attacks.pgd"]["epsilon"].eq(4 / 255) & frames["attacks.pgd"]["image_id"].lt("010")
    frames["attacks.pgd"].loc[small_success, ["success", "linf"]] = [True, 4 / 255]

    def threat(knowledge: Any) -> ThreatModel:
        return ThreatModel(goal="g", knowledge=knowledge, norm="linf", budget="b")

    threats = {name: threat("white-box") for name in frames} | {"attacks.square": threat("black-box")}
    records = records_of(batch, probe.measure(classifier, batch, RNG), others=frames, threats=threats)
    found = {(m.at["check"], m.at.get("attack")): m.value for m in probe.conclude(records).metrics[1:]}
    # FGSM succeeds on the first half, PGD on the first quarter, and Square on all images
    assert found["black-box", None] == 0.5
    assert found["one-step", None] == 0.25
    assert found["larger-epsilon", "attacks.pgd"] == 0.25
    assert ("larger-epsilon", "attacks.far") not in found


def test_gradient_masking_is_inconclusive_for_few_images() -> None:
    classifier = masked()
    for n in (0, 1, 5):
        batch = batch_of(classifier, pictures(5)).take(range(n))
        columns = GradientMasking(iterations=2).measure(classifier, batch, RNG) if n else {}
        assert "too few" in GradientMasking().conclude(records_of(batch, columns)).inconclusive


@dataclass(frozen=True, kw_only=True)
class Broken(Attack):
    """An attack whose gradient is always zero."""

    meta = Meta(id="attacks.broken", area="attacks", title="Broken", why="A test.")

    def threat_model(self) -> ThreatModel:
        return ThreatModel(goal="g", knowledge="white-box", norm="linf", budget="b")

    def levels(self) -> Any:
        return [{"norm": "linf", "epsilon": 8 / 255}]

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Any) -> Any:
        return batch.pixels


def control(classifier: Classifier, *attacks: Any) -> tuple[dict[str, float], Any]:
    """Return the success of each attack on the planted points, at its L-infinity level, and the conclusion."""
    batch = batch_of(classifier, pictures(40))
    run = RunContext(classifier=classifier, probes=attacks, ids=batch.ids, batch=lambda _: batch, rng=RNG)
    columns = PositiveControl().prepare(run).measure(classifier, batch, RNG)
    conclusion = PositiveControl().conclude(records_of(batch, columns))
    success = [m for m in conclusion.metrics if m.name == "control_success" and m.at["norm"] == "linf"]
    return {m.at["attack"]: m.value for m in success}, conclusion


@pytest.mark.parametrize("how", [{}, {"mask": lambda z: 1e4 * z}, {"mask": lambda z: 1e-3 * z + 1}])
def test_attacks_find_planted_points_and_a_broken_attack_does_not(how: Any) -> None:
    found, conclusion = control(masked(**how), Fgsm(), Pgd(iterations=5), Broken(), Noise())
    assert found == {"attacks.fgsm": 1.0, "attacks.pgd": 1.0, "attacks.broken": 0.0}
    assert conclusion.metrics[0].at["attack"] == "attacks.broken", "the worst is the headline"
    chance = [m.value for m in conclusion.metrics if m.name == "control_noise"]
    assert max(chance) < 0.3


@pytest.mark.parametrize("name", ["softmax that underflows", "quantised scores", "reversed"])
def test_attack_on_masked_gradients_misses_planted_points(name: str) -> None:
    found, _ = control(masked(**MASKS[name][0]), Pgd(iterations=5))
    assert found["attacks.pgd"] < 0.3


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_planted_point_is_misclassified_and_within_epsilon(norm: str) -> None:
    """The planted point gets class 1 and lies within epsilon; the clean image gets class 0."""
    classifier = masked()
    batch = batch_of(classifier, pictures(12))
    model_, planted = plant(classifier, batch, RNG, norm=norm, epsilon=0.1, candidates=5)
    assert planted.all()
    assert not model_.predict(batch.pixels).argmax(axis=1).any()
    from auditor.algorithms.balls import Ball

    ball = Ball(norm, 0.1)
    points = [random_point(classifier, batch, RNG, ball, f"point {i}") for i in range(5)]
    hit = np.stack([model_.predict(p.numpy()).argmax(axis=1) == 1 for p in points])
    assert hit.any(axis=0).all()
    assert max(float(ball.length(p - torch.tensor(batch.pixels)).max()) for p in points) <= 0.1 + 1e-6
    assert model_.calls is classifier.calls


@pytest.mark.parametrize(
    "attack",
    [
        Square(queries=200),
        HopSkipJump(iterations=4),
        Simba(iterations=200),
        FastMinimumNorm(norms=("linf",)),
        DeepFool(),
        CarliniWagner(),
        Autoattack(iterations=5, targets=1, queries=10),
    ],
    ids=lambda attack: attack.meta.id,
)
def test_every_family_of_attacks_finds_planted_points(attack: Any) -> None:
    """Query-based attacks run on fewer images."""
    _, conclusion = control(masked(), attack)
    success = [m for m in conclusion.metrics if m.name == "control_success"]
    assert success
    assert {m.at["norm"]: m.value for m in success if m.value != 1.0} == {}
    black_box = attack.threat_model().knowledge == "black-box"
    assert {m.n for m in success} == ({36} if black_box else {40})
    assert len(success) == (1 if black_box else len(attack.control_levels()))


def test_positive_control_requires_a_search_attack() -> None:
    with pytest.raises(NotApplicable, match="no attack that searches"):
        control(masked(), Noise())


class Reversed(torch.nn.Module):
    """Equal outputs, opposite gradients."""

    def __init__(self, whole: torch.nn.Module) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.whole(x)
        return 2 * z.detach() - z


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning")
def test_masked_model_is_inconclusive(digits: Path, tmp_path: Path) -> None:
    """Robust accuracy is high, and status and verdict are not a pass."""
    whole = torch.jit.load(str(digits / "digits-cnn.pt"))
    torch.jit.save(torch.jit.trace(Reversed(whole), torch.zeros(2, 1, 8, 8)), str(tmp_path / "masked.pt"))
    shutil.copy(digits / "digits-cnn.pt.audit.toml", tmp_path / "masked.pt.audit.toml")
    shutil.copy(digits / "digits-test.npz", tmp_path)
    request = Request(
        model=tmp_path / "masked.pt",
        samples=40,
        out=tmp_path / "run",
        formats=(),
        batch_size=40,
        probes=["performance.accuracy", "attacks.pgd", "metrics.adversarial-distance", "sanity.*"],
    )
    audit = run(request).audit
    found = {probe["id"]: probe for probe in audit["probes"]}
    assert found["attacks.pgd"]["metrics"][0]["value"] > 0.95
    for probe_id in ("attacks.pgd", "metrics.adversarial-distance"):
        assert found[probe_id]["status"] == "inconclusive"
        assert "masked" in found[probe_id]["reason"]
    for probe_id in ("sanity.gradient-masking", "sanity.positive-control"):
        assert found[probe_id]["status"] == "fail"
    assert audit["verdict"] == "incomplete"
