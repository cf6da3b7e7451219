"""README, QUESTIONS and GLOSSARY: quoted errors are raised, sections exist, code runs."""

import io
import re
import warnings
from collections import OrderedDict

import nbformat
import pytest
import torch
import torch.ao.quantization as tq
from PIL import Image
from torch import nn

from utils.settings import PROJECT

NAMES = ("README.md", "QUESTIONS.md", "GLOSSARY.md", "TEACHING.md")
TEXTS = {name: (PROJECT / name).read_text(encoding="utf-8") for name in NAMES}
BLOCKS = re.findall(r"```python\n(.*?)```", TEXTS["QUESTIONS.md"], re.DOTALL)
SUPPORTED = torch.backends.quantized.supported_engines
X = torch.ones(2, 1, 4, 4)


class Plus(nn.Module):
    def forward(self, x):
        return x + x


class Net(nn.Module):
    """The smallest network in which the quoted errors happen."""

    def __init__(self, between: nn.Module | None = None, entry=tq.QuantStub, bias: bool = True):
        super().__init__()
        self.quant, self.dequant = entry(), tq.DeQuantStub()
        self.conv, self.fc = nn.Conv2d(1, 1, 1, bias=bias), nn.Linear(4, 2)
        self.between = between or nn.Identity()

    def forward(self, x):
        return self.dequant(self.fc(self.between(self.conv(self.quant(x)))))


def int8(net: nn.Module, calibrate: bool = True, in_float: str = "") -> nn.Module:
    net.eval().qconfig = tq.QConfig(tq.default_observer, tq.default_per_channel_weight_observer)
    if in_float:
        net.get_submodule(in_float).qconfig = None
    prepared = tq.prepare(net)
    if calibrate:
        prepared(X)
    return tq.convert(prepared)


def loaded(weights_only: bool):
    torch.save(int8(Net()), file := io.BytesIO())
    file.seek(0)
    return torch.load(file, weights_only=weights_only).eval()


def pair(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 1, 1), layer)


def unsupported_engine():
    torch.backends.quantized.engine = next(
        e for e in ("none", "fbgemm", "qnnpack") if e not in SUPPORTED
    )


ERRORS = {  # a part of the message: what raises it, or warns
    "'quantized::conv2d.new'": lambda: int8(Net(entry=nn.Identity))(X),
    "'aten::add.out'": lambda: int8(Net(Plus()))(X),
    "'aten::silu.out'": lambda: int8(Net(nn.SiLU()))(X),
    "'aten::_slow_conv2d_forward'": lambda: int8(Net(bias=False), in_float="conv")(X),
    "and bias type": lambda: int8(Net(), in_float="conv")(X),
    "QUInt8 and Float": lambda: int8(Net(), in_float="fc")(X),
    "did not find fuser": lambda: tq.fuse_modules(pair(nn.LeakyReLU()).eval(), ["0", "1"]),
    "only for eval": lambda: tq.fuse_modules(pair(nn.BatchNorm2d(1)).train(), ["0", "1"]),
    "must run observer": lambda: int8(Net(), calibrate=False),
    "got qconfig applied": lambda: tq.prepare(Net().eval()),
    "ConvTranspose": lambda: int8(Net(nn.ConvTranspose2d(1, 1, 1))),
    "Missing key(s)": lambda: Net().load_state_dict(int8(Net()).state_dict()),
    "Unexpected key(s)": lambda: Net().load_state_dict(int8(Net()).state_dict()),
    "_packed_params": lambda: Net().load_state_dict(int8(Net()).state_dict()),
    "'quantized::conv2d_prepack'": lambda: int8(Net()).load_state_dict(Net().state_dict()),
    "Weights only load failed": lambda: loaded(weights_only=True),
    "'_modules'": lambda: loaded(weights_only=False),
    "quantized engine": unsupported_engine,
    "require gradients": lambda: int8(Net()).conv.weight().requires_grad_(),
    "does not require grad": lambda: int8(Net())(X).sum().backward(),
    "__obj_flatten__": lambda: torch.export.export(int8(Net()), (X,)),
    "torch.ao.quantization is deprecated": lambda: tq.prepare(Net().eval()),
    "reduce_range will be deprecated": lambda: tq.get_default_qconfig("fbgemm").activation(),
    "torch.quantize_per_tensor": lambda: torch.quantize_per_tensor(X, 1.0, 0, torch.quint8),
}


@pytest.mark.parametrize("part", ERRORS)
def test_readme_quotes_what_the_installed_torch_says(part):
    once = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            ERRORS[part]()
            said = [str(warning.message) for warning in caught]
        except Exception as error:  # whatever it is: its text is compared
            said = [str(error)]
    torch.set_warn_always(once)
    said = [" ".join(text.split()) for text in said]
    text = next((text for text in said if part in text), f"{part} is missing in {said}")
    text = text[max(text.find("Missing key(s)"), 0) :]  # what stands before names the class
    assert part in TEXTS["README.md"]
    assert text[:60].strip() in TEXTS["README.md"]


@pytest.mark.parametrize("block", BLOCKS[1:], ids=range(1, len(BLOCKS)))
def test_code_of_the_questions_runs(block, images, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(255 - digits.test_images[0, 0].numpy()).save("digit.png")
    layers = {"conv1": nn.Conv2d(1, 2, 3), "flat": nn.Flatten(), "fc": nn.Linear(2 * 26 * 26, 10)}
    model = nn.Sequential(OrderedDict(layers)).eval()
    names = {"model": model, "images": images[:4], "dataset": digits}
    try:
        exec(BLOCKS[0] + block, names)
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] not in ("torchao", "onnx", "onnxruntime", "onnxscript"):
            raise
        pytest.skip(f"{error.name} is optional")


@pytest.mark.parametrize("name", NAMES)
def test_links_and_sections_exist(name):
    for target, sections in re.findall(r"\]\(([^)]+)\)((?:,? \*[^*\n]+\*[,;.]?)*)", TEXTS[name]):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        assert (PROJECT / path).exists(), target
        if not path.endswith(".ipynb") and not anchor:
            continue
        text = (PROJECT / (path or name)).read_text(encoding="utf-8")
        if path.endswith(".ipynb"):
            cells = nbformat.reads(text, 4).cells
            text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        headings = re.findall(r"^#+ (.+?) *$", text, re.MULTILINE)
        slugs = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
        assert not anchor or anchor in slugs, target
        for section in re.findall(r"\*([^*]+)\*", sections):
            assert section in headings, (path, section)


def test_glossary_is_in_alphabetical_order():
    entries = re.findall(r"^- \*\*(.+?)\*\*.*\]\(", TEXTS["GLOSSARY.md"], re.MULTILINE)
    assert len(entries) == TEXTS["GLOSSARY.md"].count("\n- "), "an entry names no section"
    assert entries == sorted(entries, key=str.casefold)
