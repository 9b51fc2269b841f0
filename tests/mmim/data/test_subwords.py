import json
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from mmim.data.subwords import LEAST, ensure_subwords, read_subwords, train, write
from mmim.errors import DataError, OptionError, ReadError
from mmim.modality import Vocabulary
from tests.texts import BERT, LINES, WORDS, gpt2, save, t5, trained, word_pieces


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMIM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def words(found, text):
    before, own, behind = found.encode(text)
    return [[found.tokenizer.id_to_token(id) for id in ids] for ids in (before, own, behind)]


# Reading a folder


def test_a_published_bert_tells_its_mask_and_what_stands_around_a_text(tmp_path):
    found = read_subwords(word_pieces(tmp_path / "bert"))
    assert found.vocabulary == Vocabulary(len(BERT) + 3 + len(WORDS) + 2, 4)
    assert (found.pad, found.special) == (0, (2, 3))
    assert words(found, "The small BALLs, unheard") == [
        ["[CLS]"],
        ["the", "small", "ball", "##s", ",", "[UNK]"],
        ["[SEP]"],
    ]


@pytest.mark.parametrize("where", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("form", [lambda token: token, lambda token: {"content": token, "lstrip": True}])
def test_roles_are_read_from_either_file_in_either_form(where, form, tmp_path):
    folder = word_pieces(tmp_path / "bert")
    (folder / "tokenizer_config.json").unlink()
    roles = {"mask_token": form("red"), "pad_token": form("ball"), "additional": None, "model_max_length": 512}
    (folder / where).write_text(json.dumps(roles))
    found = read_subwords(folder)
    assert found.vocabulary.mask == found.tokenizer.token_to_id("red")
    assert found.pad == found.tokenizer.token_to_id("ball")


def test_without_roles_a_mask_token_is_known_by_its_name(tmp_path):
    folder = word_pieces(tmp_path / "bert")
    (folder / "tokenizer_config.json").unlink()
    assert read_subwords(folder).vocabulary.mask == 4


def test_a_mask_that_a_folder_lacks_is_one_id_further(tmp_path):
    found = read_subwords(gpt2(tmp_path / "gpt2"))
    size = found.tokenizer.get_vocab_size()
    assert found.vocabulary == Vocabulary(size + 1, size)
    assert (found.pad, found.special) == (size, ())
    assert words(found, "a red ball")[::2] == [[], []]


def test_sentinels_are_the_folders_own_first_and_further_ids_then(tmp_path):
    found = read_subwords(t5(tmp_path / "t5", sentinels=3), sentinels=5)
    known = found.tokenizer.get_vocab()
    size = max(known.values()) + 1
    own = tuple(known[f"<extra_id_{i}>"] for i in range(3))
    assert own == (size - 1, size - 2, size - 3)
    assert found.vocabulary == Vocabulary(size + 3, size, (*own, size + 1, size + 2))
    assert (found.pad, found.special) == (known["<pad>"], (known["</s>"],))
    assert words(found, "a ball") == [[], ["▁a", "▁ball"], ["</s>"]]
    assert len(set(found.vocabulary.sentinels)) == 5


def test_a_larger_table_makes_a_larger_vocabulary_and_a_smaller_one_is_refused(tmp_path):
    folder = word_pieces(tmp_path / "bert")
    size = read_subwords(folder).vocabulary.size
    assert read_subwords(folder, rows=size + 8).vocabulary == Vocabulary(size + 8, 4)
    with pytest.raises(OptionError, match=rf"vocabulary of {size - 1} is too small for the {size} ids"):
        read_subwords(folder, rows=size - 1)


def test_what_a_folder_says_of_cutting_and_padding_is_not_done(tmp_path):
    folder = word_pieces(tmp_path / "bert")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(folder / "tokenizer.json"))
    assert len(read_subwords(folder).encode(LINES[3])[1]) == len(LINES[3].split()) + 1


def test_ids_are_those_of_transformers(tmp_path):
    for make in (word_pieces, trained, gpt2, t5):
        folder = make(tmp_path / make.__name__)
        theirs = PreTrainedTokenizerFast.from_pretrained(folder)
        for text in (*LINES, "Ünïcode ﬁ 中 🙂", "[MASK] [SEP] a"):
            before, own, behind = read_subwords(folder).encode(text)
            assert [*before, *own, *behind] == theirs(text)["input_ids"]


