"""Checks of notebook 05."""

from utils.exercises import Hint, answered, asks, choice, correct, expect


@asks("two lists of four integers, and one integer")
def check_by_hand(q_x: list[int], q_w: list[int], total: float) -> None:
    """Four codes of x, four of w, and the integer sum of their products."""
    if answered(q_x, q_w, total):
        if list(q_x) == [5, -3, 8, 0]:
            raise Hint("q_x counts steps from the real number 0: add the zero point, q = r/S + Z.")
        if list(q_x) != [9, 1, 12, 4] or list(q_w) != [3, -1, 2, 5]:
            raise Hint("A code is round(r / S) + Z, with S_x and Z_x or S_w; astype(int) cuts off.")
        real = "0.068 is the real dot product. The sum is an integer: divide by S_x S_w."
        hints = {70: "70 is the sum of q_x q_w: subtract Z_x times the sum of q_w.", 0.068: real}
        expect(total, 34, hints, "Add up (q_x - Z_x) q_w over the four pairs.")
        correct("The real dot product is S_x S_w times the sum: 0.1 x 0.02 x 34 = 0.068.")


@asks("three integers, for example [1, 2, 3]")
def check_codes(codes: list[int]) -> None:
    """Three sums requantized behind a ReLU: an ordinary, a negative and a huge one."""
    if answered(codes):
        hints = {
            10: "10 lacks the bias: 0.3 is b / (S_x S_w) = 3,000 steps of the sum.",
            11: "11 lacks the zero point: add Z_y after rounding.",
            17: "17 is cut off, not rounded to the nearest integer.",
            2: "2 lacks the ReLU: it clamps at Z_y, the code of the real number 0.",
            0: "The ReLU clamps at Z_y, the code of the real number 0, not at the code 0.",
            515: "A uint8 ends at 255: clamp.",
            262: "Add Z_y first, then clamp.",
            127: "The kernels clamp at 255; 127 ends only the range of the calibration.",
            17.585: "A code is a whole number: round.",
        }
        for code, right in zip(codes, (18, 7, 255), strict=True):
            expect(code, right, hints, f"{code}: M = S_x S_w / S_y is 0.0025. And then?")
        correct("Both clamps worked: at Z_y = 7 for the ReLU, at 255 for the end of uint8.")


def check_padding(wrong: str) -> None:
    """Which of the implementations A, B and C pads wrongly."""
    if answered(wrong):
        wrong = choice(str(wrong).strip().lower().removeprefix("version_"), "A", "B", "C")
        if wrong != "B":
            raise Hint(f"{wrong} is right: follow one corner of its frame through the subtraction.")
        correct("B pads with the code 0, which is the real number -S_x Z_x.")
