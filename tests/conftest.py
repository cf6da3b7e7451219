"""What several tests share: settings in a temporary folder, the digits, and small models."""

import pandas as pd
import pytest
import torch

from utils import comparison, data, quantization, settings
from utils.lab import playground
from utils.models import ResNet18

torch.set_num_threads(1)  # threads that wait for a shared core make small models 50 times slower


@pytest.fixture
def course(tmp_path):
    """Quick settings whose data/ and artifacts/ are empty."""
    return settings.load(
        {"COURSE_PROFILE": "quick", "COURSE_DEVICE": "cpu", "COURSE_HOME": str(tmp_path)}
    )


@pytest.fixture(scope="session")
def digits():
    """The embedded digits."""
    environ = {"COURSE_PROFILE": "quick", "COURSE_DATA": "digits", "COURSE_DEVICE": "cpu"}
    return data.load(settings.load(environ), announce=False)


@pytest.fixture(scope="session")
def images(digits):
    """Normalised digits for calibration."""
    return data.calibration_images(digits, 64)


@pytest.fixture(scope="session")
def float_model(images):
    """Random weights, batch norms that have seen data, eval mode; no test may change it."""
    torch.manual_seed(0)
    model = ResNet18()
    with torch.no_grad():
        for _ in range(4):
            model(images)
    return model.eval()


@pytest.fixture(scope="session")
def int8_model(float_model, images):
    """The same network in int8; no test may change it."""
    return quantization.quantize(float_model, images)


@pytest.fixture
def browser():
    """Headless Chromium; tests that need it are skipped where it or its driver is missing."""
    try:
        found = playground.chromium()
    except (ImportError, FileNotFoundError) as error:
        pytest.skip(str(error))
    yield found
    found.quit()


@pytest.fixture
def records():
    """What the two notebooks write that the summary is made of, in round numbers."""
    environment = {
        "data_source": "some digits",
        "date": "2026-01-31",
        "cpu": "A CPU",
        "instruction_sets": ["avx2"],
        "torch": "2.15.0",
        "profile": "quick",
        "weights": {"float32": "aaa", "int8": "bbb"},
    }
    later = environment | {
        "date": "2026-02-01",
        "time": "2026-02-01T10:20:30Z",
        "cpu": "B CPU",
        "cpu_numbers": {"family": 25, "model": 17},
        "runtimes": {"OpenVINO": "2026.4.1"},
        "commit": "0123456789abcdef0123456789abcdef01234567+changes",
    }
    paired = comparison.Comparison(
        images=1000,
        accuracy_a=0.99,
        accuracy_b=0.985,
        a_only=7,
        b_only=2,
        flips=10,
        mcnemar_p=0.18,
        difference=-0.005,
        low=-0.011,
        high=0.001,
    )
    latency = pd.DataFrame(
        [
            ("float_eager", 1, 1, 5.0),
            ("float_openvino", 1, 1, 0.4),
            ("int8_fbgemm", 1, 1, 0.5),
            ("float_eager", 64, 1, 30.0),
            ("float_openvino", 64, 1, 20.0),
            ("int8_fbgemm", 64, 1, 10.0),
        ],
        columns=["variant", "batch", "threads", "median_ms"],
    )
    verdicts = pd.DataFrame(
        {"batch": [1, 64], "threads": 1, "int8": "int8_fbgemm", "fastest_float": "float_openvino"}
        | {"int8_ms": [0.5, 10.0], "eager_ms": [5.0, 30.0], "fastest_float_ms": [0.4, 20.0]}
        | {"against_eager": [10.0, 3.0], "against_eager_low": [9.0, 2.5]}
        | {"against_eager_high": [11.0, 3.5], "against_fastest": [0.8, 2.0]}
        | {"against_fastest_low": [0.7, 1.9], "against_fastest_high": [0.9, 2.1]}
    )
    benchmark = {"summary": latency, "verdicts": verdicts, "warning": "", "environment": later}
    quantized = {
        "comparison": paired,
        "engine": "fbgemm",
        "float_bytes": 44_800_000,
        "int8_bytes": 11_200_000,
        "environment": environment,
    }
    return {"03_fusion_and_calibration": quantized, "04_cpu_benchmark": benchmark}
