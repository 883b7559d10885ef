"""Train a nano reward model from scratch: first to see, then to speak of what it sees, to answer, and to judge.

Seeing is learned from where which object is; speaking from captions and from short statements that are true or false;
answering from statements that are put before pictures, by themselves and beside another one; judging from yes/no with
and without a reference, and from rationales. The earlier lessons go on beside the later ones.

Every step draws fresh pictures, so nothing is ever seen twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, InternVLForConditionalGeneration, PreTrainedTokenizerFast

from ..rewards import prompts
from ..rewards.instructions import PRESETS, Instruction
from .course import Course, Learner, train
from .detection import Detector, Targets, targets_of
from .generated import Pool, varied
from .marking import Marker
from .packing import Branch, Item, Packed, Picture, Row, loss, pack_by_length, watching
from .preferences import (
    GROUP,
    INSTRUCTIONS,
    LOOKS,
    Group,
    asked_of_all,
    caption,
    good,
    marks,
    misseen,
    preferred,
    rationale,
    sample_group,
    statements,
)
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


@dataclass(frozen=True)
class RewardRecipe(Course):
    architecture: str = "reward-5m"
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
    caption_weight: float = 0.2
    rationale_weight: float = 0.3
    """Weights of a token of a caption and of a rationale against that of a verdict."""
    rationales: int = 1
    """Rationales per group."""
    slips: float = 0.0
    """Share of rationales that have seen something wrongly, and of which only the (right) verdict is taught."""
    asking_steps: int = 600
    """Steps after those on statements that are made before pictures are shown, as prompts are, and not after each."""
    asked: int = 3
    compared: int = 4
    """Statements per group then: put to every picture by itself, and to one beside every other."""
    marking_weight: float = 0.5
    """Weight of telling these two apart."""
    statements: int = 12
    statement_weight: float = 0.5
    """Statements per picture, and the weight of the yes or no after each."""
    generated: tuple[str, ...] = ()
    """Pools of generated pictures (see :mod:`~diffusers_ext.nano.generated`) to train on as well."""
    generated_share: float = 0.5
    kinds: tuple[float, ...] = (0.05, 0.1, 0.3, 0.1, 0.25, 0.2)
    """Shares of the kinds of prompt, in the order of :data:`~diffusers_ext.nano.scenes.PROMPT_KINDS`: counting and
    position are the hardest to learn."""
    start_from: str | None = None
    """A trained reward model's folder to go on from, in place of random weights."""

    @property
    def speaks(self) -> int:
        """The step at which it is to have learned to speak."""
        return self.vision_steps + self.caption_steps

    @property
    def answers(self) -> int:
        """The step at which it is to have learned to answer, and begins to judge."""
        return self.speaks + self.asking_steps


CHECKING: Final = Instruction("checking", CHECK, ())
"""What statements are asked under."""


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

    def _pieces(
        self, instruction: Instruction, prompt: str, pairwise: bool, explain: bool
    ) -> tuple[tuple[int, ...], ...]:
        """The tokens of a question around its pictures: before, (between,) after."""
        return self.around_pictures(prompts.question(instruction, prompt, pairwise=pairwise, explain=explain))

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

    def asked_row(self, statement: str, reference: int | None, verdicts: list[tuple[int, bool]], weight: float) -> Row:
        """A statement put to several pictures (by index) as judgements are: is it true, or true rather than of one?"""
        prefix, ask = self._question(CHECKING, statement, reference, explain=False)
        answers = ((index, self.yes if true else self.no) for index, true in verdicts)
        return Row(prefix, tuple(Branch(ask(index), (answer,), (weight,)) for index, answer in answers))

    def judgement_row(
        self, instruction: str, spec: PromptSpec, reference: int | None, verdicts: list[tuple[int, bool]]
    ) -> Row:
        """One question about several candidates (by index), answered at once."""
        prefix, ask = self._question(PRESETS[instruction], spec.text, reference, explain=False)
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
        prefix, ask = self._question(PRESETS[instruction], spec.text, reference, explain=True)
        branches: list[Branch] = []
        for index, text, better in reasons:
            thought = self.encode(f"{text} {prompts.VERDICT}")
            verdict = self.encode(" yes" if better else " no")
            answer = (*thought, *verdict, self.tokenizer.eos_token_id)
            weights = (weight,) * len(thought) + (1.0, weight)
            branches.append(Branch(ask(index), answer, weights))
        return Row(prefix, tuple(branches))

    def pack(self, rows: Sequence[Row], parts: int) -> tuple[Packed, ...]:
        """Rows as the model takes them, in so many batches of rows alike in length."""
        return tuple(pack_by_length(rows, self.frame, TOKENS_PER_IMAGE, self.tokenizer.pad_token_id, parts))

    def _question(self, instruction: Instruction, prompt: str, reference: int | None, explain: bool):
        pieces = self.pieces(instruction, prompt, reference is not None, explain)
        if reference is None:
            before, after = pieces
            return before, lambda index: (Picture(index), *after)
        before, between, after = pieces
        prefix: tuple[Item, ...] = (*before, Picture(reference))
        return prefix, lambda index: (*between, Picture(index), *after)


