"""What a command raises → one message on stderr and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

DEBUG = "HEADCLIP_DEBUG"


@contextmanager
def errors_in_words(refused: int = 2) -> Iterator[None]:
    """Turn what a command raises into one message on stderr and an exit code, ``refused`` for our errors."""
    from headclip_med.base.errors import HeadclipError, internal_error
    from headclip_med.cli.screen import console

    try:
        yield
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except HeadclipError as error:
        console.say_error(str(error))
        raise typer.Exit(refused) from error
    except KeyboardInterrupt as stop:
        console.say_error("stopped; finished cases are kept, nothing is half-written")
        raise typer.Exit(130) from stop
    except Exception as error:
        if console.voice.verbose:
            raise
        console.say_error(internal_error(error))
        raise typer.Exit(1) from error
