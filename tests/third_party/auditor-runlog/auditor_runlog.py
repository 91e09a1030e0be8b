"""A publisher: one line of JSON for every finished run, in the file that $AUDITOR_RUNLOG names."""

import json
import os
from pathlib import Path

from auditor import hookimpl

AUDITOR_API = "1.0"


@hookimpl
def auditor_run_finished(run):
    if target := os.environ.get("AUDITOR_RUNLOG"):
        audit = run.audit
        line = {"folder": str(run.folder), "model": audit["model"]["sha256"], "verdict": audit["verdict"]}
        with Path(target).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
