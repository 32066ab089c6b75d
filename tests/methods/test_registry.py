"""What jobs, page, HTTP and command line rely on, of every kind of training."""

from __future__ import annotations

import pytest

from lib_ti.core.errors import BadInput
from lib_ti.core.settings import options_of
from lib_ti.methods.registry import DEFAULT, KINDS, all_options, kind_of, read_settings


@pytest.mark.parametrize("name", KINDS)
def test_settings_tell_their_kind_and_every_one_tells_of_itself(name: str) -> None:
    settings = read_settings({"method": name, "name": "zqx"})
    assert kind_of(settings) is KINDS[name] and type(settings) is KINDS[name].settings
    assert KINDS[name].words(settings).positive == "zqx"
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
