"""Renders messages to text and token ids, the same for checker, trainer and engine. It never imports torch."""
