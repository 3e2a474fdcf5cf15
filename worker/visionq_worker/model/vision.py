"""Tiles to the decoder's embeddings: CLIP tower, 2x2 merge, learned separators, projection.

The tower is transformers' CLIP; everything after it is here. Tensor names are those of the
published checkpoint, so weights load without renaming. Left out: the tower's last layer and its
final norm are loaded, because the checkpoint has them, and never run, because the feature is the
output of the last layer but one.
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPVisionModel

from visionq_worker.model.config import Phi3VConfig
from visionq_worker.model.geometry import TILE_SIDE_TOKENS, Grid


class VisionTransformer(CLIPVisionModel):
    """CLIP's image half, up to the output of the last layer but one."""

    def features(self, views: torch.Tensor) -> torch.Tensor:
        """(views, 3, 336, 336) to patch features (views, 576, width), class token dropped."""
        hidden: torch.Tensor = self.pre_layrnorm(self.embeddings(views))  # (views, 577, width)
        for layer in self.encoder.layers[:-1]:
            hidden = layer(hidden, None)
        return hidden[:, 1:]


class VisionTower(nn.Module):
    """One step in the published names (`img_processor.vision_model`), nothing else."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.vision_model = VisionTransformer(config)


class VisionEmbedding(nn.Module):
    """Images as the embeddings that take the place of their placeholder tokens."""

    def __init__(self, config: Phi3VConfig) -> None:
        super().__init__()
        width = 4 * config.tower.hidden_size
        self.img_processor = VisionTower(config.tower)
        self.img_projection = nn.Sequential(
            nn.Linear(width, config.hidden_size),
            nn.GELU(),
            nn.Linear(config.hidden_size, config.hidden_size),
        )
        self.glb_GN = nn.Parameter(torch.zeros(1, 1, width))
        self.sub_GN = nn.Parameter(torch.zeros(1, 1, 1, width))

    def forward(self, views: torch.Tensor, grids: Sequence[Grid]) -> torch.Tensor:
        """Embeddings of all images, one after the other: (sum of grid.num_tokens, hidden).

        views (sum of grid.num_tiles, 3, 336, 336): per image its global view, then its tiles row
        by row; no empty tiles.
        """
        blocks = self.merged_features(views)
        per_image = torch.split(blocks, [grid.num_tiles for grid in grids])
        tokens = torch.cat(
            [
                self.arranged(image[None], grid)[0]
                for image, grid in zip(per_image, grids, strict=True)
            ]
        )
        embeddings: torch.Tensor = self.img_projection(tokens)  # (tokens, hidden)
        return embeddings

    def merged_features(self, views: torch.Tensor) -> torch.Tensor:
        """Tower features of each view, patches merged two by two: (views, 12, 12, 4 width)."""
        return self.merged(self.img_processor.vision_model.features(views.to(self.glb_GN)))

    def merged(self, features: torch.Tensor) -> torch.Tensor:
        """(views, 576, width) to (views, 12, 12, 4 width)."""
        count, side = len(features), TILE_SIDE_TOKENS
        blocks = features.view(count, side, 2, side, 2, -1)  # (views, 12, 2, 12, 2, width)
        # Channels in the order of the patches (0,0), (0,1), (1,0), (1,1) of each block.
        return blocks.transpose(2, 3).reshape(count, side, side, -1)

    def arranged(self, blocks: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Features in reading order with separators: (images, grid.num_tokens, 4 width).

        blocks (images, grid.num_tiles, 12, 12, 4 width). First the tiles as one picture, then
        `glb_GN`, then the global view ("sub_glb").
        """
        count, _, side, _, width = blocks.shape
        overview, tiles = blocks[:, 0], blocks[:, 1:]
        laid = tiles.view(count, grid.rows, grid.columns, side, side, width).transpose(2, 3)
        # (images, rows, 12, columns, 12, 4 width) to (images, 12 rows, 12 columns, 4 width)
        picture = laid.reshape(count, grid.rows * side, grid.columns * side, width)
        between = self.glb_GN.expand(count, -1, -1)
        return torch.cat([self._rows(picture), between, self._rows(overview)], dim=1)

    def _rows(self, picture: torch.Tensor) -> torch.Tensor:
        """(n, h, w, 4 width) to (n, h * (w + 1), 4 width): `sub_GN` ends each row."""
        count, height = picture.shape[:2]
        ends = self.sub_GN.expand(count, height, 1, -1)
        return torch.cat([picture, ends], dim=2).flatten(1, 2)
