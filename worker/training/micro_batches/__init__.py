"""How the rows of an optimizer step are computed: planned, laid out in micro-batches, and run."""
