"""`python -m app.cli` is `tunesmith`."""

from app.cli.main import main

main()
