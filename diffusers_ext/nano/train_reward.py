"""Train a nano reward model from scratch: first to see, then to speak of what it sees, then to judge.

Seeing is learned from where which object is; speaking from captions and from short statements that are true or false;
judging from yes/no with and without a reference, and from rationales. The earlier lessons go on beside the later ones.

Every step draws fresh pictures, so nothing is ever seen twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, InternVLForConditionalGeneration, PreTrainedTokenizerFast

from ..rewards import prompts
from ..rewards.instructions import PRESETS
from ..states import read_state
from .detection import Detector, Targets, targets_of
from .generated import Pool
from .packing import Branch, Item, Packed, Picture, Row, loss, pack_by_length
from .preferences import INSTRUCTIONS, Group, caption, good, marks, preferred, rationale, sample_group, statements
from .reward_model import (
    ARCHITECTURES,
    CHAT_TEMPLATE,
    CHECK,
    CONTEXT,
    DESCRIBE,
    TOKENS_PER_IMAGE,
    build_model,
    build_tokenizer,
    save_processor,
)
from .scenes import PROMPT_KINDS, PromptSpec
from .training import Schedule, mixed_precision, progress, save_state


@dataclass(frozen=True)
class RewardRecipe:
    architecture: str = "reward-5m"
    steps: int = 6000
    vision_steps: int = 1500
    """Steps at the start on seeing alone."""
    vision_groups: int = 11
    """Prompts per step then, six pictures each."""
    caption_steps: int = 1400
    """Steps after that on captions and statements: verdicts teach nothing to a model without words for what it sees."""
    groups: int = 4
    """Prompts per step from then on."""
    detection_weight: float = 0.25
    """Weight of seeing beside the other lessons."""
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    decay: float = 0.4
    caption_weight: float = 0.2
    rationale_weight: float = 0.3
    """Weights of a token of a caption and of a rationale against that of a verdict."""
    statements: int = 12
    statement_weight: float = 0.5
    """Statements per picture, and the weight of the yes or no after each."""
    generated: str | None = None
    """A pool of generated pictures (see :mod:`~diffusers_ext.nano.generated`) to train on as well."""
    generated_share: float = 0.5
    kinds: tuple[float, ...] = (0.05, 0.1, 0.3, 0.1, 0.25, 0.2)
    """Shares of the kinds of prompt, in the order of :data:`~diffusers_ext.nano.scenes.PROMPT_KINDS`: counting and
    position are the hardest to learn."""
    start_from: str | None = None
    """A trained reward model's folder to go on from, in place of random weights."""
    seed: int = 0


