"""Multiplying the logits of a model changes no prediction, so it changes no result of an attack that uses gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import helper, numpy_helper

from auditor.plugin import registry
from auditor.run.folder import read_rows
from auditor.run.request import Request
from auditor.run.session import run

N = 6
SETTINGS = """
[settings."attacks.autoattack"]
epsilon = "24/255"
iterations = 6
targets = 2
queries = 20
[settings."attacks.carlini-wagner"]
iterations = 15
search_steps = 2
[settings."attacks.deepfool"]
iterations = 8
[settings."attacks.fgsm"]
epsilons = ["8/255", "24/255", "48/255"]
l2_epsilons = [0.5, 1]
[settings."attacks.minimum-norm"]
iterations = 10
[settings."attacks.pgd"]
epsilons = ["8/255", "24/255"]
l2_epsilons = [0.5]
l1_epsilons = [4]
iterations = 5
[settings."attacks.patch"]
iterations = 5
[settings."attacks.universal"]
epsilons = ["24/255", "48/255"]
iterations = 5
[settings."attacks.square"]
epsilons = ["24/255"]
l2_epsilons = []
queries = 50
[settings."attacks.transfer"]
epsilons = ["24/255"]
[settings."metrics.clever"]
samples = 4
batches = 5
batch_samples = 4
targets = 2
[settings."sanity.gradient-masking"]
iterations = 4
[settings."sanity.positive-control"]
samples = 6
query_samples = 2
"""
OTHERS = ("attacks.square", "attacks.transfer", "metrics.clever", "sanity.gradient-masking", "sanity.positive-control")
PROPORTIONAL = ["confidence", "confidence_label", "slope", "margin"]
"""Columns in units of the logits or of the softmax."""
NOT_COMPARED = {
    "metrics.loss-sensitivity": "in nats: proportional to the logits by definition",
    "metrics.adversarial-distance": "reads the records of the attacks",
    "attacks.own-epsilon": "requires an epsilon for each image; attacks by attacks.pgd",
    "metrics.bounds": "a proof; it searches nothing",
    "metrics.certified": "a proof; it searches nothing",
    "sanity.parity": "compares scores, not attacks",
}


def attacks() -> list[str]:
    """Every probe of the registry that attacks by gradients, and those that depend on the same logits."""
    known = registry.load().probes
    searches = [name for name, probe in known.items() if "attacks." in name and "gradients" in probe.meta.needs]
    return [name for name in searches if name not in NOT_COMPARED] + [*OTHERS]


def scaled(source: Path, target: Path, factor: float, activation: str = "") -> Path:
    """Write the model with its logits multiplied, and optionally with a final activation."""
    model = onnx.load(str(source))
    (output,) = model.graph.output
    inner = output.name + "_unscaled"
    for node in model.graph.node:
        node.output[:] = [inner if name == output.name else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(factor), "factor"))
    product = output.name + "_scaled" if activation else output.name
    model.graph.node.append(helper.make_node("Mul", [inner, "factor"], [product]))
    if activation:
        model.graph.node.append(helper.make_node(activation, [product], [output.name], axis=1))
    onnx.save(model, str(target))
    sidecar = Path(f"{source}.audit.toml").read_text()
    Path(f"{target}.audit.toml").write_text(
        sidecar.replace('kind = "logits"', 'kind = "probabilities"') if activation == "Softmax" else sidecar
    )
    return target


Rows = dict[str, pd.DataFrame]


@pytest.fixture(scope="module")
def measured(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Rows]:
    """Audit a variant of the reference model; return the rows of each probe. Each variant is audited once."""
    folder = tmp_path_factory.mktemp("scale")
    (folder / "suite.toml").write_text(f"samples = {N}\nprobes = {attacks()}\n{SETTINGS}")
    known: dict[tuple[float, str], Rows] = {}

    def call(factor: float, activation: str = "") -> Rows:
        if (factor, activation) not in known:
            name = f"model-{factor:g}{activation}"
            out = folder / name
            outcome = run(
                Request(
                    model=scaled(digits / "digits-cnn.onnx", folder / f"{name}.onnx", factor, activation),
                    data=digits / "digits-test.npz",
                    suite=str(folder / "suite.toml"),
                    surrogates=[scaled(digits / "digits-cnn.onnx", folder / f"{name}-surrogate.onnx", factor)],
                    out=out,
                    formats=(),
                    trust_model=True,
                )
            )
            assert not outcome.incomplete, [p["reason"] for p in outcome.audit["probes"] if p["status"] == "error"]
            assert outcome.audit["model"]["access"] == "white-box"
            rows = {name: read_rows(out, name, None) for name in attacks()}
            known[factor, activation] = {name: frame for name, frame in rows.items() if frame is not None}
        return known[factor, activation]

    return call


VARIANTS = {
    "x 0.0001": (1e-4, ""),
    "x 10000": (1e4, ""),
    "x 30, softmax": (30.0, "Softmax"),
    "x 30, log-softmax": (30.0, "LogSoftmax"),
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=list(VARIANTS))
def test_scaled_logits_change_no_attack(measured: Callable[..., Rows], variant: tuple[float, str]) -> None:
    base, other = measured(1.0), measured(*variant)
    assert base.keys() == other.keys() == set(attacks())
    assert base["attacks.fgsm"]["success"].mean() > 0.2
    # Square queries the deployed model, whose softmax is rounded to 0 and 1: that hides which step helps
    hidden = {"attacks.square"} if variant[1] == "Softmax" else set()
    for name, frame in base.items():
        if name in hidden:
            continue
        for column in frame.columns.drop(PROPORTIONAL, errors="ignore"):
            expected, found = frame[column], other[name][column]
            if expected.dtype.kind == "f":
                # Square stops at a fixed margin of the deployed model, whose logits have no unit
                tolerance = 0.1 if name == "attacks.square" else 1e-3
                np.testing.assert_allclose(found, expected, rtol=tolerance, atol=1e-5, err_msg=f"{name} {column}")
            else:
                unequal = [a for a, b in zip(expected, found, strict=True) if not np.array_equal(a, b)]
                assert not unequal, f"{name} {column}"


def test_every_probe_that_uses_gradients_is_compared() -> None:
    known = registry.load().probes
    gradients = {name for name, probe in known.items() if "gradients" in probe.meta.needs}
    searches = {name for name in gradients if not name.startswith("explanations.")}
    assert searches <= {*attacks(), *NOT_COMPARED}, searches - {*attacks(), *NOT_COMPARED}
