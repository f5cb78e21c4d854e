"""Compressed models as files that other runtimes run. One line for each."""

from compression.export.base import EXPORTERS, Exported, Exporter, Loader, Source
from compression.export.onnx_runtime import OnnxRuntime

__all__ = ["EXPORTERS", "Exported", "Exporter", "Loader", "OnnxRuntime", "Source"]
