"""Measure time and memory of ``auditor report`` on a run: HTML, PDF and both, each in its own process.

Two times: the whole command from the start of its imports, and rendering alone, which is what ``auditor run`` does at
its end. Only the first includes reading and checking audit.json, loading plugins, importing, and starting the PDF
process.

    uv run python benchmarks/report_time.py RUN [--rounds N]

RUN is the folder of a finished audit, for example of ``auditor demo`` (the full suite). Goal: HTML and PDF together in
at most 10 s and 1 GB.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ONE = """
import json, resource, sys, time
from pathlib import Path
start = time.perf_counter()
from auditor.run import replay
def timed(*arguments, finish=replay.finish):
    global drawing
    begun = time.perf_counter()
    done = finish(*arguments)
    drawing = time.perf_counter() - begun
    return done
replay.finish = timed
outcome = replay.draw_again(Path(sys.argv[1]), sys.argv[2].split(","), "a4")
seconds = time.perf_counter() - start
assert not outcome.problems, outcome.problems
sizes = {file.name: file.stat().st_size for file in outcome.files[1:]}
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
busy = sum(each.ru_utime + each.ru_stime for each in used)
peaks = [each.ru_maxrss / 1024 for each in used]
print(json.dumps({"seconds": seconds, "drawing": drawing, "busy": busy, "MB": peaks, "bytes": sizes}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="auditor-report-time-"), "run")
    shutil.copytree(options.run, folder)
    audit = json.loads((folder / "audit.json").read_bytes())
    print(f"{len(audit['probes'])} probes, audit.json {(folder / 'audit.json').stat().st_size / 1e6:.2f} MB")
    for names in ("html", "pdf", "html,pdf"):
        rounds = []
        for _ in range(options.rounds):
            command = [sys.executable, "-c", ONE, str(folder), names]
            rounds.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        seconds, drawing = ([each[what] for each in rounds] for what in ("seconds", "drawing"))
        # the page's process and its child, which renders the PDF, run at the same time
        peak = max(sum(each["MB"]) if "pdf" in names else each["MB"][0] for each in rounds)
        sizes = ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in rounds[0]["bytes"].items())
        print(
            f"{names:<9} drawing median {statistics.median(drawing):5.2f} s, {min(drawing):.2f} to {max(drawing):.2f};"
            f" whole command {statistics.median(seconds):5.2f} s, {min(seconds):.2f} to {max(seconds):.2f}, busy"
            f" {statistics.median(each['busy'] for each in rounds):.2f} s; at most {peak:.0f} MB of memory; {sizes}"
        )
    shutil.rmtree(folder.parent)


if __name__ == "__main__":
    main()
