"""Measure how an audit grows with the number of images: memory, images per second, start and resume.

    uv run python benchmarks/growth.py [--images 1000,10000,100000] [--data npz,folder,csv] [--profile]

Grey images of 12x12 pixels and a linear ONNX model with ten classes are made in a temporary folder. The audit runs
three probes (accuracy, FGSM with one epsilon, noise with one epsilon) and writes audit.json. Each line takes two
processes: a run into a new folder, and the same command again on the finished folder.

Columns: seconds from the start of the run to the first probe, after the imports; seconds of the whole run; CPU seconds
on all cores; images per second, all images over the time between the first probe and the end; peak resident memory of
the process (VmHWM of Linux); the same of the resumed run. On a machine that does other work, CPU seconds are closer to
the time on an idle one. ``--profile`` prints the functions that take most of the time.
"""

from __future__ import annotations

import argparse
import cProfile
import csv
import json
import pstats
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

SIDE, CLASSES = 12, 10

SUITE = """
probes = ["performance.accuracy", "attacks.fgsm", "attacks.noise"]

[settings."attacks.fgsm"]
epsilons = [0.03]
l2_epsilons = []

[settings."attacks.noise"]
epsilons = [0.03]
sigmas = []
snrs = []
"""


def write_model(folder: Path, weights: np.ndarray[Any, Any]) -> Path:
    """Write a linear model with scores for images (n, 1, 12, 12)."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["scores"])]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(weights.astype(np.float32), "w")],
    )
    path = folder / "linear.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def write_data(folder: Path, kind: str, pixels: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> Path:
    """Write the images as an archive, a folder per class, or a manifest; return the path for --data."""
    from PIL import Image

    if kind == "npz":
        np.savez(folder / "images.npz", images=pixels, labels=labels)
        return folder / "images.npz"
    if not (folder / "images").is_dir():
        for label in range(CLASSES):
            (folder / "images" / f"{label:03d}").mkdir(parents=True)
        for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            Image.fromarray(image).save(folder / "images" / f"{label:03d}" / f"{number:07d}.png")
    if kind == "folder":
        return folder / "images"
    with (folder / "images.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label"])
        writer.writerows([f"images/{label:03d}/{number:07d}.png", label] for number, label in enumerate(labels))
    return folder / "images.csv"


def measure(model: Path, suite: Path, data: Path, out: Path, *, profile: bool) -> dict[str, float]:
    """Run one audit in this process; return seconds and MB."""
    from auditor.run import session
    from auditor.run.request import Position, Request, Silent

    class Clock(Silent):
        """Notes when the first probe began."""

        first: float | None = None

        def begin(self, probe_id: str, images: int, position: Position) -> None:
            """Note the time."""
            del probe_id, images, position
            self.first = self.first or time.monotonic()

    # the libraries, which every audit imports
    for library in ("onnxruntime", "pandas", "scipy.stats", "sklearn.metrics", "torch"):
        import_module(library)
    clock = Clock()
    profiler = cProfile.Profile()
    if profile:
        profiler.enable()
    start, busy = time.monotonic(), time.process_time()
    request = Request(model=model, suite=str(suite), data=data, out=out, device="cpu", formats=("json",))
    outcome = session.run(request, clock)
    end, busy = time.monotonic(), time.process_time() - busy
    if profile:
        profiler.disable()
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("cumulative").print_stats(60)
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(40)
    broken = [probe["id"] for probe in outcome.audit["probes"] if probe["status"] == "error"]
    assert not broken, broken
    assert clock.first is not None
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    seconds = {"start": clock.first - start, "seconds": end - start, "measuring": end - clock.first, "busy": busy}
    return {**seconds, "MB": peak}


def in_a_process(arguments: list[str]) -> dict[str, float]:
    """Measure in another process."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="1000,10000,100000")
    parser.add_argument("--data", default="npz,folder,csv")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--one", nargs=4, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one, profile=options.profile)))
        return
    columns = ["data", "images", "start s", "run s", "CPU s", "images/s", "peak MB"]
    columns += ["resume s", "resume CPU s", "resume peak MB"]
    print(f"| {' | '.join(columns)} |")
    print(f"|---|{'--:|' * (len(columns) - 1)}", flush=True)
    profile = ["--profile"] if options.profile else []
    for count in map(int, options.images.split(",")):
        with tempfile.TemporaryDirectory(prefix="auditor-growth-") as name:
            folder = Path(name)
            rng = np.random.default_rng(0)
            pixels = rng.integers(0, 256, (count, SIDE, SIDE), dtype=np.uint8)
            weights = rng.normal(size=(SIDE * SIDE, CLASSES))
            labels = (pixels.reshape(count, -1) / 255 @ weights).argmax(axis=1)
            model = write_model(folder, weights)
            (folder / "growth.toml").write_text(SUITE, encoding="utf-8")
            for kind in options.data.split(","):
                data = write_data(folder, kind, pixels, labels)
                arguments = [str(model), str(folder / "growth.toml"), str(data), str(folder / f"run-{kind}"), *profile]
                first, again = in_a_process(arguments), in_a_process(arguments)
                cells = [f"{first[name]:.1f}" for name in ("start", "seconds", "busy")]
                cells += [f"{count / first['measuring']:.0f}", f"{first['MB']:.0f}"]
                cells += [f"{again['seconds']:.1f}", f"{again['busy']:.1f}", f"{again['MB']:.0f}"]
                print(f"| {kind} | {count:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
