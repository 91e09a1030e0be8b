"""Audit damaged model files: each must be opened or refused (exit status 2), without a crash, a hang or a traceback.

    python benchmarks/mutated_models.py [--count 2000] [--seed 0] [--keep DIR]

Small real models (a convolutional network, one with probabilities, a quantised one, and attention, as ONNX; the first
also as TorchScript, traced and scripted, and as a torch.export archive) are damaged: bits flipped; pieces cut off,
removed, repeated or overwritten; fields of the protobuf changed; entries of the archives changed and repacked. Every
file goes through ``auditor inspect``, which opens it, runs deployed model and copy on photographs and computes a
gradient; every eighth of those that open also goes through ``auditor run``. Prints the outcomes; exit status 1 if any
is unexpected.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import io
import logging
import os
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from click.testing import CliRunner, Result
from onnxruntime import quantization
from torch import nn

from auditor.cli.main import main as command_line

Pick = np.random.Generator
SIDE = 12


class Attention(nn.Module):
    """Patches, one attention block, a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)
        self.qkv, self.head = nn.Linear(8, 24), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.patches(x).flatten(2).transpose(1, 2))
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + (q @ k.transpose(1, 2) / 8**0.5).softmax(-1) @ v
        return self.head(nn.functional.gelu(x).mean(1))


def network(*, probabilities: bool = False) -> nn.Module:
    layers = [nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 4)]
    return nn.Sequential(*layers, *([nn.Softmax(1)] if probabilities else [])).eval()


class Calibration(quantization.CalibrationDataReader):
    def __init__(self) -> None:
        self.left = [{"image": np.random.default_rng(0).random((4, 3, SIDE, SIDE), dtype=np.float32)}]

    def get_next(self) -> Any:
        return self.left.pop() if self.left else None


def models(folder: Path) -> list[Path]:
    """Write the files to damage."""
    torch.manual_seed(0)
    example = torch.rand(2, 3, SIDE, SIDE)
    made = []
    for name, module in {
        "cnn": network(),
        "softmax": network(probabilities=True),
        "attention": Attention().eval(),
    }.items():
        made.append(folder / f"{name}.onnx")
        torch.onnx.export(
            module,
            (example,),
            str(made[-1]),
            dynamo=False,
            input_names=["image"],
            output_names=["scores"],
            dynamic_axes={"image": {0: "n"}, "scores": {0: "n"}},
            opset_version=17,
        )
    for form in (quantization.QuantFormat.QDQ, quantization.QuantFormat.QOperator):
        made.append(folder / f"{form.name}.onnx")
        quantization.quantize_static(str(made[0]), str(made[-1]), Calibration(), quant_format=form)
    torch.jit.trace(network(), example).save(str(folder / "traced.pt"))
    torch.jit.script(network()).save(str(folder / "scripted.pt"))
    made += [folder / "traced.pt", folder / "scripted.pt"]
    return made


def exported(folder: Path) -> Path:
    """Write one more file, which takes longest."""
    torch.manual_seed(0)
    example, n = torch.rand(2, 3, SIDE, SIDE), torch.export.Dim("n")
    torch.export.save(torch.export.export(network(), (example,), dynamic_shapes=({0: n},)), folder / "exported.pt2")
    return folder / "exported.pt2"


# --- damages ----------------------------------------------------------------------------------------------------------


def flip(content: bytes, pick: Pick) -> bytes:
    """Flip one to sixteen bits."""
    damaged = bytearray(content)
    for index in pick.integers(0, len(damaged), int(pick.integers(1, 17))):
        damaged[index] ^= 1 << int(pick.integers(8))
    return bytes(damaged)


def cut(content: bytes, pick: Pick) -> bytes:
    """Cut off the end."""
    return content[: int(pick.integers(1, len(content)))]


def leave_out(content: bytes, pick: Pick) -> bytes:
    """Remove a piece in the middle."""
    start, length = int(pick.integers(0, len(content))), int(pick.integers(1, 64))
    return content[:start] + content[start + length :]


def repeat(content: bytes, pick: Pick) -> bytes:
    """Repeat a piece."""
    start, length = int(pick.integers(0, len(content))), int(pick.integers(1, 256))
    return content[: start + length] + content[start:]


def overwrite(content: bytes, pick: Pick) -> bytes:
    """Overwrite a piece with noise, zeros or ones."""
    start, length = int(pick.integers(0, len(content))), int(pick.integers(1, 32))
    filling = [pick.bytes(length), b"\0" * length, b"\xff" * length][int(pick.integers(3))]
    return content[:start] + filling + content[start + length :]


_NUMBERS = [0, 1, -1, 2, 3, 7, 255, -128, 2**31 - 1, -(2**31), 2**40, 2**63 - 1, -(2**63)]


def fields(content: bytes, pick: Pick) -> bytes:
    """Change, remove or duplicate one to three fields of the protobuf."""
    model = onnx.load_from_string(content)
    for _ in range(int(pick.integers(1, 4))):
        message: Any = model
        while True:
            populated = [
                entry for entry in message.ListFields() if entry[0].name not in {"doc_string", "metadata_props"}
            ]
            if not populated:
                break
            field, value = populated[int(pick.integers(len(populated)))]
            inner = field.cpp_type == field.CPPTYPE_MESSAGE
            many = field.is_repeated
            if many and len(value) and pick.random() < 0.15:
                index = int(pick.integers(len(value)))
                if pick.random() < 0.5:
                    del value[index]
                elif inner:
                    value.add().CopyFrom(value[index])
                else:
                    value.append(value[index])
                break
            if inner:
                message = value[int(pick.integers(len(value)))] if many else value
                continue
            new = _other(field, value[0] if many else value, message, pick)
            try:
                if many:
                    value[int(pick.integers(len(value)))] = new
                else:
                    setattr(message, field.name, new)
            except (ValueError, TypeError):
                message.ClearField(field.name)
            break
    return bytes(model.SerializeToString())


