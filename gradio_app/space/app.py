"""The page as a Hugging Face Space; see docs/app.md."""

from __future__ import annotations

import os
from pathlib import Path

from gradio_app.page import serve
from gradio_app.settings import Settings

# A Space keeps what lies in /data, where it has been given storage that lasts.
_KEPT = Path("/data")

if __name__ == "__main__":
    folder = _KEPT if os.access(_KEPT, os.W_OK) else Path.cwd()
    settings = Settings(votes=folder / "votes.sqlite", runs=folder / "runs")
    serve(settings, "0.0.0.0", int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
