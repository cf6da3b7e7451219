"""The forms of the network that the course times: names and labels, without torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """One form of the network."""

    name: str  # as in results: dtype, then runtime
    label: str  # for tables and figures
    file: str  # what it is loaded from, within the folder that utils.lab.runtimes.export fills
    package: str = "torch"  # what must be installed

    @property
    def dtype(self) -> str:
        """``float32`` or ``int8``."""
        return "float32" if self.name.startswith("float") else "int8"


ENOUGH_ROUNDS = 20  # for a bootstrap interval; of fewer, the range is reported

VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("float_eager", "float32, eager", "float.pt"),
        Variant("float_fused", "float32, eager, fused", "float.pt"),
        Variant("float_channels_last", "float32, fused, channels last", "float.pt"),
        Variant("float_compiled", "float32, torch.compile, frozen", "float.pt"),
        Variant("float_onnxruntime", "float32, ONNX Runtime", "float.onnx", "onnxruntime"),
        Variant("float_openvino", "float32, OpenVINO", "float.onnx", "openvino"),
        Variant("int8_fbgemm", "int8, eager, fbgemm", "int8.pt"),
        Variant("int8_x86", "int8, eager, x86", "int8.pt"),
        Variant("int8_onednn", "int8, eager, onednn", "int8.pt"),
        Variant("int8_qnnpack", "int8, eager, qnnpack", "int8.pt"),
    )
}
