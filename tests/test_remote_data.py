"""Data at a URI: the same images as on this machine, read one by one, and errors that name the address."""

from __future__ import annotations

import errno
import hashlib
import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from auditor import BadInput
from auditor.data.dataset import Images, Source
from auditor.data.location import Uri, locate, without_secrets
from auditor.data.pixel_cache import PixelCache
from auditor.plugin import registry
from auditor.plugins.formats import _files
from auditor.run import session
from auditor.run.opening import _open_source
from auditor.run.request import Request
from auditor.run.verification import Given, verify

SIDE, N = 6, 12
URI = Uri("memory://bucket/pictures")
SHAPE = (1, SIDE, SIDE)


class Bucket(MemoryFileSystem):
    """Counts the files that are read; its files have digests, as those of S3 and Google Cloud Storage do."""

    read: list[str]
    failures: list[Exception]

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> Any:
        """Read a file, or fail as often as the test wants."""
        if self.failures:
            raise self.failures.pop(0)
        self.read.append(path.rpartition("/")[2])
        return super().cat_file(path, start, end, **options)

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        """List a folder."""
        found = super().ls(path, detail=True, **options)
        return [self.described(info) for info in found] if detail else [info["name"] for info in found]

    def find(self, path: str, *depth: Any, **options: Any) -> Any:
        """List a folder and those in it."""
        found = super().find(path, *depth, **options)
        return {name: self.described(info) for name, info in found.items()} if options.get("detail") else found

    def described(self, info: dict[str, Any]) -> dict[str, Any]:
        """Add the digest of a file to what is known about it."""
        if info["type"] != "file":
            return info
        return {**info, "etag": hashlib.sha256(self.store[info["name"]].getvalue()).hexdigest()}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A file system in memory, under memory://."""
    fsspec.register_implementation("memory", Bucket, clobber=True)
    Bucket.clear_instance_cache()
    monkeypatch.setattr(_files, "_PAUSE", 0.0)
    files = Bucket()
    files.store.clear()
    Bucket.read, Bucket.failures = [], []
    yield files
    files.store.clear()
    fsspec.register_implementation("memory", MemoryFileSystem, clobber=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images of two classes."""
    for number in range(N):
        write_image(tmp_path / "pictures" / str(number % 2) / f"{number:02d}.png", number)
    return tmp_path / "pictures"


@pytest.fixture
def model(tmp_path: Path, write_linear: Callable[..., Path]) -> Path:
    """A linear classifier."""
    weights = np.random.default_rng(0).normal(size=(2, SIDE * SIDE))
    return write_linear(tmp_path / "m.onnx", weights, np.zeros(2), SHAPE)


def write_image(path: Path, seed: int) -> None:
    """Write an image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)).save(path)


