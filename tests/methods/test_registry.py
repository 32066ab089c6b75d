"""What jobs, page, HTTP and command line rely on, of every kind of training."""

from __future__ import annotations

import pytest

from lib_ti.core.errors import BadInput
from lib_ti.core.schedule import parse_learning_rate
from lib_ti.core.settings import as_dict, options_of
from lib_ti.data.templates import find_template
from lib_ti.methods.registry import DEFAULT, KINDS, all_options, kind_of, read_settings


@pytest.mark.parametrize("name", KINDS)
def test_settings_tell_their_kind_and_every_one_tells_of_itself(name: str) -> None:
    settings = read_settings({"method": name, "name": "zqx"})
    assert kind_of(settings) is KINDS[name] and type(settings) is KINDS[name].settings
    assert KINDS[name].products(settings)[0].name == "zqx"
    assert all(told.help and told.group for _, told, _ in options_of(type(settings)).values())


def test_who_names_no_method_gets_the_default() -> None:
    assert kind_of(read_settings({"name": "zqx"})).name == DEFAULT == "ti"


@pytest.mark.parametrize("method", ["magic", None, 3, ["ti"]])
def test_an_unknown_method_is_refused(method: object) -> None:
    with pytest.raises(BadInput, match=r"method: got .*expected one of ti"):
        read_settings({"method": method})


def test_what_methods_share_means_the_same() -> None:
    """One control, one command-line option and one help text serve all of them."""
    for kind in KINDS.values():
        for name, (field, option, plain) in options_of(kind.settings).items():
            shared, shared_plain, defaults = all_options()[name]
            assert (option, plain) == (shared, shared_plain), name
            assert defaults[kind.name] == field.default


def test_a_preset_fills_in_what_was_not_given() -> None:
    """And a job's record, in which everything was given, is read back as it is."""
    told = {"method": "dreamartist", "preset": "style", "name": "zqx"}
    style = read_settings(told)
    assert (style.learning_rate, style.guidance, style.template) == ("0.005", "5", "style_filewords")
    other = read_settings({**told, "guidance": "3", "steps": 100})
    assert (other.learning_rate, other.guidance, other.steps) == ("0.005", "3", 100)
    assert read_settings({"method": "dreamartist", **as_dict(other)}) == other
    with pytest.raises(BadInput, match="preset: got 'magic', expected one of none, character, style"):
        read_settings({**told, "preset": "magic"})


@pytest.mark.parametrize(("method", "preset"), [(k.name, name) for k in KINDS.values() for name in k.presets])
def test_presets_hold_settings_of_their_method(method: str, preset: str) -> None:
    settings = read_settings({"method": method, "preset": preset, "name": "zqx"})
    for name, value in KINDS[method].presets[preset].items():
        assert getattr(settings, name) == value
    assert KINDS[method].words(settings).positive == "zqx"
    assert find_template(settings.template).is_file() and parse_learning_rate(settings.learning_rate)
