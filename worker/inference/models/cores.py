"""Import this before torch: OpenMP reads its environment variables once, when it is loaded."""

import os

from app.contracts.cores import sharing_cores

os.environ.update(sharing_cores(os.environ))
