from dataclasses import dataclass

import pytest
import torch
from torch.testing import assert_close

from mmim.errors import OptionError
from mmim.parts import lookup
from mmim.records import Tokens
from mmim.targets.ids import NO_ID, Ids
from tests.ids import Letters
from tests.toy import Toy


@dataclass(frozen=True, kw_only=True)
class Boards(Letters):
    """Tokens of 2 x 3 letters."""

    @property
    def piece(self):
        return (2, 3)


def test_ids_is_found_by_its_name():
    assert lookup("target", "ids") is Ids


def test_every_id_of_the_vocabulary_competes():
    assert Ids().size(Letters(words=10, sentinels=8)) == 19


def test_a_modality_without_ids_is_refused():
    with pytest.raises(OptionError, match="The tokens of Toy are no ids that could be predicted: use pixels"):
        Ids().size(Toy())


def test_the_values_are_the_ids_at_the_places():
    tokens = Tokens(torch.tensor([[5, 6, 7], [8, 9, 1]]), torch.zeros(1, 3, 1))
    places = torch.tensor([[2, 0], [1, 1]])
    assert Ids().values(tokens, places, Letters()).tolist() == [[7, 5], [9, 9]]


def test_the_loss_is_the_logarithm_of_the_share_of_the_right_id():
    pred, target = torch.randn(2, 3, 19, dtype=torch.float64), torch.randint(0, 19, (2, 3))
    share = pred.exp().gather(2, target[..., None])[..., 0] / pred.exp().sum(dim=2)
    assert_close(Ids().loss(pred, target), -share.log())


@pytest.mark.parametrize(
    ("kind", "exact"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)]
)
def test_the_loss_is_computed_in_float32_or_better(kind, exact):
    pred, target = torch.randn(2, 3, 19).to(kind), torch.randint(0, 19, (2, 3))
    loss = Ids().loss(pred, target)
    assert loss.dtype == exact
    assert_close(loss, Ids().loss(pred.to(exact), target), rtol=0, atol=0)


def test_without_places_there_is_no_loss():
    assert Ids().loss(torch.zeros(2, 0, 19), torch.zeros(2, 0, dtype=torch.int64)).shape == (2, 0)


def test_a_picture_shows_the_likeliest_ids():
    pred = torch.zeros(1, 2, 19)
    pred[0, 0, 4] = pred[0, 1, 18] = 1
    tokens, places = Tokens(torch.zeros(1, 2).long(), torch.zeros(1, 2, 1)), torch.zeros(1, 2).long()
    assert Ids().pieces(pred, tokens, places, Letters()).tolist() == [[4, 18]]
    assert not Ids().flatters


# Tokens of several ids


def test_every_id_competes_at_every_place_of_a_token():
    assert Ids().size(Boards(words=10, sentinels=8)) == 19 * 6


def test_the_loss_of_several_ids_is_the_mean_of_each_with_the_id_slowest():
    pred, target = torch.randn(2, 4, 19, 2, 3, dtype=torch.float64), torch.randint(0, 19, (2, 4, 2, 3))
    share = pred.softmax(dim=2).gather(2, target[:, :, None])[:, :, 0]
    assert_close(Ids().loss(pred.flatten(2), target), -share.log().mean(dim=(2, 3)))


def test_where_there_is_no_id_nothing_is_predicted():
    pred, target = torch.randn(1, 2, 19, 2, 3), torch.randint(0, 19, (1, 2, 2, 3))
    target[0, 0, 1], target[0, 1] = NO_ID, NO_ID
    loss = Ids().loss(pred.flatten(2), target)
    half = Ids().loss(pred[:, :1, :, 0].flatten(2), target[:, :1, 0])
    assert_close(loss, torch.cat([half, torch.zeros(1, 1)], dim=1))


def test_an_id_beyond_the_vocabulary_is_an_error():
    with pytest.raises((IndexError, RuntimeError)):
        Ids().loss(torch.zeros(1, 1, 19), torch.tensor([[19]]))


def test_a_picture_shows_the_likeliest_id_of_every_place():
    wanted = torch.randint(0, 19, (2, 4, 2, 3))
    pred = torch.nn.functional.one_hot(wanted, 19).movedim(-1, 2).float().flatten(2)
    tokens, places = Tokens(wanted, torch.zeros(1, 4, 1)), torch.zeros(2, 4).long()
    assert torch.equal(Ids().pieces(pred, tokens, places, Boards(words=10, sentinels=8)), wanted)
