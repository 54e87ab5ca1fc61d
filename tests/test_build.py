"""The build: one source of field numbers, and what a distribution holds."""

import os
import random
import re
import subprocess
import sys
import tarfile
import zipfile

import pytest

from tests.checkout import ROOT, UNOPTIMISED, copy_checkout

PROTO_FILES = ["mxaccess_gateway.proto", "galaxy_repository.proto"]


def run(*command, cwd, **environment):
    result = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.returncode, result.stdout + result.stderr


@pytest.fixture
def checkout(tmp_path):
    return copy_checkout(tmp_path)


def shuffled(text, rng):
    """The same contract with other field numbers and enum values, some of two bytes' tags."""
    text = re.sub(r"^\s*reserved .*$", "", text, flags=re.MULTILINE)

    def renumber(block):
        is_enum = block[0].startswith("enum")
        numbers = iter(rng.sample(range(1, 120), 60))
        return re.sub(
            r"= (\d+);",
            # An enum's first value stays 0, as proto3 wants it.
            lambda m: m[0] if is_enum and m[1] == "0" else f"= {next(numbers)};",
            block[0],
        )

    return re.sub(r"^(?:message|enum) \w+ \{.*?^\}", renumber, text, flags=re.MULTILINE | re.DOTALL)


def test_a_codec_built_from_other_numbers_passes_the_same_tests(checkout, tmp_path):
    others = tmp_path / "proto"
    others.mkdir()
    rng = random.Random(4)
    for name in PROTO_FILES:
        text = (ROOT / "proto" / name).read_text()
        assert shuffled(text, rng) != text
        (others / name).write_text(shuffled(text, rng))
    code, output = run(
        *("setup.py", "build_ext", "--inplace"),
        cwd=checkout,
        MXFAST_PROTO_DIR=str(others),
        MXFAST_CFLAGS=UNOPTIMISED,
    )
    assert code == 0, output
    ours = (ROOT / "src/mxfast/_contract.pxd").read_text()
    assert (checkout / "src/mxfast/_contract.pxd").read_text() != ours

    where = "import mxfast._codec as c; print(c.__file__)"
    _, output = run("-c", where, cwd=checkout, PYTHONPATH=str(checkout / "src"))
    assert output.startswith(str(checkout))
    code, output = run(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_codec_encode.py"),
        *(
            "tests/test_codec_command.py",
            "tests/test_codec_decode.py",
            "tests/test_codec_values.py",
            "tests/test_codec_gateway.py",
        ),
        cwd=checkout,
        PYTHONPATH=str(checkout / "src"),
    )
    assert code == 0, output
    assert re.search(r"\d{3} passed", output), output


def entry_points(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith("entry_points.txt")]
        return archive.read(name)


def test_the_sdist_builds_a_wheel_with_types_and_without_c_source(checkout, tmp_path):
    # Without isolation: the build requirements are those of the development extra.
    code, output = run(
        *("-m", "build", "--no-isolation", "-o", str(tmp_path / "dist")),
        cwd=checkout,
        MXFAST_CFLAGS=UNOPTIMISED,
    )
    assert code == 0, output
    (sdist,) = (tmp_path / "dist").glob("*.tar.gz")
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with tarfile.open(sdist) as archive:
        in_sdist = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    in_wheel = set(zipfile.ZipFile(wheel).namelist())

    assert {f"proto/{name}" for name in PROTO_FILES} <= in_sdist
    assert {"setup.py", "src/mxfast/_codec.pyx", "src/mxfast/_wire.pxd"} <= in_sdist
    assert {"mxfast/py.typed", "mxfast/_codec.pyi", "mxfast/codec.py"} <= in_wheel
    assert "mxfast/_generated/mxaccess_gateway_pb2.pyi" in in_wheel
    assert {"mxfast_pytest/py.typed", "mxfast_pytest/asynchronous.py"} <= in_wheel
    assert b"[pytest11]\nmxfast_pytest = mxfast_pytest" in entry_points(wheel)
    assert any(name.startswith("mxfast/_codec.") and name.endswith(".so") for name in in_wheel)
    assert not [name for name in in_sdist | in_wheel if name.endswith(".c")]
    assert not [name for name in in_sdist if "_generated" in name or "_contract" in name]

    unpacked = tmp_path / "unpacked"
    zipfile.ZipFile(wheel).extractall(unpacked)
    script = "from mxfast import codec; print(codec.__file__, codec.all_finite([1.0]))"
    code, output = run("-c", script, cwd=tmp_path, PYTHONPATH=str(unpacked))
    assert code == 0, output
    assert output.split() == [str(unpacked / "mxfast" / "codec.py"), "True"]


def test_a_proto_folder_without_the_files_is_named(checkout, tmp_path):
    code, output = run("setup.py", "build_ext", cwd=checkout, MXFAST_PROTO_DIR=str(tmp_path))
    assert code != 0
    assert f"{tmp_path} has no mxaccess_gateway.proto and no galaxy_repository.proto" in output


def test_a_missing_compiler_stops_the_build(checkout):
    code, output = run("setup.py", "build_ext", "--inplace", cwd=checkout, CC="no-such-compiler")
    assert code != 0
    assert "no-such-compiler" in output
    assert not list((checkout / "src" / "mxfast").glob("*.so"))
