"""What ``import mxfast`` costs, against what it cannot do without: CPU of whole processes.

    python benchmarks/imports.py [ROUNDS]

Both in turn, each in a process of its own; the figure is the median of the ratios of neighbours.
Byte code must be cached: in an environment with PYTHONDONTWRITEBYTECODE it never would be, so
that is left out.
"""

import os
import platform
import resource
import statistics
import subprocess
import sys

BASE = "import grpc, numpy"
OURS = "import mxfast"
LEFT_OUT = "PYTHONDONTWRITEBYTECODE"


def cpu(code: str) -> float:
    """Return the seconds of CPU that a process with this code takes."""
    environment = {key: value for key, value in os.environ.items() if key != LEFT_OUT}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 31
    cpu(OURS)
    pairs = [(cpu(BASE), cpu(OURS)) for _ in range(rounds)]
    base, ours = (statistics.median(side) * 1000 for side in zip(*pairs, strict=True))
    ratio = statistics.median(ours / base for base, ours in pairs)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{BASE}: {base:.0f} ms; {OURS}: {ours:.0f} ms; ratio {ratio:.3f}, {rounds} rounds")


if __name__ == "__main__":
    main()
