from __future__ import annotations

import pytest
from preference_samples import png


@pytest.fixture
def pictures_in():
    def make(folder, *names):
        for number, name in enumerate(names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(png(number))
        return folder

    return make
