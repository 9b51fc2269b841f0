"""What a modality learns of the corpus before a run goes with the model, from the first step to its user."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from torch.testing import assert_close

from mmim import checkpoint, run
from mmim.data.sources import find_samples
from mmim.embed import embed, read
from mmim.errors import CheckpointError, OptionError
from mmim.model import MaskedModel
from mmim.start import check_start
from tests.mmim.test_run import metrics
from tests.toy import TOY
from tests.words import WORDS, Words

OPTIONS = ("--workers", "0", "--threads", "1", "--batch", "4", "--log-every", "1", "--checkpoint-every", "1")
LINES = ["a red cat", "a blue cat sat on a mat", "no", "the mat is red and the cat is blue", "a", "no cat no mat"]


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "lines.words").write_text("\n".join(LINES) + "\n")
    (folder / "one.words").write_text("a single line\n")
    return folder


def start(data, output, *options):
    argv = ["--data", str(data), "--output", str(output), *OPTIONS, *options]
    run.main(WORDS, sizes={}, demo={}, argv=argv)
    return output


def test_a_checkpoint_carries_what_was_learnt_of_the_corpus(data, tmp_path):
    folder = start(data, tmp_path / "run", "--steps", "2")
    shutil.rmtree(data / ".dictionary")
    model = checkpoint.load(shutil.copytree(folder, tmp_path / "elsewhere"))
    assert set(" ".join(LINES).split()) < set(model.method.modalities["words"].words)
    copy = checkpoint.find(folder) / "words-dictionary"
    assert [file.name for file in copy.iterdir()] == ["words.json"]  # what lies beside it is not the model's
    assert json.loads((checkpoint.find(folder) / "config.json").read_text())["method"]["modalities"]["words"][
        "dictionary"
    ] == ("words-dictionary")


def test_the_recipe_of_a_run_says_what_was_asked_for(data, tmp_path):
    folder = start(data, tmp_path / "run", "--steps", "1")
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["modalities"]["words"]["dictionary"] is None


def test_a_run_goes_on_with_what_it_learnt_whatever_became_of_the_corpus(data, tmp_path):
    folder = start(data, tmp_path / "run", "--steps", "3", "--keep", "0")
    whole = metrics(folder)
    shutil.rmtree(folder / "checkpoints/step-3")
    shutil.rmtree(folder / "report")
    shutil.rmtree(data / ".dictionary")
    start(data, folder, "--steps", "3", "--keep", "0")
    assert [line["loss"] for line in metrics(folder)] == [line["loss"] for line in whole]
    assert not (data / ".dictionary").exists()  # nothing was learnt anew


def test_a_file_that_a_checkpoint_lost_is_named(data, tmp_path):
    folder = checkpoint.find(start(data, tmp_path / "run", "--steps", "1"))
    shutil.rmtree(folder / "words-dictionary")
    with pytest.raises(CheckpointError, match="words-dictionary is missing"):
        checkpoint.load(folder)


def test_a_run_starts_from_weights_of_an_equal_dictionary_and_of_no_other(data, tmp_path):
    first = start(data, tmp_path / "run", "--steps", "1")
    there = checkpoint.load(first).method.modalities["words"].dictionary
    other = shutil.copytree(there, tmp_path / "other")
    model = MaskedModel(replace(WORDS, modalities={"words": Words(dictionary=other)}))
    assert check_start(model, first).fresh == ()
    words = json.loads((other / "words.json").read_text())
    (other / "words.json").write_text(json.dumps(words[::-1]))
    with pytest.raises(
        OptionError, match=r"modalities\.words\.dictionary is .*words-dictionary there and .*other here"
    ):
        check_start(model, first)


def test_a_run_that_starts_from_another_takes_what_that_one_learnt(data, tmp_path, capsys):
    first = start(data, tmp_path / "run", "--steps", "1")
    (data / "one.words").write_text("a single cat\n")
    shutil.rmtree(data / ".dictionary")
    second = start(data, tmp_path / "second", "--steps", "1", "--init", str(first))
    assert "words takes dictionary from --init" in capsys.readouterr().out
    assert not (data / ".dictionary").exists()
    words = [checkpoint.load(folder).method.modalities["words"].words for folder in (first, second)]
    assert words[0] == words[1]
    start(data, second, "--steps", "2", "--init", str(first))


def test_padding_is_said_and_less_where_micro_batches_are_small(data, tmp_path):
    shares = {}
    for micro in ("4", "1"):
        folder = start(data, tmp_path / micro, "--steps", "4", "--micro-batch", micro)
        shares[micro] = [line["padding/words"] for line in metrics(folder)]
    assert shares["1"] == [0.0] * 4
    assert all(0 < share < 1 for share in shares["4"])


def test_micro_batches_of_like_length_give_the_loss_of_the_whole_batch(data, tmp_path):
    losses = [
        [line["loss"] for line in metrics(start(data, tmp_path / micro, "--steps", "3", "--micro-batch", micro))]
        for micro in ("4", "2")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_an_embedding_of_a_line_does_not_depend_on_longer_ones(data, tmp_path):
    model = checkpoint.load(start(data, tmp_path / "run", "--steps", "1"))
    samples = find_samples(data, model.method.modalities)
    vectors = [
        torch.from_numpy(embed(model, samples, read(samples, model.method.modalities, batch=size)).vectors["joint"])
        for size in (1, 7)
    ]
    assert_close(*vectors)


def test_toy_has_nothing_to_learn():
    assert TOY.modalities["toy"].prepare([]) is TOY.modalities["toy"]


def test_a_run_that_goes_on_outlives_the_checkpoint_it_went_on_from(data, tmp_path):
    folder = start(data, tmp_path / "run", "--steps", "6", "--keep", "0")
    for step in (3, 4, 5, 6):
        shutil.rmtree(folder / f"checkpoints/step-{step}")
    shutil.rmtree(folder / "report")
    start(data, folder, "--steps", "6", "--keep", "1")
    assert checkpoint.steps(folder / "checkpoints") == [6]
    assert checkpoint.load(folder).method.modalities["words"].words


def given(data, tmp_path, *options):
    there = tmp_path / "given"
    if not there.exists():
        words = Words().prepare([sample.sources["words"] for sample in find_samples(data, {"words": Words()})])
        shutil.copytree(words.dictionary, there)
    return start(data, tmp_path / "run", "--modalities.words.dictionary", str(there), "--keep", "0", *options)


def test_a_folder_that_changed_since_is_no_way_to_go_on_and_one_that_is_gone_is(data, tmp_path, capsys):
    folder = given(data, tmp_path, "--steps", "3")
    shutil.rmtree(folder / "checkpoints/step-3")
    shutil.rmtree(folder / "report")
    words = json.loads((tmp_path / "given/words.json").read_text())
    (tmp_path / "given/words.json").write_text(json.dumps(words[::-1]))
    with pytest.raises(SystemExit):
        given(data, tmp_path, "--steps", "3")
    assert "given, has changed since" in " ".join(capsys.readouterr().err.split())
    shutil.rmtree(tmp_path / "given")
    argv = ["--data", str(data), "--output", str(folder), *OPTIONS, "--modalities.words.dictionary"]
    run.main(WORDS, sizes={}, demo={}, argv=[*argv, str(tmp_path / "given"), "--keep", "0", "--steps", "3"])
    assert checkpoint.steps(folder / "checkpoints")[-1] == 3


def test_other_rows_under_the_same_names_are_other_data(data, tmp_path, capsys):
    folder = start(data, tmp_path / "run", "--steps", "2", "--keep", "0")
    shutil.rmtree(folder / "checkpoints/step-2")
    (data / "lines.words").write_text("\n".join(line + " mat" for line in LINES) + "\n")
    with pytest.raises(SystemExit):
        start(data, folder, "--steps", "2", "--keep", "0")
    assert "the data were 7 files" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("path", ["/etc", "..", "../other"])
def test_a_checkpoint_that_points_outside_of_itself_is_refused(data, tmp_path, path):
    folder = checkpoint.find(start(data, tmp_path / "run", "--steps", "1"))
    config = json.loads((folder / "config.json").read_text())
    config["method"]["modalities"]["words"]["dictionary"] = path
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="which is not beside it"):
        checkpoint.load(folder)
