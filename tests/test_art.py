"""Attacks of ART as probes: named in a suite, pickled, checked against ART; the table of what runs is up to date."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from helpers import suite_file

from auditor import BadInput, NotApplicable
from auditor.conformance.bench import write_subject
from auditor.conformance.checks import CHECKS
from auditor.conformance.subject import Subject
from auditor.plugin import registry
from auditor.plugin.suite import find_suite
from auditor.probes.base import Randomness

ROOT = Path(__file__).parents[1]
NEWTON = "attacks.art-newton-fool"


def test_suite_names_attacks_of_art(tmp_path: Path) -> None:
    plugins = registry.load()
    text = '[[art]]\nattack = "NewtonFool"\nmax_iter = 7\nsamples = 5\n[[art]]\nattack = "HopSkipJump"\n'
    suite = find_suite(suite_file(tmp_path, text), plugins)
    assert suite.probes == (NEWTON, "attacks.art-hop-skip-jump")
    probe: Any = plugins.configure(NEWTON, suite.settings[NEWTON], where="test")
    assert (probe.max_iter, probe.samples, probe.eta) == (7, 5, 0.01)
    assert plugins.version_of(NEWTON) is None
    # the standard suites still run the built-in attacks only
    assert not [probe_id for probe_id in registry.load().select(["attacks.*"], option="") if "art-" in probe_id]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[art]]\nattack = "NewtonFol"', r"\[\[art\]\] 1: no attack 'NewtonFol' \(did you mean 'NewtonFool'\?\)"),
        ('[[art]]\nattack = "newtonfool"', "did you mean 'NewtonFool'"),
        ('[[art]]\nattack = "Xyzzy"', "no attack 'Xyzzy'; expected one of AdversarialPatch"),
        ("[[art]]\nmax_iter = 3", "has no attack; expected the name of a class of ART"),
        ('[[art]]\nattack = "DPatch"', "ART's DPatch attacks object detectors"),
        ('[[art]]\nattack = "NewtonFool"\nmax_itr = 3', r"no setting 'max_itr' \(did you mean 'max_iter'\?\)"),
        ('[[art]]\nattack = "NewtonFool"\nmax_iter = "x"', "max_iter is 'x'; expected a whole number"),
        ('[[art]]\nattack = "NewtonFool"\nmax_iter = -3', "ART's NewtonFool: The number of iterations must be"),
        ('[[art]]\nattack = "SquareAttack"\nnorm = "l1"', "norm is 'l1'; ART's SquareAttack supports linf, l2"),
        ('[[art]]\nattack = "DeepFool"\n[[art]]\nattack = "DeepFool"', "DeepFool has settings already"),
        ('probes = ["attacks.art-newton-fol"]', r"no such probe \(did you mean 'attacks.art-newton-fool'\?\)"),
        ('probes = ["attacks.pgd"]\n[settings."attacks.art-deep-fol"]', "did you mean 'attacks.art-deep-fool'"),
    ],
)
def test_unusable_suites_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        find_suite(suite_file(tmp_path, text), registry.load())


def test_probe_survives_pickling() -> None:
    probe = registry.load().configure(NEWTON, {"max_iter": 3}, where="test")
    assert pickle.loads(pickle.dumps(probe)) == probe
    assert type(pickle.loads(pickle.dumps(probe))) is type(probe)


@pytest.mark.parametrize("name", [name for name in CHECKS if name != "beats random noise"])
@pytest.mark.parametrize("probe_id", [NEWTON, "attacks.art-fast-gradient-method"])
def test_generated_probes_conform(fragile: Subject, probe_id: str, name: str) -> None:
    assert fragile.plugins.has(probe_id)
    try:
        CHECKS[name](fragile, fragile.plugins.probes[probe_id])
    except NotApplicable:
        # the one check of searches does not concern attacks within a budget
        assert (name, probe_id) == ("reports real errors", "attacks.art-fast-gradient-method")


def test_random_attack_is_independent_of_the_batch(fragile: Subject) -> None:
    probe: Any = registry.load().configure("attacks.art-square-attack", {"epsilons": [0.02]}, where="test")
    level = probe.levels()[0]
    whole = probe.perturbed(fragile.classifier, fragile.batch, Randomness(0, "art"), level)
    alone = probe.perturbed(fragile.classifier, fragile.batch.take([2]), Randomness(0, "art"), level)
    np.testing.assert_array_equal(whole[2:3], alone)
    other = probe.perturbed(fragile.classifier, fragile.batch.take([2]), Randomness(1, "art"), level)
    assert np.abs(other - alone).max() > 0


def test_global_random_state_is_restored(fragile: Subject) -> None:
    probe: Any = registry.load().configure("attacks.art-square-attack", {"epsilons": [0.05]}, where="test")
    np.random.seed(1)
    random.seed(1)
    torch.manual_seed(1)
    before = np.random.get_state()[1].tolist(), random.getstate(), torch.get_rng_state().tolist()
    probe.measure(fragile.classifier, fragile.batch, Randomness(0, probe.meta.id))
    assert (np.random.get_state()[1].tolist(), random.getstate(), torch.get_rng_state().tolist()) == before


def test_run_judge_and_verify_know_the_attack(auditor_cli: Callable[..., Result], tmp_path: Path) -> None:
    model, _ = write_subject(tmp_path)
    suite = suite_file(tmp_path, 'probes = ["performance.accuracy"]\nsamples = 2\n[[art]]\nattack = "NewtonFool"\n')
    listed = auditor_cli("probes", "--suite", suite)
    assert listed.output.splitlines()[1].split() == [NEWTON, "NewtonFool", "of", "ART"]
    data = tmp_path / "fragile.npz"
    done = auditor_cli("run", model, "--data", data, "--suite", suite, "--out", "run", "--format", "json")
    assert done.exit_code == 0, done.output
    assert NEWTON in done.output
    Path(suite).unlink()
    for command in (["verify", "run"], ["judge", "run", "--policy", "ci"]):
        result = auditor_cli(*command)
        assert "not installed" not in result.output
        assert result.exit_code == 0, result.output


def test_table_lists_every_attack_with_its_reason(attack_survey: Any) -> None:
    from auditor.plugins.attacks.art import EXCLUDED, PACKAGES

    members = registry.load().families["art"].members()
    rows = attack_survey.rows("art")
    assert set(rows) == set(members)
    assert set(EXCLUDED) | set(PACKAGES) <= set(members)
    runs = [row for row in rows.values() if row[4].startswith("runs") and row[5].startswith("runs")]
    assert len(runs) >= 25
    for name, reason in EXCLUDED.items():
        assert rows[name][4] == rows[name][5] == f"no: {reason.partition(';')[0]}"
    # the last one overflows inside ART on both models
    fails = {*EXCLUDED, *PACKAGES, "Wasserstein"}
    assert not [row for row in rows.values() if not row[4].startswith("runs") and row[0] not in fails]


@pytest.mark.parametrize("attack", ["NewtonFool", "MomentumIterativeMethod", "SimBA"])
def test_rows_measured_again(attack_survey: Any, fragile: Subject, attack: str) -> None:
    row = attack_survey.rows("art")[attack]
    assert attack_survey.measure("art", attack, [fragile]) == (*row[:4], row[5])
