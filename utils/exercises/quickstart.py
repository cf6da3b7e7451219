"""Checks of notebook 00's exercises."""

from torch import Tensor, equal, nn

from utils.exercises import Hint, answered, asks, correct, expect
from utils.models import layers_of
from utils.quantization import is_quantized


def check_megabytes(float32: float, int8: float) -> None:
    """Check the megabytes of 11,175,370 parameters in both types."""
    if answered(float32, int8):
        bits, binary = "A byte has 8 bits.", "These are mebibytes; a megabyte is 1,000,000 bytes."
        million = "A megabyte is a million bytes: divide."
        hints = {357.61: bits, 42.631: binary, 44_701_480: million, 44.78: "Not the whole file."}
        expect(float32, 44.701, hints, "float32 takes 4 bytes.", within=1.4e-3)
        hints = {89.403: bits, 10.658: binary, 11_175_370: million, 11.3: "Not the whole file."}
        expect(int8, 11.175, hints, "int8 takes 1 byte.", within=2.5e-3)
        correct("The files above hold a little more: names, and statistics or scales.")


def check_points(points: float) -> None:
    """Check the change of accuracy when 9 images are lost and 6 are won, of 10,000."""
    if answered(points):
        hints = {0.03: "The change is int8 - float32, and int8 lost more than it won."}
        hints |= {-0.0003: "This is a fraction; a point is a hundredth, so multiply by 100."}
        hints |= {0.15: "An image that int8 wins makes up for one that it loses."}
        expect(points, -0.03, hints, "Subtract the lost from the won, then take percent.")
        correct("Fifteen images changed sides, but the percentages differ by three images only.")


@asks("a model")
def check_int8(model: nn.Module, first: nn.Module, images: Tensor) -> None:
    """Check that another model than the first went through all four steps, by these images."""
    if answered(model):
        if not is_quantized(model):
            raise Hint("This model is still float32: the last step, convert(), is missing.")
        if layers_of(model, nn.BatchNorm2d, nn.Conv2d):
            raise Hint("Some layers are still float32: begin with fuse().")
        try:
            same = equal(model(images), first(images))
        except RuntimeError:
            raise Hint("This model fails on images: begin with fuse().") from None
        if same:
            raise Hint("This is int8_model, or its equal: calibrate a new one, with eight images.")
        correct("Your model is int8.")
