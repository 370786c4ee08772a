"""The notebooks, run for real: against the real server, by a real kernel."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from served import running_server

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
ADDRESS_IN_NOTEBOOK = "http://localhost:8000/v1"


def run(name: str, replacements: dict[str, str]) -> dict[str, object]:
    """Executes a notebook with texts replaced in its cells; the last expression of each cell by its index."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    for cell in notebook.cells:
        for old, new in replacements.items():
            cell.source = cell.source.replace(old, new)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    return {
        cell.source.splitlines()[-1]: "".join(
            output.get("text", "") or output.get("data", {}).get("text/plain", "")
            for output in cell.get("outputs", [])
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    }


@pytest.mark.timeout(300)
def test_langchain_chat_on_the_demo_model() -> None:
    with running_server() as server:
        shown = run("langchain_chat.ipynb", {ADDRESS_IN_NOTEBOOK: server.base_url})
    assert "content=' Io amo programmare'" in shown["answer"]
    assert "content=' Io amo programmare'" in shown["chained"]
    streamed = next(text for last, text in shown.items() if "flush=True" in last)
    assert streamed.replace("|", "") == " Io amo programmare"
    table = next(text for last, text in shown.items() if "translation.content" in last)
    assert "Dov'è la stazione?" in table and "Buongiorno" in table
