"""A few broken files of each kind in every test run; `make fuzz` reads thousands."""

from __future__ import annotations

import signal

import pytest

from fuzz.campaign import TARGETS, fuzz


@pytest.fixture(autouse=True)
def alarm():
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_broken_files_are_accepted_or_refused_and_nothing_else(target):
    accepted, refused = fuzz(target, 25, seed=1)
    assert accepted + refused == 25
    assert refused
