"""The notebooks, run for real: against the real server, by a real kernel."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient
from server_process import REPO, launch

NOTEBOOKS = REPO / "notebooks"
ADDRESS_IN_NOTEBOOK = "http://localhost:8000/v1"


def run(name: str, replacements: dict[str, str]) -> dict[str, str]:
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


def test_langchain_chat_on_the_demo_model(tmp_path: Path) -> None:
    server = launch("demo", [], tmp_path / "log.txt")
    try:
        server.wait_until_ready()
        shown = run("langchain_chat.ipynb", {ADDRESS_IN_NOTEBOOK: f"{server.url}/v1"})
    finally:
        server.stop()
    assert "content=' Io amo programmare'" in shown["answer"]
    assert "content=' Io amo programmare'" in shown["chained"]
    streamed = next(text for last, text in shown.items() if "flush=True" in last)
    assert streamed.replace("|", "") == " Io amo programmare"
    table = next(text for last, text in shown.items() if "translation.content" in last)
    assert "Dov'è la stazione?" in table and "Buongiorno" in table
