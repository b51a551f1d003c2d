"""Losses. B images of a batch, T = 5 targets.

Functions ending in _loss give one number; those ending in _losses one for each image [B], so that sample weights can
multiply them before the mean. All in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from biomass_models.targets import CLOVER, DEAD, GDM, GREEN, weight_T
from biomass_models.training.ratios import log_z, reconstruct
from biomass_models.training.scaling import TargetScaler


def weighted_mse_loss(output_BT: Tensor, goal_BT: Tensor) -> Tensor:
    """Squared error of z-scores weighted by the metric's weights (which sum to 1), averaged over the batch."""
    weight = torch.as_tensor(weight_T, dtype=torch.float32, device=output_BT.device)
    return ((output_BT.float() - goal_BT) ** 2 @ weight).mean()


def total_losses(output_BT: Tensor, mass_BT: Tensor, scaler: TargetScaler, *, delta: float) -> Tensor:
    """Huber(o0, z(log1p total)), [B]."""
    goal_B = log_z(mass_BT, scaler)[:, 0]
    return functional.huber_loss(output_BT[:, 0].float(), goal_B, reduction="none", delta=delta)


def gdm_ratio_losses(output_BT: Tensor, mass_BT: Tensor) -> Tensor:
    """KL( [GDM, dead] / (GDM + dead) || softmax(o1, o2) ), [B]; 0 where both masses are 0."""
    return _ratio_losses(output_BT[:, 1:3], mass_BT[:, [GDM, DEAD]])


def green_ratio_losses(output_BT: Tensor, mass_BT: Tensor) -> Tensor:
    """KL( [green, clover] / (green + clover) || softmax(o3, o4) ), [B]; 0 where both masses are 0."""
    return _ratio_losses(output_BT[:, 3:5], mass_BT[:, [GREEN, CLOVER]])


def distillation_losses(output_BT: Tensor, taught_BT: Tensor, scaler: TargetScaler, *, delta: float) -> Tensor:
    """Huber between student and teacher, mean over z-scored log1p grams of total, GDM, green and clover, [B].

    taught_BT: the teacher's masses in grams. Both sides pass through the same reconstruction and scaling.
    """
    student_BQ, teacher_BQ = log_z(reconstruct(output_BT, scaler), scaler), log_z(taught_BT, scaler)
    return functional.huber_loss(student_BQ, teacher_BQ, reduction="none", delta=delta).mean(-1)


def _ratio_losses(logit_B2: Tensor, mass_B2: Tensor) -> Tensor:
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
