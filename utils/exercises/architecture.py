"""Checks of notebook 01."""

from utils.exercises import Hint, answered, correct, expect


def check_output_size(width: int) -> None:
    """Check the width of layer4's maps for an image of 100x100 pixels."""
    hints = {3: "100 / 32 is 3.125, but each layer with stride 2 rounds up: go step by step."}
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
    }
    if answered(count):
        rest = "Add 3 batch norms and 3 convolutions without bias."
        expect(count, main + shortcut + norms, hints, rest, within=0)
        correct("Nearly all of them belong to the two 3x3 convolutions.")


def check_met_taps(met) -> None:
    """Check ``met(width, kernel, stride, padding)``, a list: does each tap ever meet a pixel?"""
    if answered(met(1, 3, 1, 1)):
        if met(1, 3, 1, 1) != [False, True, False]:
            raise Hint("met_taps(1, 3, 1, 1): only the tap in the middle meets the one pixel.")
        if met(2, 3, 2, 1) != [False, True, True]:
            raise Hint("met_taps(2, 3, 2, 1): with stride 2 the kernel has one position only.")
        if met(2, 3, 1, 1) != [True, True, True]:
            raise Hint("met_taps(2, 3, 1, 1): two positions, and meeting a pixel once is enough.")
        correct("The function agrees with the convolutions.")
