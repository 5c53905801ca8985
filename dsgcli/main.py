"""The entry: which verbs there are, and what a user sees when something ends early."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from dsgcli.align import align
from dsgcli.destylize import destylize
from dsgcli.doctor import doctor
from dsgcli.refine import refine
from dsgcli.report import print_failure, speaks
from dsgcli.sample import sample
from dsgcli.styles import app as styles
from dsgcli.stylize import stylize
from dsgcli.train import train
from dualstylegan.errors import DualStyleGANError, UsageError

INTERRUPTED = 128 + signal.SIGINT  # 130, as shells have it
ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # 143, 129

app = typer.Typer(
    name="dsg",
    help="Portraits as exemplar-based art: every face restyled in place, in full frame.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from dualstylegan.doctor import described_version

        print(f"dsg {described_version()}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _dsg(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Tracebacks for errors (anywhere on the line; DSG_DEBUG=1).")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(UsageError.exit_status)


app.command()(stylize)
app.add_typer(styles)
app.command()(align)
app.command()(sample)
app.command()(train)
app.command()(destylize)
app.command()(refine)
app.command()(doctor)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit status: 0 done, 1 something failed, 2 wrong usage, 130, 143 and 129 when stopped."""
    _stand_in_for_closed_streams()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments or os.environ.get("DSG_DEBUG", "") not in ("", "0")
    arguments = [argument for argument in arguments if argument != "--debug"]
    if debug:
        import logging

        logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s")
        logging.getLogger("PIL").setLevel(logging.INFO)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text
    # what was told to be ignored is (nohup)
    before = {number: signal.getsignal(number) for number in ENDING if signal.getsignal(number) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, _terminate)
    try:
        return _run(arguments, debug) or _flush_stdout()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _flush_stdout()


def _run(arguments: list[str], debug: bool) -> int:
    named = next((argument for argument in arguments if not argument.startswith("-")), "dsg")
    verb = named if "--json" in arguments else None  # of events that tell a script what went wrong
    try:
        _refuse_empty(arguments)
        status = app(arguments, prog_name="dsg", standalone_mode=False)
    except (DualStyleGANError, typer.TyperException) as error:
        return _explain(error, debug, verb)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except SystemExit as leaving:  # SIGTERM, a process of several that ends because another failed, a closed pipe
        status = leaving.code
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, OSError) and error.strerror:
            _say(f"{error.filename or 'Output'}: {error.strerror}.", error, verb)
            return UsageError.exit_status if error.errno == errno.ENAMETOOLONG else 1
        _say(f"unexpected {type(error).__name__}: {error}{'' if debug else ' (--debug shows where)'}.", error, verb)
        return 1
    if status in (INTERRUPTED, *(128 + number for number in ENDING)) and speaks():
        _say("interrupted." if status == INTERRUPTED else "terminated.")
    return status if isinstance(status, int) else 0


def _refuse_empty(arguments: list[str]) -> None:
    """Raises UsageError for `dsg stylize "$F"` with F not set: an empty path is the current folder elsewhere."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if not argument or (argument.startswith("--") and argument.endswith("=") and "=" not in argument[:-1]):
            where = f" after {before}" if before.startswith("-") else f" ({argument})" if argument else ""
            raise UsageError(f"An argument is empty{where}: is a variable of the shell not set?")


def _explain(error: DualStyleGANError | typer.TyperException, debug: bool, verb: str | None) -> int:
    """One line for the user. Several processes make a mistake of usage together; one of them says so."""
    if debug:
        traceback.print_exc()
    if isinstance(error, DualStyleGANError):
        message, status = str(error), error.exit_status
    else:
        context = getattr(error, "ctx", None)
        hint = f" See '{context.command_path} --help'." if context else ""
        wrong = error.format_message().replace("Value error, ", "").rstrip()
        message, status = wrong + ("" if wrong.endswith((".", "?")) else ".") + hint, error.exit_code
    if status != UsageError.exit_status or speaks():
        _say(message, error, verb)
    return status


def _say(line: str, error: BaseException | None = None, verb: str | None = None) -> None:
    """To a person; and with --json to a script, as an event of `verb`, unless that is done."""
    line = " ".join(line.split())
    if verb and error is not None and not getattr(error, "is_told", False):
        with suppress(OSError):  # a full device, of which this may be telling
            print_failure(verb, line)
    with suppress(OSError):  # the terminal may be gone
        print(f"dsg: {line}", file=sys.stderr)


def _terminate(number: int, frame: Any) -> None:
    for one in ENDING:
        signal.signal(one, signal.SIG_IGN)  # once is enough: files are being put away
    raise SystemExit(128 + number)


def _stand_in_for_closed_streams() -> None:
    """`>&-`: nobody is to trip over a missing stream, and no file of ours to get the number that others write to."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                handle = os.open(os.devnull, os.O_RDWR)
                if handle != number:
                    os.dup2(handle, number)
                    os.close(handle)
            stream = Path(os.devnull).open(mode)  # noqa: SIM115 - for as long as the process is there
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def _flush_stdout() -> int:
    """Whoever read our output may be gone (`dsg styles | head`); Python would complain about that while it exits.

    The status: 1 where what was said found no room.
    """
    stream = sys.__stdout__
    assert stream is not None  # something stands in for a closed one
    try:
        sys.stdout.flush()
        stream.flush()
    except (OSError, ValueError) as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            _say(f"Output: {error.strerror}.")
            return 1
    return 0
