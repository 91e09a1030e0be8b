"""Tell plugins that a run has finished: they may publish it, but not change it."""

from __future__ import annotations

import copy
from dataclasses import replace

from auditor.errors import one_line
from auditor.plugin.finished import FinishedRun
from auditor.plugin.registry import Registry
from auditor.run.request import Outcome
from auditor.run.watch import Watch


def publish(plugins: Registry, outcome: Outcome, watch: Watch | None = None) -> Outcome:
    """Call the hook ``auditor_run_finished`` of every plugin.

    A plugin that raises, or changes a file of the run, is one of the problems of the outcome; the file is restored.
    """
    watch = watch or Watch()
    problems: list[str] = []
    titles = {plugin.name: plugin.title for plugin in plugins.plugins}
    kept = {file: file.read_bytes() for file in outcome.files}
    for implementation in plugins.manager.hook.auditor_run_finished.get_hookimpls():
        name = implementation.plugin_name
        subject, place = f"plugin {name}", f"plugin {titles.get(name, name)}: auditor_run_finished"
        if subject in watch.casualties.reports:
            problems.append(f"{place}: {watch.casualties.reports[subject]}")
            continue
        watch.doing("report", subject)
        run = FinishedRun(folder=outcome.out, audit=copy.deepcopy(outcome.audit), files=tuple(outcome.files))
        try:
            implementation.function(**({"run": run} if "run" in implementation.argnames else {}))
        except BaseException as error:
            if watch.ends_audit(error):
                raise
            problems.append(f"{place}: {one_line(error)}")
        for file, content in kept.items():
            if not file.is_file() or file.read_bytes() != content:
                file.write_bytes(content)
                problems.append(f"{place} changed {file.name}, which was restored")
    if not problems:
        return outcome
    return replace(outcome, incomplete=True, problems=[*outcome.problems, *problems])
