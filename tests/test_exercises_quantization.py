"""The checks of notebook 03's exercises: right answers pass, wrong ones get their own hint."""

import pytest
import torch
import torch.ao.quantization as tq
from torch import nn
from torch.ao.nn.quantized import FloatFunctional
from torchvision.models.resnet import Bottleneck

from utils.exercises import Hint, quantization
from utils.models import QuantizableResNet18


@pytest.mark.parametrize(
    ("answers", "hint"),
    [
        ((3.24 / 256, 33), "255 steps"),
        ((2.82 / 255, 33), "whole length"),
        ((1.0, 33), "S = "),
        ((3.24 / 255, -33), "sign"),
        ((3.24 / 255, 0.42 / (3.24 / 255)), "whole number"),
        ((3.24 / 255, 0), "Z = q_min"),
    ],
)
def test_scale(answers, hint, capsys):
    quantization.check_scale(3.24 / 255, 33)
    assert capsys.readouterr().out.startswith("Correct")
    with pytest.raises(Hint, match=hint):
        quantization.check_scale(*answers)


def partly_float(images, stub: bool, skip: bool, convert: bool = True):
    net = QuantizableResNet18().eval()
    net.fuse()
    net.qconfig = tq.get_default_qconfig(torch.backends.quantized.engine)
    if skip:
        net.fc.qconfig = None
    if stub:
        net.fc = nn.Sequential(tq.DeQuantStub(), net.fc)
    tq.prepare(net, inplace=True)(images)
    return tq.convert(net) if convert else net


def test_float_layer(images, capsys):
    quantization.check_float_layer(partly_float(images[:4], True, True), images[:2])
    assert capsys.readouterr().out.startswith("Correct")
    for choice, hint in (
        ((True, True, False), "prepare, calibrate and convert"),
        ((False, False), "qconfig to None"),
        ((False, True), "DeQuantStub before"),
    ):
        with pytest.raises(Hint, match=hint):
            quantization.check_float_layer(partly_float(images[:4], *choice), images[:2])


class OneRelu(Bottleneck):
    fused = (["conv1", "bn1", "relu"], ["conv2", "bn2"], ["conv3", "bn3"])

    def fuse(self):
        tq.fuse_modules(self, self.fused, inplace=True)


class PlainPlus(OneRelu):
    fused = (["conv1", "bn1"], ["conv2", "bn2"], ["conv3", "bn3"])


class Right(OneRelu):
    fused = (["conv1", "bn1", "relu"], ["conv2", "bn2", "relu2"], ["conv3", "bn3"])

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.relu, self.relu2, self.add_relu = nn.ReLU(), nn.ReLU(), FloatFunctional()

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.add_relu.add_relu(self.bn3(self.conv3(y)), shortcut)

    def fuse(self):
        super().fuse()
        if self.downsample is not None:
            tq.fuse_modules(self.downsample, ["0", "1"], inplace=True)


class NotFused(Right):
    def fuse(self):
        pass


class DownsampleLeft(Right):
    fuse = OneRelu.fuse


class WrongBefore(Right):
    def forward(self, x):
        return super().forward(x) + 1


def test_bottleneck(capsys):
    quantization.check_bottleneck(Right)
    assert capsys.readouterr().out.startswith("Correct")
    hints = {
        OneRelu: "one place",
        PlainPlus: "addition a module",
        NotFused: "bn1, bn2, bn3 is still",
    }
    hints |= {DownsampleLeft: "downsample.1 is still", WrongBefore: "already", Bottleneck: "fuse"}
    for wrong, hint in hints.items():
        with pytest.raises(Hint, match=hint):
            quantization.check_bottleneck(wrong)
