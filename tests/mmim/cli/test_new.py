"""`mmim new`: what it writes is a modality that keeps its contract as it stands."""

import subprocess
import sys
import tomllib

import pytest

from mmim.cli.main import main
from mmim.cli.new import KINDS, class_name
from mmim.parts import register
from mmim.testing import MODALITY_CHECKS, depicted, run
from tests.strangers import imported

LINES = 60
"""Of an adapter, at most: the issue's promise."""
NAMES = ("thermal", "thermal_cam", "electrocardiograph")


@pytest.fixture(scope="module", params=KINDS)
def project(request, tmp_path_factory):
    """A project of each kind."""
    out = tmp_path_factory.mktemp("new")
    main(["new", f"my_{request.param}", "--like", request.param, "--out", str(out)])
    return out / f"my_{request.param}"


@pytest.fixture(scope="module")
def modality(project):
    with imported(project / f"{project.name}.py") as module:
        kind = getattr(module, class_name(project.name))
        register(project.name)(kind)
        yield kind()


@pytest.fixture(scope="module")
def files(modality, tmp_path_factory):
    return depicted(modality, tmp_path_factory.mktemp("files"), 4)


@pytest.mark.parametrize("check", MODALITY_CHECKS, ids=lambda check: check.__name__)
def test_what_is_written_honours_the_contract(check, modality, files):
    run(check, modality, files)


def test_an_adapter_is_short_and_its_project_whole(project):
    assert {file.name for file in project.iterdir()} >= {
        f"{project.name}.py", f"test_{project.name}.py", "pyproject.toml", "README.md"
    }  # fmt: skip
    assert len((project / f"{project.name}.py").read_text().splitlines()) <= LINES
    about = tomllib.loads((project / "pyproject.toml").read_text())
    points_to = about["project"]["entry-points"]["mmim.modalities"][project.name]
    assert points_to == f"{project.name}:{class_name(project.name)}"
    for file in project.glob("*.*"):
        assert "newname" not in file.read_text().lower()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_formatted_and_clean(kind, name, tmp_path):
    pytest.importorskip("ruff", reason="ruff is not installed")
    main(["new", name, "--like", kind, "--out", str(tmp_path)])
    for command in (["format", "--check"], ["check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "."], cwd=tmp_path / name, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_it_says_what_comes_next(tmp_path, capsys):
    main(["new", "thermal", "--like", "image", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    for command in ("pip install -e ", "mmim check thermal", "mmim sample-data", "--use image,thermal"):
        assert command in said


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("2d", "use lower-case letters"),
        ("Thermal", "use lower-case letters"),
        ("thermal-cam", "use lower-case letters"),
        ("../thermal", "use lower-case letters"),
        ("class", "no word of Python"),
        ("none", "no word of Python"),  # its class would be None
        ("joint", "not id, joint, present"),
        ("keys", "no attribute of torch's ModuleDict"),
        ("image", "A modality 'image' is installed already"),
        ("json", "is that of a module or package already"),
        ("torch", "is that of a module or package already"),
        ("pillow", "is that of a module or package already"),
        ("tensor", "called as one that the file imports"),
    ],
)
def test_a_name_that_can_t_be_is_refused_in_one_line(name, reason, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["new", name, "--like", "image", "--out", str(tmp_path)])
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert said.count("\n") == 1
    assert reason in said
    assert not list(tmp_path.iterdir())


def test_a_folder_that_exists_is_left_alone(tmp_path, capsys):
    (tmp_path / "thermal").mkdir()
    with pytest.raises(SystemExit):
        main(["new", "thermal", "--like", "image", "--out", str(tmp_path)])
    assert "exists: use another name, or another --out" in capsys.readouterr().err
    assert not list((tmp_path / "thermal").iterdir())
