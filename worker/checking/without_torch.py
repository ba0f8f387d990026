"""Import this first: it loads transformers without torch, which tokenizers do not need. Saves 2 s and 600 MB."""

import sys

sys.modules["torch"] = None  # type: ignore[assignment]
import transformers  # noqa: E402, F401  # it searches for torch once, at import

del sys.modules["torch"]
