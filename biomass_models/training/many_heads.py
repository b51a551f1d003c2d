"""All folds of a head-only trial as one set of batched matrix products.

K folds, B images of a batch (of the fold with the most), D features, H hidden units, T = 5 targets.
Each fold keeps its own seed, order, dropout masks, scaler, optimiser state and schedule, so the result is that of K
separate fits but for the rounding of sums. On a GPU a small head is bound by launches and K folds cost little more
than one; on a CPU core they cost about half as much as in turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from biomass_models.interrupt import ShouldStop
from biomass_models.training.fit import FloatArray, FoldRows, generator_for, seed_for
from biomass_models.training.loop import Records, Schedule, run_epochs
from biomass_models.training.losses import weighted_mse_losses
from biomass_models.training.sources import FeatureSource

HIDDEN, DROPOUT = 1, 3  # places of the first linear layer and of the dropout in heads.mlp_head


@dataclass(frozen=True)
class HeadFold:
    """One fold: its rows, its seed, and the z-scores [M, 5] of its training rows, NaN where not measured."""

    rows: FoldRows
    seed: int
    goal_MT: FloatArray


class ManyHeads:
    """K heads of one shape (heads.mlp_head) whose parameters lie in stacked tensors; `heads` are live views of them."""

    def __init__(self, heads: Sequence[nn.Sequential], device: torch.device) -> None:
        states = [head.state_dict() for head in heads]
        self.stacked = {name: torch.stack([s[name] for s in states]).to(device).requires_grad_() for name in states[0]}
        self.heads = [head.to(device) for head in heads]
        for k, head in enumerate(self.heads):
            for name, parameter in head.named_parameters():
                parameter.data = self.stacked[name].detach()[k]

    def __call__(self, feature_KBD: Tensor, kept_KBH: Tensor | None = None) -> Tensor:
        """[K, B, D] -> z-scores [K, B, 5]. kept_KBH: dropout masks over the first hidden layer; None predicts."""
        normed = functional.layer_norm(feature_KBD, feature_KBD.shape[-1:])
        normed = torch.addcmul(self.stacked["0.bias"].unsqueeze(1), normed, self.stacked["0.weight"].unsqueeze(1))
        hidden = functional.gelu(self._linear(HIDDEN, normed))
        if kept_KBH is not None:
            hidden = hidden * kept_KBH
        return self._linear(6, functional.gelu(self._linear(4, hidden)))

    def clip_gradients(self, clip_norm: float) -> None:
        """As nn.utils.clip_grad_norm_ does for each head alone."""
        gradients = [tensor.grad for tensor in self.stacked.values() if tensor.grad is not None]
        norm_PK = torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients])
        scale_K = (clip_norm / (torch.linalg.vector_norm(norm_PK, dim=0) + 1e-6)).clamp(max=1.0)
        if scale_K.is_cuda or bool((scale_K < 1).any()):  # on a GPU asking costs more than scaling by 1
            for gradient in gradients:
                gradient.mul_(scale_K.view(-1, *[1] * (gradient.ndim - 1)))

    def groups(self, head_lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Optimiser groups as backbones.parameter_groups makes them: no decay on norms and biases."""
        decayed = [tensor for tensor in self.stacked.values() if tensor[0].ndim > 1]
        plain = [tensor for tensor in self.stacked.values() if tensor[0].ndim <= 1]
        return [
            {"params": decayed, "lr": head_lr, "weight_decay": weight_decay},
            {"params": plain, "lr": head_lr, "weight_decay": 0.0},
        ]

    def _linear(self, place: int, value_KBD: Tensor) -> Tensor:
        weight_KHD, bias_KH = self.stacked[f"{place}.weight"], self.stacked[f"{place}.bias"]
        # in this order the weights' gradient comes out in their own layout; the other way round costs twice the time
        return torch.baddbmm(bias_KH.unsqueeze(2), weight_KHD, value_KBD.transpose(1, 2)).transpose(1, 2)


def train_heads(
    heads: Sequence[nn.Sequential],
    source: FeatureSource,
    folds: Sequence[HeadFold],
    schedule: Schedule,
    *,
    head_lr: float,
    weight_decay: float,
    after_epoch: Callable[[int, dict[str, float], Tensor, bool], None],
    should_stop: ShouldStop | None,
) -> None:
    """AdamW on all heads, in place, as loop.train_epochs does for one.

    after_epoch(k, record, z_VT, last): for each fold and epoch, with the z-scores of its held-out rows, the heads
    holding their moving averages. Raises FitError for a loss that is not finite, StopRequested.
    """
    # folds whose epochs have the same number of steps share one schedule, and so one optimiser
    steps = [math.ceil(len(fold.rows.train_M) / schedule.batch_size) for fold in folds]
    for count in sorted(set(steps)):
        of_group = [k for k, own in enumerate(steps) if own == count]

        def of_fold(k: int, record: dict[str, float], z_VT: Tensor, last: bool, of_group: list[int] = of_group) -> None:
            after_epoch(of_group[k], record, z_VT, last)

        _train_alike(
            ManyHeads([heads[k] for k in of_group], source.feature_NCD.device),
            source,
            [folds[k] for k in of_group],
            schedule,
            head_lr=head_lr,
            weight_decay=weight_decay,
            after_epoch=of_fold,
            should_stop=should_stop,
        )


