"""The example plugins, installed with pip into an environment of their own."""

import shutil
from pathlib import Path

import pytest

from tests.environment import Environment

collect_ignore_glob = ["*/test_*.py"]  # the plugins' own tests run where the plugins are installed


@pytest.fixture(scope="session")
def projects(tmp_path_factory) -> Path:
    """Copies of the projects, since an install leaves its traces in a folder."""
    folder = tmp_path_factory.mktemp("plugins")
    for project in Path(__file__).parent.glob("*/pyproject.toml"):
        shutil.copytree(project.parent, folder / project.parent.name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="session")
def environment(projects, tmp_path_factory) -> Environment:
    """An environment with the three."""
    made = Environment.make(tmp_path_factory.mktemp("environment"))
    made.run("pip", "install", *(str(project) for project in sorted(projects.iterdir())), cwd=projects)
    return made