class Writer:
    """Turns pictures and labels into rows of tokens, exactly as the chat template and the processor would."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.yes, self.no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
        self.spaced = self.encode_one(" yes"), self.encode_one(" no")
        names = ("<img>", CONTEXT, "</img>")
        self.frame = tuple(tokenizer.convert_tokens_to_ids(name) for name in names)
        self.pieces = lru_cache(maxsize=20000)(self._pieces)
        self.encode = lru_cache(maxsize=20000)(self._encode)

    def encode_one(self, word: str) -> int:
        (token,) = self.tokenizer(word).input_ids
        return token

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text).input_ids)

    def _pieces(self, instruction: str, prompt: str, pairwise: bool, explain: bool) -> tuple[tuple[int, ...], ...]:
        """The tokens of a question around its pictures: before, (between,) after."""
        messages = prompts.question(PRESETS[instruction], prompt, pairwise=pairwise, explain=explain)
        return self.around_pictures(messages)

    def around_pictures(self, messages: list[prompts.Message]) -> tuple[tuple[int, ...], ...]:
        """The tokens of a chat before, between and after its pictures."""
        text = self.tokenizer.apply_chat_template(
            messages, chat_template=CHAT_TEMPLATE, add_generation_prompt=True, tokenize=False
        )
        return tuple(self._encode(piece) for piece in text.split(CONTEXT))

    def caption_row(self, captions: list[tuple[int, str]], weight: float) -> Row:
        """Several pictures (by index), each with its caption."""
        content = [{"type": "text", "text": f"{DESCRIBE}\n"}, prompts.IMAGE]
        before, after = self.around_pictures([{"role": "user", "content": content}])
        end = self.tokenizer.eos_token_id
        answers = [(index, (*self.encode(text), end)) for index, text in captions]
        branches = (Branch((Picture(index), *after), text, (weight,) * len(text)) for index, text in answers)
        return Row(before, tuple(branches))

    def statement_row(self, checked: list[tuple[int, list[tuple[str, bool]]]], weight: float) -> Row:
        """Several pictures (by index), each with statements and whether they are true; only the latter is taught."""
        content = [{"type": "text", "text": f"{CHECK}\n"}, prompts.IMAGE]
        before, after = self.around_pictures([{"role": "user", "content": content}])
        branches: list[Branch] = []
        for index, found in checked:
            tokens: list[int] = []
            weights: list[float] = []
            for number, (text, true) in enumerate(found):
                words = self.encode(f"{',' * (number > 0)} {text}:")
                tokens += [*words, *self.encode(" yes" if true else " no")]
                weights += [0.0] * len(words) + [weight]
            branches.append(Branch((Picture(index), *after), tuple(tokens), tuple(weights)))
        return Row(before, tuple(branches))

    def judgement_row(
        self, instruction: str, spec: PromptSpec, reference: int | None, verdicts: list[tuple[int, bool]]
    ) -> Row:
        """One question about several candidates (by index), answered at once."""
        prefix, ask = self._question(instruction, spec, reference, explain=False)
        branches = (Branch(ask(index), (self.yes if better else self.no,), (1.0,)) for index, better in verdicts)
        return Row(prefix, tuple(branches))

    def rationale_row(
        self,
        instruction: str,
        spec: PromptSpec,
        reference: int | None,
        reasons: list[tuple[int, str, bool]],
        weight: float,
    ) -> Row:
        """One question about several candidates, each answered by a rationale and then the verdict."""
        prefix, ask = self._question(instruction, spec, reference, explain=True)
        branches: list[Branch] = []
        for index, text, better in reasons:
            thought = self.encode(f"{text} {prompts.VERDICT}")
            verdict = self.encode(" yes" if better else " no")
            answer = (*thought, *verdict, self.tokenizer.eos_token_id)
            weights = (weight,) * len(thought) + (1.0, weight)
            branches.append(Branch(ask(index), answer, weights))
        return Row(prefix, tuple(branches))

    def _question(self, instruction: str, spec: PromptSpec, reference: int | None, explain: bool):
        pieces = self.pieces(instruction, spec.text, reference is not None, explain)
        if reference is None:
            before, after = pieces
            return before, lambda index: (Picture(index), *after)
        before, between, after = pieces
        prefix: tuple[Item, ...] = (*before, Picture(reference))
        return prefix, lambda index: (*between, Picture(index), *after)


def speaking_rows(
    writer: Writer, rng: np.random.Generator, groups: list[Group], captions: int, checked: int, recipe: RewardRecipe
) -> list[Row]:
    """Of the first pictures of every drawn group captions, and true or false statements."""
    rows: list[Row] = []
    for number, group in enumerate(groups):
        if group.generated:
            continue
        described = [(6 * number + i, caption(group.pictures[i])) for i in range(captions)]
        rows.append(writer.caption_row(described, recipe.caption_weight))
        found = [(6 * number + i, statements(rng, group.pictures[i], recipe.statements)) for i in range(checked)]
        rows.append(writer.statement_row(found, recipe.statement_weight))
    return rows


def judgement_rows(writer: Writer, rng: np.random.Generator, groups: list[Group], recipe: RewardRecipe) -> list[Row]:
    """For every group two questions with a reference, one without, and one answered with a rationale."""
    rows: list[Row] = []
    for number, group in enumerate(groups):
        marked = [marks(picture, group.spec) for picture in group.pictures]
        for reference in (int(index) for index in rng.choice(6, 2, replace=False)):
            instruction = _draw(rng, group)
            labels = ((i, preferred(instruction, marked[i], marked[reference])) for i in range(6) if i != reference)
            verdicts = [(6 * number + i, label) for i, label in labels if label is not None]
            if verdicts:
                rows.append(writer.judgement_row(instruction, group.spec, 6 * number + reference, verdicts))
        instruction = _draw(rng, group)
        verdicts = [(6 * number + i, good(instruction, marked[i])) for i in range(6)]
        rows.append(writer.judgement_row(instruction, group.spec, None, verdicts))
        rows += _rationale_rows(writer, rng, number, group, recipe.rationale_weight)
    return rows


def _rationale_rows(writer: Writer, rng: np.random.Generator, number: int, group: Group, weight: float) -> list[Row]:
    candidate, reference = (int(index) for index in rng.choice(6, 2, replace=False))
    instruction = _draw(rng, group)
    first, second = group.pictures[candidate], group.pictures[reference]
    if rng.random() < 0.25:
        verdict: bool | None = good(instruction, marks(first, group.spec))
        text = rationale(instruction, group.spec, first, None)
        other = None
    else:
        verdict = preferred(instruction, marks(first, group.spec), marks(second, group.spec))
        text = rationale(instruction, group.spec, first, second)
        other = 6 * number + reference
    if verdict is None:
        return []
    return [writer.rationale_row(instruction, group.spec, other, [(6 * number + candidate, text, verdict)], weight)]


def _draw(rng: np.random.Generator, group: Group) -> str:
    if group.generated:
        return "alignment"
    return INSTRUCTIONS[int(rng.choice(4, p=(0.4, 0.2, 0.15, 0.25)))]


def pixel_values(groups: list[Group]) -> Tensor:
    """The pictures of all groups as the processor would give them, float32 [pictures, 3, 64, 64] in [-1, 1]."""
    pixels = np.stack([picture.pixels for group in groups for picture in group.pictures])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def lesson_rows(
    writer: Writer, rng: np.random.Generator, step: int, recipe: RewardRecipe, groups: list[Group]
) -> list[Row]:
    """What is asked about the groups at a step after those on seeing alone."""
    if step < recipe.vision_steps + recipe.caption_steps:
        return speaking_rows(writer, rng, groups, 2, 6, recipe)
    return judgement_rows(writer, rng, groups, recipe) + speaking_rows(writer, rng, groups, 3, 2, recipe)


def accuracy(right: Tensor, batches: Sequence[Packed], answers: tuple[int, int], taught: float) -> float:
    """Share of the targets among `answers`, of weight `taught`, that were the model's first choice."""
    targets, weights = (
        torch.cat([getattr(packed, name)[packed.targets >= 0] for packed in batches]) for name in ("targets", "weights")
    )
    chosen = torch.isin(targets, torch.tensor(answers)) & ((weights - taught).abs() < 1e-6)
    return float(right[chosen].float().mean()) if chosen.any() else float("nan")


