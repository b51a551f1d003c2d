"""Five outputs to five coherent masses by hierarchical ratios (the published student's).

output_BT    o0 = z-scored log1p(total); o1, o2 = logits of GDM : dead; o3, o4 = logits of green : clover
mass_BT      grams in the order of TARGETS; the identities hold by construction
log_z_BQ     z-scored log1p grams of the quantities that are distilled: of DISTILLED, those that vary
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from biomass_models.targets import CLOVER, DEAD, GDM, GREEN, TOTAL
from biomass_models.training.scaling import SMALLEST_SD, TargetScaler

DISTILLED = (TOTAL, GDM, GREEN, CLOVER)  # columns of TARGETS


def reconstruct(output_BT: Tensor, scaler: TargetScaler) -> Tensor:
    """Outputs [B, 5] -> masses [B, 5], at least 0; float64 outputs keep their precision, others become float32.

    The logarithm of the total is capped (TargetScaler.cap_T) before the inverse, so that nothing overflows.
    scaler: of the training rows, with the transform log1p.
    """
    output_BT = output_BT if output_BT.dtype == torch.float64 else output_BT.float()
    total_B = torch.expm1(_log_total(output_BT, scaler))
    gdm_B = total_B * output_BT[:, 1:3].softmax(-1)[:, 0]
    green_B = gdm_B * output_BT[:, 3:5].softmax(-1)[:, 0]
    mass = {GREEN: green_B, DEAD: total_B - gdm_B, CLOVER: gdm_B - green_B, GDM: gdm_B, TOTAL: total_B}
    return torch.stack([mass[column] for column in range(len(mass))], dim=-1)


def log_z(mass_BT: Tensor, scaler: TargetScaler) -> Tensor:
    """Masses [B, 5] -> z-scored log1p grams [B, Q] of total, GDM, green and clover; NaN stays NaN.

    One that never varies in the training rows (no clover in a state), or was never measured, is left out: a student
    predicts a trace of it, which would be thousands of its standard deviations.
    """
    columns = [column for column in DISTILLED if column == TOTAL or scaler.sd_T[column] > SMALLEST_SD]
    mean_Q = torch.as_tensor(scaler.mean_T[columns]).to(mass_BT)
    sd_Q = torch.as_tensor(scaler.sd_T[columns]).to(mass_BT)
    return (torch.log1p(mass_BT[:, columns]) - mean_Q) / sd_Q


def _log_total(output_BT: Tensor, scaler: TargetScaler) -> Tensor:
    cap = math.log1p(scaler.cap_T[TOTAL])
    return (output_BT[:, 0] * float(scaler.sd_T[TOTAL]) + float(scaler.mean_T[TOTAL])).clamp(0.0, cap)
