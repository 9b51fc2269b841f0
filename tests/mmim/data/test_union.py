"""Data of several modalities and several places: folders paired by stem, manifests, tars, a union of them."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image as Picture

from mmim.data.braces import expanded
from mmim.data.loader import in_order, load
from mmim.data.media_write import write_video
from mmim.data.order import Layout, Mixture, Order
from mmim.data.sample import kinds_of
from mmim.data.sources import find_samples, find_union
from mmim.data.union import parse_data, parse_weights, resolved
from mmim.draw import stable_hash
from mmim.errors import DataError, OptionError
from mmim.evaluation.labels import find_cells
from mmim.evaluation.tables import read_table
from mmim.records import map_raw
from modalities.audio import Audio
from modalities.depth import Depth
from modalities.image import Image
from modalities.points import Points
from modalities.text import Text
from modalities.video import Video
from tests.sounds import murmur
from tests.sounds import write as write_sound
from tests.videos import shared_data

IMAGE, AUDIO, DEPTH = Image(size=(16, 16), patch=8), Audio(frames=32, mel=16), Depth(size=(16, 16), patch=8)
WORDS = ("a red ball", "a blue box", "two green rings")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A text modality with a tokenizer."""
    folder = tmp_path_factory.mktemp("corpus")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMIM_CACHE", str(folder / "cache"))
        (folder / "corpus.txt").write_text("\n".join(WORDS) + "\n")
        part = Text(vocabulary_size=300, length=48)
        sources = [source for sample in find_samples(folder, {"text": part}) for source in sample.sources.values()]
        yield part.prepare(sources)


def png(seed: int) -> bytes:
    """A small picture of one colour."""
    colour = tuple(int(x) for x in np.random.default_rng(seed).integers(0, 256, 3))
    file = io.BytesIO()
    Picture.new("RGB", (20, 20), colour).save(file, format="PNG")
    return file.getvalue()


