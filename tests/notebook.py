"""Write the notebook docs/trainer.ipynb from the page docs/trainer.md: `python -m tests.notebook`."""

import json
import re
from pathlib import Path


PAGE = Path(__file__).parents[1] / "docs" / "trainer.md"
NOTEBOOK = PAGE.with_suffix(".ipynb")


def to_notebook(page: str) -> dict:
    """Turn a Markdown page into a notebook, with its Python blocks as code cells."""
    cells = []
    for number, part in enumerate(re.split(r"^```python\n(.*?)^```$\n?", page, flags=re.MULTILINE | re.DOTALL)):
        if not part.strip():
            continue
        code = number % 2 == 1
        cell = {"cell_type": "code" if code else "markdown", "id": f"cell{number}", "metadata": {}}
        cells.append(cell | {"source": part.strip()} | ({"execution_count": None, "outputs": []} if code else {}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def main() -> None:
    NOTEBOOK.write_text(json.dumps(to_notebook(PAGE.read_text("utf-8")), indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
