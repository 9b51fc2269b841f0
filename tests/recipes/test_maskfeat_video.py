import pytest
import torch

from mmim.draw import Draw
from mmim.masking.budget import groups_of
from mmim.model import MaskedModel
from mmim.options import apply
from recipes.maskfeat_video import MASKFEAT_VIDEO, SIZES
from tests.parity import batch_of


def test_hides_as_many_cells_as_the_paper():
    modality, policy, draw = MASKFEAT_VIDEO.modalities["video"], MASKFEAT_VIDEO.masking["video"], Draw(torch.arange(1))
    tokens = modality.tokenize(modality.blank()[None])
    groups = groups_of(policy, tokens)
    split = MASKFEAT_VIDEO.budget.cut({"video": policy.rank(tokens, draw)}, {"video": tokens}, draw, {"video": groups})
    assert tokens.grid == (8, 14, 14)
    assert tokens.count // groups.size == 8 * 7 * 7
    assert split["video"].ids_masked.shape[1] == 157 * groups.size  # fact sheet 2.2


def test_predicts_as_many_numbers_as_the_paper():
    assert MASKFEAT_VIDEO.tasks["video"].target.size(MASKFEAT_VIDEO.modalities["video"]) == 108  # fact sheet 3.11


def test_rates_are_those_of_the_official_configuration():
    assert MASKFEAT_VIDEO.optimiser.rate(32) == 1e-4  # fact sheet 3.11: for each machine of 32 clips
    assert MASKFEAT_VIDEO.schedule.min_lr * MASKFEAT_VIDEO.optimiser.base_lr == pytest.approx(1e-6)


def test_a_step_of_training_reaches_every_parameter():
    torch.manual_seed(0)
    recipe = apply(MASKFEAT_VIDEO, SIZES["tiny"] | {"modalities.video.size": 64, "modalities.video.frames": 4})
    model = MaskedModel(recipe)
    clips = torch.randint(0, 256, (2, 3, 4, 64, 64), dtype=torch.uint8)
    model(batch_of("video", clips))["reconstruction/video"].total.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
