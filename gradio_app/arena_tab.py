"""The tab Arena: blind pairs, votes, and who wins."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import gradio as gr
import numpy as np

from diffusers_ext.data import DataError
from diffusers_ext.data.votes import BALLOTS, Ballot, VoteStore
from diffusers_ext.nano.scenes import sample_prompt
from diffusers_ext.rewards.errors import PromptTextError

from .models import Models
from .pairing import Pair, draw, makers
from .runs import Runs
from .settings import Settings
from .telling import say, text, told
from .turns import Turns
from .voting import NAMES, Voter, export, revealed, table

INSTRUCTION: Final = "overall"
_KEYS: Final[dict[Ballot, str]] = {"a": "←", "tie": "T", "both bad": "B", "b": "→"}
"""What keys.js takes for a vote, in the order of the buttons."""


def tab(models: Models, runs: Runs, turns: Turns, settings: Settings) -> None:
    """Lay the tab out."""
    name = models.judges[0]

    def votes() -> VoteStore:
        return VoteStore(settings.votes)

    @told
    def another(wanted: str | None, voter: Voter, request: gr.Request) -> tuple[Any, ...]:
        votes()  # where votes cannot be kept, that is said before anybody looks at pictures
        judge = models.judge(name)
        rng = Random()
        prompts = [_prompt(wanted, models, rng)]
        with turns.taken(request):
            voter.pair = draw(makers(models, runs, judge, INSTRUCTION), prompts, judge, name, INSTRUCTION, rng)
        return voter, *_shown(voter.pair)

    def vote(choice: Ballot, key: str | None, voter: Voter) -> tuple[Voter, str, str]:
        store = votes()
        pair = voter.vote(store, key or "", choice)
        return voter, revealed(pair, choice), table(store.outcomes())

    @told
    def undo(voter: Voter) -> tuple[Any, ...]:
        store = votes()
        pair = voter.undo(store)
        return voter, *_shown(pair), say("Your last vote was taken back. Choose again."), table(store.outcomes())

    def so_far() -> str:
        try:
            return table(votes().outcomes())
        except DataError as error:
            return say(str(error))

    @told
    def hand_out() -> Iterator[str]:
        with tempfile.TemporaryDirectory(prefix="rewarddance-") as folder:
            yield str(export(votes(), Path(folder)))

    voter = gr.State(Voter())
    key = gr.Textbox(label="key", visible="hidden")
    shown = gr.HTML(say("Two pictures of one prompt; who made them is told after your vote."), elem_id="arena-prompt")
    with gr.Row(elem_id="arena-pair"):
        left, right = (
            gr.Image(
                label=side,
                format="png",
                height=320,
                interactive=False,
                min_width=140,
                elem_classes="rd-pixels",
                buttons=["fullscreen"],
            )
            for side in ("Left", "Right")
        )
    with gr.Row():
        buttons = {
            choice: gr.Button(
                f"{NAMES[choice].capitalize()} ({_KEYS[choice]})",
                elem_id=f"arena-{NAMES[choice].replace(' ', '-')}",
                min_width=120,
            )
            for choice in _KEYS
        }
    with gr.Row():
        more = gr.Button("Show a pair", variant="primary", elem_id="arena-next", min_width=120)
        back = gr.Button("Undo (U)", elem_id="arena-undo", min_width=120)
    wanted = gr.Textbox(
        label="Prompt", placeholder="one at random" if models.is_nano else "what to paint", max_length=2000
    )
    said = gr.HTML(elem_id="arena-said")
    standing = gr.HTML(say("No votes yet."), elem_id="arena-table")
    with gr.Row():
        give = gr.Button("Export the votes as preferences", elem_id="arena-export")
        file = gr.File(label="votes.zip", interactive=False, height=90)
    choice = gr.Radio(list(BALLOTS), value="a", label="choice", visible="hidden")
    cast = gr.Button("cast", visible="hidden")

    pair = [voter, key, left, right, shown]
    queued: dict[str, Any] = {"concurrency_limit": 2, "concurrency_id": "painting"}
    more.click(another, [wanted, voter], pair, api_name="next_pair", **queued)
    for ballot, button in buttons.items():
        done = button.click(
            told(partial(vote, ballot)), [key, voter], [voter, said, standing], api_visibility="private"
        )
        done.success(another, [wanted, voter], pair, api_visibility="private", **queued)
    cast.click(told(vote), [choice, key, voter], [voter, said, standing], api_name="vote", concurrency_limit=8)
    back.click(undo, [voter], [*pair, said, standing], api_name="undo")
    give.click(hand_out, None, file, api_name="export_votes")
    gr.on(None, so_far, None, standing, api_visibility="private", show_progress="hidden")


def _shown(pair: Pair) -> tuple[Any, ...]:
    prompt = f'<p class="rd-prompt">{text(pair.prompt)}</p>'
    return pair.key, pair.left, pair.right, prompt


def _prompt(wanted: str | None, models: Models, rng: Random) -> str:
    if wanted and wanted.strip():
        return wanted.strip()
    if not models.is_nano:
        raise PromptTextError("the prompt is empty; say what to paint")
    return sample_prompt(np.random.default_rng(rng.randrange(2**32))).text
