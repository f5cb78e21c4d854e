"""Compressed models as files that other runtimes run. One line for each."""

from compression.export.base import EXPORTERS, Exported, Exporter, Loader, Source, runs_in
from compression.export.hf_checkpoint import CompressedTensors
from compression.export.onnx_runtime import OnnxRuntime
from compression.export.pyfunc import PyFunc

__all__ = [
    "EXPORTERS",
    "CompressedTensors",
    "Exported",
    "Exporter",
    "Loader",
    "OnnxRuntime",
    "PyFunc",
    "Source",
    "runs_in",
]
