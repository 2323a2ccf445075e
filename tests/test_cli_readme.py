"""What the README tells a newcomer to type is what .ci/run types."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def setup_commands():
    """The lines of the first fenced block under "## Set-up", without comments."""
    section = (ROOT / "README.md").read_text().split("\n## Set-up\n")[1]
    block = re.search(r"```\w*\n(.*?)```", section, re.S)[1]
    return [line.split("  #")[0].strip() for line in block.splitlines() if line.strip() and line[0] != "#"]


def test_ci_runs_the_readmes_commands():
    typed = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("pip install")]
    assert (
        setup_commands()
        == typed
        == [
            "pip install -e . && python main.py fit --config configs/bcm.yaml",
            'pip install -e ".[dev]" && pytest',
        ]
    )


def test_every_file_that_the_readme_names_is_there():
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"(?:configs|docs)/[\w./-]+\.(?:yaml|md)", text))
    assert named and not [name for name in named if not (ROOT / name).is_file()]
