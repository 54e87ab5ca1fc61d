"""The demo several times over: medians of its figures, with the hardware.

    python benchmarks/end_to_end.py [RUNS]

Each run is ``mxfast demo --json`` in a process of its own, with the simulated gateway in
another one on the same machine.
"""

import json
import os
import platform
import statistics
import subprocess
import sys


def main() -> None:
    """Run the demo and print minimum, median and maximum of each figure."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    command = [sys.executable, "-m", "mxfast", "demo", "--json"]
    results = []
    for _ in range(runs):
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
        )
        results.append(json.loads(done.stdout))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{runs} runs of: mxfast demo --json")
    print(f"{'':24}{'minimum':>14}{'median':>14}{'maximum':>14}")
    for key in ("values_per_second", "cpu_us_per_value", "events_per_second", "events"):
        figures = [result[key] for result in results]
        row = (min(figures), statistics.median(figures), max(figures))
        print(f"{key:24}" + "".join(f"{figure:14,.3f}" for figure in row))


if __name__ == "__main__":
    main()
