"""From torch to the op graph: `trace` runs a module without data, `OpRecorder` watches any run."""

from app.ipu_model.trace.module import TraceError, trace
from app.ipu_model.trace.recorder import OpRecorder

__all__ = ["OpRecorder", "TraceError", "trace"]
