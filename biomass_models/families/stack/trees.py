"""Extra trees of scikit-learn, kept and read as plain arrays: a stored model is no pickle.

M training rows, N rows, F features, G goals, P nodes of all trees one after the other, K trees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor

from biomass_models.data.cell_weights import measured_alike
from biomass_models.families.stack.scaling import FloatsOf32
from biomass_models.targets import FloatArray

LEAF = -1  # child of a leaf


@dataclass(frozen=True)
class Forest:
    """One forest for each set of goals that were measured in the same rows; their trees stand one after the other."""

    feature_P: NDArray[np.int32]  # that a node splits
    threshold_P: FloatArray  # a row goes left where its feature is not above it
    left_P: NDArray[np.int32]  # places in P, LEAF in a leaf
    right_P: NDArray[np.int32]
    value_PG: FloatArray  # mean goals of a node; 0 for the goals of other forests
    root_K: NDArray[np.int32]  # first node of each tree
    weight_KG: FloatArray  # of a tree in the mean of a goal: 1 / trees of its forest, or 0

    @classmethod
    def fit(
        cls,
        feature_MF: FloatsOf32,
        goal_MG: FloatArray,
        weight_M: FloatArray,
        *,
        count: int,
        leaf: int,
        features: float,
        seed: int,
    ) -> Forest:
        """count trees a forest; leaf: rows in the smallest leaf; features: share of them that a node tries."""
        parts: dict[str, list[Any]] = {name: [] for name in cls.__dataclass_fields__}
        goals, nodes = goal_MG.shape[1], 0
        for columns, rows in measured_alike(goal_MG):
            forest = ExtraTreesRegressor(
                count, min_samples_leaf=leaf, max_features=features, random_state=seed % 2**32, n_jobs=1
            )
            goal_RG = goal_MG[np.ix_(rows, columns)]
            forest.fit(feature_MF[rows], goal_RG[:, 0] if len(columns) == 1 else goal_RG, sample_weight=weight_M[rows])
            for tree in (one.tree_ for one in forest.estimators_):
                parts["feature_P"].append(tree.feature)
                parts["threshold_P"].append(tree.threshold)
                for name, child in (("left_P", tree.children_left), ("right_P", tree.children_right)):
                    parts[name].append(np.where(child == LEAF, LEAF, child + nodes))
                value_PG, weight_G = np.zeros((tree.node_count, goals)), np.zeros(goals)
                value_PG[:, columns], weight_G[columns] = tree.value[:, :, 0], 1 / count
                parts["value_PG"].append(value_PG)
                parts["weight_KG"].append(weight_G[None])
                parts["root_K"].append(np.array([nodes]))
                nodes += tree.node_count
        whole = {name: np.concatenate(part) for name, part in parts.items()}
        for name in ("feature_P", "left_P", "right_P", "root_K"):
            whole[name] = whole[name].astype(np.int32)
        return cls(**whole)

    def predict(self, feature_NF: FloatsOf32) -> FloatArray:
        """[N, G]: all rows go down all trees at once, level by level."""
        row_N1 = np.arange(len(feature_NF))[:, None]
        node_NK = np.broadcast_to(self.root_K, (len(feature_NF), len(self.root_K)))
        while True:
            inner_NK = self.left_P[node_NK] != LEAF
            if not inner_NK.any():
                break
            goes_left_NK = feature_NF[row_N1, np.maximum(self.feature_P[node_NK], 0)] <= self.threshold_P[node_NK]
            child_NK = np.where(goes_left_NK, self.left_P[node_NK], self.right_P[node_NK])
            node_NK = np.where(inner_NK, child_NK, node_NK)
        return np.einsum("nkg,kg->ng", self.value_PG[node_NK], self.weight_KG)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What the constructor takes, by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}
