"""A suite and a policy: ``auditor run model.onnx --suite nightly --policy release``."""

from pathlib import Path

from auditor import hookimpl

AUDITOR_API = "1.0"

HERE = Path(__file__).parent


@hookimpl
def auditor_suites():
    return [HERE / "nightly.toml"]


@hookimpl
def auditor_policies():
    return [HERE / "release.toml"]
