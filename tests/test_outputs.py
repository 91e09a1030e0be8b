"""Model outputs of any form are read as the same probabilities, from the deployed model and from the copy."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import Result
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from auditor.errors import BadInput
from auditor.model.classifier import Classifier
from auditor.model.scores import OutputDecoder, class_scores, look_at_outputs, looks_like_sigmoids, softmax
from auditor.run.opening import open_model

Cli = Callable[..., Result]
RNG = np.random.default_rng(0)
PIXELS = RNG.uniform(size=(9, 1, 3, 3)).astype(np.float32)
FLOAT = TensorProto.FLOAT


def weights(k: int) -> NDArray[np.float32]:
    return np.random.default_rng(k).normal(size=(k, 9)).astype(np.float32)


def logits(k: int) -> NDArray[np.float32]:
    result: NDArray[np.float32] = PIXELS.reshape(9, 9) @ weights(k).T
    return result


def sigmoid(z: NDArray[np.float32]) -> NDArray[np.float32]:
    result: NDArray[np.float32] = 1 / (1 + np.exp(-z))
    return result


def model(path: Path, k: int, *after: Any, outputs: Any = None, opset: int = 17) -> Path:
    """A linear model [n, 1, 3, 3] -> "z" [n, k], with further nodes after it."""
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("Gemm", ["flat", "w"], ["z"], transB=1)]
    last = after[-1].output[0] if after else "z"
    declared = outputs or [helper.make_tensor_value_info(last, FLOAT, ["n", k])]
    graph = helper.make_graph(
        [*nodes, *after],
        "m",
        [helper.make_tensor_value_info("x", FLOAT, ["n", 1, 3, 3])],
        declared,
        [numpy_helper.from_array(weights(k), "w")],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
    return path


def opened(path: Path, **overrides: Any) -> Classifier:
    return open_model(path, "cpu", {"output": overrides} if overrides else {}, trust=True)


def agrees(classifier: Classifier, expected: NDArray[np.float32]) -> None:
    """The probabilities are the known ones, and equal the softmax of the copy's logits."""
    np.testing.assert_allclose(classifier.predict(PIXELS), expected, atol=2e-6)
    classifier.verify(PIXELS)
    assert classifier.access == "white-box", classifier.access_reason
    from_copy = classifier.logits(classifier.tensor(PIXELS)).detach().numpy()
    np.testing.assert_allclose(softmax(from_copy), expected, atol=2e-6)


@pytest.mark.parametrize("through", [[], ["Identity"], ["Unsqueeze"], ["Cast", "Identity"]])
@pytest.mark.parametrize(
    ("operator", "name"), [("Softmax", "softmax"), ("LogSoftmax", "log-softmax"), ("Sigmoid", "sigmoid")]
)
def test_final_activation_is_recognised_and_removed_from_the_copy(
    operator: str, name: str, through: list[str], tmp_path: Path
) -> None:
    attributes = {} if operator == "Sigmoid" else {"axis": 1}
    nodes = [helper.make_node(operator, ["z"], ["a0"], **attributes)]
    constants = []
    for i, extra in enumerate(through):
        how: dict[str, Any] = {"to": FLOAT} if extra == "Cast" else {}
        if extra == "Unsqueeze":
            constants.append(helper.make_node("Constant", [], ["two"], value_ints=[2]))
        inputs = [f"a{i}", "two"] if extra == "Unsqueeze" else [f"a{i}"]
        nodes.append(helper.make_node(extra, inputs, [f"a{i + 1}"], **how))
    shape = ["n", 4, 1] if "Unsqueeze" in through else ["n", 4]
    output = [helper.make_tensor_value_info(f"a{len(through)}", FLOAT, shape)]
    path = model(tmp_path / "m.onnx", 4, *constants, *nodes, outputs=output)
    classifier = opened(path, kind="probabilities") if operator == "Sigmoid" else opened(path)
    expected = sigmoid(logits(4)) if name == "sigmoid" else softmax(logits(4))
    agrees(classifier, expected / expected.sum(axis=1, keepdims=True))
    assert classifier.decoder.activation == name
    assert name in classifier.access_reason
    # without saturation by the activation: for confident predictions the copy still has a gradient
    sure = classifier.gradient(PIXELS * 30)
    assert float(sure.abs().sum()) > 0


