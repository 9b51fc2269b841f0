import pytest
import torch

from mmim.corruption.substitute import Substitute
from mmim.draw import Draw
from mmim.errors import OptionError
from mmim.parts import lookup
from mmim.records import Tokens
from tests.ids import Letters
from tests.toy import Toy

MANY = Letters(words=40, sentinels=9, longest=400)  # 50 ids; the mask is 40
IDS = torch.randint(0, 40, (300, 400), generator=torch.Generator().manual_seed(0))
HIDDEN = torch.rand(300, 400, generator=torch.Generator().manual_seed(1)) < 0.15
TOKENS = Tokens(IDS, torch.zeros(1, 400, 1))
DRAW = Draw(torch.arange(300))


def content(config, hidden=HIDDEN, tokens=TOKENS, draw=DRAW):
    return config.build(16, MANY).content(tokens, hidden, draw)


def test_substitute_is_found_by_its_name():
    assert lookup("corruption", "substitute") is Substitute


def test_what_is_not_hidden_stays():
    assert torch.equal(content(Substitute(mask=0.5, random=0.5))[~HIDDEN], IDS[~HIDDEN])


def test_eighty_ten_and_ten_per_cent_of_the_hidden_ids_are_masked_random_and_unchanged():
    found, original = content(Substitute())[HIDDEN], IDS[HIDDEN]
    count = len(found)
    masked, same = float((found == 40).sum()), float((found == original).sum())
    off = 4 * (count * 0.16) ** 0.5  # four deviations
    assert masked == pytest.approx(count * (0.8 + 0.1 / 50), abs=off)
    assert same == pytest.approx(count * (0.1 + 0.1 / 50), abs=off)


def test_a_random_id_is_any_of_the_vocabulary_alike():
    found = content(Substitute(mask=0.0, random=1.0))[HIDDEN]
    counts = torch.bincount(found, minlength=50)
    assert len(counts) == 50
    expected = len(found) / 50
    assert float((counts - expected).square().sum() / expected) < 86  # chi square of 49 degrees, 0.999


def test_what_is_chosen_does_not_depend_on_the_id_nor_on_other_places():
    other = Tokens((IDS + 7) % 40, TOKENS.coords)
    first = content(Substitute())
    assert torch.equal(first == 40, content(Substitute(), tokens=other) == 40)
    drawn = Substitute(mask=0.0, random=1.0)
    assert torch.equal(content(drawn)[HIDDEN], content(drawn, tokens=other)[HIDDEN])
    fewer = HIDDEN & (torch.arange(400) % 2 == 0)
    assert torch.equal(content(Substitute(), fewer)[fewer], first[fewer])


def test_a_sample_gets_the_same_in_any_batch_and_padding():
    alone = Tokens(IDS[7:8, :50], TOKENS.coords[:, :50])
    found = content(Substitute(), HIDDEN[7:8, :50], alone, Draw(DRAW.keys[7:8]))
    assert torch.equal(found[0], content(Substitute())[7, :50])
    assert not torch.equal(content(Substitute(), draw=Draw(DRAW.keys + 300)), content(Substitute()))


@pytest.mark.parametrize(("mask", "random", "kept"), [(1.0, 0.0, 0), (0.0, 0.0, 1)])
def test_all_can_be_masked_and_all_can_stay(mask, random, kept):
    found = content(Substitute(mask=mask, random=random))
    assert torch.equal(found[HIDDEN], IDS[HIDDEN] if kept else torch.full_like(IDS[HIDDEN], 40))


def test_the_encoder_sees_all_places():
    assert Substitute.keeps_all
    assert not list(Substitute().build(16, MANY).parameters())


def test_a_modality_without_ids_is_refused():
    with pytest.raises(OptionError, match="The tokens of Toy are no ids that others could replace: use mask_token"):
        Substitute().build(4, Toy())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mask": 1.1}, "Substitute.mask is 1.1; it must be a share"),
        ({"random": -0.1}, "Substitute.random is -0.1; it must be a share"),
        ({"mask": 0.8, "random": 0.3}, "Substitute.random is 0.3; it must be at most 1 - mask, 0.2"),
    ],
)
def test_shares_that_can_not_be_are_refused(fields, message):
    with pytest.raises(OptionError, match=message):
        Substitute(**fields)
