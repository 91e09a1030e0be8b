"""Give hostile files to the commands that read files of others, and count the answers.

Each input is one mutation of a valid file:

- audit.json and manifest.json of a finished run: values of other types, NaN, infinity, numbers of 400 digits, lone
  surrogates, deep nesting, paths out of the folder, missing and doubled parts, changed bytes
- Parquet: changed bytes, missing and renamed columns, other types, NaN; with and without a digest that fits
- pictures: changed bytes, image bombs, FIFOs, devices, folders, links out of the folder
- TOML (suite, policy, sidecar): the same values, deep nesting, hexadecimal numbers of 10,000 digits, changed bytes
- images of a data set: FIFOs, devices, folders, bombs, changed bytes

A command must write a result (exit status 0 or 1), refuse the input with one sentence (2), or name a report that could
not be written (3). A traceback, another exception or more than 60 seconds is a fault; each is printed once with the
seed that makes it again.

    uv run python benchmarks/fuzz.py [--inputs 20000] [--seed 0] [--only KIND]

``tests/test_fuzz.py`` runs some hundred inputs.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import signal
import struct
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from click.testing import CliRunner

from auditor.cli.main import main as cli
from auditor.compare import comparison
from auditor.data.dataset import Images
from auditor.errors import AuditorError
from auditor.model.loading.sidecar import parse
from auditor.plugin import registry
from auditor.plugin.suite import read_suite
from auditor.policy.rules import read_policy
from auditor.run import replay, verification
from auditor.run.request import Request
from auditor.run.selection import choose_probes
from auditor.run.session import run

PROBES = ("performance.accuracy", "attacks.fgsm", "performance.calibration", "bias.classes", "attacks.noise")

DEEP = 3000
LONGEST = 60
"""Seconds after which an input counts as a fault."""

NUMBERS = [0, -1, 1, 0.5, 2**31, 2**63, -(2**70), 10**400, 1e308, -1e308, 5e-324, float("nan"), float("inf")]
TEXTS = ["", " ", "x" * 100_000, "\ud800", "\0", "../../../../etc/passwd", "/dev/zero", "/etc/passwd", "<script>", "%s"]
TEXTS += ["é" * 300, "2026-02-30", "[bold]", "[/x]", "{0}", "{", "nan", "records", "evidence", "fifo", "\u202e", "\n"]

CELLS = [None, float("nan"), float("inf"), -1, 2**62, 99, "x", "../../x", [1.0], {"a": 1}, b"\xff"]
BEGINNINGS = [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"P6 99999999 99999999 255\n", b"II*\0"]


class Late(BaseException):
    """An input took too long; no ``except Exception`` may hide it."""


def value(rng: random.Random) -> Any:
    """Return a JSON value that no one expects."""
    return rng.choice(
        [
            lambda: rng.choice(NUMBERS),
            lambda: rng.choice(TEXTS),
            lambda: rng.choice([None, True, False, [], {}, [[]], {"": None}, [None], {"a": {"b": []}}]),
            lambda: [rng.choice(NUMBERS)] * rng.choice([1, 2, 5, 1000]),
        ]
    )()


def places(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a JSON tree."""
    yield at
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, child in items:
        yield from places(child, (*at, key))


def mutated_json(tree: Any, rng: random.Random) -> bytes:
    """Return JSON with one to three changed places, or with changed bytes."""
    tree = json.loads(json.dumps(tree))
    if rng.random() < 0.1:
        return mutated_bytes(json.dumps(tree).encode(), rng)
    if rng.random() < 0.03:
        deep = rng.choice(['{"a":', "["]) * rng.choice([900, DEEP, 200_000])
        return json.dumps(tree).replace('"auditor/1"', deep, 1).encode() if rng.random() < 0.5 else deep.encode()
    known = list(places(tree))
    for _ in range(rng.randint(1, 3)):
        path = rng.choice(known)
        parent = tree
        with contextlib.suppress(KeyError, IndexError, TypeError):
            for key in path[:-1]:
                parent = parent[key]
            if not path:
                tree = value(rng)
            else:
                change(parent, path[-1], tree, known, rng)
    return json.dumps(tree).encode()