class Learner(torch.nn.Module):
    """All that learns: the model, and the read-out of its picture tokens."""

    def __init__(self, model: InternVLForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        self.detector = Detector(model.config.text_config.hidden_size)

    def look(self, pictures: Tensor, targets: Targets) -> tuple[Tensor, Tensor, dict[str, float]]:
        """The picture tokens [pictures, 16, width], the loss of reading them, and how well it went."""
        features = self.model.get_image_features(pictures, return_dict=True).pooler_output
        return features, *self.detector(features, targets)


def optimizer_of(learner: Learner, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Weight decay is for matrices; it would only hinder biases and norms."""
    groups = [
        {"params": [p for p in learner.parameters() if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in learner.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))


def train_reward(out: Path, recipe: RewardRecipe = RewardRecipe()) -> InternVLForConditionalGeneration:
    """Train (or go on training: the state is kept in `out/training.pt`) and save to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    known = recipe.start_from or (str(out) if (out / "tokenizer.json").exists() else None)
    tokenizer = AutoTokenizer.from_pretrained(known) if known else build_tokenizer()
    writer = Writer(tokenizer)
    if recipe.start_from:
        model = InternVLForConditionalGeneration.from_pretrained(recipe.start_from, dtype=torch.float32)
    else:
        model = build_model(ARCHITECTURES[recipe.architecture], tokenizer)
    learner = Learner(model)
    optimizer = optimizer_of(learner, recipe.learning_rate, recipe.weight_decay)
    state = read_state(out / "training.pt")
    if state is not None:
        learner.load_state_dict(state["learner"])
        optimizer.load_state_dict(state["optimizer"])
    start = state["step"] if state is not None else 0
    pool = Pool.load(Path(recipe.generated)) if recipe.generated else None
    lessons = (0, recipe.vision_steps, recipe.vision_steps + recipe.caption_steps)
    schedule = Schedule(recipe.steps, decay=recipe.decay, starts=lessons)
    save_processor(out, tokenizer)
    for step in progress(range(start, recipe.steps), recipe.architecture):
        schedule.apply(optimizer, step)
        figures = _step(learner, writer, optimizer, step, recipe, pool)
        progress.log(step, **figures)
        if step % 100 == 99 or step == recipe.steps - 1:
            learner.model.save_pretrained(out)
            parts = {"learner": learner.state_dict(), "optimizer": optimizer.state_dict()}
            save_state(out / "training.pt", {**parts, "step": step + 1, "recipe": asdict(recipe)})
    return learner.model


def _step(
    learner: Learner,
    writer: Writer,
    optimizer: torch.optim.Optimizer,
    step: int,
    recipe: RewardRecipe,
    pool: Pool | None,
) -> dict[str, float]:
    # A generator of its own for each step makes a resumed run see the same data as one that was never stopped.
    rng = np.random.default_rng((recipe.seed, step))
    seeing = step < recipe.vision_steps
    drawn = [_draw_group(rng, recipe, pool) for _ in range(recipe.vision_groups if seeing else recipe.groups)]
    with mixed_precision():
        features, cost, figures = learner.look(pixel_values(drawn), targets_of(drawn))
        if not seeing:
            told, spoken = _speak(learner.model, writer, rng, step, recipe, drawn, features)
            cost = told + recipe.detection_weight * cost
            figures |= spoken
    optimizer.zero_grad()
    cost.backward()
    norm = torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
    optimizer.step()
    return {"loss": cost.item(), **figures, "grad": norm.item()}


def _speak(
    model: InternVLForConditionalGeneration,
    writer: Writer,
    rng: np.random.Generator,
    step: int,
    recipe: RewardRecipe,
    drawn: list[Group],
    features: Tensor,
) -> tuple[Tensor, dict[str, float]]:
    rows = lesson_rows(writer, rng, step, recipe, drawn)
    batches = pack_by_length(rows, writer.frame, TOKENS_PER_IMAGE, writer.tokenizer.pad_token_id, batches=3)
    value, right = loss(model, batches, features)
    return value, {
        "verdicts": accuracy(right, batches, (writer.yes, writer.no), 1.0),
        "after_rationales": accuracy(right, batches, writer.spaced, 1.0),
        "statements": accuracy(right, batches, writer.spaced, recipe.statement_weight),
    }


def _draw_group(rng: np.random.Generator, recipe: RewardRecipe, pool: Pool | None) -> Group:
    kind = PROMPT_KINDS[int(rng.choice(len(PROMPT_KINDS), p=recipe.kinds))]
    if pool is not None and rng.random() < recipe.generated_share:
        return pool.draw(rng, kind)
    return sample_group(rng, kind=kind)
