"""Attacks of Foolbox and torchattacks as probes: in a suite, checked, on copy or deployed model; the tables."""

from __future__ import annotations

import importlib.util
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import batch_of, suite_file

from auditor import BadInput, NotApplicable
from auditor.conformance.checks import CHECKS
from auditor.conformance.subject import Subject
from auditor.plugin import registry
from auditor.plugin.suite import find_suite
from auditor.probes.base import Randomness
from auditor.run.opening import open_model

FOOLBOX = "attacks.foolbox-linf-fast-gradient-attack"
TORCHATTACKS = "attacks.torchattacks-deep-fool"


def test_suite_names_attacks_of_both_libraries(tmp_path: Path) -> None:
    plugins = registry.load()
    text = """
        [[foolbox]]
        attack = "DDNAttack"
        steps = 7
        norms = ["l2"]
        [[torchattacks]]
        attack = "MIFGSM"
        decay = 1
        epsilons = ["8/255"]
    """
    suite = find_suite(suite_file(tmp_path, text), plugins)
    assert suite.probes == ("attacks.foolbox-ddn-attack", "attacks.torchattacks-mifgsm")
    search, budget = (plugins.configure(each, suite.settings[each], where="test") for each in suite.probes)
    values: Any = (search.steps, search.gamma, budget.decay, budget.levels()[0]["epsilon"])  # type: ignore[attr-defined]
    assert values == (7, 0.05, 1.0, 8 / 255)
    assert search.fingerprint([]) == {"foolbox": "3.3.4"}
    assert budget.fingerprint([]) == {"torchattacks": "3.5.1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[foolbox]]\nattack = "DDNAttak"', r"\[\[foolbox\]\] 1: no attack 'DDNAttak' \(did you mean 'DDNAttack'\?\)"),
        ('[[foolbox]]\nattack = "PGD"', "no attack 'PGD'"),
        ("[[foolbox]]\nsteps = 3", "has no attack; expected the name of a class of Foolbox"),
        ('[[foolbox]]\nattack = "GenAttack"', "Foolbox's GenAttack searches a chosen class"),
        ('[[foolbox]]\nattack = "DDNAttack"\nstep = 3', r"no setting 'step' \(did you mean 'steps'\?\)"),
        ('[[foolbox]]\nattack = "DDNAttack"\nsteps = "x"', "steps is 'x'; expected a whole number"),
        (
            '[[foolbox]]\nattack = "LinearSearchBlendedUniformNoiseAttack"\ndirections = 0',
            "Foolbox's LinearSearchBlendedUniformNoiseAttack: directions must be larger than 0",
        ),
        ('[[foolbox]]\nattack = "LinfFastGradientAttack"\nnorm = "l2"', "norm is 'l2'; Foolbox's Linf.* supports linf"),
        ('[[torchattacks]]\nattack = "pgd"', "did you mean 'PGD'"),
        ('[[torchattacks]]\nattack = "LGV"', "torchattacks' LGV trains a surrogate"),
        ('[[torchattacks]]\nattack = "PGD"\nsteps = -1', "torchattacks' PGD: steps is -1; expected at least 0"),
        ('[[torchattacks]]\nattack = "PGD"\n[[torchattacks]]\nattack = "PGD"', "PGD has settings already"),
        ('probes = ["attacks.torchattacks-deep-fol"]', r"did you mean 'attacks.torchattacks-deep-fool'"),
    ],
)
def test_unusable_suites_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        find_suite(suite_file(tmp_path, text), registry.load())


@pytest.mark.parametrize("library", ["foolbox", "torchattacks"])
def test_missing_library_is_named_with_its_command(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins = registry.load()
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == library else find(name))
    with pytest.raises(BadInput, match=f"require the package {library}; install it: pip install {library}$"):
        find_suite(suite_file(tmp_path, f'[[{library}]]\nattack = "PGD"'), plugins)


@pytest.mark.parametrize("probe_id", [FOOLBOX, TORCHATTACKS])
def test_probe_survives_pickling(probe_id: str) -> None:
    probe = registry.load().configure(probe_id, {"samples": 3}, where="test")
    assert pickle.loads(pickle.dumps(probe)) == probe
    assert type(pickle.loads(pickle.dumps(probe))) is type(probe)


@pytest.mark.parametrize("name", [name for name in CHECKS if name != "beats random noise"])
@pytest.mark.parametrize("probe_id", [FOOLBOX, TORCHATTACKS])
def test_generated_probes_conform(fragile: Subject, probe_id: str, name: str) -> None:
    assert fragile.plugins.has(probe_id)
    try:
        CHECKS[name](fragile, fragile.plugins.probes[probe_id])
    except NotApplicable:
        # the one check of searches does not concern attacks within a budget
        assert (name, probe_id) == ("reports real errors", FOOLBOX)


