"""Foreign weight files: what is read, and that nothing in them ever runs."""

import argparse
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from mmim.errors import CheckpointError
from mmim.interop.files import ALLOWED, read_weights

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2)}


class Runs:
    """Something whose unpickling runs a command."""

    def __init__(self, function, *args) -> None:
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def write(path: Path, content: object, **options) -> Path:
    torch.save(content, path, **options)
    return path


def attacks(marker: Path) -> dict[str, object]:
    return {
        "os.system": Runs(os.system, f"touch {marker}"),
        "eval": Runs(eval, f"open({str(marker)!r}, 'w')"),
        "open": Runs(open, str(marker), "w"),
        "subprocess": Runs(subprocess.Popen, ["touch", str(marker)]),
        "a class of its own": Toucher(marker),
    }


class Toucher:
    """A class that writes a file when it gets its state back."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __setstate__(self, state) -> None:
        Path(state["marker"]).touch()


@pytest.mark.parametrize("attack", ["os.system", "eval", "open", "subprocess", "a class of its own"])
@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle", "in the arguments"])
def test_a_file_that_would_run_something_is_refused_and_runs_nothing(attack, form, tmp_path):
    marker, file = tmp_path / "ran", tmp_path / "attack.pth"
    evil = attacks(marker)[attack]
    if form == "bare pickle":
        file.write_bytes(pickle.dumps({"model": STATE, "evil": evil}, protocol=2))
    elif form == "in the arguments":
        write(file, {"model": STATE, "args": argparse.Namespace(evil=evil)})
    else:
        write(file, {"model": STATE, "evil": evil}, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError, match=r"can't be read: it wants to build .*, which is no weight") as refused:
        read_weights(file)
    assert "\n" not in str(refused.value)
    assert not marker.exists()


def test_the_attack_of_this_test_would_run_elsewhere(tmp_path):
    marker = tmp_path / "ran"
    pickle.loads(pickle.dumps(attacks(marker)["open"])).close()
    assert marker.exists()


def test_the_refusal_names_what_the_file_asked_for(tmp_path):
    with pytest.raises(CheckpointError, match=r"it wants to build (posix|nt)\.system,"):
        read_weights(write(tmp_path / "x.pt", {"model": STATE, "evil": Runs(os.system, "true")}))


def test_what_other_packages_allow_is_not_allowed_here(tmp_path):
    marker, file = tmp_path / "ran", tmp_path / "x.pt"
    write(file, {"model": STATE, "evil": Toucher(marker)})
    with torch.serialization.safe_globals([Toucher]):
        before = set(torch.serialization.get_safe_globals())
        with pytest.raises(CheckpointError, match="Toucher"):
            read_weights(file)
        assert set(torch.serialization.get_safe_globals()) == before
    assert not marker.exists()


def test_a_legacy_tar_is_refused_and_runs_nothing(tmp_path):
    marker, file = tmp_path / "ran", tmp_path / "old.pth"
    with tarfile.open(file, "w") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(Runs(os.system, f"touch {marker}"), protocol=2)
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    with pytest.raises(CheckpointError, match="can't be read"):
        read_weights(file)
    assert not marker.exists()


def test_a_torchscript_archive_is_refused(tmp_path):
    file = tmp_path / "script.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("script/constants.pkl", pickle.dumps(()))
        archive.writestr("script/data.pkl", pickle.dumps(Runs(os.system, "true"), protocol=2))
        archive.writestr("script/version", "3\n")
    with pytest.raises(CheckpointError, match="can't be read"):
        read_weights(file)


@pytest.mark.parametrize("legacy", [False, True])
def test_arguments_with_numpy_numbers_are_read(legacy, tmp_path):
    args = argparse.Namespace(
        lr=np.float64(1e-3),
        steps=np.int64(3),
        flag=np.bool_(True),
        kind=np.dtype("float32"),
        betas=(0.9, 0.95),
        out=None,
    )
    content = {"model": STATE, "args": args, "best": np.float32(0.5), "epoch": 1}
    weights = read_weights(write(tmp_path / "x.pth", content, _use_new_zipfile_serialization=not legacy))
    assert weights.settings == vars(args)
    assert_close(dict(weights.tensors), STATE)


@pytest.mark.parametrize(
    ("kind", "data"), [("V1000", ()), ("V1", (b"x",)), ("S1", (b"x",)), ("f8", ()), ("f8", (b"x",))]
)
def test_a_scalar_that_is_no_number_of_its_bytes_is_refused(kind, data, tmp_path):
    """One without data would take as much memory as its kind names."""
    scalar = np.float64(0).__reduce__()[0]
    file = write(tmp_path / "x.pth", {"model": STATE, "best": Runs(scalar, Runs(np.dtype, kind), *data)})
    with pytest.raises(CheckpointError, match=r"can't be read: (a NumPy \S+ of 1 bytes is no number|.* 'data')\.$"):
        read_weights(file)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(1, 10**8 + 1, 192),
        torch.zeros(3).as_strided((2, 2), (1, 1)),
        torch.zeros(3).to_sparse(),
        torch.zeros(3, device="meta"),
    ],
    ids=["expanded", "overlapping", "sparse", "without numbers"],
)
def test_a_tensor_with_numbers_that_are_not_in_the_file_is_refused(tensor, tmp_path):
    file = write(tmp_path / "x.pth", {"model": STATE | {"b": tensor}})
    with pytest.raises(CheckpointError, match="'b' is sparse, or has more numbers than are stored"):
        read_weights(file)


def test_a_view_of_what_is_stored_is_read(tmp_path):
    state = {"whole": torch.arange(6.0), "turned": torch.arange(6.0).reshape(2, 3).T, "part": torch.arange(6.0)[2:4]}
    assert_close(dict(read_weights(write(tmp_path / "x.pth", state)).tensors), state)


def test_a_dict_that_holds_itself_is_no_state_dict(tmp_path):
    content = {"epoch": 3}
    content["self"] = content
    with pytest.raises(CheckpointError, match="holds no state dict"):
        read_weights(write(tmp_path / "x.pth", content))


def test_a_configuration_of_yacs_is_read_as_plain_data(tmp_path, monkeypatch):
    module = type(sys)("yacs.config")
    module.CfgNode = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    monkeypatch.setitem(sys.modules, "yacs", type(sys)("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    config = module.CfgNode(MODEL=module.CfgNode(TYPE="vit"))
    config.__dict__["__immutable__"] = True
    weights = read_weights(write(tmp_path / "simmim.pth", {"model": STATE, "config": config}))
    assert_close(dict(weights.tensors), STATE)


def test_the_list_of_what_is_allowed_is_this_one():
    """A change here is a change of what a stranger's file may call: mind it."""
    names = {entry[1] if isinstance(entry, tuple) else f"{entry.__module__}.{entry.__name__}" for entry in ALLOWED}
    assert {name for name in names if not name.startswith("numpy.dtypes.")} == {
        "argparse.Namespace",
        "numpy.dtype",
        "numpy._core.multiarray.scalar",
        "numpy.core.multiarray.scalar",
        "yacs.config.CfgNode",
    }
    assert all(issubclass(entry, np.dtype) for entry in ALLOWED if "dtypes" in getattr(entry, "__module__", ""))


