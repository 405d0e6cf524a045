"""The only door to torchaudio.

torchaudio's compiled extension links CUDA: beside a CPU build of torch its import raises OSError,
though the transforms are plain torch. An empty stand-in for the extension lets them in.
"""

from __future__ import annotations

import sys
import types


def _untouched(function: object) -> object:
    """Stand in for the extension's decorators, which only refuse what is not compiled."""
    return function


try:
    import torchaudio
except OSError:
    for name in [m for m in sys.modules if m.split(".")[0] == "torchaudio"]:
        del sys.modules[name]
    stand_in = types.ModuleType("torchaudio._extension")
    stand_in.__dict__.update(fail_if_no_align=_untouched, _IS_TORCHAUDIO_EXT_AVAILABLE=False)
    sys.modules["torchaudio._extension"] = stand_in
    import torchaudio

__all__ = ["torchaudio"]
