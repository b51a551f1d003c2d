"""The metadata teacher: what NDVI, height, season and species say about the masses of the training rows.

M training rows of a fold, T = 5 targets.
taught_MT   grams; each row's from a teacher that saw neither the row nor its group (inner folds), nor the held-out
            fold; NaN in targets for which that teacher had no rows
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import GroupKFold
from torch import Tensor, nn

from biomass_models.backbones.devices import one_thread
from biomass_models.data.cell_weights import measured_masses, row_weights
from biomass_models.data.taxonomy import TAG_COLUMNS, tag_matrix
from biomass_models.families.base import Artefact
from biomass_models.families.distilled.config import KIND, NUMERIC, TeacherConfig, learned_targets
from biomass_models.interrupt import ShouldStop, check_stop
from biomass_models.targets import TARGETS, weights_of
from biomass_models.training.fit import FitError, FloatArray, score_or_nan, seeded, split_rows
from biomass_models.training.losses import ratio_terms
from biomass_models.training.ratios import reconstruct
from biomass_models.training.scaling import TargetScaler

# The published weights, whatever the trial's own: trials that search theirs still share one teacher.
TOTAL_WEIGHT, RATIO_WEIGHT, HUBER_DELTA = 3.0, 1.2, 1.0
NUMBERS = 3  # NDVI, height, NDVI x height: the columns that are z-scored
SEASON = 2  # sine and cosine of the year's angle
CLOVER_TAGS = ("clover", "white", "subclover", "dalkeith", "losa")
SMALLEST_SD = 1e-6


class TeacherNet(nn.Module):
    """Metadata [B, 25] -> the student's five outputs [B, 5]; clover tags also enter the green : clover logits."""

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(NUMBERS + SEASON + len(TAG_COLUMNS), config.width),
            nn.GELU(),
            nn.Linear(config.width, config.width_2),
            nn.GELU(),
            nn.Linear(config.width_2, len(TARGETS)),
        )
        self.clover = nn.Linear(len(CLOVER_TAGS), 2, bias=False)
        self._columns = [NUMBERS + SEASON + TAG_COLUMNS.index(tag) for tag in CLOVER_TAGS]

    def forward(self, metadata_BF: Tensor) -> Tensor:
        output_BT = self.body(metadata_BF)
        logit_B2 = output_BT[:, 3:5] + self.clover(metadata_BF[:, self._columns])
        return torch.cat([output_BT[:, :3], logit_B2], dim=1)


def require_metadata(quadrats: pd.DataFrame, *more: str) -> None:
    """Raise FitError that names the column and the image where metadata are missing."""
    for column in (*KIND, *more):
        if column not in quadrats:
            raise FitError(f"a student's rows need the column {column}, the table has {', '.join(quadrats.columns)}")
        if (missing := quadrats[column].isna()).any():
            image_id = quadrats.loc[missing, "image_id"].iloc[0]
            raise FitError(
                f"a student's rows need {column}, image {image_id} has none; fill it in, or set distillation_weight=0 "
                "and group_weights=false"
            )


def metadata_features(quadrats: pd.DataFrame) -> FloatArray:
    """NDVI, height [cm], their product, season (sine, cosine), 20 species tags; [N, 25], not yet scaled."""
    ndvi = quadrats[NUMERIC[0]].to_numpy(np.float64)
    height = quadrats[NUMERIC[1]].to_numpy(np.float64)
    angle = 2 * np.pi * quadrats["Sampling_Date"].dt.day_of_year.to_numpy(np.float64) / 365.25
    tags = tag_matrix(quadrats["Species"].astype(str).tolist())
    return np.column_stack([ndvi, height, ndvi * height, np.sin(angle), np.cos(angle), tags])


def sample_weights(quadrats: pd.DataFrame) -> FloatArray:
    """Inverse frequency of each row's date, state and species: scaled to mean 1, then clipped to [0.1, 5]."""
    require_metadata(quadrats)
    kind = quadrats.groupby(list(KIND), observed=True, sort=False)["image_id"]
    inverse = 1.0 / kind.transform("size").to_numpy(np.float64)
    return np.clip(inverse / inverse.mean(), 0.1, 5.0)