def depth_png(seed: int) -> bytes:
    """A small map of 16 bits."""
    file = io.BytesIO()
    numbers = np.random.default_rng(seed).integers(0, 2**16, (20, 20), dtype=np.uint16)
    Picture.fromarray(numbers).save(file, format="PNG")
    return file.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_tar(file: Path, members: dict[str, bytes]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return file


def there(samples) -> dict[str, list[str]]:
    """Which modalities each sample has."""
    return {sample.id: sorted(sample.sources) for sample in samples}


def batch(samples, modalities, workers=0):
    found = next(load(samples, modalities, in_order(len(samples), len(samples)), seed=None, workers=workers))
    assert found.unreadable == (), found.unreadable
    return found.batch


@pytest.fixture
def pairs(tmp_path, text):
    """Three scenes in a folder: all, picture and caption, sound alone."""
    folder = write(tmp_path / "pairs", {"a/1.png": png(1), "a/1.txt": WORDS[0].encode(), "2.v1.png": png(2)})
    (folder / "2.v1.txt").write_text(WORDS[1])
    write_sound(folder / "a/1.wav", murmur(seed=1))
    write_sound(folder / "3.wav", murmur(seed=3))
    return folder


def test_files_of_one_stem_are_one_sample_and_any_may_be_missing(pairs, text):
    samples = find_samples(pairs, {"image": IMAGE, "audio": AUDIO, "text": text})
    assert there(samples) == {"2.v1": ["image", "text"], "3.wav": ["audio"], "a/1": ["audio", "image", "text"]}


def test_pairing_changes_neither_the_order_nor_the_draws_of_a_file(pairs, text):
    alone = {sample.id: sample.hash for sample in find_samples(pairs, {"image": IMAGE})}
    paired = {sample.id: sample.hash for sample in find_samples(pairs, {"image": IMAGE, "text": text})}
    assert [alone[f"{stem}.png"] for stem in ("a/1", "2.v1")] == [paired[stem] for stem in ("a/1", "2.v1")]


def test_the_longest_suffix_says_whose_a_file_is(tmp_path):
    folder = write(tmp_path, {"x.png": png(0), "x.depth.png": depth_png(0)})
    assert there(find_samples(folder, {"image": IMAGE, "depth": DEPTH})) == {"x": ["depth", "image"]}
    assert there(find_samples(folder, {"image": IMAGE})) == {"x.png": ["image"]}
    (alone,) = find_samples(folder, {"depth": DEPTH})
    (paired,) = find_samples(folder, {"image": IMAGE, "depth": DEPTH})
    assert alone.id == "x.depth.png"
    assert alone.hash == paired.hash


def test_labels_are_found_by_the_stem_of_a_compound_suffix(tmp_path):
    (tmp_path / "index.csv").write_text("id,shape\nx,cube\ny,cone\nz,cube\nw,cone\n")
    found = find_cells(read_table(tmp_path), ["x.depth.png", "y.depth.png", "z.png"], ["shape"])
    assert found.values["shape"] == ["cube", "cone", "cube"]


def test_one_file_in_place_of_a_folder_is_told(tmp_path):
    write(tmp_path, {"x.depth.png": depth_png(0)})
    with pytest.raises(DataError, match="is one file: give the folder that holds it"):
        find_samples(tmp_path / "x.depth.png", {"depth": DEPTH})


def test_a_folder_called_like_a_modality_is_this_ones(tmp_path):
    folder = write(tmp_path, {"image/s/1.png": png(1), "depth/s/1.png": depth_png(1), "depth/s/2.png": depth_png(2)})
    samples = find_samples(folder, {"image": IMAGE, "depth": DEPTH})
    assert there(samples) == {"depth/s/2.png": ["depth"], "s/1": ["depth", "image"]}
    assert batch(samples, {"image": IMAGE, "depth": DEPTH}).present["image"].tolist() == [False, True]


def test_two_files_for_one_modality_of_a_sample_are_refused(tmp_path):
    folder = write(tmp_path, {"x.png": png(0), "x.webp": png(1), "x.depth.png": depth_png(0)})
    with pytest.raises(DataError, match=r"x\.png and x\.webp have one stem, .* both are for image"):
        find_samples(folder, {"image": IMAGE, "depth": DEPTH})


def test_a_sound_beside_a_clip_stands_for_the_clips_own(tmp_path):
    clip = Video(frames=2, stride=1, size=16, patch=8)
    write_video(tmp_path / "x.mp4", np.zeros((4, 16, 16, 3), np.uint8), fps=4)
    write_sound(tmp_path / "x.wav", murmur())
    (sample,) = find_samples(tmp_path, {"audio": AUDIO, "video": clip})
    assert {name: source.path.name for name, source in sample.sources.items()} == {"audio": "x.wav", "video": "x.mp4"}


def test_a_sound_beside_a_clip_stands_for_the_clips_own_also_where_nobody_reads_clips(tmp_path):
    write_video(tmp_path / "x.mp4", np.zeros((4, 16, 16, 3), np.uint8), fps=4)
    write_sound(tmp_path / "x.wav", murmur())
    write(tmp_path, {"x.png": png(0)})
    (sample,) = find_samples(tmp_path, {"audio": AUDIO, "image": IMAGE})
    assert {name: source.path.name for name, source in sample.sources.items()} == {"audio": "x.wav", "image": "x.png"}


def test_of_a_caption_file_with_several_lines_a_draw_picks_one_and_evaluation_takes_the_first(tmp_path, text):
    folder = write(tmp_path, {"x.png": png(0), "x.txt": "\n".join(WORDS).encode()})
    modalities = {"image": IMAGE, "text": text}
    (sample,) = find_samples(folder, modalities)
    first = batch([sample], modalities).views["main"]["text"]["ids"]
    (own,) = find_samples(write(tmp_path / "own", {"y.txt": WORDS[0].encode()}), {"text": text})
    assert torch.equal(first, batch([own], {"text": text}).views["main"]["text"]["ids"])
    taken = set()
    for seed in range(12):
        drawn = next(load([sample], modalities, in_order(1, 1), seed=seed, workers=0)).batch.views["main"]["text"]
        taken.add(tuple(drawn["ids"][0, : int(drawn["length"][0])].tolist()))
    assert len(taken) == 3


def manifest_rows(folder: Path) -> list[dict[str, str]]:
    write(folder, {"p/1.png": png(1), "p/2.png": png(2)})
    return [
        {"image": "p/1.png", "text": WORDS[0], "colour": "red"},
        {"image": "p/2.png", "text": "", "colour": "blue"},
        {"image": "", "text": WORDS[2], "colour": "green"},
    ]


def write_manifest(rows, file: Path) -> Path:
    if file.suffix == ".csv":
        file.write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]) + "\n")
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), file)
    return file


