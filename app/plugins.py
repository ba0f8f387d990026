"""Loads the operator's plugins: Python modules that add training methods and kinds of jobs.

Every process of the service imports them, so that all know the same methods and kinds. A plugin is code of the
operator, and can do all that the service can.

A plugin is imported while the contracts are. So at its head it imports only `app.contracts.base`,
`app.contracts.submitted`, `app.contracts.training_args`, `app.contracts.methods` and `app.jobs.kinds`, and the rest
where it is needed.
"""

import os
from importlib import import_module

VARIABLE = "TUNESMITH_PLUGINS"


def load_plugins() -> None:
    """Import the modules that $TUNESMITH_PLUGINS names, separated by commas. Raises ImportError for an unknown one."""
    for name in os.environ.get(VARIABLE, "").split(","):
        if name.strip():
            import_module(name.strip())
