"""Prints, for each group of benchmarks, how the codec compares with the others in the same run."""

from typing import Any

import pytest


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print each group's ratios of medians; the codec's own benchmark is named ``mxfast``."""
    session: Any = getattr(config, "_benchmarksession", None)
    groups: dict[str, dict[str, float]] = {}
    for each in session.benchmarks if session else []:
        if each.stats.rounds:
            groups.setdefault(each.group, {})[each.params["way"]] = each.stats.median
    if not groups:
        return
    terminalreporter.section("mxfast against the others, ratios of medians in this run")
    for group, medians in groups.items():
        ours = medians.pop("mxfast", None)
        if ours is None:
            continue
        terminalreporter.write_line(f"{group}: {ours * 1e6:.2f} us")
        for way, median in sorted(medians.items(), key=lambda item: item[1]):
            terminalreporter.write_line(f"    {median / ours:9.2f} x our time: {way}")