def upload(bucket: Bucket, folder: Path, place: str = "bucket/pictures") -> None:
    """Copy a folder into the bucket."""
    for path in folder.rglob("*.*"):
        bucket.pipe(f"/{place}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def opened(location: Path | Uri) -> Source:
    """Open data as an audit does."""
    return _open_source(registry.load(), location, f"--data {location}")


def contents(source: Source) -> dict[str, Any]:
    """Return everything that is read from a source."""
    numbers = range(len(source.ids))
    read = [source.read(number) for number in numbers]
    masks = [None if source.mask is None else source.mask(number) for number in numbers]
    return {
        "ids": list(source.ids),
        "images": [(raw, np.asarray(picture).tolist()) for raw, picture in read],
        "labels": source.labels,
        "groups": source.groups,
        "units": source.units,
        "masks": [mask and mask[0] for mask in masks],
    }


# what a URI is


def test_addresses_are_told_from_paths() -> None:
    assert locate("s3://bucket/images") == Uri("s3://bucket/images")
    assert isinstance(locate("zip://a::file:///x.zip"), Uri)
    for path in ("images", "/images", "C:/images", r"C:\images", "a/b://c", "./s3:/x"):
        assert locate(path) == Path(path)
    assert locate("file:///data/my%20images") == Path("/data/my images")


def test_messages_show_no_password() -> None:
    assert Uri("sftp://me:secret@host/data").shown == "sftp://host/data"
    assert (
        without_secrets("auditor run m.onnx --data sftp://me:secret@host/x")
        == "auditor run m.onnx --data sftp://host/x"
    )


# what it holds


def test_folder_is_read_in_place(bucket: Bucket, folder: Path) -> None:
    upload(bucket, folder)
    (folder / "notes.txt").write_text("x", encoding="utf-8")
    (folder / "0" / ".hidden.png").write_bytes(b"x")
    upload(bucket, folder)
    there, here = opened(URI), opened(folder)
    assert bucket.read == []
    assert there.path == URI
    assert contents(there) == contents(here)
    assert there.skipped == here.skipped == {"hidden": ["0/.hidden.png"], "not an image": ["notes.txt"]}


def test_only_the_sample_is_read(bucket: Bucket, folder: Path) -> None:
    upload(bucket, folder)
    images = Images(opened(URI), shape=SHAPE, samples=5)
    assert sorted(bucket.read) == sorted(name.rpartition("/")[2] for name in images.ids)
    bucket.read.clear()
    again = Images(opened(URI), shape=SHAPE, samples=5, looks=images.looks)
    assert (again.n_read, bucket.read, again.sha256) == (0, [], images.sha256)


def test_changed_file_is_read_again(bucket: Bucket, folder: Path) -> None:
    upload(bucket, folder)
    images = Images(opened(URI), shape=SHAPE)
    write_image(folder / "0" / "00.png", 99)
    upload(bucket, folder)
    assert Images(opened(URI), shape=SHAPE, looks=images.looks).n_read == 1


def test_test_part_is_chosen_and_named_by_its_address(bucket: Bucket, folder: Path) -> None:
    upload(bucket, folder, "bucket/pictures/test")
    upload(bucket, folder, "bucket/pictures/train")
    source = opened(URI)
    assert contents(source) == contents(opened(folder))
    assert "memory:/bucket" not in " ".join(source.warnings)
    bucket.mv("/bucket/pictures/test", "/bucket/pictures/training", recursive=True)
    with pytest.raises(BadInput, match=r"--data memory://bucket/pictures/train"):
        opened(URI)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_manifest_is_read_in_place(bucket: Bucket, folder: Path, suffix: str) -> None:
    import pandas as pd

    names = [f"{number % 2}/{number:02d}.png" for number in range(N)]
    masks = [names[0], None, *names[2:]]
    table = pd.DataFrame({"image": names, "label": [n[0] for n in names], "unit": ["a", "b", "c"] * 4, "mask": masks})
    (table.to_csv if suffix == "csv" else table.to_parquet)(folder / f"images.{suffix}", index=False)
    upload(bucket, folder)
    there, here = opened(Uri(f"{URI}/images.{suffix}")), opened(folder / f"images.{suffix}")
    bucket.read.clear()
    assert contents(there) == contents(here)
    assert len(bucket.read) == N + (N - 1)


def test_manifest_on_this_machine_names_addresses(bucket: Bucket, folder: Path, tmp_path: Path) -> None:
    upload(bucket, folder)
    rows = [f"{URI}/{number % 2}/{number:02d}.png,{number % 2}" for number in range(N)]
    table = tmp_path / "images.csv"
    table.write_text("image,label\n" + "\n".join(rows), encoding="utf-8")
    there, here = opened(table), opened(folder)
    assert {name.rpartition("/")[2] for name in there.ids} == {name.rpartition("/")[2] for name in here.ids}
    assert Images(there, shape=SHAPE).n_read == N
    table.write_text("image,label\n" + "\n".join([*rows, "here.png,0"]), encoding="utf-8")
    with pytest.raises(BadInput, match=r"00.png: is a URI and here.png is not"):
        opened(table)
    table.write_text("image,label\n" + "\n".join([*rows, "https://host/x.png,0"]), encoding="utf-8")
    with pytest.raises(BadInput, match=r"https://host/x.png; expected files of one file system"):
        Images(opened(table), shape=SHAPE)


def test_errors_in_a_manifest_name_its_address(bucket: Bucket) -> None:
    bucket.pipe("/bucket/images.csv", b"image,label\na.png,0\n,1\n")
    with pytest.raises(BadInput, match=r"^memory://bucket/images.csv: 1 of 2 rows name no image"):
        opened(Uri("memory://bucket/images.csv"))


def test_other_formats_are_copied(bucket: Bucket, folder: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=[0, 1, 0, 1])
    bucket.put(str(tmp_path / "x.npz"), "bucket/x.npz")
    there = opened(Uri("memory://bucket/x.npz"))
    assert there.path == "memory://bucket/x.npz"
    assert contents(there) == contents(opened(tmp_path / "x.npz"))
    lines = [json.dumps({"file_name": f"{n % 2}/{n:02d}.png", "label": n % 2}) for n in range(N)]
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    upload(bucket, folder)
    assert contents(opened(URI)) == contents(opened(folder))
    (tmp_path / "rows.csv").write_text("a,b,label\n1,2,x\n3,4,y\n", encoding="utf-8")
    bucket.put(str(tmp_path / "rows.csv"), "bucket/rows.csv")
    assert opened(Uri("memory://bucket/rows.csv")).columns == {"a": ["1", "3"], "b": ["2", "4"], "label": ["x", "y"]}


# errors


def test_error_of_the_network_is_tried_again(bucket: Bucket, folder: Path) -> None:
    upload(bucket, folder)
    Bucket.failures = [ConnectionError("reset"), TimeoutError("late")]
    assert Images(opened(URI), shape=SHAPE).n_read == N
    assert not Bucket.failures


def test_unreachable_image_ends_the_audit_and_is_not_left_out(bucket: Bucket, folder: Path) -> None:
    upload(bucket, folder)
    Bucket.failures = [ConnectionError("reset")] * 3 * N
    with pytest.raises(BadInput, match=r"could not read .*in 3 attempts \(ConnectionError: reset\).*start again"):
        Images(opened(URI), shape=SHAPE)
    Bucket.failures = [PermissionError("Access Denied")] * N
    with pytest.raises(BadInput, match=r"may not read .*: Access Denied; check the credentials"):
        Images(opened(URI), shape=SHAPE)


def test_missing_and_broken_images_are_left_out_by_name(bucket: Bucket, folder: Path) -> None:
    upload(bucket, folder)
    source = opened(URI)
    bucket.rm("/bucket/pictures/0/00.png")
    bucket.pipe("/bucket/pictures/1/01.png", b"no image")
    images = Images(source, shape=SHAPE)
    assert [line.partition(":")[0] for line in images.unreadable] == ["0/00.png", "1/01.png"]
    assert len(images) == N - 2


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("memory://bucket/nothing", "memory://bucket/nothing: no such file or folder"),
        ("nonsense://bucket", "nonsense://bucket: .*expected a file system that fsspec knows"),
        ("oci://bucket", "oci://bucket: .*ocifs"),
        ("gs://bucket", r"gs://bucket: .*gcsfs.*; pip install 'auditor\[gs\]'"),
        ("zip://x::file:///nowhere/x.zip", "zip://x::file:///nowhere/x.zip: cannot be opened: FileNotFoundError"),
    ],
)
def test_unusable_address_is_refused_in_one_sentence(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, uri: str, message: str
) -> None:
    for package in ("gcsfs", "ocifs"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BadInput, match=message):
        opened(Uri(uri))


