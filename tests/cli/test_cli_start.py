from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version

import pytest

import diffusers_ext


def python(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, *(str(argument) for argument in arguments)],
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        env=environment,
        check=False,
    )


LIGHT = """
import sys, time
start = time.process_time()
import {module}
print(time.process_time() - start)
print(*sorted({{"torch", "transformers", "diffusers", "numpy"}} & set(sys.modules)))
"""


def test_importing_the_package_costs_nothing():
    seconds, heavy = python("-c", LIGHT.format(module="diffusers_ext")).stdout.split("\n")[:2]
    assert float(seconds) < 0.5
    assert heavy == ""


def test_the_command_line_starts_without_torch():
    seconds, heavy = python("-c", LIGHT.format(module="diffusers_ext.cli")).stdout.split("\n")[:2]
    assert float(seconds) < 1.0
    assert heavy == ""


def test_version_is_that_of_the_distribution():
    found = python("-m", "diffusers_ext.cli", "--version")
    assert (found.returncode, found.stdout) == (0, f"rewarddance {version('rewarddance')}\n")
    assert diffusers_ext.__version__ == version("rewarddance")


def test_every_public_name_is_there():
    for name in diffusers_ext.__all__:
        assert getattr(diffusers_ext, name).__module__.startswith("diffusers_ext.")
    assert set(diffusers_ext.__all__) <= set(dir(diffusers_ext))
    with pytest.raises(AttributeError, match="nothing"):
        _ = diffusers_ext.nothing


def test_help_names_every_command(rewarddance):
    outcome = rewarddance("--help")
    assert outcome.code == 0
    assert all(name in outcome.stdout for name in ("score", "compare", "rank", "generate", "evaluate", "demo", "nano"))


def test_a_whole_process_prints_one_json_object_and_ends_with_two_for_a_bad_file(
    untrained_model_folder, picture_files, tmp_path
):
    given = (picture_files[0], tmp_path / "lost.png")
    options = ("-p", "a red star", "--json", "--model", untrained_model_folder, "--device", "cpu")
    found = python("-m", "diffusers_ext.cli", "score", *given, *options)
    assert found.returncode == 2
    assert found.stdout.count("\n") == 1
    assert [item["image"] for item in json.loads(found.stdout)["judgements"]] == [str(picture_files[0])]
    assert found.stderr == f"error: {tmp_path / 'lost.png'}: there is no such file\n"


def test_a_whole_process_turns_an_error_into_one_line_and_two(picture_files, tmp_path):
    found = python("-m", "diffusers_ext.cli", "score", picture_files[0], "-p", "x", "--model", tmp_path / "lost")
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("error: ")
    assert found.stderr.count("\n") == 1
