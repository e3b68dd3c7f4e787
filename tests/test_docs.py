"""What the pages tell people to type can be typed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "launchers" / "README.md"]
FILES = [*PAGES, *sorted((ROOT / "conf").rglob("*.yaml")), *sorted((ROOT / "launchers").rglob("*.yaml"))]


def commands(text: str) -> list[str]:
    """Everything that begins like a command line of ours: lines of code blocks and comments, and inline code."""
    found = re.findall(r"^[#\s]*(brainlab\s.+?)$", text, re.MULTILINE) + re.findall(r"`(brainlab\s[^`]+)`", text)
    return [re.sub(r"[…\\]", "", line) for line in found]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_shell_takes_every_command_as_it_is_written(path: Path) -> None:
    for line in commands(path.read_text(encoding="utf-8")):
        done = subprocess.run(["bash", "-n", "-c", line], capture_output=True, text=True, timeout=10)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
