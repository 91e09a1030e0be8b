"""The program of test_pretend_gpu.py: run every part on the pretend device and on the CPU, print the differences.

    python pretend_parts.py FOLDER

The last line is JSON: {"unavailable": reason}, or for each part {"differ": [...], "n": number of comparisons} or
{"error": traceback}.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import pkgutil
import sys
import traceback
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "benchmarks")]
import pretend_gpu  # noqa: E402

SIDE, CLASSES, IMAGES = 12, 4, 8

Part = Generator[None, None, dict[str, Any]]
"""What yields once, when all that needs the real torch is done, such as an export, and returns its outcome."""

# every probe with images, with few steps: the code is the same for one step or a hundred; not the positive control,
# which runs the attacks once more
SUITE = """
probes = ["[!s]*", "sanity.[!p]*", "sanity.pa*", "sanity.pr*"]
samples = 1
[settings."attacks.autoattack"]
iterations = 2
targets = 1
queries = 8
[settings."attacks.square"]
queries = 10
[settings."attacks.simba"]
iterations = 3
[settings."attacks.patch"]
iterations = 3
[settings."attacks.universal"]
iterations = 3
[settings."attacks.transfer"]
iterations = 2
[settings."attacks.carlini-wagner"]
iterations = 3
search_steps = 2
[settings."attacks.hopskipjump"]
iterations = 2
evaluations = 10
starts = 5
[settings."attacks.deepfool"]
iterations = 3
[settings."attacks.minimum-norm"]
samples = 1
iterations = 3
[settings."attacks.pgd"]
iterations = 2
epsilons = ["8/255"]
[settings."attacks.fgsm"]
epsilons = ["8/255"]
[settings."corruptions.imagenet-c"]
samples = 1
[settings."metrics.clever"]
batches = 2
batch_samples = 8
targets = 2
[settings."metrics.certified"]
samples = 1
seconds = 0
iterations = 1
refine = 4
[settings."metrics.smoothing"]
sigmas = [0.25]
selection = 10
draws = 20
[settings."explanations.shap"]
evaluations = 40
[settings."explanations.lime"]
evaluations = 40
[settings."explanations.gradient-shap"]
evaluations = 10
[settings."explanations.integrated-gradients"]
iterations = 3
[settings."sanity.gradient-masking"]
samples = 1
iterations = 2
"""


def network() -> torch.nn.Module:
    """A small classifier of three channels, with the layers that need most care on a GPU."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, padding=1),
        torch.nn.BatchNorm2d(6),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(6, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, CLASSES),
    ).eval()


def switch_on() -> None:
    """Switch the pretend device on, with an ONNX Runtime that claims to run on it.

    Before the first backward pass: autograd prepares a queue for each device that exists then.
    """
    from test_cuda_session import REAL, Session

    def start(path: Any, options: Any, providers: list[Any], **more: Any) -> Any:
        if isinstance(providers[0], tuple):
            return Session(path, options, providers, **more)
        return REAL(path, options, providers=providers)

    pretend_gpu.switch_on()
    onnxruntime.InferenceSession = start
    onnxruntime.preload_dlls = lambda: None
    onnxruntime.get_available_providers = lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]