def change(parent: Any, key: Any, tree: Any, known: list[tuple[Any, ...]], rng: random.Random) -> None:
    """Change one entry of a list or a table."""
    how = rng.randrange(6)
    if how == 0:
        del parent[key]
    elif how == 1 and isinstance(parent, dict):
        parent[rng.choice([*TEXTS[:6], "id", "kind"])] = parent.pop(key)
    elif how == 2 and isinstance(parent, list):
        parent.extend(json.loads(json.dumps(parent)) * rng.choice([1, 3]))
    elif how == 3:
        other = tree
        for step in rng.choice(known):
            other = other[step]
        parent[key] = json.loads(json.dumps(other))
    elif how == 4 and isinstance(parent[key], int | float):
        parent[key] = rng.choice(NUMBERS)
    else:
        parent[key] = value(rng)


def mutated_bytes(content: bytes, rng: random.Random) -> bytes:
    """Return content with flipped bits, a missing part, or a doubled one."""
    array = bytearray(content)
    how = rng.randrange(4)
    if how == 0 or not array:
        return bytes(array[: rng.randrange(len(array) + 1)])
    if how == 1:
        begin = rng.randrange(len(array))
        return bytes(array[:begin] + array[begin + rng.randint(1, 40) :])
    if how == 2:
        begin = rng.randrange(len(array))
        return bytes(array[:begin] + array[max(0, begin - 50) :])
    for _ in range(rng.randint(1, 8)):
        array[rng.randrange(len(array))] ^= 1 << rng.randrange(8)
    return bytes(array)


def mutated_table(content: bytes, rng: random.Random) -> bytes:
    """Return a Parquet file with other columns or values; it can be read."""
    table = pq.read_table(io.BytesIO(content))
    metadata = table.schema.metadata
    for _ in range(rng.randint(1, 2)):
        if not table.num_columns:
            break
        name = rng.choice(table.column_names)
        index = table.column_names.index(name)
        how = rng.randrange(6)
        if how == 0:
            table = table.drop_columns([name])
        elif how == 1:
            table = table.rename_columns(
                [rng.choice(["image_id", "label", "", "x"]) if each == name else each for each in table.column_names]
            )
        elif how == 2:
            table = table.slice(0, rng.choice([0, 1]))
        else:
            filler = rng.choice(
                [None, float("nan"), float("inf"), -1, 2**62, 99, "x", "../../x", [1.0], {"a": 1}, b"\xff"]
            )
            table = table.set_column(index, name, pa.array([filler] * table.num_rows))
    if rng.random() < 0.2:
        metadata = rng.choice([None, {b"auditor": b"{"}, {b"auditor": b"[]"}, {b"auditor": b'{"key": null}'}])
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), sink)
    return sink.getvalue()


