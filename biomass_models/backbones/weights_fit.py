"""The one set of tensors in a weights file that fills a timm model; nothing is resized or guessed."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from biomass_models.backbones.checkpoints import CheckpointError, TensorSet, chosen_set, read_checkpoint, tensor_sets
from biomass_models.backbones.packages import Rename

if TYPE_CHECKING:
    import torch
    from torch import nn

TRANSFORMERS = ("embeddings.", "layernorm.", "dinov2.embeddings.", "vit.embeddings.")  # its first names of tensors


def fitting_state(
    model: nn.Module, path: Path, rename: Rename | None = None, *, shapes_only: bool = False
) -> dict[str, torch.Tensor]:
    """Tensors of a file by the model's names; CheckpointError names what the file holds instead.

    shapes_only: names and shapes decide, and the tensors may be empty.
    """
    fitting: list[TensorSet] = []
    unfit: list[tuple[int, str]] = []
    transformers = False
    for found in tensor_sets(read_checkpoint(path, shapes_only=shapes_only)):
        if any(found.where[: len(outer.where)] == outer.where for outer in fitting):
            continue  # a part of one that fits
        try:
            state = _prepared(found.tensors, model, rename)
        except CheckpointError as error:
            unfit.append((len(model.state_dict()), str(error)))
            continue
        count, problems = _problems(model, state)
        transformers |= any(name.startswith(TRANSFORMERS) for name in found.tensors)
        if count:
            unfit.append((count, f"got tensors{f' in {found}' if found.where else ''} of another model: {problems}"))
        else:
            fitting.append(TensorSet(found.where, state))
    if not fitting and transformers:
        raise CheckpointError("got a file with the names of transformers, not timm's; take timm's own file")
    if not fitting:
        raise CheckpointError(min(unfit)[1] if unfit else "got a file without tensors")
    if shapes_only and len(fitting) > 1:  # whether they are the same takes their numbers
        return fitting_state(model, path, rename)
    return chosen_set(fitting).tensors


def _prepared(tensors: dict[str, torch.Tensor], model: nn.Module, rename: Rename | None) -> dict[str, torch.Tensor]:
    """Tensors by the model's names; CheckpointError where they cannot be named so."""
    wanted = list(model.state_dict())
    state = tensors if rename is None else _renamed(tensors, wanted, rename)
    state = _without_classifier(state, model)
    if set(state) != set(wanted):  # not timm's own names: a published checkpoint
        state = _without_classifier(_filtered(state, model), model)
    return state


def _problems(model: nn.Module, state: Mapping[str, torch.Tensor]) -> tuple[int, str]:
    """How many tensors do not fit, and the first of them by what is wrong."""
    wanted = model.state_dict()
    # torch counts batches only to average running statistics without momentum; old files lack the counters
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    extra = sorted(key for key in state if key not in wanted)  # a file's order is its format's
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    problems = [
        f"{len(found)} {what} ({', '.join(found[:3])}{', ...' if len(found) > 3 else ''})"
        for what, found in (("missing", missing), ("unknown", extra), ("of another shape", shapes))
        if found
    ]
    return len(missing) + len(extra) + len(shapes), "; ".join(problems)


def _without_classifier(state: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """The state without the classifier's tensors, if the model was built without one."""
    names = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    dropped = tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))
    if getattr(model, "num_classes", 0) > 0 or not dropped:
        return state
    wanted = model.state_dict()
    return {key: value for key, value in state.items() if key in wanted or not key.startswith(dropped)}


def _filtered(state: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """A published checkpoint (DINOv2's own names, say) through the filter that timm keeps for the architecture."""
    checkpoint_filter = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if checkpoint_filter is None:
        return state
    if _would_resize(state, model):
        return state
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # timm's filter of DINOv3 prints what it leaves out
            return dict(checkpoint_filter(dict(state), model))
    except (KeyError, IndexError, RuntimeError, AttributeError, ValueError, TypeError, NotImplementedError) as error:
        raise CheckpointError(f"got a checkpoint that timm cannot convert for this model: {error!r}") from error


def _would_resize(state: Mapping[str, torch.Tensor], model: nn.Module) -> bool:
    """Whether timm's filter would interpolate patches or positions: weights of another architecture, made to fit."""
    wanted = model.state_dict()
    patch, position = "patch_embed.proj.weight", "pos_embed"
    both = patch in state and patch in wanted and state[patch].ndim == wanted[patch].ndim
    if both and state[patch].shape[-2:] != wanted[patch].shape[-2:]:
        return True
    if position in state and position in wanted and state[position].ndim == wanted[position].ndim == 3:
        # positions of class and register tokens may be kept apart
        return abs(state[position].shape[1] - wanted[position].shape[1]) > getattr(model, "num_prefix_tokens", 1)
    return False


def _renamed(state: dict[str, torch.Tensor], wanted: list[str], rename: Rename) -> dict[str, torch.Tensor]:
    renamed: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        try:
            new = rename(key, wanted)
        except (KeyError, IndexError, ValueError) as error:
            raise CheckpointError(f"got a tensor {key!r} that fits none of the package's names") from error
        if new in renamed:
            raise CheckpointError(f"got two tensors for {new!r}, the second is {key!r}")
        renamed[new] = value
    return renamed
