"""The checker: one fresh process a job. It needs no GPU and no torch; it looks at all that a spec names."""
