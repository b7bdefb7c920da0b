"""How a command ends: exit codes, errors as one line, and signals as a clean stop."""

from __future__ import annotations

import errno
import io
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from embedstore import errors

FAILED, USAGE, SOME_FAILED, TOO_MANY_FAILED, CORRUPT, STOPPED = 1, 2, 3, 4, 5, 75

# Ctrl-C, what a batch queue sends, and what remains of a session that was cut off.
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# The first class that fits gives the code.
EXIT_CODES: tuple[tuple[type[errors.EmbedstoreError], int], ...] = (
    (errors.UsageError, USAGE),
    (errors.StoreNotFound, USAGE),
    (errors.TooManyFailures, TOO_MANY_FAILED),
    (errors.StoreError, CORRUPT),
    (errors.EmbedstoreError, FAILED),
)

# Libraries for storage elsewhere, whose errors share no base class below Exception.
_REMOTE = {"aiobotocore", "aiohttp", "azure", "botocore", "google", "gcsfs", "adlfs", "obstore"}


class Commands(click.Group):
    """A group whose commands end errors as one line and an exit code, and read options from the environment too."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command. ``--block-rows`` of ``extract`` is also read from ``EMBEDSTORE_EXTRACT_BLOCK_ROWS``.

        Click's own ``auto_envvar_prefix`` would take the name of the function's parameter instead of the flag's.
        """
        super().add_command(cmd, name)
        for option in cmd.params:
            if isinstance(option, click.Option):
                flag = max(option.opts, key=len).lstrip("-")
                option.envvar = f"EMBEDSTORE_{name or cmd.name}_{flag}".replace("-", "_").upper()

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; see :class:`click.Group`."""
        for stream in (sys.stdout, sys.stderr):
            # A key in Greek is no reason to fail where output is ASCII.
            if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() != "utf-8":
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except errors.EmbedstoreError as error:
            raise _Failure(error) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # `embedstore ls | head`: click knows what to do
                raise
            if error.errno == errno.ENOSPC and error.filename is None:  # which write it was, Zarr does not say
                raise _Failure(
                    f"{error} where the store lies; what is done is kept, and the same command goes on"
                ) from error
            raise _Failure(error) from error
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in _REMOTE:
                raise  # a mistake of ours: show where
            raise _Failure(f"{type(error).__name__}: {error}") from None


class _Failure(click.ClickException):
    def __init__(self, error: Exception | str) -> None:
        super().__init__(errors.scrub(str(error)))
        # Shadows click's class variable, which is how click means it to be set.
        vars(self)["exit_code"] = next((code for kind, code in EXIT_CODES if isinstance(error, kind)), FAILED)


@contextmanager
def stoppable() -> Iterator[None]:
    """Around a command, or as its decorator: SIGINT or SIGTERM ends it with exit code 75.

    What is finished is in the store, and the same command resumes.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    # Who ignores a signal (nohup does) wants it ignored.
    heard = [one for one in _STOPS if in_main_thread and signal.getsignal(one) != signal.SIG_IGN]
    before = {one: signal.signal(one, _interrupt) for one in heard}
    try:
        yield
    except KeyboardInterrupt:
        click.echo("Stopped. Finished blocks are kept; run the same command again to resume.", err=True)
        click.get_current_context().exit(STOPPED)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _interrupt(signum: int, frame: object) -> NoReturn:
    for one in _STOPS:
        if signal.getsignal(one) == _interrupt:
            signal.signal(one, signal.SIG_DFL)  # the second time ends it at once; workers notice, and nothing is lost
    click.echo("Stopping …", err=True)
    raise KeyboardInterrupt
