"""Imported by every Python process of a stack under test, before anything else."""

import os

if "CHAOS_RUN" in os.environ:
    from bench.chaos.injection import install

    install()
