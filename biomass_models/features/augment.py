"""Random changes of pictures, in tensors and in batches: turns, mirrors, colour, blur.

image_BCHW   float pictures in [0, 1], B pictures of C = 3 colours; draws come from the caller's torch.Generator
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# (quarter turns, mirrored): the first 1, 2, 4 and 8 are the groups that the `flips` setting names
TURNS = ((0, False), (0, True), (2, False), (2, True), (1, False), (1, True), (3, False), (3, True))
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class Draw:
    """One random change for each picture of a batch; [B] tensors on the CPU."""

    turn_B: Tensor  # index into TURNS
    brightness_B: Tensor  # factors around 1
    contrast_B: Tensor
    saturation_B: Tensor
    sigma_B: Tensor  # standard deviation of the blur in px, 0 = none


def draw_changes(count: int, generator: torch.Generator, *, flips: int, colour: float, blur: float) -> Draw:
    """Draws for `count` pictures: one of the first `flips` turns, colour factors in 1 +- colour, and for half of
    the pictures a blur of up to `blur` px."""

    def factor() -> Tensor:
        return 1 + colour * (2 * torch.rand(count, generator=generator) - 1)

    turn_B = torch.randint(flips, (count,), generator=generator)
    brightness_B, contrast_B, saturation_B = factor(), factor(), factor()
    sigma_B = blur * torch.rand(count, generator=generator)
    sigma_B = torch.where(torch.rand(count, generator=generator) < 0.5, sigma_B, 0.0)
    return Draw(turn_B, brightness_B, contrast_B, saturation_B, sigma_B)


def change(image_BCHW: Tensor, draw: Draw) -> Tensor:
    """The drawn change of each picture; same shape (pictures must be square if draws turn them by 90 degrees)."""
    changed = image_BCHW.clone(memory_format=torch.contiguous_format)
    for index in draw.turn_B.unique().tolist():
        chosen = (draw.turn_B == index).to(image_BCHW.device)
        changed[chosen] = turn(image_BCHW[chosen], index)
    changed = _recolour(changed, draw)
    blurred = draw.sigma_B > 0.1  # less does not reach the neighbouring pixel
    if blurred.any():
        where = blurred.to(image_BCHW.device)
        changed[where] = _blur(changed[where], draw.sigma_B[blurred].to(image_BCHW))
    return changed


def turn(image_BCHW: Tensor, index: int) -> Tensor:
    """The turn TURNS[index] of all pictures; an odd number of quarter turns swaps height and width."""
    quarters, mirrored = TURNS[index]
    turned = image_BCHW.rot90(quarters, (2, 3)) if quarters else image_BCHW
    return turned.flip(3) if mirrored else turned


def _recolour(image_BCHW: Tensor, draw: Draw) -> Tensor:
    def column(factor_B: Tensor) -> Tensor:
        return factor_B.to(image_BCHW).view(-1, 1, 1, 1)

    luma = torch.tensor(LUMA).to(image_BCHW).view(1, 3, 1, 1)
    image_BCHW = image_BCHW * column(draw.brightness_B)
    grey_B1HW = (image_BCHW * luma).sum(1, keepdim=True)
    image_BCHW = torch.lerp(grey_B1HW.mean((2, 3), keepdim=True), image_BCHW, column(draw.contrast_B))
    grey_B1HW = (image_BCHW * luma).sum(1, keepdim=True)
    return torch.lerp(grey_B1HW, image_BCHW, column(draw.saturation_B)).clamp(0, 1)


def _blur(image_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
    """Gaussian blur with a width of its own for each picture; edges are reflected."""
    count, colours, height, width = image_BCHW.shape
    radius = min(math.ceil(3 * float(sigma_B.max())), height - 1, width - 1)
    offset_K = torch.arange(-radius, radius + 1).to(image_BCHW)
    kernel_BK = torch.exp(-0.5 * (offset_K / sigma_B[:, None]) ** 2)
    kernel_BK = (kernel_BK / kernel_BK.sum(1, keepdim=True)).repeat_interleave(colours, 0)
    flat = functional.pad(image_BCHW, (radius,) * 4, mode="reflect").reshape(
        1, count * colours, height + 2 * radius, -1
    )
    flat = functional.conv2d(flat, kernel_BK[:, None, :, None], groups=count * colours)
    flat = functional.conv2d(flat, kernel_BK[:, None, None, :], groups=count * colours)
    return flat.reshape(count, colours, height, width)
