"""The first ten minutes on a machine with a GPU: does the auditor use it, is it right there, and how fast is it.

    uv run python benchmarks/first_day.py [--device cuda] [--seconds 570] [--only SECTION ...] [--out first_day]
    uv run python benchmarks/first_day.py --device cpu --seconds 1800    # a dry run of every section

Sections run in the order of what they decide, and each may fail alone. Results go to OUT/first_day.jsonl as they come,
and to OUT/first_day.md as a table for RESULTS.md. Exit status 1 if a section failed, if the deployed model did not run
on the device, or if a node test or a row differs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import logging
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

Facts = Mapping[str, Any]


@dataclass
class Day:
    """The device, the files, and what one section leaves for the next."""

    device: str
    out: Path
    ends: float
    kept: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    """What must not happen on a device that the auditor supports."""

    @property
    def gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def left(self) -> float:
        return self.ends - time.monotonic()

    def wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()

    def seconds(self, call: Callable[[], Any], times: int = 5) -> float:
        """Return the mean seconds of a call after one that is not counted."""
        call()
        self.wait()
        start = time.perf_counter()
        for _ in range(times):
            call()
        self.wait()
        return (time.perf_counter() - start) / times

    @cached_property
    def digits(self) -> Path:
        """The reference model digits-cnn, trained here."""
        from auditor.reference_models import recipe

        recipe("digits-cnn").train(self.out / "digits", say=lambda _: None)
        return self.out / "digits" / "digits-cnn.onnx"

    @cached_property
    def module(self) -> torch.nn.Module:
        """ResNet-50 on a GPU; a small network of the same kind of layers for a dry run."""
        torch.manual_seed(0)
        if self.gpu:
            import torchvision

            return torchvision.models.resnet50(weights=None).eval()
        layers = [torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
        head = [torch.nn.Conv2d(8, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)]
        return torch.nn.Sequential(*layers, *head, torch.nn.Flatten(), torch.nn.Linear(16, 10)).eval()

    @cached_property
    def network(self) -> Path:
        """The module as an ONNX file with a free batch size."""
        path, side = self.out / "network.onnx", 224 if self.gpu else 32
        torch.onnx.export(
            self.module,
            (torch.rand(2, 3, side, side),),
            str(path),
            dynamo=False,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
        )
        return path

    @cached_property
    def classifier(self) -> Any:
        from auditor.run.opening import open_model

        return open_model(self.network, self.device, trust=True)

    def images(self, n: int) -> np.ndarray:
        return np.random.default_rng(0).random((n, *self.classifier.shape), dtype=np.float32)


def machine(day: Day) -> Facts:
    import onnxruntime

    facts: dict[str, Any] = {"torch": torch.__version__, "ONNX Runtime": onnxruntime.__version__, "GPU": "none"}
    if day.gpu:
        facts |= {"GPU": torch.cuda.get_device_name(0), "free and total bytes": torch.cuda.mem_get_info()}
    return facts


def provider(day: Day) -> Facts:
    """The question that decides everything: does the deployed model run on the GPU, opened as an audit opens it?"""
    from auditor.model.cuda_provider import CUDA, describe_provider

    name, reason = describe_provider()
    runtime = day.classifier.artefact.runtime
    if day.gpu and not (name == CUDA and runtime.endswith(CUDA)):
        day.wrong.append(f"the deployed model is not on the GPU: {reason or runtime}")
    return {"tiny model": name, "network": runtime, "why not CUDA": reason or "it is"}


def node_tests(day: Day) -> Facts:
    """Run every ONNX node test that the importer passes on the CPU, on the device."""
    import onnx_node_tests as tests
    from onnx.backend.test.case.node import collect_testcases

    counts, failed, ends = Counter(), Counter(), time.monotonic() + min(90, day.left / 3)
    logging.disable(logging.ERROR)
    for case in collect_testcases():
        if time.monotonic() > ends:
            counts["not reached"] += 1
            continue
        with contextlib.redirect_stderr(io.StringIO()):
            if tests.judge(case)[0] != tests.PASSED:
                continue
            verdict, why = tests.judge(case, day.device)
        counts[verdict] += 1
        if verdict != tests.PASSED:
            failed[f"{case.name}: {why[:90]}"] += 1
    logging.disable(logging.NOTSET)
    day.wrong += [f"node test {name}" for name in failed]
    return {**counts, "failures": list(failed)[:25]}


def throughput(day: Day) -> Facts:
    """Images per second by batch size: the deployed model, the copy's gradient, and the bare torch module's."""
    from auditor.run import measuring

    classifier, found = day.classifier, {}
    classifier.verify(day.images(8))
    bare = day.module.to(day.device)
    for n in (32, 64, 128, 256, 512) if day.gpu else (4, 8):
        pixels = day.images(n)
        x = classifier.tensor(pixels)

        def gradient(network: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor = x) -> None:
            leaf = x.clone().requires_grad_()
            torch.autograd.grad(network(leaf).sum(), leaf)

        classifier.batch_size = n
        rates = {
            "predictions": day.seconds(lambda pixels=pixels: classifier.predict(pixels), 3),
            "gradients": day.seconds(lambda: gradient(classifier.logits), 3),
            "gradients of bare torch": day.seconds(lambda: gradient(bare), 3),
            "uploads": day.seconds(lambda pixels=pixels: classifier.tensor(pixels), 3),
        }
        found |= {f"{name}/s at batch {n}": round(n / seconds) for name, seconds in rates.items()}
    start = time.perf_counter()
    found["batch size chosen"] = measuring.tune(classifier, day.images(512 if day.gpu else 8), 4096 if day.gpu else 8)
    return {**found, "seconds to choose": round(time.perf_counter() - start, 2), "access": classifier.access}


def pgd_step(day: Day) -> Facts:
    """Time, kernels, waits for the GPU and idle time of a step of PGD."""
    from torch.profiler import ProfilerActivity, profile

    from auditor.algorithms.balls import Ball
    from auditor.algorithms.pgd import pgd

    classifier = day.classifier
    x = classifier.tensor(day.images(64 if day.gpu else 4))
    labels = classifier.logits(x).argmax(1)

    def attack(steps: int) -> None:
        # too small a ball for a success: the whole batch takes every step
        ball = Ball("linf", 1e-6)
        pgd(classifier.logits, x, labels, ball=ball, start=torch.zeros_like(x), iterations=steps, step=1e-7)

    seconds = day.seconds(lambda: attack(20), 1) / 20
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * day.gpu) as profiled:
        attack(5)
        day.wait()
    events = profiled.key_averages()
    facts = {"ms per step": round(1e3 * seconds, 3), "operators per step": sum(e.count for e in events) / 5}
    if not day.gpu:
        return facts
    busy = sum(event.self_device_time_total for event in events) / 5e6
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        attack(10)
    torch.cuda.set_sync_debug_mode("default")
    launches = sum(event.count for event in events if "LaunchKernel" in event.key) / 5
    return facts | {
        "launches per step": launches,
        "waits per step": len(waits) / 10,
        "share of time that the GPU is busy": round(busy / seconds, 3),
    }


def options(day: Day) -> Facts:
    """Gradients per second with what the auditor does not use today."""
    classifier, n = day.classifier, 64 if day.gpu else 4
    x = classifier.tensor(day.images(n))
    backend, found = torch.backends, {}

    def rate(network: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor = x) -> Any:
        def gradient() -> None:
            leaf = x.clone().requires_grad_()
            torch.autograd.grad(network(leaf).float().sum(), leaf)

        try:
            return round(n / day.seconds(gradient))
        except Exception as error:
            return f"{type(error).__name__}: {str(error)[:120]}"

    def bf16(z: torch.Tensor) -> torch.Tensor:
        with torch.autocast(day.device.partition(":")[0], dtype=torch.bfloat16):
            return classifier.logits(z)

    def raw(z: torch.Tensor) -> torch.Tensor:
        output = classifier.copy(z)
        return output[0] if isinstance(output, tuple | list) else output

    found["as it is"] = rate(classifier.logits)
    backend.cuda.matmul.allow_tf32 = backend.cudnn.allow_tf32 = True
    found["TF32"] = rate(classifier.logits)
    backend.cuda.matmul.allow_tf32 = backend.cudnn.allow_tf32 = False
    found["bf16 autocast"] = rate(bf16)
    found["channels last"] = rate(classifier.logits, x.contiguous(memory_format=torch.channels_last))
    backend.cudnn.deterministic, backend.cudnn.benchmark = False, True
    found["cudnn.benchmark"] = rate(classifier.logits)
    backend.cudnn.deterministic, backend.cudnn.benchmark = True, False
    if day.left > 60:
        found["torch.compile"] = rate(torch.compile(raw))
    if day.gpu:
        # capture refuses tensors that are used on another stream
        graphed = torch.cuda.make_graphed_callables(raw, (x.clone().requires_grad_(),))
        found["CUDA graph"] = rate(graphed)
    return {f"{name}, gradients/s": value for name, value in found.items()}


def out_of_memory(day: Day) -> Facts:
    """Does an audit that asks for too large a batch go on, and does it give the memory back?"""
    if not day.gpu:
        return {"skipped": "needs a GPU"}
    classifier, before = day.classifier, torch.cuda.memory_reserved()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 4 * 2**30 / torch.cuda.mem_get_info()[1]))
    classifier.batch_size = 4096
    try:
        classifier.predict(day.images(4096))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    return {"batch size after": classifier.batch_size, "reserved bytes": (before, torch.cuda.memory_reserved())}


def audited(day: Day, model: Path, name: str, *, device: str = "", **request: Any) -> tuple[Any, dict[str, Any]]:
    from auditor import api

    start = time.perf_counter()
    device = device or day.device
    result = api.audit(model, out=day.out / name, device=device, fresh=True, trust_model=True, **request)
    record = result.record
    broken = {probe["id"]: probe["reason"] for probe in record["probes"] if probe["status"] == "error"}
    day.wrong += [f"{name}: {probe} broke: {reason}" for probe, reason in broken.items()]
    facts = {"seconds": round(time.perf_counter() - start, 1), "probes": len(record["probes"]), "broken": broken}
    return result, facts | {"runtime": record["model"]["runtime"], "access": record["model"]["access"]}


def differing_rows(one: Any, other: Any) -> dict[str, list[str]]:
    """Return the columns that differ between two runs, by probe."""
    found: dict[str, list[str]] = {}
    for probe in (record["id"] for record in one.record["probes"] if record["status"] != "not-applicable"):
        try:
            frames = [audit.rows(probe) for audit in (one, other)]
        except Exception:
            # a probe without rows concludes from those of others
            continue
        keys = [key for key in ("image_id", "norm", "epsilon", "level") if key in frames[0]]
        first, second = (frame.sort_values(keys, kind="stable").reset_index(drop=True) for frame in frames)
        if len(first) != len(second):
            found[probe] = ["number of rows"]
            continue
        # as text: a missing value equals a missing value
        columns = [k for k in first if k in second and str(first[k].tolist()) != str(second[k].tolist())]
        found |= {probe: columns[:6]} if columns else {}
    return found


def every_probe(day: Day) -> Facts:
    day.kept["first"], facts = audited(day, day.digits, "first", suite="full", samples=4, batch_size=4)
    return facts


def every_probe_again(day: Day) -> Facts:
    """Are the rows the same, bit for bit, the second time?"""
    again, facts = audited(day, day.digits, "again", suite="full", samples=4, batch_size=4)
    differences = differing_rows(day.kept["first"], again)
    day.wrong += [f"rows of {probe} differ the second time" for probe in differences]
    return facts | {"rows that differ": differences}


def another_batch_size(day: Day) -> Facts:
    """Convolutions may round differently for another batch size; predictions must be the same."""
    other, facts = audited(day, day.digits, "other-batch", suite="full", samples=4, batch_size=3)
    return facts | {"rows that differ": differing_rows(day.kept["first"], other)}


def quick_suite(day: Day) -> Facts:
    runs = {device: audited(day, day.digits, f"quick-{device.partition(':')[0]}", device=device, suite="quick")
            for device in dict.fromkeys((day.device, "cpu"))}  # fmt: skip
    facts = {f"seconds on {device}": found["seconds"] for device, (_, found) in runs.items()}
    verdicts = {device: audit.record["verdict"] for device, (audit, _) in runs.items()}
    return facts | {"verdicts": verdicts}


def full_suite(day: Day) -> Facts:
    """The full suite for ResNet-50 at 224 pixels, on packaged photographs, in the time that is left."""
    samples = 16 if day.gpu else 2
    skip = () if day.gpu else ("explanations.*", "attacks.autoattack", "metrics.clever", "attacks.hopskipjump")
    _, facts = audited(
        day, day.network, "network", suite="full", samples=samples, skip=skip, budget=max(20.0, day.left - 60)
    )
    return facts


SECTIONS = (
    machine,
    provider,
    node_tests,
    throughput,
    pgd_step,
    options,
    out_of_memory,
    every_probe,
    every_probe_again,
    another_batch_size,
    quick_suite,
    full_suite,
)


SECONDS_NEEDED = {"every_probe": 60, "every_probe_again": 60, "another_batch_size": 60, "full_suite": 120}
"""Time that must be left for a section to begin, if it is not 15 seconds."""


def run(day: Day, names: list[str]) -> list[tuple[str, float, Facts]]:
    """Run the sections; return name, seconds and facts of each."""
    results = []
    with (day.out / "first_day.jsonl").open("w", encoding="utf-8") as log:
        for section in SECTIONS:
            name = section.__name__
            if names and name not in names:
                continue
            start = time.monotonic()
            try:
                needed = SECONDS_NEEDED.get(name, 15)
                facts = section(day) if day.left > needed else {"skipped": "no time left"}
            except Exception as error:
                facts = {"FAILED": f"{type(error).__name__}: {str(error)[:400]}"}
                facts["at"] = [line.strip() for line in traceback.format_exc().splitlines()[-7:-1]]
                day.wrong.append(f"section {name} failed")
            results.append((name, round(time.monotonic() - start, 1), facts))
            line = json.dumps(dict(zip(("section", "seconds", "facts"), results[-1], strict=True)), default=str)
            print(line, flush=True)
            log.write(line + "\n")
            log.flush()
    return results


def table(results: list[tuple[str, float, Facts]], wrong: list[str]) -> str:
    """Return the results as Markdown."""
    lines = ["| section | seconds | quantity | value |", "|---|---|---|---|"]
    for name, seconds, facts in results:
        for first, (key, value) in zip(itertools.chain([True], itertools.repeat(False)), facts.items(), strict=False):
            text = str(value).replace("|", "\\|").replace("\n", " ")
            lines.append(f"| {name if first else ''} | {seconds if first else ''} | {key} | {text} |")
    problems = "\n".join(f"- {text}" for text in wrong) or "None."
    return "\n".join(lines) + f"\n\nProblems:\n\n{problems}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0", help="cuda, cuda:N or cpu (a dry run)")
    parser.add_argument("--out", type=Path, default=Path("first_day"), help="folder for the results")
    parser.add_argument("--seconds", type=float, default=570, help="no section begins after this time")
    parser.add_argument("--only", nargs="*", default=[], choices=[s.__name__ for s in SECTIONS], metavar="SECTION")
    arguments = parser.parse_args()
    from auditor.model.device import pick_device

    warnings.simplefilter("ignore")
    arguments.out.mkdir(parents=True, exist_ok=True)
    day = Day(pick_device(arguments.device), arguments.out, time.monotonic() + arguments.seconds)
    results = run(day, arguments.only)
    (arguments.out / "first_day.md").write_text(table(results, day.wrong), encoding="utf-8")
    print(f"Wrote {arguments.out / 'first_day.md'}")
    return int(bool(day.wrong))


if __name__ == "__main__":
    sys.exit(main())
