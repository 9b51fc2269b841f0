import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from torch.testing import assert_close

from mmim.errors import OptionError
from mmim.parts import lookup
from mmim.records import Tokens
from mmim.targets.chamfer import Chamfer
from tests.parity import load
from tests.toy import Toy

POINTS = 8
BOTH = (Chamfer(norm="l1"), Chamfer(norm="l2"))


class Groups(Toy):
    """Groups of points with so many channels, twice as large in raw units."""

    @property
    def piece(self):
        return (POINTS, self.columns)

    def raw(self, values):
        return values * 2 + 1


def sets(b=2, m=5, seed=0, dtype=torch.float64):
    return torch.randn(b, m, POINTS * 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_trees(pred, target, norm):
    """The definition, with a search tree."""
    rows = []
    for first, second in zip(pred.reshape(-1, POINTS, 3).numpy(), target.reshape(-1, POINTS, 3).numpy(), strict=True):
        there, back = cKDTree(second).query(first)[0], cKDTree(first).query(second)[0]
        rows.append((there.mean() + back.mean()) / 2 if norm == "l1" else (there**2).mean() + (back**2).mean())
    return torch.tensor(np.array(rows)).reshape(pred.shape[:2])


def test_chamfer_is_found_by_its_name():
    assert lookup("target", "chamfer") is Chamfer


@pytest.mark.parametrize("target", BOTH, ids=str)
def test_the_loss_is_that_of_the_definition(target):
    pred, truth = sets(), sets(seed=1)
    assert_close(target.loss(pred, truth), by_trees(pred, truth, target.norm), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, 2e-6), (torch.float32, 2e-5)])
def test_losses_are_the_official_ones(dtype, allowed):
    out = load("point_mae").part("out/")
    pred, truth = (out[part].to(dtype).reshape(2, 9, 24) for part in ("pred", "target"))
    squared, rooted = Chamfer(norm="l2").loss(pred, truth), Chamfer(norm="l1").loss(pred, truth)
    assert_close(squared.flatten(), out["loss_per_group_l2"].to(dtype), rtol=allowed, atol=allowed)
    assert_close(squared.mean(), out["loss_cdl2"].to(dtype), rtol=allowed, atol=allowed)
    assert_close(rooted.mean(), out["loss_cdl1"].to(dtype), rtol=allowed, atol=allowed)


def test_the_loss_is_that_of_point_berts_tokenizer():
    out = load("point_bert_dvae").part("out/")
    groups = out["neighborhood"].double().flatten(2)
    terms = [Chamfer(norm="l1").loss(out[part].double().flatten(2), groups).mean() for part in ("coarse", "fine")]
    assert_close(sum(terms), out["loss_recon"].double(), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("target", BOTH, ids=str)
def test_the_order_of_the_points_does_not_matter(target):
    pred, truth = sets(), sets(seed=1)
    turned = truth.unflatten(-1, (-1, 3)).flip(2).flatten(2)
    assert_close(target.loss(pred, truth), target.loss(pred, turned))
    assert not torch.equal(target.loss(pred, truth), target.loss(pred, truth.flip(1)))


@pytest.mark.parametrize("target", BOTH, ids=str)
def test_the_gradient_is_that_of_the_definition(target):
    pred, truth = sets(1, 2).requires_grad_(), sets(1, 2, seed=1)
    assert torch.autograd.gradcheck(lambda x: target.loss(x, truth), pred)


@pytest.mark.parametrize("target", BOTH, ids=str)
def test_nothing_of_all_pairs_is_kept_for_the_backward_pass(target):
    pred, kept = sets().requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        target.loss(pred, sets(seed=1)).sum()
    assert max(tensor.numel() for tensor in kept) <= pred.numel()


@pytest.mark.parametrize("target", BOTH, ids=str)
def test_a_perfect_prediction_costs_nothing_and_its_gradient_is_zero(target):
    pred = sets().requires_grad_()
    loss = target.loss(pred, pred.detach().clone())
    loss.sum().backward()
    assert not loss.any()
    assert not pred.grad.any()


@pytest.mark.parametrize("target", BOTH, ids=str)
def test_a_half_precision_prediction_is_judged_in_single(target):
    pred, truth = sets(dtype=torch.float32).bfloat16(), sets(seed=1, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = target.loss(pred, truth)
    assert loss.dtype == torch.float32
    assert_close(loss, target.loss(pred.float(), truth))


def test_nothing_hidden_is_harmless():
    assert Chamfer().loss(sets(m=0), sets(m=0)).shape == (2, 0)


def tokens(channels, b=2, n=4):
    values = torch.randn(b, n, POINTS, channels, generator=torch.Generator().manual_seed(0))
    return Tokens(values, torch.zeros(b, n, 3))


def test_the_target_is_xyz_of_the_hidden_groups_point_by_point():
    made, ids = tokens(6), torch.tensor([[3, 1], [0, 2]])
    found = Chamfer().values(made, ids, Groups(columns=6)).unflatten(-1, (POINTS, 3))
    assert Chamfer().size(Groups(columns=6)) == POINTS * 3
    for sample, row in enumerate(ids.tolist()):
        for place, token in enumerate(row):
            assert torch.equal(found[sample, place], made.values[sample, token, :, :3])


def test_a_prediction_is_drawn_in_raw_units_with_zeros_for_what_is_not_predicted():
    made, ids, modality = tokens(6), torch.tensor([[3, 1], [0, 2]]), Groups(columns=6)
    drawn = Chamfer().pieces(Chamfer().values(made, ids, modality), made, ids, modality)
    assert drawn.shape == (2, 2, POINTS, 6)
    assert torch.equal(drawn[0, 0, :, :3], made.values[0, 3, :, :3] * 2 + 1)
    assert (drawn[..., 3:] == 1).all()


def test_tokens_that_are_no_points_are_refused():
    with pytest.raises(OptionError, match=r"a token of Toy is \(4,\), not \(points, channels\): use another target"):
        Chamfer().size(Toy())
