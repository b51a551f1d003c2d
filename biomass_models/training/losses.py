"""Losses. B images of a batch, T = 5 targets.

Functions ending in _loss give one number; those ending in _losses one for each image [B], so that sample weights can
multiply them before the mean. All in float32. mass_BT and taught_BT are grams, NaN where not measured or not taught:
such a cell is replaced before it meets an output: it adds exactly 0 to a loss and nothing to a gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from biomass_models.targets import CLOVER, DEAD, GDM, GREEN, TOTAL, weight_T
from biomass_models.training.ratios import log_z, reconstruct
from biomass_models.training.scaling import TargetScaler


def weighted_mse_loss(output_BT: Tensor, goal_BT: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean of weighted_mse_losses over the batch; weight: by default the metric's."""
    if weight is None:
        weight = torch.as_tensor(weight_T, dtype=torch.float32, device=output_BT.device)
    return weighted_mse_losses(output_BT, goal_BT, weight).mean()


def weighted_mse_losses(output_BT: Tensor, goal_BT: Tensor, weight: Tensor) -> Tensor:
    """Squared error of z-scores weighted by cell, [..., B].

    weight: what each cell counts in the metric, [5] (which sum to 1) or [..., B, 5]; 0 in a cell without a goal.
    """
    if weight.ndim == 1:
        return (output_BT.float() - goal_BT) ** 2 @ weight
    goal_BT = torch.where(weight > 0, goal_BT, 0.0)
    return ((output_BT.float() - goal_BT) ** 2 * weight).sum(-1)


def total_losses(output_BT: Tensor, mass_BT: Tensor, scaler: TargetScaler, *, delta: float) -> Tensor:
    """Huber(o0, z(log1p total)), [B]; 0 where the total was not measured."""
    known_B = ~mass_BT[:, TOTAL].isnan()
    goal_B = torch.where(known_B, log_z(mass_BT, scaler)[:, 0], 0.0)
    loss_B = functional.huber_loss(output_BT[:, 0].float(), goal_B, reduction="none", delta=delta)
    return torch.where(known_B, loss_B, 0.0)


def gdm_ratio_losses(output_BT: Tensor, mass_BT: Tensor) -> Tensor:
    """KL( [GDM, dead] / (GDM + dead) || softmax(o1, o2) ), [B]; 0 where both are 0, or one is unknown."""
    return _ratio_losses(output_BT[:, 1:3], mass_BT[:, [GDM, DEAD]])


def green_ratio_losses(output_BT: Tensor, mass_BT: Tensor) -> Tensor:
    """KL( [green, clover] / (green + clover) || softmax(o3, o4) ), [B]; 0 where both are 0, or one is unknown."""
    return _ratio_losses(output_BT[:, 3:5], mass_BT[:, [GREEN, CLOVER]])


def distillation_losses(output_BT: Tensor, taught_BT: Tensor, scaler: TargetScaler, *, delta: float) -> Tensor:
    """Huber between student and teacher, mean over z-scored log1p grams of total, GDM, green and clover, [B].

    taught_BT: the teacher's masses in grams. Both sides pass through the same reconstruction and scaling.
    """
    student_BQ, teacher_BQ = log_z(reconstruct(output_BT, scaler), scaler), log_z(taught_BT, scaler)
    known_BQ = ~teacher_BQ.isnan()
    loss_BQ = functional.huber_loss(student_BQ, torch.where(known_BQ, teacher_BQ, 0.0), reduction="none", delta=delta)
    return torch.where(known_BQ, loss_BQ, 0.0).mean(-1)


def _ratio_losses(logit_B2: Tensor, mass_B2: Tensor) -> Tensor:
    mass_B2 = torch.where(mass_B2.isnan().any(-1, keepdim=True), 0.0, mass_B2)
    total_B1 = mass_B2.sum(-1, keepdim=True)
    there_B1 = total_B1 > 0
    share_B2 = mass_B2 / torch.where(there_B1, total_B1, 1.0)  # masked before dividing: no NaN reaches a gradient
    divergence_B2 = torch.xlogy(share_B2, share_B2) - share_B2 * logit_B2.float().log_softmax(-1)
    return torch.where(there_B1, divergence_B2, 0.0).sum(-1)


def ratio_terms(
    output_BT: Tensor,
    mass_BT: Tensor,
    weight_B: Tensor,
    scaler: TargetScaler,
    *,
    total: float,
    ratio: float,
    delta: float,
) -> dict[str, Tensor]:
    """The loss that student and teacher share, by term, each weighted by sample and averaged over the batch.

    total, ratio: weights of the terms; a weight of 0 leaves the term out. weight_B: of the samples.
    """
    terms = {"total": total * (weight_B * total_losses(output_BT, mass_BT, scaler, delta=delta)).mean()}
    if ratio > 0:
        terms["gdm_ratio"] = ratio * (weight_B * gdm_ratio_losses(output_BT, mass_BT)).mean()
        terms["green_ratio"] = ratio * (weight_B * green_ratio_losses(output_BT, mass_BT)).mean()
    return terms
