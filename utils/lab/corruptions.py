"""Test images as a camera, a scanner or another country might deliver them."""

import torch
from torch import Tensor

from utils.data import noisy, rotate

SHIFTS = ("rotated", "noisy", "inverted", "low contrast")
STRENGTHS = (1, 2, 3, 4, 5)


def shift(images: Tensor, kind: str, strength: int, seed: int = 0) -> Tensor:
    """Return images as a camera, a scanner or another country might deliver them.

    Kinds of corruption at five strengths, after Hendrycks and Dietterich: Benchmarking Neural
    Network Robustness to Common Corruptions and Perturbations (ICLR 2019).

    Parameters
    ----------
    images : Tensor
        uint8, shape (N, C, H, W).
    kind : {"rotated", "noisy", "inverted", "low contrast"}
        Rotated by 12 degrees for each step of strength, to a random side; Gaussian noise with a
        standard deviation of 25 for each step; inverted from the left, a fifth of the width for
        each step; contrast around the image's mean lowered by 18 % for each step.
    strength : int
        0 (unchanged) to 5.
    seed : int
        Of the sides and of the noise.

    Returns
    -------
    Tensor
        uint8, same shape.

    Raises
    ------
    ValueError
        For an unknown kind or strength.
    """
    if kind not in SHIFTS or strength not in (0, *STRENGTHS):
        raise ValueError(
            f"kind {kind!r}, strength {strength!r}: known are {', '.join(SHIFTS)} at 0 to 5"
        )
    if strength == 0:
        return images
    generator = torch.Generator().manual_seed(seed)
    if kind == "rotated":
        sides = 2 * torch.randint(0, 2, (len(images),), generator=generator) - 1
        return rotate(images, 12.0 * strength * sides)
    if kind == "noisy":
        return noisy(images, 25.0 * strength, generator)
    if kind == "inverted":
        inverted = images.clone()
        part = inverted[..., : images.shape[-1] * strength // 5]
        part.copy_(255 - part)
        return inverted
    real = images.float()
    mean = real.mean(dim=(1, 2, 3), keepdim=True)
    return (mean + (1 - 0.18 * strength) * (real - mean)).round().to(torch.uint8)
