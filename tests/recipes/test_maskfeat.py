import pytest
import torch

from mmim.draw import Draw
from mmim.masking.budget import groups_of
from mmim.model import MaskedModel, Step
from mmim.options import apply
from recipes.maskfeat import MASKFEAT, SIZES
from tests.parity import batch_of

SMALL = SIZES["tiny"] | {"modalities.image.size": (64, 64), "masking.image.smallest": 2, "masking.image.largest": 4}


def test_hides_as_many_tokens_as_the_paper():
    modality, policy, draw = MASKFEAT.modalities["image"], MASKFEAT.masking["image"], Draw(torch.arange(3))
    tokens = modality.tokenize(modality.blank().expand(3, 3, 224, 224))
    split = MASKFEAT.budget.cut(
        {"image": policy.rank(tokens, draw)}, {"image": tokens}, draw, {"image": groups_of(policy, tokens)}
    )["image"]
    assert (tokens.count, split.ids_masked.shape[1]) == (196, 78)  # fact sheet 2.2
    assert (policy.smallest, policy.largest) == (78 // 5, 78)  # fact sheet 3.11


def test_predicts_as_many_numbers_as_the_paper():
    assert MASKFEAT.tasks["image"].target.size(MASKFEAT.modalities["image"]) == 108  # fact sheet 3.11


def test_has_the_parameters_of_the_published_checkpoint():
    with torch.device("meta"):
        model = MaskedModel(MASKFEAT)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes["trunk.corruption.image.mask_token"] == (1, 1, 768)
    assert shapes["decoders.image.heads.image.weight"] == (108, 768)  # fact sheet 3.11
    assert shapes["trunk.encoder.global_tokens"] == (1, 1, 768)
    assert shapes["trunk.encoder.norm.weight"] == (768,)  # the norm of its head
    assert any("positions.image" in name and shape[-2:] == (196, 768) for name, shape in shapes.items())


def test_all_matrices_are_decayed_and_nothing_else():
    with torch.device("meta"):
        model = MaskedModel(MASKFEAT)
    decayed = {name: MASKFEAT.optimiser.decays(name, p) for name, p in model.named_parameters()}
    assert decayed["trunk.corruption.image.mask_token"]  # fact sheet 3.11: tokens and positions decayed
    assert all(decays for name, decays in decayed.items() if "positions" in name)
    assert not any(decays for name, decays in decayed.items() if name.endswith("bias") or "norm" in name)


def test_a_step_of_training_reaches_every_parameter():
    torch.manual_seed(0)
    model = MaskedModel(apply(MASKFEAT, SMALL))
    term = model(batch_of("image", torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)))["reconstruction/image"]
    term.total.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_the_loss_is_the_mean_square_over_hidden_tokens_and_values():
    torch.manual_seed(0)
    model = MaskedModel(apply(MASKFEAT, SMALL)).eval()
    batch = batch_of("image", torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    with torch.no_grad():
        step, term = Step(model, batch), model(batch)["reconstruction/image"]
        expected = (step.prediction("image") - step.target("image")).square().mean()
    assert torch.allclose(term.total / term.count, expected)
    assert step.splits["image"].ids_masked.shape[1] == round(0.4 * 16)


@pytest.mark.parametrize("size", ["base", "large"])
def test_rates_are_those_of_the_official_configuration(size):
    recipe = apply(MASKFEAT, SIZES[size])
    assert recipe.optimiser.rate(256) == 2e-4  # fact sheet 3.11: for each machine of 256
    assert recipe.schedule.min_lr * recipe.optimiser.base_lr == pytest.approx(1e-6)
