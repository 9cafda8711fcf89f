"""Which notebooks there are, as tests take them: by their names, in the order of the book."""

from pathlib import Path

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
KEPT = ("08_published", "costs", "comparisons", "scaling", "real_models")  # tables that were measured before
SECTIONS = sorted(path.stem for path in NOTEBOOKS.glob("[0-9]*.md") if path.stem not in KEPT)  # measure a model
PAGES = sorted(path.stem for path in NOTEBOOKS.glob("*.md"))
