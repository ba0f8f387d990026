"""How messages become text and token ids: the same for checker, trainer and engine. Never imports torch."""