def audit(folder: Path) -> Part:
    """Audit the network with every probe; compare the rows of all of them."""
    from auditor import api

    model, data, suite = folder / "m.onnx", folder / "d.npz", folder / "suite.toml"
    torch.onnx.export(
        network(),
        (torch.rand(2, 3, SIDE, SIDE),),
        str(model),
        dynamo=False,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
    )
    images = np.random.default_rng(0).random((IMAGES, 3, SIDE, SIDE), dtype=np.float32)
    labels = network()(torch.from_numpy(images)).argmax(1).numpy()
    np.savez(data, images=images, labels=labels, groups_side=np.array(["a", "b"] * (IMAGES // 2)))
    suite.write_text(SUITE)

    def run(device: str) -> Any:
        return api.audit(
            model, data=data, suite=str(suite), out=folder / device, device=device, trust_model=True, batch_size=2
        )

    yield
    expected, found = run("cpu"), run("cuda")
    differ = [] if found.record["model"]["runtime"].endswith("CUDAExecutionProvider") else ["the runtime is the CPU's"]
    n = 0
    for probe in expected.record["probes"]:
        other = next(record for record in found.record["probes"] if record["id"] == probe["id"])
        if (probe["status"], probe["n"]) != (other["status"], other["n"]) or other["status"] == "error":
            differ.append(f"{probe['id']}: {other['status']}, n = {other['n']}: {other['reason']}")
        elif (folder / "cpu" / "records" / probe["id"]).is_dir():
            n += 1
            one, two = (result.rows(probe["id"]) for result in (expected, found))
            differ += [
                f"{probe['id']}: {name}" for name in one if not equal(one[name].to_numpy(), two[name].to_numpy())
            ]
    return {"differ": differ, "n": n}


def equal(one: Any, two: Any) -> bool:
    if one.dtype.kind == "f":
        # a search for a radius in double precision ends within the last digits
        return bool(np.allclose(one, two, rtol=1e-12, atol=0, equal_nan=True))
    return str(one.tolist()) == str(two.tolist())


def copies(folder: Path) -> Part:
    """Compare scores, logits and gradients of several kinds of ONNX files, and of a torch.export archive."""
    import test_importer as importer

    from auditor.run.opening import open_model

    paths = []
    for name, exporter in [*((name, "script-17") for name in list(importer.NETWORKS)[::2]), ("residual", "default")]:
        paths.append(folder / f"{name}-{exporter}.onnx")
        onnx.save(importer.exported(name, exporter), paths[-1])
    for scheme in ("QDQ", "QOperator", "dynamic"):
        (folder / scheme).mkdir()
        paths.append(folder / f"{scheme}.onnx")
        onnx.save(importer.quantise("residual", scheme, folder / scheme), paths[-1])
    paths.append(folder / "program.pt2")
    batch = {0: torch.export.Dim("n")}
    program = torch.export.export(network(), (torch.rand(2, 3, 32, 32),), dynamic_shapes=(batch,))
    torch.export.save(program, str(paths[-1]))
    images = np.random.default_rng(0).random((3, 3, 32, 32), dtype=np.float32)

    def answers(path: Path, device: str) -> list[Any]:
        classifier = open_model(path, device, trust=True)
        x = classifier.tensor(images).requires_grad_()
        return [classifier.predict(images), classifier.logits(x).detach().cpu(), classifier.gradient(images).cpu()]

    yield
    expected = [answers(path, "cpu") for path in paths]
    differ = []
    for path, wanted in zip(paths, expected, strict=True):
        try:
            found = answers(path, "cuda")
        except Exception as error:
            differ.append(f"{path.name}: {type(error).__name__}: {error}")
            continue
        kinds = zip(("scores", "logits", "gradient"), found, wanted, strict=True)
        differ += [f"{path.name}: {kind}" for kind, one, two in kinds if not same(one, two)]
    return {"differ": differ, "n": len(paths)}


def same(one: Any, two: Any) -> bool:
    # another memory layout may round differently
    return bool(np.allclose(np.asarray(one), np.asarray(two), rtol=1e-4, atol=1e-5))


def operators(folder: Path) -> Part:
    """Run a third of the ONNX project's node tests; each that passes on the CPU must pass on the device.

    benchmarks/onnx_node_tests.py runs all of them on the CPU.
    """
    import onnx_node_tests as tests
    from onnx.backend.test.case import node

    # importing a module makes its cases, which takes longer than running them
    for module in [module.name for module in pkgutil.iter_modules(node.__path__)][::3]:
        importlib.import_module(f"{node.__name__}.{module}")
    # the bodies of functions consist of operators that have their own cases
    cases = [case for case in node._NodeTestCases if "_expanded" not in case.name]
    yield
    differ, n = [], 0
    logging.disable(logging.ERROR)
    for case in cases:
        with contextlib.redirect_stderr(io.StringIO()):
            verdict, why = tests.judge(case, "cuda")
            n += verdict == tests.PASSED
            if verdict != tests.PASSED and tests.judge(case)[0] == tests.PASSED:
                differ.append(f"{case.name}: {why[:300]}")
    return {"differ": differ, "n": n}


def training(folder: Path) -> Part:
    """Train with the code that the recipes share; the learning curves must be the same."""
    from auditor.reference_models.common.images import Part, Splits
    from auditor.reference_models.common.settings import Settings
    from auditor.reference_models.common.training import fit

    rng = np.random.default_rng(0)

    def part(n: int) -> Part:
        labels = np.arange(n) % CLASSES
        images = (rng.random((n, 3, SIDE, SIDE)) * 100 + 40 * labels[:, None, None, None]).astype(np.uint8)
        return Part(ids=tuple(map(str, range(n))), pixels=images, labels=labels.astype(np.int64))

    splits = Splits(part(64), part(16), part(16), tuple("abcd"), {})

    def curve(device: str) -> Any:
        trained = fit(
            network(),
            splits,
            Settings(epochs=3, batch=16, size=SIDE, learning_rate=0.01),
            stem=folder / device,
            mean=(0.5,) * 3,
            std=(0.25,) * 3,
            device=device,
            say=lambda _: None,
        )
        return trained.history

    yield
    expected, found = curve("cpu"), curve("cuda")
    # Adam and SGD amplify the last digit, so the curves agree to a tolerance
    keys = [key for key in expected[0] if key != "seconds"]
    differ = [
        f"epoch {i}: {key} {two[key]}, on the CPU {one[key]}"
        for i, (one, two) in enumerate(zip(expected, found, strict=True))
        for key in keys
        if not np.isclose(one[key], two[key], rtol=1e-3, atol=1e-4)
    ]
    return {"differ": differ, "n": len(expected)}


def pgd_waits(folder: Path) -> Part:
    """Count how often a step of PGD makes the host wait, for a batch in which no image is misclassified."""
    from auditor.algorithms.balls import Ball
    from auditor.algorithms.pgd import pgd
    from auditor.run.opening import open_model

    program = torch.export.export(network(), (torch.rand(2, 3, SIDE, SIDE),), strict=False)
    torch.export.save(program, str(folder / "m.pt2"))
    yield
    classifier = open_model(folder / "m.pt2", "cuda", trust=True)
    x = classifier.tensor(np.random.default_rng(0).random((2, 3, SIDE, SIDE), dtype=np.float32))
    labels = classifier.logits(x).argmax(1)
    counts = {}
    for norm in ("linf", "l2", "l1"):
        seen = []
        for steps in (10, 30):
            pretend_gpu.reset()
            pgd(
                classifier.scaled_logits,
                x,
                labels,
                ball=Ball(norm, 1e-6),
                start=torch.zeros_like(x),
                iterations=steps,
                step=1e-7,
            )
            seen.append(pretend_gpu.waits())
        counts[norm] = (seen[1] - seen[0]) / 20
    return {"differ": [], "n": len(counts), "counts": counts}


def outcome(part: Part) -> dict[str, Any]:
    """Run the rest of a part; an error of one says nothing about the others."""
    try:
        next(part)
    except StopIteration as end:
        found: dict[str, Any] = end.value
        return found
    except Exception:
        return {"error": traceback.format_exc()}
    raise AssertionError("a part yields once")


def main(folder: Path) -> dict[str, Any]:
    """Prepare all parts, switch the device on, and return the outcome of each."""
    parts: dict[str, Part] = {}
    for part in (audit, copies, operators, training, pgd_waits):
        (folder / part.__name__).mkdir()
        parts[part.__name__] = part(folder / part.__name__)
        next(parts[part.__name__])
    try:
        switch_on()
    except pretend_gpu.Unavailable as error:
        return {"unavailable": str(error)}
    return {name: outcome(part) for name, part in parts.items()}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(json.dumps(main(Path(sys.argv[1]))))  # noqa: T201