def _train_alike(
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
    device = source.feature_NCD.device
    optimiser = torch.optim.AdamW(many.groups(head_lr, weight_decay), fused=True)
    held_KV = pad_sequence([torch.from_numpy(fold.rows.held_out_images) for fold in folds], batch_first=True)
    held_KVD = source.feature_NCD[held_KV.to(device), 0]
    batches = _Batches(many, source, folds, schedule.batch_size)
    loss_K = torch.zeros(len(folds), device=device)

    def begin() -> Iterator[_Batch]:
        loss_K.zero_()
        return batches.epoch()

    def step(batch: _Batch) -> None:
        error_KB = weighted_mse_losses(many(batch.feature_KBD, batch.kept_KBH), batch.goal_KBT, batch.weight)
        total_K = (error_KB * batch.there_KB).sum(1)
        optimiser.zero_grad(set_to_none=True)
        (total_K / batch.count_K).sum().backward()
        many.clip_gradients(schedule.clip_norm)
        optimiser.step()
        loss_K.add_(total_K.detach())

    def ended(records: Records, last: bool) -> None:
        with torch.inference_mode():
            z_KVT = many(held_KVD)
            for k, (record, fold) in enumerate(zip(records, folds, strict=True)):
                after_epoch(k, record, z_KVT[k, : len(fold.rows.valid_M)], last)

    run_epochs(
        optimiser,
        list(many.stacked.values()),
        schedule,
        batches.steps,
        batches=begin,
        step=step,
        losses=lambda: [
            {"mse": float(total) / len(fold.rows.train_M)} for total, fold in zip(loss_K.cpu(), folds, strict=True)
        ],
        after_epoch=ended,
        should_stop=should_stop,
    )


@dataclass(frozen=True)
class _Batch:
    feature_KBD: Tensor
    goal_KBT: Tensor
    weight: Tensor  # of the cells, [5] or [K, B, 5]
    kept_KBH: Tensor
    there_KB: Tensor  # False where a fold's batch is shorter than the longest
    count_K: Tensor  # rows of each fold's batch


class _Batches:
    """Batches of all folds side by side, each in its own order, with its own copies and dropout masks."""

    def __init__(self, many: ManyHeads, source: FeatureSource, folds: Sequence[HeadFold], size: int) -> None:
        self._source, self._size = source, size
        self._device = source.feature_NCD.device
        self._hidden = many.stacked[f"{HIDDEN}.bias"].shape[1]
        self._dropout: float = many.heads[0][DROPOUT].p  # type: ignore[assignment]
        self._image = [torch.from_numpy(fold.rows.image_N[fold.rows.train_M]) for fold in folds]
        self._goal = [torch.from_numpy(fold.goal_MT).float() for fold in folds]
        self._weight = [torch.from_numpy(fold.rows.train_weight).float() for fold in folds]
        self._order = [generator_for(fold.seed, "order") for fold in folds]
        self._draws = [generator_for(fold.seed, "augmentation") for fold in folds]
        self._masks = [torch.Generator(self._device).manual_seed(seed_for(fold.seed, "dropout")) for fold in folds]
        self.steps = math.ceil(len(self._image[0]) / size)  # of an epoch, the same for all

    def epoch(self) -> Iterator[_Batch]:
        order = [torch.randperm(len(i), generator=own) for i, own in zip(self._image, self._order, strict=True)]
        copies = self._source.feature_NCD.shape[1]
        for place in range(self.steps):
            index = [own[place * self._size : (place + 1) * self._size] for own in order]
            counts = [len(own) for own in index]
            copy = [torch.randint(copies, (n,), generator=own) for n, own in zip(counts, self._draws, strict=True)]
            image = [all_[own] for all_, own in zip(self._image, index, strict=True)]
            goal = [all_[own] for all_, own in zip(self._goal, index, strict=True)]
            count_K = torch.tensor(counts, device=self._device)
            yield _Batch(
                self._source.feature_NCD[self._padded(image), self._padded(copy)],
                self._padded(goal),
                self._weights(index),
                self._padded([self._mask(n, own) for n, own in zip(counts, self._masks, strict=True)]),
                torch.arange(max(counts), device=self._device) < count_K.unsqueeze(1),
                count_K,
            )

    def _weights(self, index: Sequence[Tensor]) -> Tensor:
        """Of the batch's cells; those of all rows where the folds' own are so, which a table gives to all or none."""
        if self._weight[0].ndim == 1:
            return self._weight[0].to(self._device)
        return self._padded([all_[own] for all_, own in zip(self._weight, index, strict=True)])

    def _mask(self, count: int, generator: torch.Generator) -> Tensor:
        """Kept hidden units [count, H], scaled: the very draws that nn.Dropout would make for this fold on a CPU."""
        if self._dropout == 0:
            return torch.ones(count, self._hidden, device=self._device)
        kept = torch.empty(count, self._hidden, device=self._device).bernoulli_(1 - self._dropout, generator=generator)
        return kept.div_(1 - self._dropout)

    def _padded(self, parts: Sequence[Tensor]) -> Tensor:
        return pad_sequence(list(parts), batch_first=True).to(self._device)
