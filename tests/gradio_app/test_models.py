from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from diffusers_ext.rewards.errors import ModelError
from gradio_app.models import Lazy, Models
from gradio_app.settings import Settings
from gradio_app.stopping import stoppable

SPACE = Path(__file__).parents[2] / "gradio_app" / "space"


def test_models_are_loaded_once_when_first_asked_for():
    loads = []
    lazy = Lazy("x", lambda: loads.append(1) or "loaded")
    assert not lazy.settled and not loads
    threads = [threading.Thread(target=lazy.get) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lazy.get() == "loaded" and lazy.state == "ready" and loads == [1]


def test_what_cannot_be_loaded_says_why_and_can_be_tried_again():
    answers = iter([RuntimeError("out of <memory>"), ModelError("x: no such folder"), None])

    def load():
        if error := next(answers):
            raise error
        return "loaded"

    lazy = Lazy("x", load)
    for told in ("out of <memory>", "no such folder"):
        with pytest.raises(ModelError, match=told):
            lazy.get()
        assert told in lazy.state and lazy.settled
    assert lazy.get() == "loaded" and lazy.state == "ready"


def test_visitors_choose_among_what_was_named_and_nothing_else(untrained_model_folder, tmp_path):
    models = Models(Settings((str(untrained_model_folder), "owner/name", "http://127.0.0.1:9"), (str(tmp_path),)))
    assert models.judges == ["untrained", "owner/name", "http://127.0.0.1:9"]
    assert models.judge("untrained").name == "untrained"
    for name in (str(untrained_model_folder), "other/model", "../untrained"):
        with pytest.raises(ModelError, match="there is no judge"):
            models.judge(name)
    with pytest.raises(ModelError, match="pipeline"), models.painting(tmp_path.name):
        pass
    assert models.options(None, 2) == {"guidance_scale": 2.0}
    assert Models(Settings()).options(8, None)["num_inference_steps"] == 8


def test_two_folders_of_one_name_are_told_apart(tmp_path):
    folders = [tmp_path / place / "judge" for place in "xy"]
    for folder in folders:
        folder.mkdir(parents=True)
    assert Models(Settings(tuple(map(str, folders)))).judges == list(map(str, folders))


def test_work_stops_when_nobody_waits_for_it():
    going, over = threading.Event(), threading.Event()

    def work(stopped):
        yield 1
        going.set()
        while not stopped():
            pass
        over.set()
        yield 2

    found = stoppable(work)
    assert next(found) == 1
    assert next(found) is None  # a moment to be closed in
    found.close()
    assert going.is_set() and over.wait(10)


def test_all_of_it_comes_in_order_and_errors_come_too():
    def work(stopped):
        yield from range(100)
        raise ModelError("no more")

    found = stoppable(work)
    assert [next(found) for _ in range(100)] == list(range(100))
    with pytest.raises(ModelError, match="no more"):
        list(found)


def test_a_space_asks_for_what_the_project_does():
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    project = tomllib.loads((SPACE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = (SPACE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    count = len(project["dependencies"])
    assert asked[:count] == project["dependencies"]
    extras = project["optional-dependencies"]
    wanted = {
        *extras["gradio"],
        *(item for item in extras["train"] + extras["video"] if item[:2] in ("pe", "py", "av")),
    }
    assert set(asked[count:]) == wanted


def test_the_command_says_what_it_takes_and_what_is_wrong(tmp_path):
    def run(*arguments):
        return subprocess.run([sys.executable, "-m", "gradio_app", *arguments], capture_output=True, text=True)

    shown = run("--help")
    assert shown.returncode == 0
    assert all(option in shown.stdout for option in ("--model", "--pipeline", "--auth", "--share", "--votes", "--runs"))
    wrong = run("--auth", "nobody")
    assert wrong.returncode == 2 and "USER:PASSWORD" in wrong.stderr and "Traceback" not in wrong.stderr


STARTING = """
import sys
import typer
from diffusers_ext.cli import starting
if sys.argv.pop(1) == "missing":
    sys.modules["gradio_app"] = None
app = typer.Typer()
app.command("app", **starting.SETTINGS)(starting.start)
app.command("other")(lambda: None)
try:
    app()
except starting.AppError as error:
    sys.exit(f"error: {error}")
"""


def test_rewarddance_app_is_the_same_command():
    def run(*arguments):
        return subprocess.run([sys.executable, "-c", STARTING, *arguments], capture_output=True, text=True)

    shown = run("there", "app", "--help")
    assert shown.returncode == 0 and "rewarddance app [OPTIONS]" in shown.stdout and "--votes" in shown.stdout
    missing = run("missing", "app", "--port", "1")
    assert missing.returncode == 1 and "no part of this installation" in missing.stderr


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("127.1.2.3", True),
        ("0.0.0.0", False),
        ("a.org", False),
    ],
)
def test_who_can_reach_the_page_is_said(host, local):
    from gradio_app.page import reached_by

    assert reached_by(host, False, False) == ("this machine only" if local else "everyone who can reach it")
    assert reached_by(host, True, False) == "everyone"
    assert reached_by(host, True, True) == "those who can log in"