def bomb(side: int) -> bytes:
    """Return a small PNG of side x side black pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(min(side * (1 + side // 8), 2**25)), 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def replace_picture(path: Path, rng: random.Random) -> None:
    """Put something else in the place of a picture."""
    content = path.read_bytes()
    path.unlink()
    how = rng.randrange(8)
    if how == 0:
        os.mkfifo(path)
    elif how == 1:
        path.symlink_to(rng.choice(["/dev/zero", "/dev/null", "/etc/passwd", path.name, "..", "/"]))
    elif how == 2:
        path.mkdir()
    elif how == 3:
        path.write_bytes(bomb(rng.choice([12_000, 60_000, 2**31 - 1])))
    elif how == 4:
        path.write_bytes(
            rng.choice([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"P6 99999999 99999999 255\n", b"II*\0"])
        )
    elif how == 5:
        return
    else:
        path.write_bytes(mutated_bytes(content, rng))


TOML_VALUES = [
    "[" * DEEP + "]" * DEEP,
    "{a=" * 900 + "1" + "}" * 900,
    "9" * 5000,
    "-" + "9" * 400,
    "0x" + "f" * 10_000,
    "[0x" + "f" * 10_000 + "]",
    "[1" + "0" * 400 + "]",
    "[1" + "0" * 400 + ", 1" + "0" * 400 + "]",
    "1e999",
    "nan",
    "-inf",
    "[nan, inf]",
    "1979-05-27",
    "1979-05-27T07:32:00Z",
    "07:32:00",
    "true",
    "-1",
    "0",
    "''",
    "'1/0'",
    "'8/255'",
    "'" + "9" * 5000 + "/3'",
    "'5'",
    r'"\uFFFF\u0000"',
    "'" + "x" * 100_000 + "'",
    "[]",
    "{}",
    "[[]]",
    "[{}]",
    "['a', 'a']",
    "{at_least = 1}",
    "9223372036854775808",
]


def mutated_toml(text: str, rng: random.Random) -> bytes:
    """Return TOML with a hostile value or key, doubled or missing lines, or changed bytes."""
    lines = text.splitlines()
    for _ in range(rng.randint(1, 2)):
        number = rng.randrange(len(lines))
        key = lines[number].partition("=")[0].strip() or "a"
        how = rng.randrange(7)
        if how <= 2 and "=" in lines[number]:
            lines[number] = f"{key} = {rng.choice(TOML_VALUES)}"
        elif how == 3:
            del lines[number]
            lines = lines or ["a = 1"]
        elif how == 4:
            lines.insert(
                number, rng.choice([lines[number], ".".join("a" * DEEP) + " = 1", f"[{'.'.join('a' * DEEP)}]"])
            )
        elif how == 5:
            lines.insert(number, f"{key} = {rng.choice(TOML_VALUES)}")
        else:
            return mutated_bytes("\n".join(lines).encode(), rng)
    return "\n".join(lines).encode()


SIDECAR = """
[input]
size = [4, 4]
channels = 1
layout = "nchw"
range = [0, 1]
mean = [0.5]
std = [0.5]
resize = "crop"
crop = 0.875
white = 4095
interpolation = "bilinear"
[output]
classes = ["a", "b", "c"]
kind = "logits"
[data]
path = "images"
label = "income"
groups = ["sex"]
features = ["age", "sex"]
benchmark = "org/dataset"
[review]
owner = "Team"
intended_use = "Sorting"
"""
SUITE = """
title = "A suite"
probes = ["performance.accuracy", "attacks.pgd", "attacks.fgsm"]
samples = 30
time_limit = "10m"
[settings."attacks.pgd"]
steps = 3
epsilons = ["8/255", 0.1]
[settings."attacks.fgsm"]
epsilons = ["8/255"]
[reduced."attacks.pgd"]
steps = 2
[[documented]]
claim = "x"
source = "y"
probe = "attacks.pgd"
metric = "robust_accuracy"
over = "epsilon"
"""
POLICY = """
required = ["performance.accuracy"]
[[rule]]
probe = "performance.accuracy"
metric = "accuracy"
at_least = { medium = 0.9, high = 0.7 }
reason = "anything"
source = "this file"
[[rule]]
probe = "attacks.pgd"
metric = "robust_accuracy"
at = { epsilon = "8/255" }
at_least = { high = 0.1 }
reason = "anything"
source = "this file"
[[accepted]]
probe = "attacks.pgd"
severity = "high"
justification = "known"
author = "someone"
expires = 2030-01-31
"""


class Fuzzer:
    """A finished run, its model and its data, and the kinds of inputs."""

    def __init__(self, folder: Path, model: Path) -> None:
        """Audit ``model`` (1 x 4 x 4 pixels, three classes) in ``folder``."""
        self.folder, self.model = folder, model
        generator = np.random.default_rng(0)
        images = generator.integers(0, 255, (30, 4, 4), dtype=np.uint8)
        np.savez(folder / "images.npz", images=images, labels=np.arange(30) % 3)
        request = Request(
            model=model,
            data=folder / "images.npz",
            out=folder / "run",
            probes=PROBES,
            formats=(),
            trust_model=True,
            batch_size=30,
        )
        run(request)
        shutil.copytree(folder / "run", folder / "work")
        self.work = folder / "work"
        self.files = {path.relative_to(self.work): path.read_bytes() for path in self.work.rglob("*") if path.is_file()}
        self.audit, self.manifest = (json.loads(self.files[Path(name)]) for name in ("audit.json", "manifest.json"))
        self.plugins = registry.load()
        for module in (comparison, replay, verification):
            # a third of the time of an input otherwise: the plugins are the same for all
            module.load = lambda *_: self.plugins  # type: ignore[attr-defined]
        self.kinds: dict[str, tuple[int, Callable[[random.Random], int]]] = {
            "audit": (30, self.audit_json),
            "manifest": (10, self.manifest_json),
            "parquet": (20, self.parquet),
            "picture": (8, self.picture),
            "suite": (10, self.suite),
            "policy": (10, self.policy),
            "sidecar": (10, self.sidecar),
            "data": (2, self.data),
        }

    def restore(self) -> None:
        """Make the run folder what it was."""
        for path in sorted(self.work.rglob("*"), reverse=True):
            relative = path.relative_to(self.work)
            if path.is_symlink() or not path.is_dir():
                if path.is_symlink() or relative not in self.files or not path.is_file():
                    path.unlink()
            elif relative in self.files or not any(relative in each.parents for each in self.files):
                shutil.rmtree(path)
        for relative, content in self.files.items():
            path = self.work / relative
            if not path.is_file() or path.read_bytes() != content:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)

    def once(self, kind: str, seed: int) -> str:
        """Give one input; return "result", "refused", "report missing" or a description of the fault."""
        rng = random.Random(f"{kind} {seed}")

        def late(*_: object) -> None:
            raise Late

        before = signal.signal(signal.SIGALRM, late)
        signal.alarm(LONGEST)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                status = self.kinds[kind][1](rng)
        except (AuditorError, OSError):
            status = 2
        except Late:
            return f"more than {LONGEST} s"
        except Exception as error:
            if os.environ.get("FUZZ_TRACE"):
                traceback.print_exc()
            return f"{type(error).__name__} at {place(error)}"
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
            self.restore()
        return {0: "result", 1: "result", 2: "refused", 3: "report missing"}.get(status, f"exit status {status}")

    def command(self, *arguments: object) -> int:
        """Run a command; return its status. Raises its exception if it shows a traceback."""
        result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
        if "Traceback" in result.output:
            raise RuntimeError(" / ".join(result.output.strip().splitlines()[-4:])[:300])
        if result.exit_code == 2 and result.stderr.count("\n") != 1:
            raise RuntimeError(f"not one sentence: {result.stderr[:300]!r}")
        return result.exit_code

    def read(self, rng: random.Random, *more: str) -> int:
        """Read the run folder with one command."""
        name = rng.choice(["report", "judge", "compare", "verify", "replay", *more])
        out = self.folder / "compared"
        formats = rng.choice(["md,sarif,junit,card", "html", "intoto,cyclonedx,eval-results"])
        return self.command(
            *{
                "report": ["report", self.work, "--format", formats],
                "judge": ["judge", self.work, "--policy", rng.choice(["default", "strict"]), "--format", "json,md"],
                "compare": [
                    "compare",
                    *rng.sample([self.folder / "run", self.work], 2),
                    "--format",
                    rng.choice(["json", "html"]),
                    "--out",
                    out,
                ],
                "verify": ["verify", self.work, "--trust-model"],
                "replay": ["replay", self.work, "--trust-model", "--model", self.model],
            }[name]
        )

    def audit_json(self, rng: random.Random) -> int:
        """Change audit.json."""
        (self.work / "audit.json").write_bytes(mutated_json(self.audit, rng))
        return self.read(rng)

    def manifest_json(self, rng: random.Random) -> int:
        """Change manifest.json."""
        (self.work / "manifest.json").write_bytes(mutated_json(self.manifest, rng))
        return self.read(rng, "verify", "compare", "verify", "compare")

    def parquet(self, rng: random.Random) -> int:
        """Change records, with or without a digest that fits."""
        relative = rng.choice([path for path in self.files if path.suffix == ".parquet"])
        content = self.files[relative]
        changed = mutated_bytes if rng.random() < 0.3 else mutated_table
        with contextlib.suppress(KeyError, pa.ArrowException):
            # two columns of one name cannot be changed further
            content = changed(content, rng)
        path = self.work / relative
        if rng.random() < 0.8 and path.name != "images.parquet":
            path.unlink()
            kind = path.name.partition("-")[0]
            path = path.with_name(f"{kind}-{hashlib.sha256(content).hexdigest()}.parquet")
        path.write_bytes(content)
        if path.name == "images.parquet":
            manifest = json.loads(json.dumps(self.manifest))
            manifest["files"]["records"]["records/images.parquet"] = hashlib.sha256(content).hexdigest()
            (self.work / "manifest.json").write_text(json.dumps(manifest))
        return self.read(rng, "compare", "verify", "replay")

    def picture(self, rng: random.Random) -> int:
        """Replace a picture, or a whole part of the folder, by something else."""
        relative = rng.choice([path for path in self.files if path.suffix == ".png" or rng.random() < 0.05])
        replace_picture(self.work / relative, rng)
        return self.read(rng, "report", "replay", "replay")

    def suite(self, rng: random.Random) -> int:
        """Read a suite."""
        path = self.folder / "suite.toml"
        path.write_bytes(mutated_toml(SUITE, rng))
        suite = read_suite(path, self.plugins)
        choose_probes(self.plugins, suite, Request(model=self.model, suite=str(path)))
        return 0

    def policy(self, rng: random.Random) -> int:
        """Judge by a policy."""
        path = self.folder / "policy.toml"
        path.write_bytes(mutated_toml(POLICY, rng))
        read_policy(str(path), self.plugins.probes)
        return self.command("judge", self.work, "--policy", path, "--format", "json")

    def sidecar(self, rng: random.Random) -> int:
        """Read a sidecar; now and then, audit with it."""
        text = mutated_toml(SIDECAR, rng)
        if rng.random() < 0.97:
            # the reader of the file refuses what is not UTF-8
            parse(text.decode("utf-8", "replace"), "sidecar", self.folder)
            return 0
        model = self.folder / "m.onnx"
        shutil.copy(self.model, model)
        (self.folder / "m.onnx.audit.toml").write_bytes(text)
        return self.command("inspect", model, "--trust-model")

    def data(self, rng: random.Random) -> int:
        """Read a folder or a table of images of which one is something else."""
        folder = self.folder / "data"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.work / "evidence", folder)
        names = sorted(path.name for path in folder.iterdir())[:4]
        replace_picture(folder / names[0], rng)
        path = folder
        if rng.random() < 0.5:
            path = folder / "table.csv"
            path.write_text("image\n" + "\n".join(names) + "\n")
        source = self.plugins.first("auditor_open_images", path=path)
        if source is None:
            # the folder leads to one that cannot be listed
            return 2
        Images(source.printable(), shape=(1, 4, 4))
        return 0

    def pick(self, number: int) -> str:
        """Return the kind of input number ..., by weight."""
        names = [name for name, (weight, _) in self.kinds.items() for _ in range(weight)]
        return names[number * 37 % len(names)]


def place(error: BaseException) -> str:
    """Name the function of the auditor that raised an exception, and its message."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "auditor" in frame.filename]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"{where}: {' '.join(str(error).split())[:300]}"


