"""What the terminal keeps of warnings."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import warnings
from cli.quiet import quiet
quiet()
warnings.warn("`max_epochs` was not set: harmless")
warnings.warn("samples have collapsed: try this")
warnings.warn("this will go", FutureWarning)
"""


def test_a_users_warning_is_one_line_without_its_place():
    process = subprocess.run(
        [sys.executable, "-W", "default", "-c", SCRIPT], cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    first, *rest = process.stderr.splitlines()
    assert first == "warning: samples have collapsed: try this"
    assert len(rest) >= 1 and "FutureWarning: this will go" in rest[0]
