"""One fold of a stack on features that are there: seconds on one core, by regressor, sizes and layers.

    python tests/benchmarks/bench_stack.py

286 training rows of 357, 28 dates; halves side by side, mean + max + min + GeM of ViT-S tokens (3072 features a block).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
from dataclasses import replace

import numpy as np

from biomass_models.families import registry
from biomass_models.families.speed import Speed
from biomass_models.families.stack.config import StackConfig
from biomass_models.families.stack.levels import fit_stack
from biomass_models.targets import from_components, weight_T
from biomass_models.training.fit import inner_folds

ROWS, DATES, FEATURES = 286, 28, 3072
NINE = StackConfig(more_sizes="336+448")
CASES = {
    "ridge, 3 sizes x 3 taps": NINE,
    "ridge, penalty chosen, 3 x 3": replace(NINE, choose_penalty=True),
    "ridge, 1 x 3": replace(NINE, more_sizes=""),
    "kernel, 1 x 3": replace(NINE, more_sizes="", regressor="kernel"),
    "svr, 1 x 3": replace(NINE, more_sizes="", regressor="svr"),
    "trees, 1 x 3": replace(NINE, more_sizes="", regressor="trees"),
}


def main() -> None:
    rng = np.random.default_rng(0)
    component = rng.gamma(1.2, 12.0, (ROWS, 3))
    inner_M = inner_folds(rng.integers(DATES, size=ROWS), NINE.inner_folds, 0)
    block_BMF = [
        (component @ rng.normal(size=(3, FEATURES)) / 20 + rng.normal(size=(ROWS, FEATURES))).astype(np.float32)
        for _ in range(9)
    ]
    speed = Speed(step_seconds=0.0, operations=1.0)
    print(f"{'':32}{'seconds':>10}{'estimated':>12}")
    for name, config in CASES.items():
        blocks = block_BMF[: 3 * (1 + len([size for size in config.more_sizes.split("+") if size]))]
        started = time.perf_counter()
        stack, _ = fit_stack(config, blocks, from_components(*component.T), inner_M, weight_T, seed=0)
        stack.predict([block[:71] for block in blocks])
        seconds = time.perf_counter() - started
        estimated = registry.model("stack").fold_seconds(config, ROWS, speed)
        print(f"{name:32}{seconds:10.2f}{estimated:12.2f}")


if __name__ == "__main__":
    main()