def fit_teacher(
    config: TeacherConfig,
    quadrats: pd.DataFrame,
    fold_N: np.ndarray,
    fold: int,
    *,
    seed: int,
    should_stop: ShouldStop | None = None,
) -> Artefact:
    """Masses [grams] of the rows outside `fold`, each from inner folds by group that leave it out; its score is the
    weighted R2 against their labels. Scalers are fitted inside too.

    quadrats: image_id, group, metadata and the five targets [grams]. Raises FitError, StopRequested.
    """
    train_M, _ = split_rows(fold_N, fold)
    table = quadrats.iloc[train_M]
    require_metadata(table, *NUMERIC, "group")
    feature_MF, (mass_MT, cell_weight) = metadata_features(table), measured_masses(table)
    row_weight_M = row_weights(cell_weight, len(table))
    groups = table["group"].to_numpy()
    folds = min(config.inner_folds, len(set(groups)))
    if folds < 2:
        raise FitError(
            f"a teacher needs training rows of at least 2 groups (State|date), got {folds}; set distillation_weight=0"
        )
    taught_MT = np.empty_like(mass_MT)
    for number, (inner, held) in enumerate(GroupKFold(folds).split(feature_MF, groups=groups)):
        weight = sample_weights(table.iloc[inner]) * row_weight_M[inner]
        with one_thread(), seeded(seed, f"teacher {number}", torch.device("cpu")):
            taught_MT[held] = _fit_predict(
                config, feature_MF[inner], mass_MT[inner], weight, feature_MF[held], should_stop
            )
    taught = table[["image_id"]].reset_index(drop=True)
    taught[list(TARGETS)] = taught_MT
    return Artefact(taught, score_or_nan(mass_MT, taught_MT, weights_of(taught_MT, cell_weight)))


def _fit_predict(
    config: TeacherConfig,
    feature_NF: FloatArray,
    mass_NT: FloatArray,
    weight_N: FloatArray,
    asked_MF: FloatArray,
    should_stop: ShouldStop | None,
) -> FloatArray:
    """Full-batch training on the CPU (25 features: a GPU would wait for launches), then masses [M, 5] in grams, NaN in
    targets that could not be learned."""
    scaler = TargetScaler.fit(mass_NT, "log1p")
    mean_F, sd_F = feature_NF[:, :NUMBERS].mean(0), np.maximum(feature_NF[:, :NUMBERS].std(0), SMALLEST_SD)

    def scaled(raw_NF: FloatArray) -> Tensor:
        numbers = (raw_NF[:, :NUMBERS] - mean_F) / sd_F
        return torch.from_numpy(np.column_stack([numbers, raw_NF[:, NUMBERS:]])).float()

    net = TeacherNet(config)
    optimiser = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    feature, mass, weight = scaled(feature_NF), torch.from_numpy(mass_NT).float(), torch.from_numpy(weight_N).float()
    for epoch in range(config.epochs):
        check_stop(should_stop, f"{epoch} of the teacher's {config.epochs} epochs")
        optimiser.zero_grad()
        terms = ratio_terms(
            net(feature), mass, weight, scaler, total=TOTAL_WEIGHT, ratio=RATIO_WEIGHT, delta=HUBER_DELTA
        )
        torch.stack(list(terms.values())).sum().backward()
        optimiser.step()
    with torch.inference_mode():
        taught_MT = reconstruct(net(scaled(asked_MF)).double(), scaler).numpy()
    if not np.isfinite(taught_MT).all():
        raise FitError(f"a teacher's masses must be finite, got others at teacher_lr={config.lr}; choose a lower one")
    learned_T = learned_targets(~np.isnan(mass_NT))
    return taught_MT if learned_T.all() else np.where(learned_T, taught_MT, np.nan)
