"""A report format: all metrics as CSV."""

import csv
import io

from auditor import ReportFormat, hookimpl

AUDITOR_API = "1.0"


def render(audit, run):
    table = io.StringIO()
    rows = csv.writer(table)
    rows.writerow(["probe", "metric", "value", "low", "high", "n"])
    for probe in audit["probes"]:
        for metric in probe["metrics"]:
            rows.writerow([probe["id"], *(metric[key] for key in ("name", "value", "low", "high", "n"))])
    return table.getvalue().encode()


@hookimpl
def auditor_report_formats():
    return [ReportFormat(name="csv", file="metrics.csv", render=render)]
