"""What the unit tests run under."""

import hypothesis

# No database of examples: a run of the tests leaves no file.
hypothesis.settings.register_profile("tunesmith", database=None)
hypothesis.settings.load_profile("tunesmith")
