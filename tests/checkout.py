"""A copy of what a clone of the repository holds: no file that a build has made."""

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
UNOPTIMISED = "-O0"
"""MXFAST_CFLAGS for a build that need not be fast: it takes a fifth of the time."""

_MADE = shutil.ignore_patterns("_generated", "_contract*", "*.so", "__pycache__", "*.egg-info")


def copy_checkout(folder: Path) -> Path:
    """Copy the checkout into a folder and return where it is."""
    copy = folder / "checkout"
    for name in ("src", "tests", "proto", "docs", "benchmarks", "fuzz", "tools"):
        shutil.copytree(ROOT / name, copy / name, ignore=_MADE)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    return copy
