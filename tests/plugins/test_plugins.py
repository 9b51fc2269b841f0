"""Three modalities of strangers: short, true to the contract, and trained in one encoder with ours."""

import importlib.metadata
import json
from dataclasses import replace
from pathlib import Path

import pytest

from mmim.data.world import scenes
from mmim.parts import register
from mmim.testing import MODALITY_CHECKS, depicted, run
from tests.strangers import imported

FOLDER = Path(__file__).parent
PLUGINS = ("relief", "inertial", "events")
LINES = 60


@pytest.fixture(scope="module", params=PLUGINS)
def modality(request):
    """Each of them, as no package: from its file."""
    folder = FOLDER / request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)  # events.py imports its target from beside it
        with imported(folder / f"{request.param}.py") as module:
            kind = getattr(module, request.param.capitalize())
            register(request.param)(kind)
            yield kind()


@pytest.fixture(scope="module")
def files(modality, tmp_path_factory):
    return depicted(modality, tmp_path_factory.mktemp("files"), 4)


@pytest.mark.parametrize("check", MODALITY_CHECKS, ids=lambda check: check.__name__)
def test_a_plugin_honours_the_contract(check, modality, files):
    run(check, modality, files)


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_plugin_is_short_and_imports_no_modality(plugin):
    for file in (FOLDER / plugin).glob("*.py"):
        text = file.read_text()
        assert len(text.splitlines()) <= LINES
        assert "modalities" not in text.replace("MODALITY_CHECKS", "")


def test_events_are_written_from_the_records_alone():
    text = "".join((FOLDER / "events" / file).read_text() for file in ("events.py", "onsets.py"))
    assert "mmim.targets" not in text
    assert "mmim.data.series import" not in text
    assert "class Events(Modality)" in text
    assert "class Onsets(Target)" in text


def test_no_plugin_is_installed_here():
    found = {entry.name for entry in importlib.metadata.entry_points(group="mmim.modalities")}
    assert not found & set(PLUGINS)


def test_a_scene_is_depicted_alike_each_time_and_otherwise_with_another_nuisance(modality, tmp_path):
    (scene,) = scenes(1, seed=3)
    first, again = (tmp_path / f"{name}{modality.suffix}" for name in ("first", "again"))
    other = tmp_path / f"other{modality.suffix}"
    for path in (first, again):
        modality.depict(scene, path)
    modality.depict(replace(scene, redepict=1), other)
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()


# Installed


def test_installed_plugins_are_listed(environment, projects):
    said = environment.run("mmim", "list", cwd=projects).stdout
    for name in (*PLUGINS, "onsets"):
        assert f"  {name} " in said
    assert "can't be imported" not in said


@pytest.mark.slow
def test_their_own_tests_pass_where_they_are_installed(environment, projects):
    for name in PLUGINS:
        environment.run("pytest", "-q", "-p", "no:cacheprovider", "-p", "no:dash", str(projects / name), cwd=projects)


RECIPE = """
from events import Events
from inertial import Inertial
from onsets import Onsets
from relief import Relief

from mmim import run
from mmim.decoders.self_attention import SelfAttentionDecoder
from mmim.encoders.joint import JointEncoder
from mmim.masking.budget import Ratio
from mmim.masking.random import RandomMasking
from mmim.model import Task
from mmim.objectives.contrastive import Contrastive
from mmim.objectives.reconstruction import Reconstruction
from mmim.targets.pixels import Pixels
from mmim.training.optimiser import AdamW
from mmim.training.recipe import Recipe
from modalities.image import Image

MODALITIES = {
    "image": Image(size=(32, 32), patch=8, flip=False),
    "relief": Relief(size=(32, 32), patch=8, flip=False),
    "inertial": Inertial(length=128, patch=16),
    "events": Events(events=32),
}
TARGETS = {"image": Pixels(), "relief": Pixels(error="absolute"), "inertial": Pixels(), "events": Onsets(kinds=3)}
FOUR = Recipe(
    name="four",
    modalities=MODALITIES,
    masking={name: RandomMasking() for name in MODALITIES},
    budget=Ratio(0.5, rounding="hidden_down"),
    encoder=JointEncoder(width=32, branch_depth=1, depth=1, heads=2, own_norms=True, modality_vectors=True),
    decoders={"joint": SelfAttentionDecoder(width=32, depth=1, heads=2, modality_vectors=True)},
    tasks={name: Task(modality=name, decoder="joint", target=TARGETS[name]) for name in MODALITIES},
    objective={"reconstruction": Reconstruction(), "contrastive": Contrastive()},
    optimiser=AdamW(base_lr=1e-3, per=0),
    epochs=1.0,
    batch=8,
    precision="fp32",
)

if __name__ == "__main__":
    run.main(FOUR, sizes={}, demo={})
"""


def last_loss(folder):
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])


@pytest.mark.slow
def test_they_train_with_images_in_one_encoder_the_same_on_two_processes(environment, tmp_path):
    (tmp_path / "four.py").write_text(RECIPE)
    say = environment.run("mmim", "sample-data", "--out", "world", "--scenes", "24", cwd=tmp_path).stdout
    assert all(name in say for name in PLUGINS)
    options = ["--data", "world/train", "--steps", "4", "--log-every", "1", "--workers", "0", "--threads", "1"]
    environment.run("accelerate", "launch", "four.py", *options, "--output", "one", cwd=tmp_path)
    two = ["torchrun", "--standalone", "--nproc_per_node", "2", "four.py", *options, "--output", "two"]
    environment.run(*two, cwd=tmp_path)
    one, other = last_loss(tmp_path / "one"), last_loss(tmp_path / "two")
    assert one["step"] == other["step"] == 4
    assert {f"reconstruction/{name}" for name in PLUGINS} <= one.keys()
    for name in (key for key in one if key == "loss" or key.startswith("reconstruction/")):
        assert other[name] == pytest.approx(one[name], rel=1e-4)
    assert {path.name for path in (tmp_path / "one").rglob("reconstruction-*.png")} == {
        f"reconstruction-{name}.png" for name in ("image", *PLUGINS)
    }

    embed = ["mmim", "embed", "--checkpoint", "one", "--data", "world/heldout", "--out", "heldout.parquet"]
    environment.run(*embed, cwd=tmp_path)
    columns = "import pyarrow.parquet as p; t = p.read_table('heldout.parquet'); print(t.num_rows, *t.column_names)"
    rows, *names = environment.run("python", "-c", columns, cwd=tmp_path).stdout.split()
    assert int(rows) == len(list((tmp_path / "world" / "heldout").glob("*.events.csv")))
    assert names == ["id", "present", "joint", "image", *PLUGINS]
