"""No changed bit of a record and no failed write passes unnoticed; what is damaged is measured again."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from auditor.compare.comparison import compare
from auditor.data.dataset import Batch
from auditor.errors import BadInput
from auditor.files import inside, parse_json, read_inside, write_whole
from auditor.plugin import registry
from auditor.run.folder import Cost, RunFolder, read_rows
from auditor.run.process_state import StateChanged, unchanged_batch
from auditor.run.request import Outcome, Position, Request
from auditor.run.session import run
from auditor.run.watch import FolderLost

PROBES = ("performance.accuracy", "attacks.fgsm", "performance.calibration")
"""The last one reads the rows of the second."""
KIND = "records/attacks.fgsm/shard"


class Log:
    """A progress that keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)

    def begin(self, probe_id: str, images: int, position: Position) -> None: ...

    def advance(self, images: int) -> None: ...

    def end(self, record: Any) -> None: ...


Audit = Callable[..., tuple[Outcome, list[str]]]


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory, write_linear: Callable[..., Path]) -> Audit:
    """Audit a linear model; return the outcome and the lines of the progress."""
    folder = tmp_path_factory.mktemp("integrity")
    generator = np.random.default_rng(0)
    model = write_linear(folder / "linear.onnx", generator.normal(size=(3, 16)), np.zeros(3), (1, 4, 4))
    np.savez(
        folder / "images.npz", images=generator.integers(0, 255, (24, 4, 4), dtype=np.uint8), labels=np.arange(24) % 3
    )

    def call(out: Path, *, seed: int = 0) -> tuple[Outcome, list[str]]:
        log = Log()
        request = Request(
            model=model,
            data=folder / "images.npz",
            out=out,
            probes=PROBES,
            formats=(),
            batch_size=8,
            trust_model=True,
            seed=seed,
        )
        return run(request, log), log.lines

    return call


