"""Test images that are corrupted by degrees."""

import torch
from torch import Tensor

from utils.data import noisy, rotate

SHIFTS = ("rotated", "noisy", "inverted", "low contrast")
STRENGTHS = (1, 2, 3, 4, 5)


def shift(images: Tensor, kind: str, strength: int, seed: int = 0) -> Tensor:
    """Return images as a camera, a scanner or another country might deliver them.

    Each step of ``strength``, 0 (unchanged) to 5, adds 12 degrees of rotation to a random side, 25
    to the standard deviation of the noise, a fifth of the width (from the left) that is inverted,
    or 18 % that the contrast around the image's mean is lowered by. After Hendrycks and Dietterich:
    Benchmarking Neural Network Robustness to Common Corruptions and Perturbations (ICLR 2019).

    ``images`` are uint8, (N, C, H, W), as is the result; ``seed`` decides sides and noise. A
    ValueError names what is known if ``kind`` or ``strength`` is not.
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
