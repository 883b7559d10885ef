from __future__ import annotations

import time

import pytest

from diffusers_ext.rewards.errors import InstructionError, ModelError, PromptTextError
from diffusers_ext.rewards.judgement import Judgement
from diffusers_ext.rewards.videos import Clip
from gradio_app.comparing import CRITERIA, VIDEO_CRITERIA, Answer, Comparison, compare, instructions_for

PROMPT = "a photo of a red star"


def find(judges):
    def look(name):
        if name not in judges:
            raise ModelError(f"{name}: cannot be loaded")
        return judges[name]

    return look


def test_the_numbers_are_those_of_the_judge_itself(untrained_judge, pictures):
    a, b = pictures[:2]
    *_, known = compare(find({"nano": untrained_judge}), ["nano"], a, b, PROMPT, instructions_for(CRITERIA, ""))
    assert known.criteria == ["overall", "alignment", "exactness", "aesthetics", "structure"]
    for answer in known.answers:
        whole = untrained_judge.compare(a, b, PROMPT, instruction=answer.criterion)[0]
        one = untrained_judge.compare(a, b, PROMPT, instruction=answer.criterion, debias=False)[0]
        other = untrained_judge.compare(b, a, PROMPT, instruction=answer.criterion, debias=False)[0]
        told = answer.as_dict()
        assert told["probability_of_a"] == pytest.approx(whole.reward, abs=1e-5)
        assert told["asked_about_a"] == pytest.approx(one.reward, abs=1e-5)
        assert told["asked_about_b"] == pytest.approx(1 - other.reward, abs=1e-5)


def test_direct_verdicts_come_first_and_thoughts_after_them(untrained_judge, pictures):
    by = instructions_for(["overall"], "")
    steps = list(compare(find({"nano": untrained_judge}), ["nano"], *pictures[:2], PROMPT, by, explain=True))
    progress = [(len(step.answers), len(step.reasoned)) for step in steps]
    assert progress == [(1, 0)] * (len(steps) - 1) + [(1, 1)]
    assert steps[-1].writing is None
    thought = steps[-1].as_dict()["after_reasoning"][0]
    judged = untrained_judge.compare(pictures[0], pictures[1], PROMPT, debias=False, explain=True)[0]
    assert thought["about_a"] == judged.explanation


class Slow:
    """A judge that takes its time over every word."""

    def __init__(self, judge):
        self.judge, self.think = judge, judge.think

    def compare(self, *shown, on_text=None, **options):
        def told(index, text):
            time.sleep(0.01)
            on_text(index, text)

        return self.judge.compare(*shown, on_text=on_text and told, **options)


def test_thoughts_are_shown_while_they_are_written(untrained_judge, pictures):
    by = instructions_for(["overall"], "")
    steps = list(compare(find({"nano": Slow(untrained_judge)}), ["nano"], *pictures[:2], PROMPT, by, explain=True))
    written = [step.writing.about_a for step in steps if step.writing]
    thought = steps[-1].reasoned[0].forward.explanation
    assert len(set(written)) > 5
    assert all(thought.startswith(text) for text in written)
    assert sorted(written, key=len) == written


class Elsewhere:
    """A judge that is served: it has no way to tell of half a thought."""

    def __init__(self, judge):
        self.judge = judge

    def compare(self, candidates, reference, prompt, instruction, debias, explain=False, cancel=None):
        return self.judge.compare(candidates, reference, prompt, instruction, debias, explain)


def test_a_judge_that_is_served_explains_itself_in_one_piece(untrained_judge, pictures):
    by = instructions_for(["overall"], "")
    *_, known = compare(find({"far": Elsewhere(untrained_judge)}), ["far"], *pictures[:2], PROMPT, by, explain=True)
    near = untrained_judge.compare(pictures[0], pictures[1], PROMPT, debias=False, explain=True)[0]
    assert known.reasoned[0].forward.explanation == near.explanation


def test_videos_are_judged_as_the_judge_itself_does(untrained_judge, pictures):
    a, b = (Clip(tuple(pictures[start : start + 3])) for start in (0, 3))
    by = instructions_for(VIDEO_CRITERIA[:2], "mood: How gloomy it is.", "t2v")
    assert {item.task for item in by} == {"t2v"}
    *_, known = compare(find({"nano": untrained_judge}), ["nano"], a, b, PROMPT, by)
    for answer in known.answers[:2]:
        whole = untrained_judge.compare_videos(a, b, PROMPT, instruction=answer.criterion)[0]
        assert answer.debiased.reward == pytest.approx(whole.reward, abs=1e-5)
    with pytest.raises(ModelError, match="takes no videos"):
        list(compare(find({"far": Elsewhere(untrained_judge)}), ["far"], a, b, PROMPT, by))


def test_a_judge_that_fails_does_not_stop_the_others(untrained_judge, pictures):
    by = instructions_for(["overall"], "")
    *_, known = compare(find({"good": untrained_judge}), ["broken", "good"], *pictures[:2], PROMPT, by)
    assert known.judges == ["good"]
    assert known.failures == (("broken", "broken: cannot be loaded"),)
    with pytest.raises(ModelError, match="cannot be loaded"):
        list(compare(find({}), ["broken"], *pictures[:2], PROMPT, by))
    with pytest.raises(ModelError, match="choose at least one"):
        list(compare(find({}), [], *pictures[:2], PROMPT, by))
    with pytest.raises(PromptTextError, match="empty"):
        list(compare(find({}), ["good"], *pictures[:2], "  ", by))


def answer(judge, criterion, log_odds):
    return Answer(judge, criterion, Judgement(log_odds, criterion, ()), Judgement(-log_odds, criterion, ()))


def test_judges_disagree_where_they_prefer_different_pictures():
    verdicts = (("x", "mood", 2.0), ("x", "face", 1.0), ("y", "mood", 3.0), ("y", "face", -0.1))
    known = Comparison(PROMPT, tuple(answer(*verdict) for verdict in verdicts))
    assert known.as_dict()["disputed"] == ["face"]


def test_criteria_of_ones_own():
    found = instructions_for(["structure"], "mood: How gloomy it is.\n\nHow warm the colours are.\n")
    assert [item.name for item in found] == ["structure", "mood", "own 2"]
    assert [item.text for item in found[1:]] == ["How gloomy it is.", "How warm the colours are."]


@pytest.mark.parametrize(
    ("presets", "own", "told"),
    [
        ([], " \n", "nothing to judge by"),
        (["overal"], "", "Did you mean 'overall'"),
        (["overall"], "overall: How warm it is.", "same name"),
        ([], "x\n" * 9, "at most 8 lines"),
        ([], "x" * 1001, "1000 letters"),
    ],
)
def test_criteria_that_make_no_sense_are_refused(presets, own, told):
    with pytest.raises(InstructionError, match=told):
        instructions_for(presets, own)
