"""A resumed run reads and measures only what changed, and large data stays on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from auditor.data import looks, resizing
from auditor.data.dataset import Images, Source
from auditor.data.looks import Looks, file_stamp
from auditor.plugins.formats._npz_arrays import read_arrays
from auditor.plugins.performance.accuracy import Accuracy
from auditor.run import kept_conclusions, session
from auditor.run.folder import Cost, RunFolder, read_rows
from auditor.run.kept_looks import find_looks
from auditor.run.reopening import reopen_data
from auditor.run.request import Position, Request, Silent
from auditor.run.stored import open_stored

SIDE, N = 6, 24
SUITE = """
probes = ["performance.accuracy", "attacks.fgsm"]
[settings."attacks.fgsm"]
epsilons = [0.03]
l2_epsilons = []
"""


class Counted(Silent):
    """Counts the images that are measured, and keeps the messages."""

    def __init__(self) -> None:
        self.resumed: dict[str, int] = {}
        self.lines: list[str] = []
        self._begun = ""

    def say(self, message: str) -> None:
        self.lines.append(message)

    def begin(self, probe_id: str, images: int, position: Position) -> None:
        self._begun = probe_id

    def advance(self, images: int) -> None:
        # the first call tells what an earlier run measured
        self.resumed.setdefault(self._begun, images)


@pytest.fixture
def model(tmp_path: Path, write_linear: Callable[..., Path]) -> Path:
    rng = np.random.default_rng(0)
    return write_linear(tmp_path / "m.onnx", rng.normal(size=(2, SIDE * SIDE)), np.zeros(2), (1, SIDE, SIDE))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number in range(N):
        write_image(tmp_path / "data" / str(number % 2) / f"{number:02d}.png", number)
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files that were just written have stamps."""
    monkeypatch.setattr(looks, "_SETTLED", -1.0)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the image files that are opened."""
    names: list[str] = []
    real = resizing.read_file

    def counted(path: Path) -> Any:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(resizing, "read_file", counted)
    return names


def write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)).save(path)


def run(model: Path, data: Path, out: str = "run", **options: Any) -> tuple[dict[str, Any], Counted]:
    """Audit; return the probes of audit.json without what measuring cost, and the progress."""
    suite = model.parent / "suite.toml"
    suite.write_text(SUITE, encoding="utf-8")
    progress = Counted()
    request = Request(model=model, suite=str(suite), data=data, out=model.parent / out, device="cpu", formats=())
    outcome = session.run(replace(request, trust_model=True, batch_size=8, **options), progress)
    probes = json.loads((outcome.out / "audit.json").read_bytes())["probes"]
    return {probe["id"]: {**probe, "seconds": 0, "model_calls": {}} for probe in probes}, progress


# what a start reads


def test_resumed_run_opens_and_measures_nothing(model: Path, data: Path, reads: list[str]) -> None:
    first, _ = run(model, data)
    assert set(reads) == {f"{number:02d}.png" for number in range(N)}
    reads.clear()
    second, progress = run(model, data)
    # the size of the data, the parity of the copy, the batch: a fixed number of images, and here all of them are few
    assert progress.resumed == {"performance.accuracy": N, "attacks.fgsm": N}
    assert second == first
    images = Images(source_of(data), shape=(1, SIDE, SIDE), looks=find_looks(model.parent / "run", "images"))
    reads.clear()
    assert (images.n_read, images.near_duplicates, len(images.digests)) == (0, 0, N)
    assert reads == []


def test_added_and_changed_images_are_measured_and_no_other(model: Path, data: Path) -> None:
    run(model, data)
    write_image(data / "0" / "99.png", 99)
    write_image(data / "1" / "01.png", 100)
    (data / "1" / "03.png").unlink()
    found, progress = run(model, data)
    assert progress.resumed == {"performance.accuracy": N - 2, "attacks.fgsm": N - 2}
    assert any("new and changed images are measured" in line for line in progress.lines)
    fresh, _ = run(model, data, "fresh")
    assert found == fresh
    stored = open_stored(model.parent / "run")
    for probe in stored.keys:
        rows = read_rows(stored.folder, probe, stored.keys[probe])
        assert rows is not None
        assert list(rows["image_id"].unique()) == sorted(stored.images.index), probe
        assert "image_key" not in rows


def test_other_label_of_an_image_is_measured_again(model: Path, data: Path) -> None:
    run(model, data)
    (data / "0" / "00.png").rename(data / "1" / "00.png")
    found, progress = run(model, data)
    assert progress.resumed["performance.accuracy"] == N - 1
    assert found == run(model, data, "fresh")[0]


def test_smaller_sample_has_no_rows_of_other_images(model: Path, data: Path) -> None:
    run(model, data)
    small, progress = run(model, data, samples=10)
    assert progress.resumed == {"performance.accuracy": 10, "attacks.fgsm": 10}
    assert small == run(model, data, "fresh", samples=10)[0]


def test_unreadable_images_are_remembered_and_read_again_after_a_change(data: Path, reads: list[str]) -> None:
    broken = data / "0" / "00.png"
    broken.write_bytes(b"no image")
    first = Images(source_of(data), shape=(1, SIDE, SIDE))
    again = Images(source_of(data), shape=(1, SIDE, SIDE), looks=first.looks)
    assert (again.unreadable, again.n_read) == (first.unreadable, 0)
    assert again.sha256 == first.sha256
    write_image(broken, 0)
    reads.clear()
    repaired = Images(source_of(data), shape=(1, SIDE, SIDE), looks=first.looks)
    assert (reads, repaired.unreadable, len(repaired)) == (["00.png"], [], N)


def test_other_size_is_read_again(data: Path) -> None:
    stored = Images(source_of(data), shape=(1, SIDE, SIDE)).looks
    assert Images(source_of(data), shape=(1, 4, 4), looks=stored).n_read == N


def test_facts_of_images_are_the_same_from_their_file(data: Path) -> None:
    Image.fromarray(np.full((4, 4), 1023, dtype=np.uint16)).save(data / "0" / "deep.png")
    Image.new("L", (SIDE, SIDE)).save(data / "1" / "two.gif", save_all=True, append_images=[Image.new("L", (6, 6), 9)])
    first = Images(source_of(data), shape=(1, SIDE, SIDE))
    stored = Looks.from_parquet(first.looks.to_parquet())
    again = Images(source_of(data), shape=(1, SIDE, SIDE), looks=stored)
    assert again.n_read == 0
    facts = [(i.warnings, i.n_deep, i.n_resized, i.near_duplicates, i.digests, i.sha256) for i in (first, again)]
    assert facts[0] == facts[1]
    assert first.n_deep == first.n_resized == 1
    assert np.array_equal(first.pixels(first.ids), again.pixels(again.ids))


def test_damaged_facts_are_not_used(model: Path, data: Path) -> None:
    run(model, data)
    (path,) = (model.parent / "run" / "cache").glob("images-*.parquet")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert find_looks(model.parent / "run", "images") is None
    first, _ = run(model, data)
    assert first
    assert find_looks(model.parent / "run", "images") is not None
    assert len(list(path.parent.glob("images-*"))) == 1


def test_file_that_just_changed_has_no_stamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "_SETTLED", 2.0)
    path = tmp_path / "a.png"
    path.write_bytes(b"a")
    assert file_stamp(path) == ""
    later = time.time() + 3
    monkeypatch.setattr("time.time", lambda: later)
    stamp = file_stamp(path)
    assert stamp
    assert file_stamp(path, None) == stamp
    # the time of a file can be set back, that of its inode cannot
    state = path.stat()
    path.write_bytes(b"b")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    later += 10
    assert path.stat().st_mtime_ns == state.st_mtime_ns
    assert file_stamp(path) != stamp
    assert file_stamp(tmp_path / "missing.png") == ""


def test_image_without_a_stamp_is_read_by_every_run() -> None:
    pixels = np.zeros((2, 4, 4), dtype=np.uint8)
    source = Source(path="x", ids=["a", "b"], read=lambda i: (bytes([i]), pixels[i]))
    stored = Images(source, shape=(1, 4, 4)).looks
    assert Images(source, shape=(1, 4, 4), looks=stored).n_read == 2
    stamped = replace(source, stamp=lambda i: "same" if i else "")
    stored = Images(stamped, shape=(1, 4, 4)).looks
    assert Images(stamped, shape=(1, 4, 4), looks=stored).n_read == 1


def test_verification_and_fresh_runs_read_everything(model: Path, data: Path, reads: list[str]) -> None:
    from auditor.plugin import registry

    run(model, data)
    reads.clear()
    images = reopen_data(open_stored(model.parent / "run"), registry.load(), model, data, "cpu", trust=True)
    assert images.n_read == N
    reads.clear()
    run(model, data, fresh=True)
    assert set(reads) == {f"{number:02d}.png" for number in range(N)}


def source_of(data: Path) -> Source:
    from auditor.plugin import registry

    found = registry.load().first("auditor_open_images", path=data)
    assert isinstance(found, Source)
    return found


# reading ahead


def test_images_are_read_ahead_once(data: Path, reads: list[str]) -> None:
    source = source_of(data)
    plain = Images(source, shape=(1, SIDE, SIDE))
    images = Images(source, shape=(1, SIDE, SIDE), looks=plain.looks)
    first, second = images.ids[:8], images.ids[8:16]
    reads.clear()
    with images.reading_ahead() as read_ahead:
        read_ahead([*first, *second])
        assert np.array_equal(images.pixels(first), plain.pixels(first))
        read_ahead(second)
        assert np.array_equal(images.pixels(second), plain.pixels(second))
    assert sorted(reads) == sorted(Path(name).name for name in [*first, *second])


def test_image_that_broke_after_the_start_is_an_error_where_it_is_used(data: Path) -> None:
    source = source_of(data)
    images = Images(source, shape=(1, SIDE, SIDE), looks=Images(source, shape=(1, SIDE, SIDE)).looks)
    (data / images.ids[0]).unlink()
    with images.reading_ahead() as read_ahead:
        read_ahead(images.ids[:2])
        assert images.pixels(images.ids[1:2]).shape == (1, 1, SIDE, SIDE)
        with pytest.raises(OSError, match="No such file"):
            images.pixels(images.ids[:1])


# archives


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_large_arrays_of_an_archive_are_mapped(save: Any, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    fortran = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    save(tmp_path / "a.npz", images=images, fortran=fortran, labels=np.arange(5))
    found = read_arrays(tmp_path / "a.npz", large=images.nbytes + 120)
    assert [type(found[name]) for name in ("images", "fortran", "labels")] == [np.memmap, np.memmap, np.ndarray]
    assert np.array_equal(found["images"], images)
    assert np.array_equal(found["fortran"], fortran)
    assert not found["images"].flags.writeable
    assert not any(isinstance(each, np.memmap) for each in read_arrays(tmp_path / "a.npz").values())


def test_mapped_archive_gives_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from auditor.plugins.formats import _npz_arrays, npz

    np.savez(tmp_path / "a.npz", images=np.random.default_rng(0).integers(0, 256, (9, 4, 4), dtype=np.uint8))
    whole = Images(source_of(tmp_path / "a.npz"), shape=(1, 4, 4))
    monkeypatch.setattr(npz, "read_arrays", lambda path: _npz_arrays.read_arrays(path, large=1))
    mapped = Images(source_of(tmp_path / "a.npz"), shape=(1, 4, 4))
    assert mapped.sha256 == whole.sha256
    assert np.array_equal(mapped.pixels(mapped.ids), whole.pixels(whole.ids))


# record files


def fill(folder: RunFolder, shards: int, key: str = "key") -> dict[str, str]:
    """Write shards of one image with two rows each; return the digests of the images."""
    for k in range(shards):
        rows = {"image_id": [f"{k:03d}"] * 2, "value": [k, -k], "image_key": [f"digest {k}"] * 2}
        folder.write_shard("a.b", key, pa.table(rows), Cost(1.0, 2, 3))
    return {f"{k:03d}": f"digest {k}" for k in range(shards)}


def rows_of(path: Path) -> pd.DataFrame:
    found = read_rows(path, "a.b", "key")
    assert found is not None
    return found


def test_many_shards_become_one_with_the_same_rows(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        images = fill(folder, 40)
        before = rows_of(tmp_path)
        folder.keep_rows("a.b", "key", images)
        assert len(folder.shards("a.b")) == 1
        assert rows_of(tmp_path).equals(before)
        assert folder.read_shards("a.b", "key")[1] == Cost(40.0, 80, 120)
        assert folder.measured("a.b", "key") == set(images)
        assert folder.remove_damaged() == []
        names = folder.shards("a.b")
        folder.keep_rows("a.b", "key", images)
        assert folder.shards("a.b") == names


def test_few_shards_stay_and_foreign_rows_go(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        images = fill(folder, 4)
        names = folder.shards("a.b")
        folder.keep_rows("a.b", "key", images)
        assert folder.shards("a.b") == names
        folder.keep_rows("a.b", "key", {**images, "001": "another digest"})
        assert folder.measured("a.b", "key") == {"000", "002", "003"}
        assert list(rows_of(tmp_path)["value"]) == [0, 0, 2, -2, 3, -3]
        assert folder.read_shards("a.b", "key")[1] == Cost(3.0, 6, 9)
        folder.keep_rows("a.b", "key", {})
        assert folder.shards("a.b") == []


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_growth import fill
from auditor.run.folder import RunFolder

real = Path.unlink
for removed in (0, 7):
    if os.fork() == 0:
        folder = RunFolder(Path(sys.argv[1]) / str(removed))
        images, left = fill(folder, 20), [removed]
        def unlink(path, missing_ok=False):
            if path.name.startswith("shard"):
                if not left[0]:
                    os._exit(9)
                left[0] -= 1
            real(path, missing_ok=missing_ok)
        Path.unlink = unlink
        folder.keep_rows("a.b", "key", images)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 9
"""