@pytest.fixture(scope="module")
def finished(audit: Audit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run. Do not write into it."""
    return audit(tmp_path_factory.mktemp("finished") / "run")[0].out


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def results(run: Path) -> dict[str, Any]:
    """Return the records of the probes without what measuring cost."""
    probes = json.loads((run / "audit.json").read_bytes())["probes"]
    return {probe["id"]: {**probe, "seconds": 0, "model_calls": {}} for probe in probes}


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def only(run: Path, pattern: str) -> Path:
    return sorted(run.glob(pattern))[0]


# changed bits


def test_every_changed_bit_of_a_shard_is_found(copied: Path) -> None:
    path = only(copied, f"{KIND}-*")
    whole = path.read_bytes()
    key = json.loads((copied / "manifest.json").read_bytes())["records"]["attacks.fgsm"]
    ids = set(pq.read_table(path)["image_id"].to_pylist())
    with RunFolder(copied) as folder:
        for bit in np.linspace(0, 8 * len(whole) - 1, 40).astype(int):
            flip(path, bit)
            assert not folder.measured("attacks.fgsm", key) & ids, bit
            for read in (
                lambda: folder.read_shards("attacks.fgsm", key),
                lambda: read_rows(copied, "attacks.fgsm", key),
            ):
                with pytest.raises(BadInput, match="damaged"):
                    read()
            path.write_bytes(whole)
        assert ids <= folder.measured("attacks.fgsm", key)
        renamed = path.rename(path.with_name(f"{path.stem[:-1]}x.parquet"))
        assert folder.remove_damaged() == [renamed.relative_to(copied).as_posix()]
        assert not renamed.exists()


@pytest.mark.parametrize("pattern", [f"{KIND}-*", "records/performance.accuracy/examples-*", "evidence/*.png"])
def test_damaged_files_are_made_again(audit: Audit, finished: Path, copied: Path, pattern: str) -> None:
    path = only(copied, pattern)
    flip(path, 8 * 40)
    _, lines = audit(copied)
    assert results(copied) == results(finished)
    assert path.is_file() == (path.suffix == ".png"), "rows have another cost, pictures the same content"
    if path.suffix == ".parquet":
        assert any(f"{path} was damaged and is removed; its images are measured again" in line for line in lines)
    for probe, key in json.loads((copied / "manifest.json").read_bytes())["records"].items():
        rows, expected = (read_rows(run, probe, key) for run in (copied, finished))
        assert (rows is None and expected is None) or (rows is not None and rows.equals(expected))
    for made in copied.glob("evidence/*.png"):
        assert made.read_bytes() == (finished / "evidence" / made.name).read_bytes()


def test_damaged_manifest_costs_only_the_plan(audit: Audit, finished: Path, copied: Path) -> None:
    path = copied / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"seed": 0', b'"seed": 4'))
    _, lines = audit(copied)
    assert any(line.startswith("manifest.json is damaged, so the plan of the earlier run is lost") for line in lines)
    assert results(copied) == results(finished)
    path.write_bytes(path.read_bytes()[:-9])
    _, lines = audit(copied)
    assert any("manifest.json is damaged" in line and "not readable as JSON" in line for line in lines)


def test_changed_image_list_is_not_compared(finished: Path, copied: Path) -> None:
    assert compare([finished, copied])["verdict"] == "no-difference"
    flip(copied / "records" / "images.parquet", 8 * 100)
    with pytest.raises(BadInput, match=r"images\.parquet: damaged"):
        compare([finished, copied])


def test_shard_of_an_older_version_has_no_checksum(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        path = folder.write_shard("a.b", "key", pa.table({"image_id": ["x"]}), Cost())
        path.rename(path.with_name("shard-0123456789ab.parquet"))
        assert folder.measured("a.b", "key") == {"x"}
        assert folder.remove_damaged() == []


# failed writes


def _fail_fsync(kind: int) -> Callable[[int], None]:
    def fail(_: int) -> None:
        raise OSError(kind, os.strerror(kind))

    return fail


def _shorten(descriptor: int) -> None:
    os.ftruncate(descriptor, max(0, os.fstat(descriptor).st_size - 7))


FAULTS: dict[str, tuple[Callable[[int], None], str]] = {
    "ENOSPC": (_fail_fsync(errno.ENOSPC), "No space left on device"),
    "EIO": (_fail_fsync(errno.EIO), "Input/output error"),
    "short": (_shorten, "fewer bytes were written than given"),
}


@pytest.fixture
def fail_once(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the first write of every kind of file fail, with one fault after the other; the kinds that failed."""
    failed: list[str] = []
    faults = list(FAULTS.values())

    def write(target: Path, content: bytes) -> Path:
        kind = f"{target.parent.name}/{target.name.partition('-')[0]}"
        if kind in failed:
            return write_whole(target, content)
        failed.append(kind)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("os.fsync", faults[len(failed) % len(faults)][0])
            return write_whole(target, content)

    monkeypatch.setattr("auditor.run.folder.write_whole", write)
    return failed


def test_audit_resumes_after_every_failed_write(
    audit: Audit, finished: Path, fail_once: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    errors = []
    for _ in range(20):
        try:
            audit(out)
        except BadInput as error:
            errors.append(str(error))
        else:
            break
    assert len(errors) == len(fail_once)
    assert {"run/manifest.json", "records/images.parquet", "attacks.fgsm/shard", "run/audit.json"} < {*fail_once}
    assert all("what was written before is kept" in text and "resume" in text for text in errors)
    for _, reason in FAULTS.values():
        assert any(reason in text for text in errors)
    assert results(out) == results(finished)
    assert not list(out.rglob(".*.part"))


@pytest.mark.parametrize("fault", FAULTS)
def test_failed_write_leaves_the_old_file(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = write_whole(tmp_path / "file", b"what was there before")
    monkeypatch.setattr("os.fsync", FAULTS[fault][0])
    with pytest.raises(OSError, match=FAULTS[fault][1]):
        write_whole(target, b"what is there after")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"what was there before"]


KILLED = """
import os, sys
from pathlib import Path
import pyarrow as pa, pyarrow.parquet
import pyarrow.parquet as pq
from auditor.run.folder import Cost, RunFolder

def ends(*_):
    os._exit(9)

def half(descriptor):
    os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
    os._exit(9)

root, point = Path(sys.argv[1]), 0
real = os.fsync, Path.replace
for name, fsync, replace in (("begun", ends, None), ("half", half, None), ("written", None, ends)):
    for number in range(3):
        if os.fork() == 0:
            folder = RunFolder(root / f"{name}-{number}")
            for k in range(3):
                if k == number:
                    os.fsync, Path.replace = fsync or real[0], replace or real[1]
                folder.write_shard("a.b", "key", pa.table({"image_id": [str(k)]}), Cost(1.0))
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 9
"""


def test_killed_write_loses_no_other_row(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)], check=True, timeout=120)
    found = sorted(tmp_path.iterdir())
    assert len(found) == 9
    for path in found:
        with RunFolder(path) as folder:
            assert folder.remove_damaged() == []
            assert folder.measured("a.b", "key") == {str(k) for k in range(int(path.name[-1]))}
            assert not list(path.rglob(".*.part"))


