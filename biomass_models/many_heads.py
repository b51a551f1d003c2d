"""All folds of a head-only trial as one set of batched matrix products (DESIGN, Speed 3).

K folds, B images of a batch (of the fold with the most), D features, H hidden units, T = 5 targets.
Each fold keeps its own seed, order, dropout masks, scaler, optimiser state and schedule, so the result is that of K
separate fits but for the rounding of sums. On a GPU a small head is bound by launches and K folds cost little more
than one; on a CPU core they cost about half as much as in turn.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from biomass_models.backbones import parameter_groups
from biomass_models.fit import Ema, FitError, FloatArray, FoldRows, Schedule, cosine_lr, generator_for, seed_for
from biomass_models.interrupt import ShouldStop, check_stop
from biomass_models.sources import FeatureSource
from biomass_models.targets import weight_T

HIDDEN, DROPOUT = 1, 3  # places of the first linear layer and of the dropout in heads.mlp_head


@dataclass(frozen=True)
class HeadFold:
    """One fold: its rows, its seed, and the z-scores [M, 5] of its training rows."""

    rows: FoldRows
    seed: int
    goal_MT: FloatArray


class ManyHeads:
    """K heads of one shape (heads.mlp_head) whose parameters lie in stacked tensors; `heads` are live views of them."""

    def __init__(self, heads: Sequence[nn.Sequential], device: torch.device) -> None:
        states = [head.state_dict() for head in heads]
        self.stacked = {name: torch.stack([s[name] for s in states]).to(device).requires_grad_() for name in states[0]}
        self.heads = [head.to(device) for head in heads]
        self._parameters = [dict(head.named_parameters()) for head in self.heads]
        for k, parameters in enumerate(self._parameters):
            for name, parameter in parameters.items():
                parameter.data = self.stacked[name].detach()[k]

    def __call__(self, feature_KBD: Tensor, kept_KBH: Tensor | None = None) -> Tensor:
        """[K, B, D] -> z-scores [K, B, 5]. kept_KBH: dropout masks over the first hidden layer; None predicts."""
        normed = functional.layer_norm(feature_KBD, feature_KBD.shape[-1:])
        normed = normed * self.stacked["0.weight"].unsqueeze(1) + self.stacked["0.bias"].unsqueeze(1)
        hidden = functional.gelu(self._linear(HIDDEN, normed))
        if kept_KBH is not None:
            hidden = hidden * kept_KBH
        return self._linear(6, functional.gelu(self._linear(4, hidden)))

    def hand_out_gradients(self, counts: Sequence[int], clip_norm: float) -> None:
        """From the stacked tensors to the heads, clipped by head; a head without rows in this step gets none."""
        gradients = {name: tensor.grad for name, tensor in self.stacked.items() if tensor.grad is not None}
        square_K = torch.stack([(grad.flatten(1) ** 2).sum(1) for grad in gradients.values()]).sum(0)
        scale_K = (clip_norm / (square_K.sqrt() + 1e-6)).clamp(max=1.0)  # as nn.utils.clip_grad_norm_
        if scale_K.is_cuda or bool((scale_K < 1).any()):  # on a GPU asking costs more than scaling by 1
            for gradient in gradients.values():
                gradient.mul_(scale_K.view(-1, *[1] * (gradient.ndim - 1)))
        for k, (parameters, count) in enumerate(zip(self._parameters, counts, strict=True)):
            for name, parameter in parameters.items():
                parameter.grad = gradients[name][k] if count else None

    def _linear(self, place: int, value_KBD: Tensor) -> Tensor:
        weight_KHD, bias_KH = self.stacked[f"{place}.weight"], self.stacked[f"{place}.bias"]
        # in this order the weights' gradient comes out in their own layout; the other way round costs twice the time
        return torch.baddbmm(bias_KH.unsqueeze(2), weight_KHD, value_KBD.transpose(1, 2)).transpose(1, 2)


def train_heads(
    many: ManyHeads,
    source: FeatureSource,
    folds: Sequence[HeadFold],
    schedule: Schedule,
    *,
    head_lr: float,
    weight_decay: float,
    after_epoch: Callable[[int, dict[str, float], Tensor, bool], None],
    should_stop: ShouldStop | None,
) -> None:
    """AdamW on all heads at once, as fit.train_epochs does for one.

    after_epoch(k, record, z_VT, last): once for each fold and epoch, with the z-scores of its held-out rows, the heads
    holding their moving averages. Raises FitError for a loss that is not finite, StopRequested.
    """
    device = source.feature_NCD.device
    groups = [
        parameter_groups(nn.Identity(), head, backbone_lr=0.0, head_lr=head_lr, weight_decay=weight_decay)
        for head in many.heads
    ]
    optimiser = torch.optim.AdamW([group for own in groups for group in own], fused=True)
    emas = [
        Ema(list(head.state_dict().values()) if schedule.ema_decay else (), schedule.ema_decay) for head in many.heads
    ]
    held_KV = pad_sequence([torch.from_numpy(fold.rows.held_out_images) for fold in folds], batch_first=True)
    held_KVD = source.feature_NCD[held_KV.to(device), 0]
    weight = torch.as_tensor(weight_T, dtype=torch.float32, device=device)
    batches = _Batches(many, source, folds, schedule.batch_size)
    steps_K = batches.steps_K
    for epoch in range(schedule.epochs):
        check_stop(should_stop, f"{epoch} of {schedule.epochs} epochs")
        start = time.perf_counter()
        loss_K = torch.zeros(len(folds), device=device)
        for place, batch in enumerate(batches.epoch()):
            error_KB = (many(batch.feature_KBD, batch.kept_KBH) - batch.goal_KBT) ** 2 @ weight
            mean_K = (error_KB * batch.there_KB).sum(1) / batch.there_KB.sum(1).clamp(min=1)
            for tensor in many.stacked.values():
                tensor.grad = None
            mean_K.sum().backward()
            loss_K += mean_K.detach() * batch.there_KB.sum(1)
            many.hand_out_gradients(batch.counts, schedule.clip_norm)
            for own, steps in zip(groups, steps_K, strict=True):
                if place < steps:
                    rate = cosine_lr(epoch * steps + place, steps * schedule.epochs, head_lr, schedule.min_lr)
                    for group in own:
                        group["lr"] = rate
            optimiser.step()
            for ema, count in zip(emas, batch.counts, strict=True):
                if schedule.ema_decay and count:
                    ema.update()
        seconds = (time.perf_counter() - start) / len(folds)
        losses = [float(total) / len(fold.rows.train_M) for total, fold in zip(loss_K.cpu(), folds, strict=True)]
        if bad := [k for k, loss in enumerate(losses) if not math.isfinite(loss)]:
            raise FitError(
                f"the loss must stay finite, got {losses[bad[0]]} in epoch {epoch + 1} of {schedule.epochs}; "
                "choose lower learning rates or a smaller clip_norm"
            )
        with ExitStack() as averaged, torch.inference_mode():
            for ema in emas:
                averaged.enter_context(ema.applied())
            z_KVT = many(held_KVD)
            for k, fold in enumerate(folds):
                record = {"epoch": epoch + 1.0, "loss": losses[k], "loss/mse": losses[k], "seconds": seconds}
                record["lr"] = groups[k][-1]["lr"]
                after_epoch(k, record, z_KVT[k, : len(fold.rows.valid_M)], epoch + 1 == schedule.epochs)


@dataclass(frozen=True)
class _Batch:
    feature_KBD: Tensor
    goal_KBT: Tensor
    kept_KBH: Tensor
    there_KB: Tensor  # False where a fold's batch is shorter than the longest, or over for this epoch
    counts: list[int]  # rows of each fold


class _Batches:
    """Batches of all folds side by side, each in its own order, with its own copies and dropout masks."""

    def __init__(self, many: ManyHeads, source: FeatureSource, folds: Sequence[HeadFold], size: int) -> None:
        self._source, self._size = source, size
        self._device = source.feature_NCD.device
        self._hidden = many.stacked[f"{HIDDEN}.bias"].shape[1]
        self._dropout: float = many.heads[0][DROPOUT].p  # type: ignore[assignment]
        self._image = [torch.from_numpy(fold.rows.image_N[fold.rows.train_M]) for fold in folds]
        self._goal = [torch.from_numpy(fold.goal_MT).float() for fold in folds]
        self._order = [generator_for(fold.seed, "order") for fold in folds]
        self._draws = [generator_for(fold.seed, "augmentation") for fold in folds]
        self._masks = [torch.Generator(self._device).manual_seed(seed_for(fold.seed, "dropout")) for fold in folds]
        self.steps_K = [math.ceil(len(image) / size) for image in self._image]

    def epoch(self) -> Iterator[_Batch]:
        order = [torch.randperm(len(i), generator=own) for i, own in zip(self._image, self._order, strict=True)]
        copies = self._source.feature_NCD.shape[1]
        for place in range(max(self.steps_K)):
            index = [own[place * self._size : (place + 1) * self._size] for own in order]
            counts = [len(own) for own in index]
            copy = [torch.randint(copies, (n,), generator=own) for n, own in zip(counts, self._draws, strict=True)]
            image = [all_[own] for all_, own in zip(self._image, index, strict=True)]
            goal = [all_[own] for all_, own in zip(self._goal, index, strict=True)]
            yield _Batch(
                self._source.feature_NCD[self._padded(image), self._padded(copy)],
                self._padded(goal),
                self._padded([self._mask(n, own) for n, own in zip(counts, self._masks, strict=True)]),
                torch.arange(max(counts), device=self._device) < torch.tensor(counts, device=self._device).unsqueeze(1),
                counts,
            )

    def _mask(self, count: int, generator: torch.Generator) -> Tensor:
        """Kept hidden units [count, H], scaled: the very draws that nn.Dropout would make for this fold on a CPU."""
        if self._dropout == 0 or count == 0:
            return torch.ones(count, self._hidden, device=self._device)
        kept = torch.empty(count, self._hidden, device=self._device).bernoulli_(1 - self._dropout, generator=generator)
        return kept.div_(1 - self._dropout)

    def _padded(self, parts: Sequence[Tensor]) -> Tensor:
        return pad_sequence(list(parts), batch_first=True).to(self._device)
