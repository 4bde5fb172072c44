"""What is installed: one top-level name, every script and every migration."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from credits_fast.servers.scripts import SCRIPTS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


def test_the_wheel_holds_everything_and_nothing_beside_it(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()

    assert {"credits_fast"} == {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert {f"credits_fast/lua/{name}.lua" for name in SCRIPTS} <= {*names}
    for folder, pattern in (
        ("benchmarks", "*.py"),
        ("benchmarks", "*.lua"),
        ("lua/shared", "*.lua"),
        ("migrations", "**/*.py"),
        ("sync", "*.py"),
    ):
        expected = {
            f"credits_fast/{path.relative_to(ROOT)}"
            for path in (ROOT / folder).glob(pattern)
            if "__pycache__" not in path.parts
        }
        assert expected
        assert expected <= {*names}
    assert "credits_fast/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_source_distribution_can_be_built_from(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.split("/", 1)[1] for name in opened.getnames() if "/" in name}

    assert {"pyproject.toml", "README.md", "LICENSE"} <= names
    assert {f"credits_fast/lua/{name}.lua" for name in SCRIPTS} <= names
