"""Settings are frozen values: checked once, the same by keyword, by command line and whole."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest
import typer
from typer.testing import CliRunner

from dsgcli.command import Group, verb
from dsgcli.options import FILM, SAMPLING, STYLIZER, seconds
from dualstylegan.errors import UsageError
from dualstylegan.recipe import build_recipe
from dualstylegan.stylizing.settings import FilmOptions, SamplingSettings, StylizerSettings


@pytest.mark.parametrize(("spelled", "written"), [("bf16", "bfloat16"), ("fp32", "float32"), ("float16", "float16")])
def test_a_precision_is_read_in_both_spellings_and_written_in_one(spelled, written):
    assert StylizerSettings(precision=spelled) == StylizerSettings(precision=written)
    assert SamplingSettings(precision=spelled).precision == written
    table = {"name": "x", "kind": "style", "base_model": "mini", "precision": spelled}
    assert build_recipe(table).precision == written


@pytest.mark.parametrize("settings", [SamplingSettings, StylizerSettings])
def test_what_is_no_precision_is_refused_when_it_is_said(settings):
    with pytest.raises(UsageError, match="Did you mean 'bfloat16'"):
        settings(precision="bfloat1")


def test_settings_do_not_change_once_they_are_checked():
    settings = StylizerSettings()
    with pytest.raises(FrozenInstanceError):
        settings.mask = "crop"


def run(command, *arguments: str):
    app = typer.Typer(add_completion=False)
    app.command()(command)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output


def test_options_of_the_command_line_fill_the_settings_they_are_named_for():
    seen = []

    @verb(settings=STYLIZER, film=FILM)
    def act(settings: StylizerSettings, film: FilmOptions, twice: bool = False) -> None:
        seen.append((settings, film, twice))

    run(act)
    assert seen == [(StylizerSettings(), FilmOptions(), False)]
    options = ["--weights", "0x4,.5x3,1x11", "--min-face", "0", "--precision", "bf16", "--preserve-color"]
    run(act, *options, "--start", "1:30", "--smooth", "0", "--twice")
    weights = (0.0,) * 4 + (0.5,) * 3 + (1.0,) * 11
    settings = StylizerSettings(weights=weights, precision="bfloat16", preserve_color=True)
    assert seen[1] == (settings, FilmOptions(start_s=90, smooth=0), True)


@pytest.mark.parametrize("group", [SAMPLING, STYLIZER, FILM])
def test_every_setting_has_its_option(group: Group):
    elsewhere = {"crop"} if group is FILM else set()  # of photos too
    names = {field.name for field in fields(group.settings)}
    assert {parameter.name for parameter in group.parameters} == names - elsewhere


def test_times_are_read_as_clocks_show_them():
    assert [seconds(text) for text in ("90", "1:30", "0:01:30.5", "1:00:00")] == [90, 90, 90.5, 3600]
