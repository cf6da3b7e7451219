"""Checks of notebook 01."""

from utils.exercises import Hint, answered, correct, expect

TAPS = [((1, 3, 1, 1), (0, 1, 0), "only the tap in the middle meets the one pixel.")]
TAPS += [((2, 3, 2, 1), (0, 1, 1), "with stride 2 the kernel has one position only.")]
TAPS += [((2, 3, 1, 1), (1, 1, 1), "two positions, and meeting a pixel once is enough.")]
TAPS += [((3, 3, 2, 1), (1, 1, 1), "the kernel has two positions, two pixels apart.")]
TAPS += [((4, 5, 2, 2), (1, 1, 1, 1, 1), "the kernel has two positions, two pixels apart.")]
TAPS += [((1, 3, 1, 2), (1, 1, 1), "with padding 2 the kernel has three positions.")]


def check_output_size(width: int) -> None:
    """Check the width of layer4's maps for an image of 100x100 pixels."""
    steps = "100 / 32 is 3.125, but each layer with stride 2 rounds up: go step by step."
    hints = {3: steps, 3.125: steps}
    hints[7] = "You halved four times. The stem halves twice: look at its max pool."
    if answered(width):
        expect(width, 4, hints, "Only conv1, maxpool, layer2, layer3 and layer4 halve.")
        correct("100, 50, 25, 13, 7, 4: the average pool takes maps of any size.")


def check_block_parameters(count: int) -> None:
    """Check the number of parameters of a block from 128 to 256 channels with stride 2."""
    main, shortcut, norms = 9 * (128 + 256) * 256, 128 * 256, 3 * 2 * 256
    hints = {
        main + shortcut: "The batch norms have a weight and a bias for every channel.",
        main + norms * 2 // 3: "The shapes differ, so the shortcut has two layers of its own.",
        2 * 9 * 128 * 256 + shortcut + norms: "The second convolution has 256 input channels.",
        main + 9 * shortcut + norms: "The kernel of the shortcut is 1x1.",
        2 * 9 * 256**2 + norms * 2 // 3: "This is the second block of layer3.",
    }
    if answered(count):
        rest = "Add 3 batch norms and 3 convolutions without bias."
        expect(count, main + shortcut + norms, hints, rest, within=0)
        correct("Nearly all of them belong to the two 3x3 convolutions.")


def check_met_taps(met) -> None:
    """Check ``met(width, kernel, stride, padding)``, a list: does each tap ever meet a pixel?"""
    if answered(met(1, 3, 1, 1)):
        for case, right, hint in TAPS:
            if list(map(bool, met(*case))) != list(map(bool, right)):
                raise Hint(f"met_taps{case}: {hint}")
        correct("The function agrees with the convolutions.")