@pytest.mark.parametrize(
    ("content", "about"),
    [
        (STATE, ()),
        (OrderedDict(STATE), ()),
        ({"model": STATE}, ("'model'",)),
        ({"state_dict": STATE, "epoch": 3}, ("'state_dict' (beside it epoch)",)),
        ({"module": {f"module.{k}": v for k, v in STATE.items()}}, ("'module'", "the prefix 'module.' of every name")),
        ({"state_dict": {"model": STATE}}, ("'state_dict'", "'model'")),
    ],
    ids=["bare", "ordered", "model", "state_dict", "module twice", "nested"],
)
def test_wrappers_with_one_reading_are_unwrapped_and_named(content, about, tmp_path):
    weights = read_weights(write(tmp_path / "x.pth", content))
    assert_close(dict(weights.tensors), STATE)
    assert weights.about == about


def test_an_optimiser_beside_the_weights_is_no_second_reading(tmp_path):
    layer = torch.nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    content = {"model": STATE, "optimizer": optimiser.state_dict(), "scaler": {"scale": 2.0}}
    assert read_weights(write(tmp_path / "x.pth", content)).about == ("'model' (beside it optimizer, scaler)",)


def test_of_several_state_dicts_one_must_be_named(tmp_path):
    file = write(tmp_path / "x.pth", {"student": STATE, "teacher": {"b": torch.ones(1)}})
    with pytest.raises(
        CheckpointError, match=r"state dicts under 'student', 'teacher' .* Choose one with --state NAME"
    ):
        read_weights(file)
    assert list(read_weights(file, "teacher").tensors) == ["b"]
    with pytest.raises(CheckpointError, match="no state dict --state 'mean'"):
        read_weights(file, "mean")


