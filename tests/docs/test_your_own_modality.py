"""The tutorial does what it says: its blocks run in order, and its numbers are true."""

import re
import tomllib
from pathlib import Path

import pytest

from mmim import testing
from mmim.modality import Modality
from tests.environment import Environment

ROOT = Path(__file__).parents[2]
DOC = ROOT / "docs" / "your-own-modality.md"
LAUNCHERS = {"sh": ("bash", "-euo", "pipefail", "-c"), "python": ("python", "-c")}


def blocks() -> list[tuple[str, str]]:
    """The language and the text of each block that is to run."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", DOC.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [(language, text) for language, text in found if language in LAUNCHERS]


@pytest.mark.slow
def test_every_block_runs_in_order(tmp_path):
    run_blocks(blocks(), tmp_path)


def run_blocks(found, folder):
    """In a folder that is like a checkout where it matters, in an environment of its own."""
    environment = Environment.make(folder / "environment")
    work = folder / "work"
    work.mkdir()
    (work / "recipes").symlink_to(ROOT / "recipes")
    for language, text in found:
        environment.run(*LAUNCHERS[language], text, cwd=work, timeout=600)
    assert (work / "heldout.parquet").is_file()
    assert (work / "look" / "thermal.png").is_file()


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    section = DOC.read_text().split(f"\n## {heading}")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_table_of_our_own_adapters_is_true():
    table = {name: (file, int(lines)) for name, file, lines in rows("How long ours are")}
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["mmim.modalities"]
    assert table.keys() == about.keys()
    for name, (file, lines) in table.items():
        assert len((ROOT / file).read_text().splitlines()) == lines, name
        assert about[name].startswith(file.removesuffix(".py").replace("/", ".") + ":")


def test_the_table_of_methods_names_methods_and_checks_that_there_are():
    checks = {check.__name__ for check in testing.MODALITY_CHECKS}
    for methods, *_, proof in rows("2. The file, method by method"):
        assert all(name in {*dir(Modality), *Modality.__annotations__} for name in re.findall(r"\w+", methods))
        assert proof == "" or proof in checks
