from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from diffusers_ext.nano.captions import slip
from diffusers_ext.nano.oracle import judge
from diffusers_ext.nano.render import render
from diffusers_ext.nano.scenes import PROMPT_KINDS, grade, parse_prompt, place_in_cells, sample_prompt, sample_scene_for


def scenes(kind: str, count: int):
    rng = np.random.default_rng(3)
    for _ in range(count):
        spec = sample_prompt(rng, kind, held_out=None)
        scene = sample_scene_for(rng, spec, placing=place_in_cells, held_out=None)
        yield rng, spec, scene


@pytest.mark.parametrize("kind", PROMPT_KINDS)
def test_a_slip_is_a_prompt_of_the_same_kind_that_the_picture_does_not_show(kind):
    for rng, spec, scene in scenes(kind, 100):
        wrong = slip(rng, spec, scene.objects)
        assert wrong.kind == kind and wrong != spec
        assert parse_prompt(wrong.text) == wrong
        assert not grade(wrong, scene.objects).correct


def test_the_oracle_sees_the_slip_in_the_pixels():
    found = [
        judge(render(scene), slip(rng, spec, scene.objects)).correct
        for kind in PROMPT_KINDS
        for rng, spec, scene in scenes(kind, 20)
    ]
    assert np.mean(found) <= 0.02


def test_one_thing_is_said_wrongly_and_everything_is_at_some_time():
    changed: Counter[str] = Counter()
    for rng, spec, scene in scenes("colour_attribution", 200):
        wrong = slip(rng, spec, scene.objects)
        before, after = ([(item.colour, item.shape) for item in each.objects] for each in (spec, wrong))
        if [shape for _, shape in before] != [shape for _, shape in after]:
            changed["shape"] += 1
            assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
        elif sorted(colour for colour, _ in before) == sorted(colour for colour, _ in after):
            changed["exchange"] += 1
        else:
            changed["colour"] += 1
            assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    assert all(changed[way] >= 20 for way in ("shape", "exchange", "colour"))


def test_a_relation_is_turned_round_and_a_number_changed():
    relations = {
        slip(rng, spec, scene.objects).relation == spec.relation for rng, spec, scene in scenes("position", 50)
    }
    assert relations == {True, False}
    counts = {
        slip(rng, spec, scene.objects).objects[0].count == spec.objects[0].count
        for rng, spec, scene in scenes("counting", 50)
    }
    assert counts == {True, False}
