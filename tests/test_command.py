"""The command `lmmem`, as a shell runs it."""

from __future__ import annotations

import subprocess
import sys


def test_reader_that_has_seen_enough_ends_a_command_without_a_word():
    """As `lmmem models | head` does."""
    asked = [sys.executable, "-m", "lmmem", "models"]
    with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        command.stdout.close()
        said = command.stderr.read()
    assert (said, command.returncode) == (b"", 2)
