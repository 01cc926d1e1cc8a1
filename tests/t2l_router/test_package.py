import importlib

import pytest

import t2l_router


def test_all_is_sorted():
    """The public names are listed in order, each once."""
    assert sorted(set(t2l_router.__all__)) == t2l_router.__all__


@pytest.mark.parametrize("name", t2l_router.__all__)
def test_public_name(name):
    """Every public name is there, and is the thing its module defines."""
    found = getattr(t2l_router, name)

    assert getattr(importlib.import_module(found.__module__), name) is found
    assert name in dir(t2l_router)


def test_nothing_else_is_public():
    """The table of homes and the public names are the same set."""
    assert set(t2l_router.__all__) == set(t2l_router._HOMES)


def test_unknown_name():
    """A name that isn't there is an attribute error, as in any module."""
    with pytest.raises(AttributeError, match="no attribute 'Ruoter'"):
        t2l_router.Ruoter  # noqa: B018
