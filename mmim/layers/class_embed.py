"""Embedding patches of class ids: a vector for each class, then a linear map of the patch."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mmim.layers.patches import embed_patches, patch_convolution


class ClassPatchEmbed(nn.Module):
    """A table of classes, and a linear map of its vectors in a patch, held as a convolution.

    `class_emb.weight [classes class_width]` and `proj.weight [d class_width p p]` are as published code has them. An id
    below 0 is no class and gets zeros.

    Bachmann et al. 2022 (MultiMAE), section 3.1, and its code for the shapes. The table starts normal with deviation
    0.02, the map Xavier-uniform as that of pictures.
    """

    def __init__(self, classes: int, class_width: int, patch: int, width: int) -> None:
        super().__init__()
        self.class_emb = nn.Embedding(classes, class_width)
        nn.init.normal_(self.class_emb.weight, std=0.02)
        self.proj = patch_convolution((class_width, patch, patch), width, xavier=True)

    def forward(self, values: Int64[Tensor, "b k p p"]) -> Float[Tensor, "b k d"]:
        vectors = self.class_emb(values.clamp(min=0))
        vectors = torch.where((values >= 0)[..., None], vectors, 0)
        return embed_patches(self.proj, vectors.movedim(-1, 2))
