"""Weights files as they are published, saved by training programs, or damaged: the sets of tensors in one.

A file is recognised by its first bytes, not by its suffix. Nothing but tensors is ever unpickled. torch and safetensors
are imported in the functions.
"""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biomass_models.errors import UserError

if TYPE_CHECKING:
    import torch

# What programs put around a model's own names of tensors: torch's wrappers, trainers, moving averages, DINO.
WRAPPERS = (
    *("module", "_orig_mod", "model", "net", "network", "backbone", "encoder", "state_dict", "pretrained"),
    *("teacher", "student", "ema", "ema_model", "model_ema", "module_ema"),
)
OTHER = re.compile(r"(optim|sched|scaler|amp|args|config|loss|rng)", re.IGNORECASE)  # beside a model in a checkpoint
DEEPEST = 5  # wrappers around wrappers


class CheckpointError(UserError):
    """A file that holds no tensors which can be read; the text names what it is instead, and what to do."""


@dataclass(frozen=True)
class TensorSet:
    """Tensors by name, and where in the file they lie: names of what is around them, outermost first."""

    where: tuple[str, ...]
    tensors: dict[str, torch.Tensor]

    def __str__(self) -> str:
        return ".".join(self.where) or "the file itself"


def read_checkpoint(path: Path, *, shapes_only: bool = False) -> Mapping[str, Any]:
    """The content of a weights file: tensors, or dictionaries of them, by name. Raises CheckpointError.

    shapes_only: tensors may be on the meta device, or mapped from the file.
    """
    import torch

    kind = _kind(path)
    try:
        if kind == "safetensors":
            return _read_safetensors(path, shapes_only)
        mapped = {"mmap": True} if kind == "zip" and shapes_only else {}
        with torch.serialization.safe_globals([argparse.Namespace]):  # training programs' settings; a bare record
            content = torch.load(path, map_location="cpu", weights_only=True, **mapped)
    except Exception as error:  # both libraries raise many kinds; all mean that the file is not usable
        raise CheckpointError(_why_unreadable(error)) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"got a {type(content).__name__}, not tensors by name; {SAVE_AGAIN}")
    return content


SAVE_AGAIN = "in the program that made it: torch.save(model.state_dict(), FILE)"


def _kind(path: Path) -> str:
    """safetensors, zip (torch's format) or pickle (torch's old one); CheckpointError for anything else."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4096)
    text = head.lstrip().lower()
    if not head:
        raise CheckpointError("got an empty file; download or copy it again")
    if not head.strip(b"\0"):
        raise CheckpointError(f"got {size} bytes that begin with zeros only, a broken copy; download or copy it again")
    if head.startswith(b"version https://git-lfs"):
        real = re.search(rb"^size (\d+)", head, re.MULTILINE)
        of = f" to one of {int(real[1]) / 1e6:.1f} MB" if real else ""
        raise CheckpointError(f"got a git-lfs pointer{of}; run `git lfs pull` in its folder, or download the file")
    if text.startswith((b"<!doctype html", b"<html", b"<?xml", b"<error", b'{"error')):
        raise CheckpointError("got a web page or a server's answer; download the file itself, logged in if need be")
    if head[:2] == b"PK":
        return "zip"
    if head[:1] == b"\x80":
        return "pickle"
    if head[8:9] == b"{" and 0 < (length := int.from_bytes(head[:8], "little")) < 2**32:
        if 8 + length > size:
            raise CheckpointError(f"got {size} bytes, less than its own header; it was cut off: download it again")
        return "safetensors"
    raise CheckpointError("got neither safetensors nor torch's format; download or copy it again")


def _read_safetensors(path: Path, shapes_only: bool) -> dict[str, torch.Tensor]:
    import safetensors.torch
    import torch

    if not shapes_only:
        return safetensors.torch.load_file(path)
    with safetensors.safe_open(path, "pt") as file:
        return {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in file.keys()}  # noqa: SIM118


def _why_unreadable(error: Exception) -> str:
    text = str(error)
    if (found := re.search(r"GLOBAL ([\w.]+)", text)) is not None:
        return f"got objects that only code can rebuild ({found[1]}), which is never run; {SAVE_AGAIN}"
    if "TorchScript" in text or "weights_only" in text.lower() or "Weights only load failed" in text:
        return f"got more than tensors, and code from a file is never run; {SAVE_AGAIN}"
    reason = " ".join(text.split())[:80] or type(error).__name__
    return f"got a file that is cut off or damaged ({reason}); download or copy it again"


def tensor_sets(content: Mapping[str, Any]) -> Iterator[TensorSet]:
    """Sets of tensors in a file's content, outermost first: any of them may be the model's."""
    waiting: list[tuple[tuple[str, ...], Mapping[str, Any]]] = [((), content)]
    while waiting:
        where, mapping = waiting.pop(0)
        tensors = {str(name): value for name, value in mapping.items() if _is_tensor(value)}
        inner = {str(name): value for name, value in mapping.items() if isinstance(value, Mapping)}
        if tensors and not any(_is_tensor(value) for part in inner.values() for value in part.values()):
            yield TensorSet(where, tensors)
        if len(where) >= DEEPEST:
            continue
        for wrapper in WRAPPERS:
            wrapped = {n.removeprefix(f"{wrapper}."): t for n, t in tensors.items() if n.startswith(f"{wrapper}.")}
            if wrapped:
                waiting.append(((*where, wrapper), wrapped))
        waiting += [((*where, name), part) for name, part in inner.items() if not OTHER.match(name)]


def chosen_set(fitting: list[TensorSet]) -> TensorSet:
    """The one of several sets that fit a model; CheckpointError where the file does not say which is meant.

    Sets that are the same tensors are one. Of a teacher and its student the teacher is published, as DINO does.
    """
    distinct: list[TensorSet] = []
    for found in fitting:
        if not any(_same(found, other) for other in distinct):
            distinct.append(found)
    if len(distinct) > 1 and all({"teacher", "student"} & set(found.where) for found in distinct):
        distinct = [found for found in distinct if "teacher" in found.where]
    if len(distinct) > 1:
        names = ", ".join(map(str, distinct))
        raise CheckpointError(
            f"got {len(distinct)} sets of tensors that fit ({names}); save the one that is meant in a file of its own"
        )
    return distinct[0]


def _same(one: TensorSet, other: TensorSet) -> bool:
    import torch

    if one.tensors.keys() != other.tensors.keys():
        return False
    with contextlib.suppress(NotImplementedError):  # of the meta device there are no numbers to compare
        return all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())
    return False


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)
