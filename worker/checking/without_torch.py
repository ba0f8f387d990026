"""Import this first: transformers comes up without torch, which tokenizers need nothing of. Saves 2 s and 600 MB."""

import sys

sys.modules["torch"] = None  # type: ignore[assignment]
import transformers  # noqa: E402, F401  # it looks for torch once

del sys.modules["torch"]
