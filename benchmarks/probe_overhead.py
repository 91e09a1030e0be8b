"""Compare the time of every probe with that of its model passes, on a model and images of any size.

    uv run python benchmarks/probe_overhead.py MODEL --data IMAGES [--suite full] [--images 2] [--rounds 3] [--only ID]

Each probe measures the images with the smaller settings of the suite, if it states any, once to import and compile.
Then its passes are logged, and exactly these are repeated alone, as in overhead.py. Times are the CPU seconds of this
process on one torch thread. Goal: at most 1.15.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from overhead import Passes, alone

from auditor import NotApplicable
from auditor.plugin import registry
from auditor.plugin.suite import find_suite
from auditor.run.effort import reduce
from auditor.run.measuring import Measurer, run_context
from auditor.run.opening import open_audit
from auditor.run.planning import unmet_requirement
from auditor.run.request import Request
from auditor.run.selection import choose_probes


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--suite", default="full")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="*", help="ids of probes, with wildcards")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    plugins = registry.load()
    suite = find_suite(arguments.suite, plugins)
    request = Request(model=arguments.model, data=arguments.data, suite=arguments.suite, probes=[arguments.only])
    classifier, images = open_audit(plugins, request, suite, "cpu")
    classifier.batch_size = 8
    measurer = Measurer(classifier, images, 0)
    ids = images.ids[: arguments.images]
    pixels = classifier.tensor(images.pixels(ids))
    print(f"{classifier.path}, {len(ids)} images of {images.shape}: probe over its passes alone")
    chosen = choose_probes(plugins, suite, request)
    reducible = [probe.meta.id for probe in chosen if probe.meta.id in suite.reduced]
    for probe in reduce(chosen, reducible, suite, plugins):
        name = probe.meta.id
        if reason := unmet_requirement(probe, classifier, images):
            print(f"{name:36} not applicable: {reason}", flush=True)
            continue
        try:
            ready = probe.prepare(run_context(probe, chosen, measurer, images.ids[:8]))
            measurer.begin(ready)
            measurer.measure(ready, ids)
        except NotApplicable as reason:
            print(f"{name:36} not applicable: {reason}", flush=True)
            continue
        ratios = []
        for _ in range(arguments.rounds):
            with Passes(classifier) as log:
                start = time.process_time()
                measurer.measure(ready, ids)
                spent = time.process_time() - start
            if not log:
                break
            ratios.append(spent / alone(classifier, log, pixels))
        passes = sum(entry["n"] * (1 + entry["gradients"]) for entry in log)
        text = f"median {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else "none"
        print(f"{name:36} {text}, {passes} image passes, {spent:.1f} s", flush=True)


if __name__ == "__main__":
    main()