@pytest.mark.parametrize("kind", [".csv", ".jsonl", ".parquet"])
def test_a_manifest_has_a_column_for_each_modality_and_texts_in_its_cells(kind, tmp_path, text):
    file = write_manifest(manifest_rows(tmp_path), tmp_path / f"all{kind}")
    modalities = {"image": IMAGE, "text": text}
    samples = find_samples(file, modalities)
    assert [sorted(sample.sources) for sample in samples] == [["image", "text"], ["image"], ["text"]]
    found = batch(samples, modalities, workers=1)
    assert found.present["text"].tolist() == [True, False, True]
    own = write(tmp_path / "texts", {"1.txt": WORDS[0].encode()})
    (alone,) = find_samples(own, {"text": text})
    expected = text.read(alone.sources["text"], None)["ids"]
    assert found.views["main"]["text"]["ids"][0, : len(expected)].tolist() == expected.tolist()
    assert not found.views["main"]["image"][2].any()


def test_a_manifest_without_a_column_of_a_modality_says_what_it_has(tmp_path):
    file = write_manifest([{"picture": "a.png", "label": "1"}], tmp_path / "all.parquet")
    with pytest.raises(DataError, match=r"No column of .* is called like a modality \(image\): it has picture, label"):
        find_samples(file, {"image": IMAGE})


def test_a_ragged_manifest_is_refused(tmp_path):
    write(tmp_path, {"1.png": png(1)})
    (tmp_path / "all.csv").write_text("image,label\n1.png,a\n1.png\n")
    with pytest.raises(DataError, match=r"all\.csv"):
        find_samples(tmp_path / "all.csv", {"image": IMAGE})


@pytest.fixture
def shards(tmp_path):
    members = {f"{n:03}.{ext}": make(n) for n in range(6) for ext, make in (("png", png), ("depth.png", depth_png))}
    del members["004.png"]
    members["000.json"] = b"{}"
    for number in range(2):
        part = {name: data for name, data in members.items() if int(name[:3]) // 3 == number}
        write_tar(tmp_path / f"shards/{number:02}.tar", part)
    return tmp_path / "shards"


@pytest.mark.parametrize("asked", ["shards", "shards/{00..01}.tar"])
def test_tars_hold_the_same_samples_as_a_folder(asked, shards, tmp_path):
    modalities = {"image": IMAGE, "depth": DEPTH}
    samples = find_samples(tmp_path / asked, modalities)
    assert len(samples) == 6
    assert sum("image" in sample.sources for sample in samples) == 5
    found = batch(samples, modalities, workers=1)
    folder = write(tmp_path / "plain", {f"{n}.png": png(n) for n in (0, 1, 2, 3, 5)})
    plain = batch(find_samples(folder, {"image": IMAGE}), {"image": IMAGE})
    assert torch.equal(found.views["main"]["image"][found.present["image"]], plain.views["main"]["image"])


def test_one_tar_for_each_modality_is_paired_by_key(tmp_path):
    write_tar(tmp_path / "image/00.tar", {"a.png": png(0), "b.png": png(1)})
    write_tar(tmp_path / "depth/00.tar", {"b.png": depth_png(1), "c.png": depth_png(2)})
    samples = find_samples(tmp_path, {"image": IMAGE, "depth": DEPTH})
    assert sorted(map(tuple, there(samples).values())) == [("depth",), ("depth", "image"), ("image",)]
    batch(samples, {"image": IMAGE, "depth": DEPTH})


def test_a_tar_that_breaks_off_gives_what_is_before_the_break_and_says_so(tmp_path):
    whole = write_tar(tmp_path / "a.tar", {"1.png": png(1), "2.png": png(2)}).read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: 512 + 512 * ((len(png(1)) + 511) // 512) + 300])
    found = find_union([str(tmp_path / "a.tar")], {"image": IMAGE})
    assert [sample.id for sample in found.samples] == ["1.png"]
    assert len(found.notes) == 1
    assert "what is before is used" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "said"),
    [("a.tar.gz", "is compressed"), ("{0..3}.tar", "There is no"), ("nothing", "There is no")],
)
def test_what_is_no_plain_tar_or_not_there_is_refused(name, said, tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(DataError, match=said):
        find_samples(tmp_path / name, {"image": IMAGE})


def test_braces_expand_with_zeros_and_words():
    assert expanded("s/{08..11}.tar") == ["s/08.tar", "s/09.tar", "s/10.tar", "s/11.tar"]
    assert expanded("{a,b}/{0..1}.tar") == ["a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar"]
    assert expanded("plain") == ["plain"]


def test_texts_train_from_tars(tmp_path, text):
    write_tar(tmp_path / "a.tar", {f"{n}.txt": word.encode() for n, word in enumerate(WORDS)})
    samples = find_samples(tmp_path / "a.tar", {"text": text})
    assert [sample.length({"text": text}) for sample in samples] == [len(word) for word in WORDS]
    fresh = Text(vocabulary_size=300, length=48).prepare([sample.sources["text"] for sample in samples])
    assert batch(samples, {"text": fresh}).present["text"].all()


def test_a_broken_member_is_called_by_its_name(tmp_path):
    write_tar(tmp_path / "a.tar", {"1.png": png(1), "2.png": b"no picture"})
    samples = find_samples(tmp_path / "a.tar", {"image": IMAGE})
    found = next(load(samples, {"image": IMAGE}, in_order(2, 2), seed=None, workers=0))
    assert [bad.id for bad in found.unreadable] == ["2.png"]
    assert "/" not in found.unreadable[0].reason


# Unions and weights


def test_a_union_prefixes_the_names_and_an_empty_source_changes_nothing(pairs, tmp_path, text):
    modalities = {"image": IMAGE, "audio": AUDIO, "text": text}
    other = write(tmp_path / "more", {"x.png": png(5)})
    (tmp_path / "empty").mkdir()
    with_empty = find_union([f"av={pairs}", f"none={tmp_path / 'empty'}", f"more={other}"], modalities)
    without = find_union([f"more={other}", f"av={pairs}"], modalities)
    assert with_empty.samples == without.samples
    assert [sample.id for sample in without.samples] == ["av/2.v1", "av/3.wav", "av/a/1", "more/x.png"]
    assert [sample.hash for sample in with_empty.samples] == [sample.hash for sample in without.samples]
    assert len(with_empty.notes) == 1
    assert with_empty.notes[0].startswith("none adds nothing: ")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (["a", "b=c"], "--data a is one of 2 and has no name"),
        (["a=b", "a=c"], "have the same name: rename one"),
        (["a="], "names nothing"),
    ],
)
def test_places_that_can_not_be_told_apart_are_refused(data, said):
    with pytest.raises(OptionError, match=said):
        parse_data(data)


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        (["c=1"], "there are no data called 'c'; the names of --data are a, b"),
        (["a=1"], "--weight says nothing of b"),
        (["a=0", "b=1"], "no number above 0"),
        (["a=nan", "b=1"], "no number above 0"),
        (["a"], "write --weight NAME=NUMBER"),
        (["a=1", "a=2", "b=1"], "has the weight 1 already"),
    ],
)
def test_weights_that_can_not_be_are_refused(weight, said):
    with pytest.raises(OptionError, match=said):
        parse_weights(weight, ["a=x", "b=y"])


