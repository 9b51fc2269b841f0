import csv
import hashlib
import importlib
import json
import multiprocessing

import pytest

from mmim.data.world.build import build, cache_folder, ensure_world
from mmim.data.world.scene import FACTORS, scenes, split_of, train_and_heldout
from mmim.errors import DataError

DEPICTERS = '''
from dataclasses import dataclass

@dataclass(frozen=True)
class Numbers:
    """Writes the nuisance; fails at one scene; counts its calls in a file."""

    suffix: str = ".txt"
    fails_at: int = -1
    calls: str = ""

    def depict(self, scene, path):
        if scene.number == self.fails_at:
            raise RuntimeError(f"no ink for scene {scene.number}")
        if self.calls:
            with open(self.calls, "a") as file:
                file.write(f"{scene.number}\\\\n")
        path.write_text(f"{scene.labels} {scene.nuisance(self.suffix).random(3)}")

def ensure(scenes, depicters):
    from mmim.data.world.build import ensure_world
    ensure_world(scenes, depicters, workers=1)
'''


@pytest.fixture
def helpers(tmp_path_factory, monkeypatch):
    """A module that spawned processes can import, too, however pytest imports this one."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "world_depicters.py").write_text(DEPICTERS.replace("\\\\", "\\"))
    monkeypatch.syspath_prepend(folder)
    return importlib.import_module("world_depicters")


def content(folder):
    """Every file of a folder, by name, as a hash."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_files_and_index_pair_by_stem_on_the_side_of_their_scene(tmp_path, helpers):
    world = scenes(12, seed=0)
    depicters = {"one": helpers.Numbers(".one"), "two": helpers.Numbers(".two")}
    build(tmp_path / "world", world, depicters, workers=1)
    for split in ("train", "heldout"):
        expected = [scene for scene in world if split_of(scene) == split]
        with (tmp_path / "world" / split / "index.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["id", *FACTORS]
        assert [(row.pop("id"), row) for row in rows] == [(f"{s.number:05d}", s.labels) for s in expected]
        for suffix in (".one", ".two"):
            found = {file.stem for file in (tmp_path / "world" / split).glob(f"*{suffix}")}
            assert found == {f"{scene.number:05d}" for scene in expected}


def test_a_build_is_equal_to_the_byte_whatever_the_number_of_workers(tmp_path, helpers):
    depicters = {"numbers": helpers.Numbers()}
    one, two, three = (
        content(build(tmp_path / str(workers), scenes(9, seed=0), depicters, workers=workers)) for workers in (1, 2, 3)
    )
    assert one == two == three


def test_building_again_draws_nothing(tmp_path, helpers):
    calls = tmp_path / "calls"
    depicters = {"numbers": helpers.Numbers(calls=str(calls))}
    for _ in range(2):
        build(tmp_path / "world", scenes(5, seed=0), depicters, workers=1)
    assert len(calls.read_text().splitlines()) == 5


@pytest.mark.parametrize("workers", [1, 2])
def test_a_build_that_fails_leaves_nothing(tmp_path, helpers, workers):
    depicters = {"numbers": helpers.Numbers(fails_at=6)}
    with pytest.raises(RuntimeError, match="no ink for scene 6"):
        build(tmp_path / "world", scenes(9, seed=0), depicters, workers=workers)
    assert list(tmp_path.iterdir()) == []


def test_a_build_never_writes_over_something_else(tmp_path, helpers):
    depicters = {"numbers": helpers.Numbers()}
    build(tmp_path / "world", scenes(3, seed=0), depicters, workers=1)
    before = content(tmp_path / "world")
    with pytest.raises(DataError, match="Use another folder, or remove it"):
        build(tmp_path / "world", scenes(4, seed=0), depicters, workers=1)
    assert content(tmp_path / "world") == before


def test_two_files_of_one_name_are_refused(tmp_path, helpers):
    with pytest.raises(DataError, match="two scenes have the same number"):
        build(tmp_path / "world", scenes(1, seed=0) * 2, {"a": helpers.Numbers()}, workers=1)
    with pytest.raises(DataError, match=r"two of a, b write \.txt, \.txt alike"):
        build(tmp_path / "world", scenes(1, seed=0), {"a": helpers.Numbers(), "b": helpers.Numbers()}, workers=1)


def test_worlds_of_other_scenes_or_depicters_have_other_places_in_the_cache(tmp_path, monkeypatch, helpers):
    monkeypatch.setenv("MMIM_CACHE", str(tmp_path))
    one, two = {"one": helpers.Numbers(".one")}, {"two": helpers.Numbers(".one")}
    asked = [(scenes(2, 0), one), (scenes(3, 0), one), (scenes(2, 1), one), (scenes(2, 0), two)]
    assert len({ensure_world(world, depicters, workers=1) for world, depicters in asked}) == 4
    assert ensure_world(*asked[0], workers=1).is_relative_to(tmp_path)


def test_two_processes_at_once_build_the_cached_world_once(tmp_path, monkeypatch, helpers):
    monkeypatch.setenv("MMIM_CACHE", str(tmp_path / "cache"))
    calls = tmp_path / "calls"
    world, depicters = train_and_heldout(6, 3, seed=0), {"numbers": helpers.Numbers(calls=str(calls))}
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=helpers.ensure, args=(world, depicters)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(calls.read_text().splitlines()) == 9


def test_what_a_killed_build_left_is_swept_from_the_cache(tmp_path, monkeypatch, helpers):
    monkeypatch.setenv("MMIM_CACHE", str(tmp_path))
    depicters = {"numbers": helpers.Numbers()}
    folder = ensure_world(scenes(2, seed=0), depicters, workers=1)
    passport = json.loads((folder / "world.json").read_text())
    assert passport["scenes"] == 2
    left_over = folder.parent / f".{folder.name}.partial-killed"
    (left_over / "world" / "train").mkdir(parents=True)
    ensure_world(scenes(2, seed=0), depicters, workers=1)
    assert not left_over.exists()


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.delenv("MMIM_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "mmim"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "mmim"
    monkeypatch.setenv("MMIM_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
