"""A sampling network: unit Gaussian noise to extrinsic codes like those of a style's exemplars."""

from __future__ import annotations

from torch import Tensor, nn


class CodeSampler(nn.Sequential):
    """latent -> latent -> latent -> rows x style_dim, linear without bias, BatchNorm and ReLU between."""

    def __init__(self, rows: int, style_dim: int, latent: int = 128):
        super().__init__(
            nn.Linear(latent, latent, bias=False),
            nn.BatchNorm1d(latent),
            nn.ReLU(),
            nn.Linear(latent, latent, bias=False),
            nn.BatchNorm1d(latent),
            nn.ReLU(),
            nn.Linear(latent, rows * style_dim, bias=False),
        )
        self.rows, self.style_dim, self.latent = rows, style_dim, latent

    def forward(self, e: Tensor) -> Tensor:
        """Noise (B, latent) to codes (B, rows, style_dim) in Z+."""
        return super().forward(e).unflatten(1, (self.rows, self.style_dim))