def prepared(folder: Path) -> Fuzzer:
    """Return a fuzzer with a linear model."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("Gemm", ["flat", "w"], ["logits"])]
    weights = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = folder / "linear.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(model))
    return Fuzzer(folder, model)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one kind of input")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after this time")
    arguments = parser.parse_args()
    outcomes: Counter[tuple[str, str]] = Counter()
    seen: set[str] = set()
    slowest = (0.0, "", 0)
    with tempfile.TemporaryDirectory() as scratch:
        fuzzer = prepared(Path(scratch))
        begun = time.monotonic()
        for number in range(arguments.inputs):
            if time.monotonic() - begun > 60 * arguments.minutes:
                break
            kind = arguments.only or fuzzer.pick(number)
            started = time.monotonic()
            outcome = fuzzer.once(kind, arguments.seed + number)
            slowest = max(slowest, (time.monotonic() - started, kind, arguments.seed + number))
            known = outcome if outcome in {"result", "refused", "report missing"} else "FAULT"
            outcomes[kind, known] += 1
            if known == "FAULT" and outcome.partition(": ")[0] not in seen:
                seen.add(outcome.partition(": ")[0])
                print(f"{kind}, seed {arguments.seed + number}: {outcome}", flush=True)
        print(f"{sum(outcomes.values())} inputs in {time.monotonic() - begun:.0f} s; the slowest: {slowest}")
    for (kind, outcome), count in sorted(outcomes.items()):
        print(f"{kind:10} {outcome:15} {count:6}")


if __name__ == "__main__":
    main()
