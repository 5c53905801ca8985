"""The entry: which verbs there are, and what a user sees when something ends early."""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
from typing import Annotated, Any

import typer

from dsgcli.align import align
from dsgcli.destylize import destylize
from dsgcli.doctor import doctor
from dsgcli.refine import refine
from dsgcli.report import speaks
from dsgcli.sample import sample
from dsgcli.styles import app as styles
from dsgcli.stylize import stylize
from dsgcli.train import train
from dualstylegan.errors import DualStyleGANError, UsageError

INTERRUPTED, TERMINATED = 130, 143  # 128 + SIGINT, 128 + SIGTERM, as shells have it

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
    """Run one command; its exit status: 0 done, 1 something failed, 2 wrong usage, 130 and 143 when stopped."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments or os.environ.get("DSG_DEBUG", "") not in ("", "0")
    arguments = [argument for argument in arguments if argument != "--debug"]
    if debug:
        import logging

        logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s")
        logging.getLogger("PIL").setLevel(logging.INFO)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        return _run(arguments, debug)
    finally:
        signal.signal(signal.SIGTERM, before)
        _flush_stdout()


def _run(arguments: list[str], debug: bool) -> int:
    try:
        status = app(arguments, prog_name="dsg", standalone_mode=False)
    except (DualStyleGANError, typer.TyperException) as error:
        return _explain(error, debug)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except SystemExit as leaving:  # SIGTERM, a process of several that ends because another failed, a closed pipe
        status = leaving.code
    except Exception as error:
        if debug:
            traceback.print_exc()
        _say(f"unexpected {type(error).__name__}: {error}{'' if debug else ' (--debug shows where)'}.")
        return 1
    if status in (INTERRUPTED, TERMINATED) and speaks():
        _say("interrupted." if status == INTERRUPTED else "terminated.")
    return status if isinstance(status, int) else 0


def _explain(error: DualStyleGANError | typer.TyperException, debug: bool) -> int:
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
        _say(message)
    return status


def _say(line: str) -> None:
    print(f"dsg: {' '.join(line.split())}", file=sys.stderr)


def _terminate(number: int, frame: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: files are being put away
    raise SystemExit(TERMINATED)


def _flush_stdout() -> None:
    """Whoever read our output may be gone (`dsg styles | head`); Python would complain about that while it exits."""
    try:
        sys.stdout.flush()
        sys.__stdout__.flush()
    except (BrokenPipeError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())
