"""`tunesmith`, and `python -m app.cli`: imports the command, and runs it."""

import signal


def run() -> None:
    """Run the command. Ctrl-C during the imports, which take a second, ends the process without a traceback."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from app.cli.main import main

    signal.signal(signal.SIGINT, handler)
    main()


if __name__ == "__main__":
    run()