def test_a_union_is_the_same_run_in_whatever_order_its_places_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolved(["b=y", "a=x"]) == resolved(["a=x", "b=y"]) == (f"a={tmp_path / 'x'}", f"b={tmp_path / 'y'}")


HASHES = [stable_hash(number) for number in range(30)]
MIXTURE = Mixture([0] * 20 + [1] * 10, [1.0, 3.0])


def test_weights_give_exact_shares_and_each_source_its_own_epochs():
    order = Order(HASHES, 0, mixture=MIXTURE)
    visits = [order.visit(place) for place in range(64 * 40)]
    first = [visit for visit in visits if visit.index < 20]
    assert len(first) == len(visits) // 4
    for rows, size in ((first, 20), ([visit for visit in visits if visit.index >= 20], 10)):
        for epoch in range(len(rows) // size):
            part = rows[epoch * size : (epoch + 1) * size]
            assert len({visit.index for visit in part}) == size
            assert {visit.epoch for visit in part} == {epoch}


def test_a_weighted_order_goes_on_from_any_place():
    layout, order = Layout(8, 4, 1), Order(HASHES, 3, mixture=MIXTURE)
    whole = list(order.micro_batches(layout, 0, 0, 12))
    again = list(Order(HASHES, 3, mixture=MIXTURE).micro_batches(layout, 0, 7, 12))
    assert whole[14:] == again


def test_without_weights_the_order_is_what_it_was():
    plain, one = Order(HASHES, 5), Order(HASHES, 5, mixture=Mixture([0] * 30, [2.0]))
    assert [plain.visit(place) for place in range(95)] == [one.visit(place) for place in range(95)]


def test_samples_with_the_same_modalities_share_micro_batches_and_no_step_has_others():
    kinds = [number % 3 for number in range(30)]
    layout = Layout(12, 4, 1)
    grouped = list(Order(HASHES, 0, kinds=kinds).micro_batches(layout, 0, 0, 5))
    plain = list(Order(HASHES, 0).micro_batches(layout, 0, 0, 5))
    for step in range(5):
        turns = slice(3 * step, 3 * step + 3)
        own, theirs = (sorted(visit.index for part in each[turns] for visit in part) for each in (grouped, plain))
        assert own == theirs
    mixed = [sum(len({kinds[visit.index] for visit in part}) for part in each) for each in (grouped, plain)]
    assert mixed[0] < mixed[1]


def test_kinds_tell_which_modalities_a_sample_has(pairs, text):
    samples = find_samples(pairs, {"image": IMAGE, "audio": AUDIO, "text": text})
    assert len(set(kinds_of(samples))) == 3


# Real pairs


def test_frames_and_sound_of_one_file_are_cut_from_one_window(tmp_path):
    """A second of light and sound in a dark, silent file: in windows of equal length both are seen, or neither."""
    frames = np.zeros((100, 16, 16, 3), np.uint8)
    frames[40:50] = 255
    sound = np.zeros((2, 64000), np.float32)
    sound[:, 25600:32000] = 0.5 * np.sin(np.arange(6400) * 0.3)
    write_video(tmp_path / "x.mp4", frames, fps=25, sound=sound, rate=16000)
    clip = Video(frames=10, stride=1, size=16, patch=8, crop="centre")
    heard = Audio(frames=38, mel=16, patch=2)  # 38 frames of 10 ms and the window's rest: the clip's 0.4 s
    modalities = {"video": clip, "audio": heard}
    (sample,) = find_samples(tmp_path, modalities)
    assert sorted(sample.sources) == ["audio", "video"]
    met = 0
    for seed in range(40):
        views = next(load([sample], modalities, in_order(1, 1), seed=seed, workers=0)).batch.views["main"]
        light = (views["video"].float().mean() / 255).item()
        loud = (views["audio"]["samples"].float().abs() > 1000).float().mean().item() / 0.95
        assert light == pytest.approx(loud, abs=0.2), seed
        met += light > 0.2
    assert 0 < met < 40


def test_colour_and_depth_of_real_pairs_are_read_through_a_manifest(tmp_path):
    with tarfile.open(shared_data() / "pairs/rgbd.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    folder = tmp_path / "rgbd"
    colour = sorted(path for path in folder.rglob("*") if path.suffix in (".jpg", ".png") and "depth" not in path.name)
    depth = sorted(path for path in folder.rglob("*depth*.png"))
    rows = [
        {"image": str(one.relative_to(folder)), "depth": str(other.relative_to(folder))}
        for one, other in zip(colour, depth, strict=True)
    ]
    modalities = {"image": Image(size=(32, 32), patch=8), "depth": Depth(size=(32, 32), patch=8)}
    found = batch(find_samples(write_manifest(rows, folder / "pairs.csv"), modalities), modalities)
    assert len(rows) == 5
    assert found.present["image"].all()
    assert found.present["depth"].all()


@pytest.mark.parametrize(
    ("archive", "modalities", "each"),
    [
        ("kenney_models", {"points": Points(points=64, groups=4, group_size=8), "image": IMAGE}, 2),
        ("grid_av", {"audio": AUDIO, "video": Video(frames=2, stride=1, size=16, patch=8)}, 1),
    ],
)
def test_real_pairs_are_read_from_a_folder_and_from_a_tar_alike(archive, modalities, each, tmp_path):
    suffixes = tuple(suffix for part in modalities.values() for suffix in part.suffixes)
    with tarfile.open(shared_data() / f"pairs/{archive}.tar") as tar:
        names = sorted(name for name in tar.getnames() if name.endswith(suffixes))[: 3 * each]
        for name in names:
            tar.extract(name, tmp_path, filter="data")
        packed = {name.removeprefix(f"{archive}/"): tar.extractfile(name).read() for name in names}
    write_tar(tmp_path / "packed/0.tar", packed)
    plain = find_samples(tmp_path / archive, modalities)
    stored = find_samples(tmp_path / "packed/0.tar", modalities)
    assert [sorted(sample.sources) for sample in plain] == [sorted(modalities)] * 3
    assert there(stored) == there(plain)
    one, other = (batch(samples, modalities) for samples in (plain, stored))
    for name in modalities:
        same = map_raw(
            lambda first, second: (first == second).all(), one.views["main"][name], other.views["main"][name]
        )
        assert all(same.values() if isinstance(same, dict) else [same])