@pytest.mark.parametrize(
    "probe_id", ["attacks.art-fast-gradient-method", FOOLBOX, "attacks.torchattacks-fgsm", "attacks.torchattacks-bim"]
)
def test_fast_gradient_equals_the_closed_form(probe_id: str, write_linear: Callable[..., Path], tmp_path: Path) -> None:
    """On two linear classes the step moves every pixel by epsilon against the margin's weights."""
    rng = np.random.default_rng(5)
    weights = rng.normal(size=(2, 16))
    classifier = open_model(write_linear(tmp_path / "m.onnx", weights, np.zeros(2), (1, 4, 4)), "cpu")
    batch = batch_of(classifier, rng.uniform(0.3, 0.7, (6, 1, 4, 4)).astype(np.float32))
    probe: Any = registry.load().configure(probe_id, {"epsilons": [0.05]}, where="test")
    found = probe.perturbed(classifier, batch, Randomness(0, "test"), {"norm": "linf", "epsilon": 0.05})
    slope = (weights[1 - batch.labels] - weights[batch.labels]).reshape(6, 1, 4, 4)
    np.testing.assert_allclose(found, batch.pixels + 0.05 * np.sign(slope), atol=1e-6)


@pytest.mark.parametrize(
    ("probe_id", "settings"),
    [
        ("attacks.torchattacks-square", {"n_queries": 20}),
        ("attacks.torchattacks-pgd", {"steps": 2}),
        ("attacks.foolbox-linf-projected-gradient-descent-attack", {"steps": 2}),
        ("attacks.foolbox-linf-additive-uniform-noise-attack", {}),
    ],
)
def test_random_attack_is_independent_of_the_batch_and_restores_the_generators(
    fragile: Subject, probe_id: str, settings: dict[str, Any]
) -> None:
    probe: Any = registry.load().configure(probe_id, {"epsilons": [0.02], **settings}, where="test")
    level = probe.levels()[0]
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    backward = fragile.classifier.calls.backward
    whole = probe.perturbed(fragile.classifier, fragile.batch, Randomness(0, "a"), level)
    alone = probe.perturbed(fragile.classifier, fragile.batch.take([2]), Randomness(0, "a"), level)
    np.testing.assert_array_equal(whole[2:3], alone)
    other = probe.perturbed(fragile.classifier, fragile.batch.take([2]), Randomness(1, "a"), level)
    assert np.abs(other - alone).max() > 0
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
    # a black-box attack takes no gradient
    assert (fragile.classifier.calls.backward > backward) == ("gradients" in probe.meta.needs)


def test_search_without_a_start_finds_nothing(write_linear: Callable[..., Path], tmp_path: Path) -> None:
    """Foolbox raises an error if no noise is misclassified; that is no error of the probe."""
    path = write_linear(tmp_path / "m.onnx", np.zeros((2, 16)), np.array([5.0, 0.0]), (1, 4, 4))
    classifier = open_model(path, "cpu")
    batch = batch_of(classifier, np.full((1, 1, 4, 4), 0.5, np.float32))
    probe: Any = registry.load().configure("attacks.foolbox-boundary-attack", {"steps": 3}, where="test")
    np.testing.assert_array_equal(probe.search(classifier, batch, Randomness(0, "test"), "l2"), batch.pixels)


@pytest.mark.parametrize(("library", "least"), [("foolbox", 45), ("torchattacks", 30)])
def test_table_lists_every_attack_with_its_reason(attack_survey: Any, library: str, least: int) -> None:
    from auditor.plugins.attacks import foolbox, torchattacks
    from auditor.plugins.attacks._torchattacks_probes import _COLOUR

    excluded = {"foolbox": foolbox, "torchattacks": torchattacks}[library].EXCLUDED
    members = registry.load().families[library].members()
    rows = attack_survey.rows(library)
    assert set(rows) == set(members)
    assert set(excluded) <= set(members)
    assert len({row[1] for row in rows.values() if row[1]}) == len(members) - len(excluded)
    for name, reason in excluded.items():
        assert rows[name][4] == rows[name][5] == f"no: {reason.partition(';')[0]}"
    assert {name for name, row in rows.items() if not row[5].startswith("runs")} == set(excluded)
    grey = {name for name, row in rows.items() if not row[4].startswith("runs")}
    assert grey == {*excluded, *(_COLOUR if library == "torchattacks" else ())}
    assert len(rows) - len(grey) >= least


@pytest.mark.parametrize(
    ("library", "attack"), [("foolbox", "L2DeepFoolAttack"), ("foolbox", "InversionAttack"), ("torchattacks", "JSMA")]
)
def test_rows_measured_again(attack_survey: Any, fragile: Subject, library: str, attack: str) -> None:
    row = attack_survey.rows(library)[attack]
    assert attack_survey.measure(library, attack, [fragile]) == (*row[:4], row[5])
