"""Quantization-aware training: the rounding and its gradients worked out by hand, and the road."""

import pytest
import torch
from torch.nn.utils import parametrize

from utils import quantization as ptq
from utils import training
from utils.lab import lowbit, qat
from utils.specialization import specialize


@pytest.fixture
def small(float_model):
    """The network with random weights, fused and specialized."""
    return specialize(ptq.fuse(float_model), (1, 28, 28))[0]


def rounded(weight, bits, step=None, zeros=0.7):
    module = qat.RoundedWeight(weight, bits, zeros)
    if step is not None:
        module.step.data = torch.tensor(step).view_as(module.step)
    return module


def test_ternary_codes_and_their_step_by_hand():
    weight = torch.tensor([[0.1, -1.0, 2.0], [0.2, 0.3, -3.0]])
    # The mean of the absolute values is 1.1; 0.7 times it is 0.77.
    module = rounded(weight, "ternary")
    assert module.codes(weight).tolist() == [[0, -1, 1], [0, 0, -1]]
    assert module.step.flatten().tolist() == [1.5, 3.0]
    assert module(weight).tolist() == [[0, -1.5, 1.5], [0, 0, -3]]
    assert rounded(weight, "ternary", zeros=1.7).codes(weight).tolist() == [[0, 0, 1], [0, 0, -1]]


def test_gradients_of_a_ternary_weight_by_hand():
    weight = torch.tensor([[0.1, -1.0, 2.0]], requires_grad=True)
    module = rounded(weight, "ternary")  # codes 0, -1, 1
    module(weight).backward(torch.tensor([[5.0, 2.0, 7.0]]))
    assert weight.grad.tolist() == [[5, 2, 7]]  # as if nothing had been rounded
    assert module.step.grad.item() == pytest.approx((7 - 2) / 3**0.5)


def test_gradients_of_a_learned_step_by_hand():
    weight = torch.tensor([[0.2, 0.9, -1.8, -0.7]], requires_grad=True)
    module = rounded(weight, 2, step=[0.5])  # r / S is 0.4, 1.8, -3.6, -1.4; codes are -2 to 1
    assert module(weight).tolist() == [[0, 0.5, -1, -0.5]]
    module(weight).sum().backward()
    assert weight.grad.tolist() == [[1, 0, 0, 1]]  # 0 where r is clipped
    # q - r / S where r is not clipped, q where it is; over the root of 4 weights x largest code 1
    assert module.step.grad.item() == pytest.approx((-0.4 + 1 - 2 + 0.4) / 4**0.5)


@pytest.mark.parametrize("bits", ["ternary", 2])
def test_a_step_below_zero_counts_as_positive(bits):
    weight = torch.tensor([[0.2, 0.9, -1.8, -0.7]])
    positive, negative = (rounded(weight, bits, step=[step]) for step in (0.5, -0.5))
    assert torch.equal(positive(weight), negative(weight))
    assert torch.equal(positive.codes(weight), negative.codes(weight))


@pytest.mark.parametrize("bits", ["ternary", 4])
def test_what_is_trained_is_what_is_stored(small, images, bits):
    student = qat.prepare(small, bits).eval()
    student.layer1[0].conv1[0].parametrizations.weight[0].step.data[3] *= -1
    with torch.no_grad():
        trained = student(images)
    done, made = qat.finish(student)
    for name, layer in lowbit.layers(done).items():
        assert torch.equal(lowbit.core(layer).weight, made[name].weight)
        assert (made[name].scale >= 0).all()
        assert not parametrize.is_parametrized(lowbit.core(layer))
    ends = ("conv1", "fc")
    assert [made[name].bits for name in ends] == [8, 8]
    inner = [layer for name, layer in made.items() if name not in ends]
    allowed = {-1, 0, 1} if bits == "ternary" else set(range(-8, 8))
    assert all(set(layer.codes.unique().tolist()) <= allowed for layer in inner)
    for name in ends:  # which the student computes in float32
        lowbit.core(done.get_submodule(name)).weight.data = lowbit.weight_of(small, name)
    assert torch.equal(trained, done(images))


def test_bits_that_do_not_exist_are_refused(small):
    with pytest.raises(ValueError, match="bits=9"):
        qat.prepare(small, 9)


def test_it_trains_once_and_begins_with_the_given_weights(course, digits, small, monkeypatch):
    few = digits.head(256)
    first, codes, history = qat.load_or_train(course, few, small)
    assert len(history) == 2 and history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]
    assert set(codes) == set(lowbit.layers(small))
    monkeypatch.setattr(training, "_train_epoch", None)  # a second training would fail
    monkeypatch.setattr(qat, "locked", None)  # what is finished needs no lock
    again, _, _ = qat.load_or_train(course, few, small)
    x = few.normalizer()(few.test_images[:8])
    assert torch.equal(first(x), again(x))
    other = specialize(ptq.fuse(training.ResNet18().eval()), (1, 28, 28))[0]
    with pytest.raises(TypeError):
        qat.load_or_train(course, few, other)