def speaking_rows(
    writer: Writer, rng: np.random.Generator, groups: list[Group], captions: int, checked: int, recipe: RewardRecipe
) -> list[Row]:
    """Of the first pictures of every group true or false statements, and captions unless it was generated.

    How a generated picture looks is not known, and a caption says that.
    """
    rows: list[Row] = []
    for number, group in enumerate(groups):
        placed = [(GROUP * number + i, picture) for i, picture in enumerate(group.pictures)]
        if not group.generated:
            described = [(place, caption(picture)) for place, picture in placed[:captions]]
            rows.append(writer.caption_row(described, recipe.caption_weight))
        looks = 0.0 if group.generated else LOOKS
        found = [(place, statements(rng, picture, recipe.statements, looks)) for place, picture in placed[:checked]]
        rows.append(writer.statement_row(found, recipe.statement_weight))
    return rows


def asking_rows(writer: Writer, rng: np.random.Generator, groups: list[Group], recipe: RewardRecipe) -> list[Row]:
    """For every group statements put to each picture by itself, and to one of them beside each other one.

    Where a statement is true, or false, of both there is nothing to answer.
    """
    rows: list[Row] = []
    for number, group in enumerate(groups):
        first, looks = GROUP * number, 0.0 if group.generated else LOOKS
        for reference in (*[None] * recipe.asked, *rng.integers(GROUP, size=recipe.compared).tolist()):
            statement, true = asked_of_all(rng, group.pictures, looks)
            beside = None if reference is None else true[reference]
            verdicts = [(first + index, value) for index, value in enumerate(true) if value is not beside]
            if verdicts:
                shown = None if reference is None else first + reference
                rows.append(writer.asked_row(statement, shown, verdicts, 1.0))
    return rows


def judgement_rows(writer: Writer, rng: np.random.Generator, groups: list[Group], recipe: RewardRecipe) -> list[Row]:
    """For every group two questions with a reference, one without, and some answered with a rationale."""
    rows: list[Row] = []
    for number, group in enumerate(groups):
        marked = [marks(picture, group.spec) for picture in group.pictures]
        for reference in (int(index) for index in rng.choice(GROUP, 2, replace=False)):
            instruction = draw_instruction(rng, group)
            labels = ((i, preferred(instruction, marked[i], marked[reference])) for i in range(GROUP) if i != reference)
            verdicts = [(GROUP * number + i, label) for i, label in labels if label is not None]
            if verdicts:
                rows.append(writer.judgement_row(instruction, group.spec, GROUP * number + reference, verdicts))
        instruction = draw_instruction(rng, group)
        verdicts = [(GROUP * number + i, good(instruction, marked[i])) for i in range(GROUP)]
        rows.append(writer.judgement_row(instruction, group.spec, None, verdicts))
        for _ in range(recipe.rationales):
            rows += _rationale_rows(writer, rng, number, group, recipe)
    return rows


def _rationale_rows(
    writer: Writer, rng: np.random.Generator, number: int, group: Group, recipe: RewardRecipe
) -> list[Row]:
    candidate, reference = (int(index) for index in rng.choice(GROUP, 2, replace=False))
    alone = rng.random() < 0.25
    instruction = draw_instruction(rng, group)
    first, second = group.pictures[candidate], group.pictures[reference]
    mine, theirs = marks(first, group.spec), marks(second, group.spec)
    verdict = good(instruction, mine) if alone else preferred(instruction, mine, theirs)
    if verdict is None:
        return []
    weight = recipe.rationale_weight
    if rng.random() < recipe.slips:
        # A judge's own rationales err now and then, so it has to learn to look again: the verdict alone is taught.
        weight = 0.0
        first, second = (misseen(rng, first), second) if alone or rng.random() < 0.5 else (first, misseen(rng, second))
    text = rationale(instruction, group.spec, first, None if alone else second)
    shown = None if alone else GROUP * number + reference
    return [writer.rationale_row(instruction, group.spec, shown, [(GROUP * number + candidate, text, verdict)], weight)]


