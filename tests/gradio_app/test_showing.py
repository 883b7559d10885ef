from __future__ import annotations

import io
from html.parser import HTMLParser

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page needs gradio: pip install 'rewarddance[gradio]'")

from diffusers_ext.rewards.errors import ImageError
from diffusers_ext.rewards.judgement import Judgement
from gradio_app import training_tab
from gradio_app.comparing import Answer, Comparison, Writing
from gradio_app.examples import write_pairs
from gradio_app.pictures import enlarged, opened, png
from gradio_app.runs import Run
from gradio_app.telling import with_every_line
from gradio_app.verdicts import as_html

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)> ${alert(3)} {{4}} \" '"


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.words = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data):
        self.words += data


def test_whatever_was_written_is_shown_as_text():
    judged = Judgement(1.0, EVIL, (), explanation=EVIL)
    item = Answer(EVIL, EVIL, judged, judged)
    page = Page()
    page.feed(as_html(Comparison(EVIL, (item,), (item,), ((EVIL, EVIL),), (EVIL,), Writing(EVIL, EVIL, EVIL, EVIL))))
    assert not {"script", "img"} & set(page.tags)
    assert page.words.count("<script>alert(1)</script>") >= 10


def test_bad_pictures_are_refused_without_telling_where_they_lie(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:90])
    for name, told in (("text", "not a picture"), ("cut", "damaged")):
        with pytest.raises(ImageError, match=told) as error:
            opened(str(tmp_path / f"{name}.png"), "A")
        assert str(tmp_path) not in str(error.value)
    with pytest.raises(ImageError, match="picture B is missing"):
        opened(None, "B")


@pytest.mark.filterwarnings("ignore:.*animated")
def test_of_an_animation_the_first_frame_is_judged_and_that_is_said(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    image, notes = opened(str(tmp_path / "x.gif"), "A")
    assert image.getpixel((0, 0))[0] > 200
    assert "first frame" in notes[0]


def test_facts_travel_in_the_picture():
    image = Image.new("RGB", (4, 4), "red")
    read = Image.open(io.BytesIO(png(image, {"prompt": "ein roter Stern ★", "seed": 3})))
    assert read.text == {"prompt": "ein roter Stern ★", "seed": "3"}
    assert read.tobytes() == image.tobytes()


def test_small_pictures_are_enlarged_pixel_for_pixel(pictures):
    large = enlarged(pictures[0])
    assert large.size == (512, 512)
    assert large.resize((64, 64), Image.Resampling.NEAREST).tobytes() == pictures[0].tobytes()
    assert enlarged(Image.new("RGB", (800, 600))).size == (800, 600)


def test_the_examples_are_always_the_same(tmp_path):
    rows = [write_pairs(tmp_path / name) for name in "xy"]
    for first, second in zip(*rows, strict=True):
        assert first[2] == second[2]
        for one, two in zip(first[:2], second[:2], strict=True):
            assert Image.open(one).tobytes() == Image.open(two).tobytes()


def test_a_run_is_shown_as_text(tmp_path):
    looks = [
        {
            "iteration": n,
            "reward": 1.0 + n,
            "reward_deviation": 2.0,
            "group_deviation": 1.0,
            "pixel_diversity": 0.4 / (n + 1),
        }
        | {"feature_diversity": None, "second": 0.5, "held_out": None}
        for n in (0, 1)
    ]
    steps = ({"iteration": 0, "reward": -1.0},)
    run = Run("x", tmp_path, {"iterations": EVIL}, "failed", EVIL, steps, tuple(looks), {EVIL: EVIL})
    page = Page()
    page.feed(training_tab.as_html(run))
    assert not {"script", "img"} & set(page.tags)
    assert page.words.count("<script>alert(1)</script>") == 3
    assert "+1.00 \u2192 +2.00" in page.words
    drawn = {title: frame.values.tolist() for title, frame in training_tab.curves(run).items()}
    assert drawn["Reward"] == [[0, 1.0, "evaluation"], [1, 2.0, "evaluation"], [0, -1.0, "learned from"]]
    assert drawn["Diversity (base: 1)"] == [[0, 1.0, "pixels"], [1, 0.5, "pixels"]]
    assert drawn["Second judge"] == [[0, 0.5, "all prompts"], [1, 0.5, "all prompts"]]
    assert run.iterations == 1 and run.sample(-1) is None
    new = Run("x", tmp_path, {}, "training", None, (), (), {})
    assert set(training_tab.curves(new).values()) == {None}
    assert "being loaded" in training_tab.as_html(new)


def test_a_plot_has_every_line_from_the_first():
    import pandas as pd

    rows = pd.DataFrame([(5, 1.0, "x"), (6, 2.0, "x")], columns=["at", "value", "of"])
    whole = with_every_line(rows, ("y", "x"))
    assert list(whole["of"]) == ["y", "x", "x", "x"] and list(whole["at"]) == [5, 5, 5, 6]
    assert list(whole["value"].isna()) == [True, True, False, False]
    assert list(with_every_line(rows[:0], ("y",))["at"]) == [0]