def test_kill_while_shards_are_joined_loses_and_repeats_no_row(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "whole") as folder:
        images = fill(folder, 20)
    expected = rows_of(tmp_path / "whole")
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parent)]
    subprocess.run(command, check=True, timeout=120)
    for removed in (0, 7):
        killed = tmp_path / str(removed)
        assert rows_of(killed).equals(expected)
        with RunFolder(killed) as folder:
            assert folder.remove_damaged() == []
            assert len(folder.shards("a.b")) == 21 - removed
            assert folder.measured("a.b", "key") == set(images)
            assert folder.read_shards("a.b", "key")[1] == Cost(20.0, 40, 60)
            folder.keep_rows("a.b", "key", images)
            assert len(folder.shards("a.b")) == 1
            assert rows_of(killed).equals(expected)


# conclusions


def test_long_conclusion_is_drawn_once_for_the_same_rows(
    model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_conclusions, "WORTH_KEEPING", 0.0)
    drawn: list[str] = []
    real = Accuracy.conclude
    monkeypatch.setattr(Accuracy, "conclude", lambda self, records: drawn.append("") or real(self, records))
    first, _ = run(model, data)
    assert run(model, data)[0] == first
    assert len(drawn) == 1
    kept = model.parent / "run" / "cache" / "conclusion-performance.accuracy.json"
    content = kept.read_bytes()

    # a changed number does not have the digest that the file states
    kept.write_bytes(content.replace(b'"n": 24', b'"n": 25', 1))
    assert kept.read_bytes() != content
    assert run(model, data)[0] == first
    assert len(drawn) == 2

    # a picture is gone
    pictures = sorted((model.parent / "run" / "evidence").glob("performance-accuracy-*.png"))
    assert pictures
    pictures[0].unlink()
    assert run(model, data)[0] == first
    assert len(drawn) == 3

    # other code, other rows
    monkeypatch.setattr(kept_conclusions, "_sources", lambda package: ("other",))
    assert run(model, data)[0] == first
    assert len(drawn) == 4
    write_image(data / "0" / "99.png", 99)
    assert run(model, data)[0] != first
    assert len(drawn) == 5


def test_short_conclusion_is_not_kept(model: Path, data: Path) -> None:
    run(model, data)
    assert not list((model.parent / "run" / "cache").glob("conclusion-*"))
