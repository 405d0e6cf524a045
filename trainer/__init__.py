"""trainer: makes the weights that fieldstation runs. Imports fieldstation, never the reverse."""

import os

# Before anything here imports onnxruntime, which tells its maker otherwise (fieldstation's
# `onnx_session` has the rest of it).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
