import pytest
import torch
from torch.testing import assert_close

from mmim.errors import CheckpointError, OptionError
from mmim.interop.keys import Ledger

STATE = {"a.weight": torch.ones(2, 3), "a.bias": torch.zeros(2), "head.weight": torch.ones(1), "steps": torch.ones(())}


def test_moved_tensors_come_out_under_their_new_names():
    ledger = Ledger(STATE, drop=["head.*"])
    ledger.move("b.weight", "a.weight", lambda weight: weight * 2)
    ledger.move("b.bias", "a.bias")
    ledger.move("count", "steps")
    ledger.close()
    assert ledger.dropped == ["head.weight"]
    assert_close(ledger.result, {"b.weight": 2 * STATE["a.weight"], "b.bias": STATE["a.bias"], "count": STATE["steps"]})


def test_a_count_comes_out_as_the_whole_number_it_is():
    ledger = Ledger({"n": torch.tensor(2**40), "steps": torch.ones(())})
    ledger.move_count("seen", "n")
    assert_close(ledger.result, {"seen": torch.tensor(2**40)})
    with pytest.raises(CheckpointError, match=r"'steps' is no whole number, but torch\.float32 of 1"):
        ledger.move_count("seen", "steps")


def test_what_nobody_took_is_refused_with_a_pattern_that_drops_it():
    ledger = Ledger(STATE)
    ledger.move("b", "a.weight")
    with pytest.raises(CheckpointError, match=r"uses 'a\.bias', 'head\.weight', 'steps'\. .* --drop 'a\.\*'\."):
        ledger.close()


def test_many_names_are_cut_to_five_and_counted():
    ledger = Ledger({f"x{i}": torch.ones(1) for i in range(9)})
    with pytest.raises(CheckpointError, match=r"'x0', 'x1', 'x2', 'x3', 'x4' \.\.\. \(9 in all\)"):
        ledger.close()


def test_what_is_missing_is_collected():
    ledger = Ledger({})
    ledger.move("b", "first")
    ledger.join("c", ["second", "third"])
    with pytest.raises(CheckpointError, match="The file lacks 'first', 'second', 'third'"):
        ledger.close()


def test_a_pattern_that_fits_nothing_is_refused():
    with pytest.raises(OptionError, match=r"--drop 'haed\.\*' fits no name"):
        Ledger(STATE, drop=["haed.*"])


def test_two_spellings_of_one_tensor_are_refused():
    with pytest.raises(CheckpointError, match=r"'a\.weight' and 'a\.bias' are two names of one tensor"):
        Ledger(STATE, spelling=lambda name: name.split(".")[0])


def test_messages_name_what_stands_in_the_file():
    ledger = Ledger(STATE, drop=["head.*", "steps"], spelling=str.upper)
    with pytest.raises(CheckpointError, match=r"'a\.weight', 'a\.bias'"):
        ledger.close()


def test_a_model_that_differs_is_refused_by_names_and_shapes():
    ledger = Ledger(STATE)
    ledger.move("w", "a.weight")
    with pytest.raises(CheckpointError, match=r"a\.weight \(2, 3\) for \(3, 2\)"):
        ledger.fit({"w": torch.ones(3, 2)}, "the model")
    with pytest.raises(CheckpointError, match=r"the model has no place for 'a\.weight'"):
        ledger.fit({}, "the model")
    with pytest.raises(CheckpointError, match="nothing for 'bias' of the model"):
        ledger.fit({"w": torch.ones(2, 3), "bias": torch.ones(1)}, "the model")


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_numbers_that_are_no_plain_floats_are_refused_by_name_and_kind(dtype):
    ledger = Ledger({"w": torch.ones(2).to(dtype)})
    with pytest.raises(CheckpointError, match=rf"'w' is of {dtype}, which is no weight"):
        ledger.move("w", "w")


def test_an_index_is_held_to_its_numbers():
    Ledger({"index": torch.arange(3)}).expect("index", torch.arange(3), "the index")
    with pytest.raises(CheckpointError, match="'index' is not the index"):
        Ledger({"index": torch.arange(3)}).expect("index", torch.arange(1, 4), "the index")


def test_joining_undoes_splitting():
    qkv = torch.randn(6, 2)
    apart = Ledger({"qkv": qkv})
    apart.split(["q", "k", "v"], "qkv")
    together = Ledger(apart.result)
    together.join("qkv", ["q", "k", "v"])
    assert_close(together.result["qkv"], qkv, rtol=0, atol=0)


def test_numbered_modules_are_counted_without_gaps():
    assert Ledger({f"blocks.{i}.weight": torch.ones(1) for i in range(11)}).count("blocks.") == 11
    with pytest.raises(CheckpointError, match=r"has no blocks\.1, but blocks\.2"):
        Ledger({f"blocks.{i}.weight": torch.ones(1) for i in (0, 2)}).count("blocks.")


def test_a_file_of_another_format_says_what_it_has():
    with pytest.raises(CheckpointError, match=r"has no 'patch_embed', so it is not of this format; it has 'a\.weight'"):
        Ledger(STATE).shape("patch_embed", 4)
