"""Which notebooks there are, as tests take them: by their names, in the order of the book."""

from pathlib import Path

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SECTIONS = sorted(path.stem for path in NOTEBOOKS.glob("[0-9]*.md"))
PAGES = sorted(path.stem for path in NOTEBOOKS.glob("*.md"))