def test_a_prefix_of_some_names_stays(tmp_path):
    state = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert list(read_weights(write(tmp_path / "x.pth", state)).tensors) == ["module.a", "b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, "holds no state dict"),
        ([1, 2], "holds no state dict"),
        ({}, "holds no state dict"),
        (torch.ones(2), "holds no state dict"),
    ],
)
def test_a_file_without_a_state_dict_is_refused(content, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        read_weights(write(tmp_path / "x.pth", content))


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.bin"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04broken", struct.pack("<Q", 1 << 40)])
def test_a_damaged_file_is_one_line(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name} can't be read: ") as refused:
        read_weights(tmp_path / name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_file_of_tensors_is_one_line_or_read(zipped, tmp_path):
    file, rng = write(tmp_path / "x.pth", {"model": STATE}, _use_new_zipfile_serialization=zipped), Random(0)
    whole = file.read_bytes()
    cut = [whole[:length] for length in (1, 2, 18, 19, 40, len(whole) // 2, len(whole) - 1)]
    flipped = [bytes(byte if rng.random() > 0.004 else rng.randrange(256) for byte in whole) for _ in range(30)]
    for content in cut + flipped:
        file.write_bytes(content)
        with suppress(CheckpointError):
            read_weights(file)
    file.write_bytes(cut[2])
    with pytest.raises(CheckpointError, match=r"x\.pth can't be read: .+\.$"):
        read_weights(file)


def test_a_missing_file_and_a_strange_suffix_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="There is no file"):
        read_weights(tmp_path / "x.pth")
    (tmp_path / "x.npz").touch()
    with pytest.raises(CheckpointError, match="is no weight file by its name"):
        read_weights(tmp_path / "x.npz")


def test_a_folder_in_one_file_or_in_shards(tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": 3}')
    save_file(STATE, tmp_path / "model.safetensors")
    whole = read_weights(tmp_path)
    assert whole.config == {"hidden_size": 3}
    digest = whole.digest()
    (tmp_path / "model.safetensors").unlink()
    for number, (name, tensor) in enumerate(STATE.items()):
        torch.save({name: tensor}, tmp_path / f"part-{number}.bin")
    index = {"weight_map": {name: f"part-{number}.bin" for number, name in enumerate(STATE)}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    parts = read_weights(tmp_path)
    assert_close(dict(parts.tensors), dict(whole.tensors))
    assert parts.digest() != digest


@pytest.mark.parametrize("name", ["../secret.bin", "/etc/passwd", 7])
def test_an_index_that_leads_out_of_its_folder_is_refused(name, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="names no files of its own folder"):
        read_weights(tmp_path)


def test_a_folder_without_weights_or_config_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="has no weights: it needs one of"):
        read_weights(tmp_path)
    save_file(STATE, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"config\.json can't be read"):
        read_weights(tmp_path)
