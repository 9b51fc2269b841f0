import torch
from torch.testing import assert_close

from mmim.layers.class_embed import ClassPatchEmbed


def test_a_patch_is_the_convolution_of_the_vectors_of_its_classes():
    torch.manual_seed(0)
    embed, ids = ClassPatchEmbed(6, 4, 2, 10), torch.randint(0, 6, (3, 5, 2, 2))
    maps = embed.class_emb(ids.flatten(0, 1)).permute(0, 3, 1, 2)
    assert_close(embed(ids), embed.proj(maps).reshape(3, 5, 10))


def test_no_class_is_a_vector_of_zeros():
    embed, ids = ClassPatchEmbed(6, 4, 2, 10), torch.full((1, 1, 2, 2), -1)
    assert_close(embed(ids)[0, 0], embed.proj.bias)
    ids[0, 0, 0, 0] = 0
    embed(ids).sum().backward()
    assert embed.class_emb.weight.grad[0].any()
    assert not embed.class_emb.weight.grad[1:].any()


def test_the_weights_have_the_published_names_and_shapes():
    shapes = {name: tuple(weight.shape) for name, weight in ClassPatchEmbed(133, 64, 4, 32).state_dict().items()}
    assert shapes == {"class_emb.weight": (133, 64), "proj.weight": (32, 64, 4, 4), "proj.bias": (32,)}
