"""How a function that gives a verb's events becomes a command: options in groups, --json, --offline, and its end."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Annotated, Any

import typer

from dsgcli.report import show
from dualstylegan.events import Event

QUESTIONS = ("dry_run", "list_recipes")  # options that ask: the notes are then what was asked for


def _go_offline(context: typer.Context, wanted: bool) -> bool:
    """The zoo reads it, and so do processes started from here; afterwards it is as it was."""
    before = os.environ.get("DSG_OFFLINE")

    def restore() -> None:
        del os.environ["DSG_OFFLINE"]
        if before is not None:
            os.environ["DSG_OFFLINE"] = before

    if wanted:
        os.environ["DSG_OFFLINE"] = "1"
        context.find_root().call_on_close(restore)
    return wanted


JsonOption = Annotated[bool, typer.Option("--json", help="One event per line on stdout, as JSON.")]
OfflineOption = Annotated[
    bool, typer.Option("--offline", callback=_go_offline, help="Download nothing (or set DSG_OFFLINE=1).")
]


class Group:
    """Options, those of `others` first, that make one value of `settings`: each fills, and defaults to, its field."""

    def __init__(self, settings: type, *others: Group, **options: Any):
        self.settings = settings
        self.options: dict[str, Any] = {}
        for some in (*(other.options for other in others), options):
            self.options |= some
        fields = inspect.signature(settings).parameters
        self.parameters = [_parameter(name, option, fields[name].default) for name, option in self.options.items()]

    def value(self, given: dict[str, Any]) -> Any:
        """What the options come to; they are taken out of `given`."""
        return self.settings(**{one.name: given.pop(one.name) for one in self.parameters})


def verb(
    *, answer: bool = False, **groups: Group
) -> Callable[[Callable[..., Iterable[Event] | None]], Callable[..., None]]:
    """`@verb(film=FILM)` makes a command of a function that returns events, which are shown, or None.

    Where the function has a parameter `film` the command has the options of the group, and the function gets their
    value. `answer`: what the events note is what was asked for.
    """

    def decorate(act: Callable[..., Iterable[Event] | None]) -> Callable[..., None]:
        signature = inspect.signature(act, eval_str=True)
        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            own = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            parameters += groups[parameter.name].parameters if parameter.name in groups else [own]
        parameters += [_parameter("json", JsonOption, False), _parameter("offline", OfflineOption, False)]

        @wraps(act)
        def command(*, json: bool, offline: bool, **given: Any) -> None:
            for name, group in groups.items():
                given[name] = group.value(given)
            events = act(**given)
            if events is not None:
                asked = answer or any(given.get(name) for name in QUESTIONS)
                raise typer.Exit(show(events, json=json, answer=asked))

        command.__dict__["__signature__"] = signature.replace(parameters=parameters)
        command.__annotations__ = {}
        return command

    return decorate


def _parameter(name: str, option: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=option)
