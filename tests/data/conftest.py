from __future__ import annotations

import pytest
from preference_samples import png

from diffusers_ext import cli
from diffusers_ext.cli.data import app

if "data" not in {group.name for group in cli.app.registered_groups}:
    cli.app.add_typer(app, name="data")


@pytest.fixture
def pictures_in():
    def make(folder, *names):
        for number, name in enumerate(names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(png(number))
        return folder

    return make