def _other(field: Any, value: Any, message: Any, pick: Pick) -> Any:
    """Return another value for a field."""
    if field.cpp_type == field.CPPTYPE_STRING and field.type == field.TYPE_BYTES:
        return flip(value, pick) if value else b"x"
    if field.cpp_type == field.CPPTYPE_STRING:
        names = [
            "",
            "image",
            "scores",
            "Conv",
            "Gemm",
            "Relu",
            "Softmax",
            "Reshape",
            "Loop",
            "MaxPool",
            "Expand",
            "Tile",
        ]
        return names[int(pick.integers(len(names)))]
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return float(pick.choice([0.0, -1.0, 1e38, float("inf"), float("nan")]))
    return _NUMBERS[int(pick.integers(len(_NUMBERS)))]


def entries(content: bytes, pick: Pick) -> bytes:
    """Damage one file of an archive, and repack the archive with valid checksums."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    names = [name for name in files if files[name]]
    name = names[int(pick.integers(len(names)))]
    damage = [flip, cut, leave_out, repeat, overwrite][int(pick.integers(5))]
    files[name] = damage(files[name], pick)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, file in files.items():
            archive.writestr(name, file)
    return packed.getvalue()


def damaged(originals: list[tuple[str, bytes]], count: int, seed: int) -> Iterator[tuple[str, str, bytes]]:
    """Yield (damage, file name, content), the same for the same seed."""
    raw: list[Callable[[bytes, Pick], bytes]] = [flip, cut, leave_out, repeat, overwrite]
    for number in range(count):
        pick = np.random.default_rng([seed, number])
        # loading a torch.export archive takes seconds: every 36th
        *others, last = originals
        name, content = last if number % 36 == 35 else others[number % len(others)]
        # damage that keeps the outer format gets further than other damage
        inner = fields if name.endswith(".onnx") else entries
        damage = inner if pick.random() < 0.6 else raw[int(pick.integers(len(raw)))]
        yield damage.__name__, f"{number:05d}-{name}", damage(content, pick)


# --- the trial --------------------------------------------------------------------------------------------------------


def state_the_size(name: str) -> None:
    """Write the sidecar."""
    Path(name + ".audit.toml").write_text(f"[input]\nsize = [{SIDE}, {SIDE}]\nchannels = 3\n", encoding="utf-8")


def ended(result: Result) -> str:
    """Classify the end of a command: "opened", "refused", or a description of an unexpected one."""
    if result.exit_code == 0:
        return "opened"
    if result.exit_code == 2 and result.stderr.startswith("auditor: ") and "Traceback" not in result.output:
        return "refused"
    lines = [line for line in result.output.strip().splitlines() if line]
    return f"status {result.exit_code}: {lines[-2] if len(lines) > 1 else lines}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="index of the first file, to run in parts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files with an unexpected outcome")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    faulthandler.enable()
    outcomes: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    slowest = (0.0, "")
    with tempfile.TemporaryDirectory() as folder:
        originals = [(path.name, path.read_bytes()) for path in [*models(Path(folder)), exported(Path(folder))]]
        os.chdir(folder)
        logging.disable(logging.CRITICAL)
        for name, _ in originals:
            state_the_size(name)
            outcome = ended(CliRunner().invoke(command_line, ["inspect", name, "--device", "cpu"]))
            if outcome != "opened":
                raise SystemExit(f"{name}, undamaged, ended with {outcome}")
        survived = 0
        for number, (damage, name, content) in enumerate(damaged(originals, arguments.count, arguments.seed)):
            if number < arguments.first:
                continue
            path = Path(name)
            path.write_bytes(content)
            state_the_size(name)
            begun = time.monotonic()
            outcome = ended(CliRunner().invoke(command_line, ["inspect", name, "--device", "cpu"]))
            if outcome == "opened":
                survived += 1
            if outcome == "opened" and survived % 8 == 0:
                outcome = ended(
                    CliRunner().invoke(
                        command_line,
                        [
                            "run",
                            name,
                            "--probe",
                            "attacks.fgsm",
                            "--samples",
                            "4",
                            "--format",
                            "json",
                            "--out",
                            "out",
                            "--fresh",
                            "--device",
                            "cpu",
                            "-q",
                        ],
                    )
                )
            slowest = max(slowest, (time.monotonic() - begun, name))
            outcomes[damage][outcome if outcome in {"opened", "refused"} else "otherwise"] += 1
            if outcome not in {"opened", "refused"}:
                print(f"{name} ({damage}): {outcome}", flush=True)
                if arguments.keep:
                    arguments.keep.mkdir(parents=True, exist_ok=True)
                    (arguments.keep / name).write_bytes(content)
            path.unlink()
            Path(name + ".audit.toml").unlink()
            if number % 100 == 99:
                print(f"{number + 1} files, slowest {slowest[0]:.1f} s", file=sys.stderr, flush=True)
    print("| damage | opened and audited | refused (status 2) | otherwise |\n|---|---|---|---|")
    total: collections.Counter[str] = collections.Counter()
    for damage, counts in sorted(outcomes.items()):
        total.update(counts)
        print(f"| {damage} | {counts['opened']} | {counts['refused']} | {counts['otherwise']} |")
    counts = ", ".join(f"{total[key]} {key}" for key in ("opened", "refused", "otherwise"))
    print(f"\n{total.total()} files: {counts}; slowest {slowest[0]:.1f} s")
    return int(total["otherwise"] > 0)


if __name__ == "__main__":
    sys.exit(main())