def draw_instruction(rng: np.random.Generator, group: Group) -> str:
    """What a question about a group is to judge by."""
    shares = (0.5, 0.5, 0.0, 0.0, 0.0) if group.generated else (0.3, 0.2, 0.15, 0.12, 0.23)
    return INSTRUCTIONS[int(rng.choice(len(INSTRUCTIONS), p=shares))]


def pixels_of(groups: Sequence[Group]) -> Tensor:
    """The pictures of all groups, uint8 [pictures, 64, 64, 3]."""
    return torch.from_numpy(np.stack([picture.pixels for group in groups for picture in group.pictures]))


def scaled(pixels: Tensor) -> Tensor:
    """Pictures as the processor would give them, float32 [pictures, 3, 64, 64] in [-1, 1]."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def pixel_values(groups: Sequence[Group]) -> Tensor:
    """The pictures of all groups as the processor would give them, float32 [pictures, 3, 64, 64] in [-1, 1]."""
    return scaled(pixels_of(groups))


def lesson_rows(
    writer: Writer, rng: np.random.Generator, step: int, recipe: RewardRecipe, groups: list[Group]
) -> list[Row]:
    """What is asked about the groups at a step after those on seeing alone."""
    if step < recipe.speaks:
        return speaking_rows(writer, rng, groups, 2, 6, recipe)
    if step < recipe.answers:
        return asking_rows(writer, rng, groups, recipe) + speaking_rows(writer, rng, groups, 1, 1, recipe)
    return judgement_rows(writer, rng, groups, recipe) + speaking_rows(writer, rng, groups, 3, 2, recipe)


@dataclass(frozen=True)
class Compared:
    """Pictures that are judged each by itself.

    Attributes:
        asked: every row is about one group under one instruction, every target one picture of it.
        pairs: int64 [pairs, 2], which of the targets in reading order is better than which.
    """

    asked: Packed
    pairs: Tensor


@dataclass(frozen=True)
class Lesson:
    """What a step teaches.

    Attributes:
        pixels: uint8 [pictures, 64, 64, 3].
        targets: what is to be seen in them.
        told: what is to be said of them; nothing while only seeing is taught.
        asking: whether two pictures at a time are to be told apart.
        compared: which are better than which, for those who learn rewards from that instead of from verdicts.
    """

    pixels: Tensor
    targets: Targets
    told: tuple[Packed, ...]
    asking: bool = False
    compared: Compared | None = None


class RewardLessons:
    """The lessons of a recipe, see :data:`~diffusers_ext.nano.course.Lessons`."""

    def __init__(self, recipe: RewardRecipe, writer: Writer) -> None:
        self.recipe = recipe
        self.writer = writer
        self.pool = Pool.load(*map(Path, recipe.generated)) if recipe.generated else None

    def __call__(self, step: int) -> Lesson:
        # A generator of its own for each step makes a resumed run see the same data as one that was never stopped.
        rng = np.random.default_rng((self.recipe.seed, step))
        groups = self.groups(rng, step)
        rows = [] if step < self.recipe.vision_steps else lesson_rows(self.writer, rng, step, self.recipe, groups)
        told = self.writer.pack(rows, self.recipe.parts)
        asking = self.recipe.compared > 0 and self.recipe.speaks <= step < self.recipe.answers
        return Lesson(pixels_of(groups), targets_of(groups), told, asking)

    def groups(self, rng: np.random.Generator, step: int) -> list[Group]:
        """What a step is about."""
        seeing = step < self.recipe.vision_steps
        return [self._group(rng) for _ in range(self.recipe.vision_groups if seeing else self.recipe.groups)]

    def _group(self, rng: np.random.Generator) -> Group:
        kind = PROMPT_KINDS[int(rng.choice(len(PROMPT_KINDS), p=self.recipe.kinds))]
        if self.pool is not None and rng.random() < self.recipe.generated_share:
            return varied(rng, self.pool.draw(rng, kind))
        return sample_group(rng, kind=kind)


def accuracy(right: Tensor, batches: Sequence[Packed], answers: tuple[int, int], taught: float) -> Tensor:
    """Share of the targets among `answers`, of weight `taught`, that were the model's first choice; NaN for none."""
    targets, weights = (torch.cat(parts) for parts in zip(*(packed.chosen for packed in batches), strict=True))
    chosen = ((targets == answers[0]) | (targets == answers[1])) & ((weights - taught).abs() < 1e-6)
    return (right & chosen).sum() / chosen.sum()


