"""`biomass serve` under load: latency percentiles, errors and memory, with clients that come back when told to.

    python tests/benchmarks/bench_serve.py FOLDER [--clients 32] [--requests 20] [--queue 32] [--side 1000]

A server of its own with a blend of a probe and a density model on a tiny backbone; each client sends one photograph
after the other, each distinct by a trailing comment, to POST /predict. A 429 is no error: the client waits as long
as it says, and the wait counts. Memory is the resident set of the server, after a tenth of the requests and at the
end; it is to grow by 5 % at most. Exit code 1 for an error, or for more memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import numpy as np

from biomass_models.pasture.make import make_pasture

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/orchestration"))
from blended_study import finished_study  # noqa: E402
from test_all_rows import as_searched  # noqa: E402

GROWTH = 0.05  # of memory, at most
TIMEOUT = 600.0  # s, of a request


def served_study(folder: Path, side: int) -> Path:
    """A blend in a folder, made once."""
    if not (folder / "study/ensembles").exists():
        data = folder / "data"
        make_pasture(data, images=60, test_images=8, seed=0, width=side, height=side // 2)
        as_searched(finished_study(folder / "study", data, folder / "cache", ("probe", "density")), data)
        own = ("--data", str(data), "--cache", str(folder / "cache"), "--inline")
        command = [sys.executable, "-m", "orchestration", "ensemble", str(folder / "study"), *own]
        subprocess.run([*command, "--out", str(folder / "submission.csv")], cwd=ROOT, check=True, capture_output=True)
    return folder / "study"


def resident_mib(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


class Load:
    """What clients have seen."""

    def __init__(self, address: str, photographs: list[bytes], requests: int) -> None:
        self._address, self._photographs, self._requests = address, photographs, requests
        self.seconds: list[float] = []
        self.errors: list[str] = []
        self.told_to_wait = 0

    def client(self, number: int) -> None:
        with httpx2.Client(timeout=TIMEOUT, trust_env=False) as client:
            for count in range(self._requests):
                content = self._photographs[count % len(self._photographs)] + b"%d-%d" % (number, count)
                started = time.monotonic()
                try:
                    answer = self._asked(client, content)
                    if answer.status_code != 200 or answer.json()["photographs"][0]["unreadable"] is not None:
                        self.errors.append(answer.text[:200])
                except httpx2.HTTPError as error:
                    self.errors.append(repr(error))
                self.seconds.append(time.monotonic() - started)

    def _asked(self, client: httpx2.Client, content: bytes) -> httpx2.Response:
        while True:
            answer = client.post(self._address, files={"photographs": ("a.jpg", content, "image/jpeg")})
            if answer.status_code != 429:
                return answer
            self.told_to_wait += 1
            time.sleep(float(answer.headers["retry-after"]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--queue", type=int, default=32)
    parser.add_argument("--side", type=int, default=1000)
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    study = served_study(folder, asked.side)
    photographs = [path.read_bytes() for path in sorted((folder / "data/test").iterdir())]
    command = [sys.executable, "-m", "orchestration", "serve", str(study), "--queue", str(asked.queue), "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = json.loads("".join(iter(server.stdout.readline, "}\n")) + "}")["predict"]
        load = Load(address, photographs, asked.requests)
        clients = [threading.Thread(target=load.client, args=(number,)) for number in range(asked.clients)]
        started = time.monotonic()
        for client in clients:
            client.start()
        total = asked.clients * asked.requests
        while len(load.seconds) < total / 10:
            time.sleep(0.05)
        early = resident_mib(server.pid)
        for client in clients:
            client.join()
        wall, late = time.monotonic() - started, resident_mib(server.pid)
        server.terminate()
        code = server.wait()
    low, high, worst = np.percentile(load.seconds, (50, 95, 99))
    heads = [
        "clients",
        "requests",
        "a second",
        "median s",
        "95 %",
        "99 %",
        "told to wait",
        "errors",
        "MiB early",
        "MiB late",
    ]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    print(
        f"| {asked.clients} | {total} | {total / wall:.1f} | {low:.2f} | {high:.2f} | {worst:.2f} "
        f"| {load.told_to_wait} | {len(load.errors)} | {early:.0f} | {late:.0f} |"
    )
    for text in load.errors[:3]:
        print(f"error: {text}")
    return int(bool(load.errors) or late > early * (1 + GROWTH) or code != 0)


if __name__ == "__main__":
    sys.exit(main())
