"""`make gpu`: what this project does on a GPU, checked and measured on any NVIDIA machine in at most 8 minutes.

    python tests/benchmarks/check_gpu.py [FOLDER] [--device cpu --tiny] [--only CHECK ...]

Each check runs the product's own code in a process and a time limit of its own; what fails or crashes stops no other.
FOLDER (runs/gpu) gets gpu.md and gpu.json: card, driver, torch, status of each check, numbers with repeats and range;
and logs/, what each process has printed. Neither network nor weights of a hub: backbones have random weights, the
pasture is drawn small. Exit code 1 if a check failed, 2 where there is no GPU. `--device cpu --tiny` rehearses it.
"""

from __future__ import annotations

import sys

from gpu_checks.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], __doc__))