def accuracies(right: Tensor, batches: Sequence[Packed], writer: Writer, statement_weight: float) -> dict[str, Tensor]:
    """How often the first choice was right: of direct verdicts, of those after rationales, and of statements."""
    return {
        "verdicts": accuracy(right, batches, (writer.yes, writer.no), 1.0),
        "after_rationales": accuracy(right, batches, writer.spaced, 1.0),
        "statements": accuracy(right, batches, writer.spaced, statement_weight),
    }


class SeeingLearner(Learner):
    """A model, and the read-out of its picture tokens."""

    def __init__(self, model: InternVLForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        self.detector = Detector(model.config.text_config.hidden_size)

    def look(self, pictures: Tensor, targets: Targets) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The picture tokens [pictures, 16, width], the loss of reading them, and how well it went."""
        features = self.model.get_image_features(pictures, return_dict=True).pooler_output
        return features, *self.detector(features, targets)

    def save(self, out: Path) -> None:
        """Write the model; the read-out has done its work."""
        self.model.save_pretrained(out)


class RewardLearner(SeeingLearner):
    """Learns to see, to speak and to judge."""

    def __init__(self, model: InternVLForConditionalGeneration, writer: Writer, recipe: RewardRecipe) -> None:
        super().__init__(model)
        self.marker = Marker(model.config.text_config.hidden_size)
        self.writer = writer
        self.recipe = recipe

    def forward(self, lesson: Lesson) -> tuple[Tensor, dict[str, Tensor]]:
        """The cost of a lesson, and how well it went."""
        features, cost, figures = self.look(scaled(lesson.pixels), lesson.targets)
        if not lesson.told:
            return cost, figures
        studied, spoken = self.study(lesson, features)
        return studied + self.recipe.detection_weight * cost, figures | spoken

    def study(self, lesson: Lesson, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The cost of speaking of pictures and judging them."""
        with watching(self.model, 1) as states:
            cost, right = loss(self.model, lesson.told, features)
        figures = accuracies(right, lesson.told, self.writer, self.recipe.statement_weight)
        if lesson.asking:
            marked, apart = self.marker(list(zip(lesson.told, states, strict=True)), self.writer.frame[1])
            cost, figures = cost + self.recipe.marking_weight * marked, figures | {"told_apart": apart}
        return cost, figures


def _start_of(recipe: RewardRecipe, out: Path) -> tuple[InternVLForConditionalGeneration, PreTrainedTokenizerFast]:
    """The model that a recipe starts from, and its tokenizer."""
    torch.manual_seed(recipe.seed)
    known = recipe.start_from or (str(out) if (out / "tokenizer.json").exists() else None)
    tokenizer = AutoTokenizer.from_pretrained(known) if known else build_tokenizer()
    if recipe.start_from:
        return InternVLForConditionalGeneration.from_pretrained(recipe.start_from, dtype=torch.float32), tokenizer
    return build_model(ARCHITECTURES[recipe.architecture], tokenizer), tokenizer


def train_reward(out: Path, recipe: RewardRecipe = RewardRecipe()) -> InternVLForConditionalGeneration:
    """Train (or go on training: the state is kept in `out/training.pt`) and save to `out`."""
    return train_judge(out, recipe, RewardLessons, RewardLearner, recipe.architecture)


def train_judge(
    out: Path, recipe: RewardRecipe, lessons: type[RewardLessons], learner: type[RewardLearner], title: str
) -> InternVLForConditionalGeneration:
    """Train a judge of any kind, which its lessons and its learner decide on."""
    out.mkdir(parents=True, exist_ok=True)
    model, tokenizer = _start_of(recipe, out)
    writer = Writer(tokenizer)
    save_processor(out, tokenizer)
    starts = (0, recipe.vision_steps, recipe.speaks, recipe.answers)
    train(recipe, learner(model, writer, recipe), lessons(recipe, writer), out, title, starts)
    return model