class Sigmoids(torch.nn.Module):
    """One sigmoid per class, without an operator that a reader of the file would recognise."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = x.flatten(1) @ torch.from_numpy(weights(4)).T
        return 1 / (1 + (-z).exp())


def test_one_sigmoid_per_class_is_refused_unless_the_scores_are_stated_to_be_probabilities(tmp_path: Path) -> None:
    onnx_file = model(tmp_path / "m.onnx", 4, helper.make_node("Sigmoid", ["z"], ["p"]))
    torch_file = tmp_path / "m.pt"
    with warnings.catch_warnings():
        # torch deprecates its own format
        warnings.simplefilter("ignore")
        torch.jit.trace(Sigmoids(), torch.zeros(2, 1, 3, 3)).save(str(torch_file))
    expected = sigmoid(logits(4))
    for path in (onnx_file, torch_file):
        shape = {"input": {"size": [3, 3], "channels": 1}}
        with pytest.raises(BadInput, match=r"one sigmoid per class, and the 4 scores .* multi-label .*audit\.toml"):
            open_model(path, "cpu", shape, trust=True)
        stated = open_model(path, "cpu", shape | {"output": {"kind": "probabilities"}}, trust=True)
        agrees(stated, expected / expected.sum(axis=1, keepdims=True))


def test_two_sigmoids_are_refused_and_one_is_binary(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="multi-label"):
        opened(model(tmp_path / "two.onnx", 2, helper.make_node("Sigmoid", ["z"], ["p"])))
    assert opened(model(tmp_path / "one.onnx", 1, helper.make_node("Sigmoid", ["z"], ["p"]))).n_classes == 2


def test_one_sigmoid_output_is_two_classes(tmp_path: Path) -> None:
    classifier = opened(model(tmp_path / "m.onnx", 1, helper.make_node("Sigmoid", ["z"], ["p"])))
    p = sigmoid(logits(1))
    agrees(classifier, np.concatenate([1 - p, p], axis=1))
    assert classifier.classes == ("0", "1")
    assert any("probability of the second of two classes" in text for text in classifier.warnings)
    named = opened(tmp_path / "m.onnx", classes=["real", "fake"])
    assert named.classes == ("real", "fake")
    with pytest.raises(BadInput, match=r"names 3 classes, but the model m\.onnx has 2"):
        opened(tmp_path / "m.onnx", classes=["a", "b", "c"])


def test_one_logit_is_two_classes(tmp_path: Path) -> None:
    classifier = opened(model(tmp_path / "m.onnx", 1), kind="logits")
    p = sigmoid(logits(1))
    agrees(classifier, np.concatenate([1 - p, p], axis=1))
    assert classifier.outputs == "logits"


def test_one_output_with_one_number_per_image(tmp_path: Path) -> None:
    squeeze = [
        helper.make_node("Constant", [], ["one"], value_ints=[1]),
        helper.make_node("Sigmoid", ["z"], ["p"]),
        helper.make_node("Squeeze", ["p", "one"], ["flat_p"]),
    ]
    declared = [helper.make_tensor_value_info("flat_p", FLOAT, ["n"])]
    p = sigmoid(logits(1))
    agrees(opened(model(tmp_path / "m.onnx", 1, *squeeze, outputs=declared)), np.concatenate([1 - p, p], axis=1))


def test_softmax_over_the_batch_is_not_a_final_softmax(tmp_path: Path) -> None:
    classifier = opened(model(tmp_path / "m.onnx", 4, helper.make_node("Softmax", ["z"], ["p"], axis=0)))
    assert classifier.decoder.activation == "none"


TWO = [helper.make_node("Neg", ["z"], ["aux"]), helper.make_node("Softmax", ["z"], ["main"], axis=1)]
BOTH = [helper.make_tensor_value_info(name, FLOAT, ["n", 4]) for name in ("aux", "main")]


def test_several_outputs_require_a_name(tmp_path: Path, auditor_cli: Cli) -> None:
    path = model(tmp_path / "m.onnx", 4, *TWO, outputs=BOTH)
    with pytest.raises(
        BadInput, match=r"has 2 outputs \(aux \[n, 4\], main \[n, 4\]\); (say|state) with --output NAME"
    ):
        opened(path)
    agrees(opened(path, name="main"), softmax(logits(4)))
    agrees(opened(path, name="aux"), softmax(-logits(4)))
    text = auditor_cli("inspect", path, "--output", "main").output
    assert "main: 4 classes, probabilities, from a final softmax; not read: aux" in text
    refused = auditor_cli("inspect", path, "--output", "boxes")
    assert refused.exit_code == 2
    assert "--output boxes: no such output; the model has aux" in refused.output
    (tmp_path / "m.onnx.audit.toml").write_text('[output]\nname = "aux"')
    np.save(tmp_path / "d.npy", PIXELS)
    np.savez(tmp_path / "d.npz", images=PIXELS[:, 0])
    done = auditor_cli(
        "run", path, "--data", tmp_path / "d.npz", "--probe", "attacks.noise", "--format", "json", "--out", "out"
    )
    assert done.exit_code == 0, done.output
    audit = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert audit["model"]["output"] == {"name": "aux", "ends_in": "none", "single": False}
    assert auditor_cli("replay", "out").exit_code == 0


class Heads(torch.nn.Module):
    """Two heads, as a tuple or by name."""

    def __init__(self, *, named: bool) -> None:
        super().__init__()
        self.named = named
        self.linear = torch.nn.Linear(9, 4, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(weights(4)))

    def forward(self, x: torch.Tensor) -> Any:
        z = self.linear(x.flatten(1))
        return {"main": z, "aux": -z} if self.named else (z, -z)


@pytest.mark.parametrize(("named", "output"), [(True, "aux"), (False, "1")])
def test_several_outputs_of_torchscript(named: bool, output: str, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    with warnings.catch_warnings():
        # torch deprecates its own format
        warnings.simplefilter("ignore")
        torch.jit.trace(Heads(named=named).eval(), torch.zeros(2, 1, 3, 3), strict=False).save(str(path))
    overrides = {"input": {"size": [3, 3], "channels": 1}}
    with pytest.raises(BadInput, match=r"returns a (dict|tuple) of 2 outputs .*; state with --output NAME"):
        open_model(path, "cpu", overrides, trust=True)
    agrees(open_model(path, "cpu", overrides | {"output": {"name": output}}, trust=True), softmax(-logits(4)))


def test_label_and_probabilities_of_scikit_learn(tmp_path: Path) -> None:
    """ArgMax next to the probabilities, with and without ZipMap: the output is selected and the classes have names."""
    after = [
        helper.make_node("Softmax", ["z"], ["p"], axis=1),
        helper.make_node("ArgMax", ["z"], ["label"], axis=1, keepdims=0),
    ]
    label = helper.make_tensor_value_info("label", TensorProto.INT64, ["n"])
    plain = [label, helper.make_tensor_value_info("p", FLOAT, ["n", 4])]
    agrees(opened(model(tmp_path / "m.onnx", 4, *after, outputs=plain)), softmax(logits(4)))
    zipped = helper.make_node(
        "ZipMap", ["p"], ["maps"], domain="ai.onnx.ml", classlabels_strings=["ash", "birch", "fir", "oak"]
    )
    of_maps = helper.make_value_info(
        "maps",
        helper.make_sequence_type_proto(
            helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(FLOAT, []))
        ),
    )
    classifier = opened(model(tmp_path / "z.onnx", 4, *after, zipped, outputs=[label, of_maps]))
    agrees(classifier, softmax(logits(4)))
    assert classifier.classes == ("ash", "birch", "fir", "oak")
    assert "without its final softmax" in classifier.access_reason


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_one_quantised_probability(dtype: Any) -> None:
    limits = np.iinfo(dtype)
    raw = np.array([[limits.min], [limits.max]], dtype=dtype)
    scores = OutputDecoder(outputs="probabilities", activation="sigmoid", single=True).scores(raw)
    np.testing.assert_allclose(scores, [[1, 0], [0, 1]])


def test_sigmoids_are_recognised_by_values() -> None:
    assert looks_like_sigmoids(np.array([[0.2, 0.9, 0.4]]))
    assert not looks_like_sigmoids(np.array([[0.2, 0.41, 0.4]]))
    assert not looks_like_sigmoids(np.array([[0.2, 1.9, 0.4]]))
    assert not looks_like_sigmoids(np.array([[0.2]]))


def test_output_type_is_inferred_from_values() -> None:
    assert look_at_outputs(np.array([[0.2, 0.8]])) == "probabilities"
    assert look_at_outputs(np.array([[0.2, 0.9]])) == "logits"
    assert look_at_outputs(np.array([[0.2], [0.9]])) == "probabilities"
    assert look_at_outputs(np.array([[0.2], [-3]])) == "logits"
    with pytest.raises(BadInput, match=r"shape \[2, 3, 4\] for a batch of 2"):
        class_scores(np.zeros((2, 3, 4)), 2)
    with pytest.raises(BadInput, match="expected numbers, one score per class"):
        class_scores(np.array([["a"], ["b"]]), 2)
