"""Every code block of the documentation runs, and every file it names exists."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.checkout import ROOT, UNOPTIMISED, copy_checkout

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [
    (document, language, code)
    for document in DOCUMENTS
    for language, code in BLOCK.findall(document.read_text())
]


def test_there_is_no_block_that_nothing_runs():
    assert {language for _, language, _ in BLOCKS} <= {"python", "sh", ""}
    plain = [document.name for document, language, _ in BLOCKS if not language]
    assert plain == ["architecture.md"]  # the list of rooms, checked below
    for document in DOCUMENTS:
        prose = BLOCK.sub("", document.read_text())
        assert not re.search(r"\n\n    \S", prose), f"{document.name} has an indented block"


@pytest.mark.parametrize("code", [code for _, language, code in BLOCKS if language == "python"])
def test_python_blocks_run(code, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_shell_blocks_run_in_a_fresh_clone(tmp_path):
    """The set-up as a newcomer does it; of the tests, only that they are found is looked at."""
    clone = copy_checkout(tmp_path)
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("VIRTUAL_ENV", "PYTHONPATH") and not key.startswith("PYTEST_")
    }
    environment["PYTEST_ADDOPTS"] = "--collect-only --quiet"
    environment["MXFAST_CFLAGS"] = UNOPTIMISED
    for _, language, code in BLOCKS:
        if language != "sh" or (code.startswith("make") and shutil.which("make") is None):
            continue
        done = subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", code],
            cwd=clone,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


def test_the_rooms_that_the_architecture_lists_are_there():
    (rooms,) = [code for document, language, code in BLOCKS if not language]
    names = re.findall(r"[\w./]+\.(?:py|pyx|pyi|pxd|pxi|toml)\b|(?<![.\w])\w+/", rooms)
    assert len(names) > 20
    for name in names:
        places = (ROOT, ROOT / "src", ROOT / "src" / "mxfast")
        assert any((place / name).exists() for place in places), name
