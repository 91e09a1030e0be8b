"""Files appear whole or not at all, and what was measured under another digest is never read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from auditor.errors import BadInput
from auditor.files import digest, file_sha256
from auditor.run.folder import Cost, RunFolder
from auditor.run.watch import FolderLost


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    opened = RunFolder(tmp_path / "run")
    yield opened
    opened.close()


def rows(*ids: str) -> pa.Table:
    return pa.table({"image_id": list(ids), "value": [float(len(i)) for i in ids]})


def test_rows_are_read_by_their_digest(folder: RunFolder) -> None:
    folder.write_shard("a.b", "today", rows("x", "y"), Cost(1.5, 10, 2))
    folder.write_shard("a.b", "today", rows("z"), Cost(0.5, 5, 1))
    folder.write_shard("a.b", "yesterday", rows("old"), Cost(9, 9, 9))
    folder.write_shard("a.b", "today", rows("picture"), Cost(1, 1, 1), kind="examples")
    folder.write_shard("c.d", "today", rows("other"), Cost(9, 9, 9))
    tables, cost = folder.read_shards("a.b", "today")
    assert sorted(i for table in tables for i in table["image_id"].to_pylist()) == ["x", "y", "z"]
    assert cost == Cost(2.0, 15, 3)
    assert folder.measured("a.b", "today") == {"x", "y", "z"}
    assert folder.measured("a.b", "tomorrow") == set()
    assert folder.read_shards("a.b", "tomorrow") == ([], Cost())


def test_stale_rows_are_removed(folder: RunFolder) -> None:
    folder.write_shard("a.b", "yesterday", rows("x"), Cost())
    folder.write_shard("c.d", "yesterday", rows("x"), Cost())
    folder.write_shard("a.b", "today", rows("x"), Cost())
    folder.write_shard("a.b", "pictures of today", rows("x"), Cost(), kind="examples")
    folder.drop_stale("a.b", "today")
    assert folder.measured("a.b", "yesterday") == set()
    assert len(folder.read_shards("a.b", "pictures of today", kind="examples")[0]) == 1
    assert folder.measured("a.b", "today") == {"x"}
    assert folder.measured("c.d", "yesterday") == {"x"}


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all"], ids=["empty", "magic", "text"])
def test_unreadable_shard_counts_as_not_measured(folder: RunFolder, content: bytes) -> None:
    path = folder.write_shard("a.b", "today", rows("x"), Cost())
    path.write_bytes(content)
    assert folder.measured("a.b", "today") == set()
    with pytest.raises(BadInput, match="damaged"):
        folder.read_shards("a.b", "today")
    folder.drop_stale("a.b", "today")
    assert not path.exists()


def test_truncated_shard_counts_as_not_measured(folder: RunFolder) -> None:
    path = folder.write_shard("a.b", "today", rows(*map(str, range(1000))), Cost())
    path.write_bytes(path.read_bytes()[:-20])
    assert folder.measured("a.b", "today") == set()


def test_failed_write_keeps_the_old_file(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("report.html", b"whole")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(FolderLost, match="No space"):
        folder.write("report.html", b"half")
    assert (folder.path / "report.html").read_bytes() == b"whole"
    assert {p.name for p in folder.path.iterdir() if p.is_file()} == {".lock", "report.html"}


def test_unfinished_files_of_a_killed_audit_are_removed(folder: RunFolder) -> None:
    folder.write_shard("a.b", "today", rows("x"), Cost())
    half = [folder.path / "records" / "a.b" / ".shard-1.parquet.0badcafe.part", folder.path / ".audit.json.0.part"]
    for path in half:
        path.write_bytes(b"half")
    folder.close()
    again = RunFolder(folder.path)
    assert not any(path.exists() for path in half)
    assert again.measured("a.b", "today") == {"x"}
    again.close()


def test_run_folder_is_locked(folder: RunFolder) -> None:
    with pytest.raises(BadInput, match=r"another audit \(process \d+, started .*\) is writing to this run folder"):
        RunFolder(folder.path)
    folder.close()
    RunFolder(folder.path).close()


def test_unwritable_folder_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadInput, match="cannot be written"):
        RunFolder(tmp_path / "file" / "run")


def test_clear_removes_records_and_evidence_only(folder: RunFolder) -> None:
    folder.write_shard("a.b", "today", rows("x"), Cost())
    folder.write("evidence/a.png", b"png")
    folder.write("report.html", b"report")
    folder.clear()
    assert folder.measured("a.b", "today") == set()
    assert not list((folder.path / "evidence").iterdir())
    assert (folder.path / "report.html").exists()
    folder.write_shard("a.b", "today", rows("x"), Cost())


def test_unused_evidence_is_removed(folder: RunFolder) -> None:
    for name in ("a", "b", "c"):
        folder.write(f"evidence/{name}.png", b"png")
    folder.keep_evidence(["evidence/b.png"])
    assert [path.name for path in (folder.path / "evidence").iterdir()] == ["b.png"]


def test_json_without_nan_and_with_clear_errors(folder: RunFolder) -> None:
    folder.write_json("audit.json", {"name": "Žluťoučký", "value": None})
    assert folder.read_json("audit.json") == {"name": "Žluťoučký", "value": None}
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.write_json("audit.json", {"value": float("nan")})
    assert folder.read_json("audit.json")["value"] is None
    folder.write("audit.json", json.dumps({"whole": True}).encode()[:-1])
    with pytest.raises(BadInput, match="not readable as JSON"):
        folder.read_json("audit.json")
    with pytest.raises(BadInput, match=r"has no manifest\.json"):
        folder.read_json("manifest.json")


def test_digest_does_not_depend_on_key_order(tmp_path: Path) -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert len({digest(x) for x in ({"a": 1}, {"a": 1.5}, {"a": "1"}, {"b": 1}, [["a", 1]], {"a": None})}) == 6
    (tmp_path / "empty").write_bytes(b"")
    assert file_sha256(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
