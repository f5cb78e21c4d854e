"""What Ray's launcher says, and what becomes of it for the user."""

from __future__ import annotations

import sys

import pytest

from clusters.errors import ClusterError
from clusters.kinds import KINDS
from clusters.launcher import Launcher


@pytest.mark.parametrize(
    ("said", "code", "meaning"),
    [
        ("10.0.0.7\n", 0, "10.0.0.7"),
        ("RuntimeError: Head node of cluster (tiny) not found!\n", 1, None),
        ("Head node (i-1) is in state setting-up.\nRuntimeError: Head node of cluster (t) not "
         "found!\n", 1, ClusterError),
        ("botocore.exceptions.ClientError: ExpiredToken\n", 1, ClusterError),
    ],
)  # fmt: skip
def test_what_the_launcher_says_of_a_head(tmp_path, monkeypatch, said, code, meaning):
    words = [sys.executable, "-c", f"print({said!r}, end=''); raise SystemExit({code})"]
    monkeypatch.setattr(Launcher, "_words", lambda *_: words)
    launcher = Launcher(tmp_path / "c.yaml", tmp_path)
    if meaning is ClusterError:
        with pytest.raises(ClusterError):
            launcher.head_address()
    else:
        assert launcher.head_address() == meaning


_TRY = (
    "WARN node_provider.py:487 -- create_instances: Attempt failed with An error occurred (Vcpu"
    "LimitExceeded) when calling the RunInstances operation (reached max retries: 0): too many\n"
)


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("VERR utils.py:102 -- Error code: ExpiredToken\nYour AWS session has expired.\n"
         "You can request a new one using\n", "your credentials have expired; `aws sso login`"),
        (f"{_TRY}Traceback\nNodeLaunchException: too many\n",
         r"AWS refuses RunInstances: too many \(VcpuLimitExceeded\)"),
        ("ClientError: An error occurred (UnauthorizedOperation) when calling the DescribeInstances"
         " operation: You may not.\n",
         r"AWS refuses DescribeInstances: You may not\. \(UnauthorizedOperation\)"),
        (f"{_TRY}Launched a new head node\nERROR: No matching distribution\n",
         "ERROR: No matching distribution"),
    ],
)  # fmt: skip
def test_what_the_launcher_prints_pages_about_becomes_a_sentence(
    tmp_path, monkeypatch, said, meaning
):
    said += "Error: Exiting due to cli_logger.abort()\n"
    words = [sys.executable, "-c", f"print({said!r}, end=''); raise SystemExit(1)"]
    monkeypatch.setattr(Launcher, "_words", lambda *_: words)
    launcher = Launcher(tmp_path / "c.yaml", tmp_path, KINDS["aws"].refusal)
    for call in (launcher.head_address, lambda: launcher.up(print), lambda: launcher.down(print)):
        with pytest.raises(ClusterError, match=meaning) as error:
            call()
        assert "cli_logger" not in str(error.value)


def test_what_the_launcher_keeps_for_later_is_nobody_else_s_to_write(tmp_path, monkeypatch):
    """It takes a cluster's configuration from its temporary folder where it finds one there."""
    words = [sys.executable, "-c", "import tempfile; print(tempfile.gettempdir())"]
    monkeypatch.setattr(Launcher, "_words", lambda *_: words)
    assert Launcher(tmp_path / "c.yaml", tmp_path).head_address() == str(tmp_path)