def test_a_text_of_which_nothing_is_left_is_refused(tmp_path):
    with pytest.raises(ReadError, match="nothing is left of it"):
        read_subwords(word_pieces(tmp_path / "bert")).encode("\u200b \u00ad")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "There is no tokenizer.json in "),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer.json can't be read: "),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer.json can't be read: "),
        (lambda folder: (folder / "tokenizer_config.json").write_text("{"), "tokenizer_config.json can't be read: "),
        (lambda folder: (folder / "tokenizer_config.json").write_bytes(b"\xff"), "tokenizer_config.json can't be read"),
        (lambda folder: save(Tokenizer(models.BPE()), folder, {}), "has no words at all"),
    ],
    ids=["gone", "cut", "empty", "roles cut", "roles no text", "no words"],
)
def test_a_damaged_folder_is_refused_in_one_line(spoil, message, tmp_path):
    folder = word_pieces(tmp_path / "bert")
    spoil(folder)
    with pytest.raises(OptionError, match=message) as caught:
        read_subwords(folder)
    assert "\n" not in str(caught.value)


# Training one


def test_a_trained_tokenizer_is_that_of_any_order_and_any_process(tmp_path):
    known = train(LINES, 400).to_str()
    assert train(LINES[::-1], 400).to_str() == known
    code = f"from mmim.data.subwords import train; print(train({LINES!r}, 400).to_str())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == known


def test_nothing_is_unknown_to_a_trained_tokenizer(tmp_path):
    found = read_subwords(trained(tmp_path / "own"))
    for text in ("Ünïcode", "中 文 🙂", "a\tb", "δ", "\u200b"):
        ids = found.encode(text)[1]
        assert found.tokenizer.decode(ids).strip() == text.lower().strip()
        assert min(ids) >= len(BERT)


def test_case_and_composition_are_alike_to_a_trained_tokenizer(tmp_path):
    found = read_subwords(trained(tmp_path / "own"))
    assert found.encode("CAF\u00c9")[1] == found.encode("cafe\u0301")[1] == found.encode("café")[1]
    assert found.encode("cafe")[1] != found.encode("café")[1]


def test_a_trained_tokenizer_has_the_size_asked_for_where_the_corpus_allows_it():
    assert train(LINES, 285).get_vocab_size() == 285
    assert train(["ab"], 9999).get_vocab_size() == LEAST
    assert [train(LINES, 300).id_to_token(id) for id in range(5)] == list(BERT)


def test_transformers_reads_a_trained_tokenizer(tmp_path):
    theirs = PreTrainedTokenizerFast.from_pretrained(trained(tmp_path / "own"))
    assert [theirs.pad_token_id, theirs.unk_token_id, theirs.cls_token_id, theirs.sep_token_id] == [0, 1, 2, 3]
    assert theirs.mask_token_id == 4
    ids = theirs("A RED ball")["input_ids"]
    assert (ids[0], ids[-1]) == (2, 3)
    assert theirs.decode(ids, skip_special_tokens=True).strip() == "a red ball"


def test_without_texts_there_is_no_tokenizer(cache):
    with pytest.raises(DataError, match="There is no text to train a tokenizer on"):
        ensure_subwords("key", lambda: [], 300)
    assert not (cache / "tokenizers/key").exists()


def test_a_tokenizer_is_trained_once_by_many_processes(cache, tmp_path):
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        folders = list(pool.map(_ensure, [str(tmp_path / "asked")] * 2))
    assert set(folders) == {cache / "tokenizers/key"}
    assert (tmp_path / "asked").read_text() == "x"
    assert sorted(path.name for path in (cache / "tokenizers").iterdir()) == ["key", "key.lock"]


def _ensure(note):
    def texts():
        with open(note, "a") as file:
            file.write("x")
        return LINES

    return ensure_subwords("key", texts, 300)


def test_what_a_killed_process_left_is_cleared_away(cache):
    (cache / "tokenizers/.key.partial-abc/tokenizer").mkdir(parents=True)
    ensure_subwords("key", lambda: LINES, 300)
    assert sorted(path.name for path in (cache / "tokenizers").iterdir()) == ["key", "key.lock"]


def test_a_fork_after_training_is_silent(tmp_path):
    code = (
        "import os\nfrom mmim.data.subwords import train\n"
        f"made = train({LINES!r}, 300)\nmade.encode_batch(['a'] * 99)\n"
        "child = os.fork()\nmade.encode('a red ball')\nif child: os.waitpid(child, 0)\n"
    )
    surroundings = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=surroundings)
    assert (done.returncode, done.stderr) == (0, "")


def test_writing_refuses_a_folder_that_is_there(tmp_path):
    with pytest.raises(FileExistsError):
        write(train(LINES, 300), tmp_path)
