"""The process that reads test: what it says when it fails, and when it takes too long."""

import pytest

from study import verify as verifying
from study.verify import Job, VerificationError, verify
from trainables.record import Choice


def job(task="digits"):
    return Job("/nowhere", Choice(task), 0, 1, ())


def test_a_process_that_takes_too_long_is_ended_and_told():
    with pytest.raises(VerificationError, match=r"more than 0 s for 0 points; --resume"):
        verify(job(), seconds=0.05)


def test_a_process_that_fails_is_told_by_its_last_words(monkeypatch):
    monkeypatch.setattr(verifying.sys, "executable", "/bin/false")
    with pytest.raises(VerificationError, match="exit code 1"):
        verify(job())