def test_empty_folder_is_named_by_its_address(bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    bucket.put(str(tmp_path / "notes.txt"), "bucket/pictures/notes.txt")
    with pytest.raises(BadInput, match=r"memory://bucket/pictures: found no images"):
        opened(URI)


def test_file_outside_of_the_folder_is_not_written(bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="outside of its folder"):
        _files.RemoteFiles(URI).copy("../../x", tmp_path / "copy")


# audits


def audit(model: Path, data: Path | Uri, out: str, **options: Any) -> tuple[Path, list[dict[str, Any]]]:
    """Audit; return the run folder, and the probes without what measuring cost."""
    suite = model.parent / "suite.toml"
    suite.write_text('probes = ["performance.accuracy", "sanity.determinism"]\n', encoding="utf-8")
    request = Request(model=model, suite=str(suite), data=data, out=model.parent / out, device="cpu", formats=())
    outcome = session.run(replace(request, trust_model=True, **options))
    probes = json.loads((outcome.out / "audit.json").read_bytes())["probes"]
    return outcome.out, [{**probe, "seconds": 0, "model_calls": {}} for probe in probes]


def test_audit_has_the_findings_of_local_data(bucket: Bucket, model: Path, folder: Path) -> None:
    upload(bucket, folder)
    run, there = audit(model, URI, "there")
    assert there == audit(model, folder, "here")[1]
    assert json.loads((run / "audit.json").read_bytes())["data"]["path"] == URI
    checks = {check.claim: check for check in verify(run, Given(device="cpu", trust=True))}
    assert checks["data"].outcome == "not checked", "a run folder must not choose which address is opened"
    checks = {check.claim: check for check in verify(run, Given(data=URI, device="cpu", trust=True))}
    assert checks["data"].outcome == "holds"


def test_workers_read_a_zip_archive(model: Path, folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path))
    uri = Uri(f"zip://pictures::file://{tmp_path}/x.zip")
    assert audit(model, uri, "there", workers=2)[1] == audit(model, folder, "here")[1]


# images on disk


def test_images_are_read_once_with_a_pixel_cache(bucket: Bucket, folder: Path, tmp_path: Path) -> None:
    upload(bucket, folder)
    plain = Images(opened(URI), shape=SHAPE)
    pixels = plain.pixels(plain.ids)
    images = Images(opened(URI), shape=SHAPE, pixel_cache=tmp_path / "cache")
    bucket.read.clear()
    later = Images(opened(URI), shape=SHAPE, looks=images.looks, pixel_cache=tmp_path / "cache")
    assert np.array_equal(later.pixels(later.ids), pixels)
    assert bucket.read == []
    smaller = Images(opened(URI), shape=(1, 4, 4), pixel_cache=tmp_path / "cache")
    assert smaller.pixels(smaller.ids).shape == (N, 1, 4, 4)


def test_damaged_file_of_the_pixel_cache_is_made_again(tmp_path: Path) -> None:
    cache = PixelCache(tmp_path, "0" * 64)
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 3, 4)
    cache.put("ab" * 32, pixels)
    (path,) = tmp_path.rglob("*.npy")
    content = path.read_bytes()
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        assert cache.get("ab" * 32) is None
        path.write_bytes(content[:position])
        assert cache.get("ab" * 32) is None
    cache.put("ab" * 32, pixels)
    assert np.array_equal(cache.get("ab" * 32), pixels)  # type: ignore[arg-type]


def test_full_disk_costs_only_the_pixel_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("auditor.data.pixel_cache.write_whole", full)
    images = Images(opened(folder), shape=SHAPE, pixel_cache=tmp_path / "cache")
    assert len(images) == N
    assert any("could not be kept" in warning and "No space left" in warning for warning in images.warnings)