# a folder that goes away


@pytest.mark.parametrize("gone", [shutil.rmtree, lambda path: path.rename(path.with_name("elsewhere"))])
def test_run_folder_that_goes_away_is_named(
    audit: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: Callable[[Path], object]
) -> None:
    out = tmp_path / "run"
    kind = registry.load().probes["attacks.fgsm"]
    measure = kind.measure

    def measure_and_remove(self: Any, *given: Any) -> Any:
        if out.exists():
            gone(out)
        return measure(self, *given)

    monkeypatch.setattr(kind, "measure", measure_and_remove)
    with pytest.raises(BadInput, match="run folder was deleted, moved or replaced during the run"):
        audit(out)
    assert not out.exists()


def test_lost_folder_is_no_error_of_a_probe(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.rmtree(folder.path)
    with pytest.raises(FolderLost):
        folder.read_json("manifest.json")
    folder.close()


# folders from others


@pytest.mark.parametrize("name", ["records", "evidence", ".lock"])
def test_links_out_of_the_run_folder_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "private")
    with pytest.raises(BadInput, match="leads out of"):
        RunFolder(tmp_path / "run")


def test_paths_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "secret").write_text("secret")
    (folder / "file").write_text("content")
    (folder / "near").symlink_to("file")
    (folder / "far").symlink_to("../secret")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "fifo")
    assert read_inside(folder, "near") == b"content"
    for name, reason in {
        "far": "leads out of",
        "../secret": "leads out of",
        str(tmp_path / "secret"): "leads out of",
        "fifo": "neither a file nor a folder",
        "a\0b": "not a usable path",
        "x" * 5000: "not a usable path",
    }.items():
        with pytest.raises(BadInput, match=reason):
            read_inside(folder, name)
    with pytest.raises((BadInput, OSError)):
        read_inside(folder, "loop")
    with pytest.raises(FileNotFoundError):
        read_inside(folder, "none")
    assert inside(folder, "file") == folder / "file"


@pytest.mark.parametrize(
    "text",
    ["{", "[NaN]", "[-Infinity]", "[1e999]", r'["\ud800"]', "[" * 200_000, "[" + "9" * 5000 + "]", '"\xff"'],
    ids=["half", "nan", "infinity", "overflow", "surrogate", "deep", "long number", "latin-1"],
)
def test_json_that_cannot_be_written_again_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"audit\.json: not readable as JSON"):
        parse_json(text.encode("latin-1"), "audit.json")
    assert parse_json(rb'{"a": ["\u00e4", 1.5, null]}', "x") == {"a": ["ä", 1.5, None]}


# the arrays of a batch


@pytest.mark.parametrize("name", ["pixels", "labels", "probabilities", "masks"])
def test_change_of_a_batch_is_an_error(name: str) -> None:
    batch = Batch(
        ids=("a",),
        pixels=np.ones((1, 1, 2, 2), dtype=np.float32),
        labels=np.ones(1, dtype=np.int64),
        probabilities=np.ones((1, 2), dtype=np.float32),
        masks=np.full((1, 2, 2), np.nan, dtype=np.float32),
    )
    with unchanged_batch(batch):
        pass
    with pytest.raises(StateChanged, match=rf"batch\.{name}"), unchanged_batch(batch):
        getattr(batch, name)[0] = 0
