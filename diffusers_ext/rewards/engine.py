"""Answers to many questions at once: every picture seen once, every shared beginning read once.

Questions are joined into a tree (:mod:`~diffusers_ext.rewards.questions`). Its nodes are read in batches, parents
before children; a parent's keys and values are kept while there are children to read, and given to each of them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from .backbones.base import Backbone, Sight
from .errors import ModelError
from .images import as_tensor
from .prompts import VERDICT
from .questions import Node, Picture, Question, tree
from .transfers import fetching, sent

BATCH_SIZE: Final = 16
"""Questions at a time where memory does not say otherwise."""
TOKENS_PER_PICTURE: Final = 1024
"""For planning only: a picture rarely takes more."""


@dataclass(frozen=True)
class Laid:
    """Rows of pieces laid out for the language model, padded on the right.

    Attributes:
        embeddings: float [batch, length, width].
        positions: int64 [axes, batch, length].
        mask: int64 [batch, length], 0 for padding.
        shown: for every row its pictures, each with its first place.
        lengths: for every row how much of it is no padding.
        nexts: for every row the position that comes next.
    """

    embeddings: Tensor
    positions: Tensor
    mask: Tensor
    lengths: list[int]
    shown: list[list[tuple[int, Sight]]]
    nexts: list[int]


Row = Sequence[tuple[Sight | None, tuple[int, ...]]]


def lay_out(backbone: Backbone, rows: Sequence[Row], starts: Sequence[int]) -> Laid:
    """Put pictures and text in their places; differentiable in what the pictures' embeddings depend on."""
    embed = backbone.model.get_input_embeddings()
    device = embed.weight.device
    embedded: list[Tensor] = []
    placed: list[Tensor] = []
    shown: list[list[tuple[int, Sight]]] = []
    nexts: list[int] = []
    for row, start in zip(rows, starts, strict=True):
        words = embed(sent(torch.tensor([token for _, text in row for token in text], dtype=torch.long), device))
        parts: list[Tensor] = []
        positions: list[Tensor] = []
        pictures: list[tuple[int, Sight]] = []
        length = 0
        for sight, text in row:
            if sight is not None:
                pictures.append((length, sight))
                parts.append(sight.embeddings.to(device, words.dtype))
                length += len(sight)
            parts.append(words[: len(text)])
            words = words[len(text) :]
            length += len(text)
            position, start = backbone.positions(sight, len(text), start)
            positions.append(position)
        embedded.append(torch.cat(parts))
        placed.append(torch.cat(positions, dim=1))
        shown.append(pictures)
        nexts.append(start)
    mask = pad_sequence([torch.ones(len(item), dtype=torch.long) for item in embedded], batch_first=True)
    places = pad_sequence([item.T for item in placed], batch_first=True).permute(2, 0, 1)
    embeddings = pad_sequence(embedded, batch_first=True)
    lengths = [len(item) for item in embedded]
    return Laid(embeddings, sent(places, device), sent(mask, device), lengths, shown, nexts)


def look(backbone: Backbone, pictures: Sequence[Picture]) -> dict[Picture, Sight]:
    """Send pictures through the vision tower, those of one kind together."""
    seen: dict[Picture, Sight] = {}
    if still := [picture for picture in pictures if picture.interval is None]:
        pixels = backbone.pixels([picture.frames[0] for picture in still])
        seen |= zip(still, backbone.look(pixels), strict=True)
    # What the vision tower takes in one go is frames of one size and number.
    alike: dict[Any, list[Picture]] = {}
    for picture in pictures:
        if picture.interval is not None:
            alike.setdefault((picture.interval, len(picture.frames), picture.frames[0].size), []).append(picture)
    for (interval, *_), moving in alike.items():
        frames = torch.stack([torch.stack([as_tensor(frame) for frame in picture.frames]) for picture in moving])
        seen |= zip(moving, backbone.look(backbone.moving(frames, interval)), strict=True)
    return seen


def last(hidden: Tensor, mask: Tensor) -> Tensor:
    """The hidden states [batch, width] of each row's last token, of [batch, length, width] padded on the right."""
    ends = (mask.sum(1) - 1).to(hidden.device)  # with layers spread over devices, the two may be apart
    return hidden[torch.arange(len(hidden), device=hidden.device), ends]


def log_odds(backbone: Backbone, hidden: Tensor) -> Tensor:
    """Log P(yes) - log P(no) at hidden states [batch, width], float32 [batch] (float64 for a model in float64).

    Only the rows of the output head that belong to yes and no are computed. Where a scalar head stands in their place
    (:mod:`~diffusers_ext.rewards.bradley_terry`), what it gives.
    """
    if backbone.scalar_head is not None:
        return backbone.scalar_head(hidden)
    yes, no = backbone.answers.yes, backbone.answers.no
    head: Any = backbone.model.get_output_embeddings()
    ids = sent(torch.tensor([*yes, *no]), head.weight.device)
    precision = torch.promote_types(hidden.dtype, torch.float32)
    hidden = hidden.to(head.weight.device)
    if head.weight.is_floating_point():
        bias = head.bias[ids].to(precision) if getattr(head, "bias", None) is not None else None
        logits = F.linear(hidden.to(precision), head.weight[ids].to(precision), bias)
    else:
        logits = head(hidden)[:, ids].to(precision)  # a quantized head cannot be sliced
    of_yes, of_no = logits.split([len(yes), len(no)], dim=1)
    return of_yes.logsumexp(1) - of_no.logsumexp(1)


@dataclass(frozen=True)
class _Memory:
    """Keys and values [heads, tokens, width] of each layer for all tokens up to the end of a node."""

    layers: list[tuple[Tensor, Tensor]]
    next: int

    def __len__(self) -> int:
        return self.layers[0][0].shape[1]


@dataclass
class Reading:
    """A batch of rows as the language model left it.

    Attributes:
        hidden: [batch, width], of each row's last token.
        cache: keys and values of all tokens, if they were to be kept.
        mask: int64 [batch, cached], 0 for padding.
        nexts: for every row the position that comes next.
    """

    hidden: Tensor
    cache: DynamicCache | None
    mask: Tensor
    nexts: list[int]


class _Run:
    """What is kept while one tree of questions is being answered."""

    def __init__(self, backbone: Backbone, nodes: Sequence[Node], known: dict[Picture, Sight] | None) -> None:
        self._backbone = backbone
        self._known = known
        self._sights: dict[Picture, Sight] = {}
        self._memories: dict[Node, _Memory] = {}
        self._unread = Counter(piece.picture for node in nodes for piece in node.pieces if piece.picture)
        self._unanswered = Counter(above for node in nodes if node.ends for above in node.ancestors())

    def prepare(self, nodes: Sequence[Node]) -> None:
        """Read whatever comes before these nodes and has not been read, level by level."""
        lines = [node.ancestors() for node in nodes]
        for depth in range(max(map(len, lines), default=0)):
            level = dict.fromkeys(line[depth] for line in lines if depth < len(line))
            if new := [node for node in level if node not in self._memories]:
                self.read(new)

    def read(self, nodes: Sequence[Node], keep: bool = False) -> Reading:
        """Read nodes whose parents have been read, in one batch."""
        sights = self._look([piece.picture for node in nodes for piece in node.pieces if piece.picture])
        rows = [
            [(sights[piece.picture] if piece.picture else None, piece.text) for piece in node.pieces] for node in nodes
        ]
        parents = [self._memories[node.parent] if node.parent else None for node in nodes]
        laid = lay_out(self._backbone, rows, [parent.next if parent else 0 for parent in parents])
        cache, before = _gathered(parents)
        if cache is None and (keep or any(node.children for node in nodes)):
            cache = DynamicCache()
        mask = torch.cat([sent(before, laid.mask.device), laid.mask], dim=1)
        lengths = list(zip(map(_length, parents), laid.lengths, strict=True))
        # To find out that a mask masks nothing, transformers would wait for the device.
        padding = mask if len(set(lengths)) > 1 else None
        hidden = self._backbone.read(laid.embeddings, laid.positions, padding, cache, laid.shown)
        for index, node in enumerate(nodes):
            if node.children:
                assert cache is not None
                self._memories[node] = _kept(cache, index, before.shape[1], lengths[index], laid.nexts[index])
            self._unread.subtract(piece.picture for piece in node.pieces if piece.picture)
        self._sights = {picture: sight for picture, sight in self._sights.items() if self._unread[picture] > 0}
        return Reading(last(hidden, laid.mask), cache, mask, laid.nexts)

    def _look(self, pictures: Sequence[Picture]) -> dict[Picture, Sight]:
        known = self._sights if self._known is None else self._known
        known |= look(self._backbone, [picture for picture in dict.fromkeys(pictures) if picture not in known])
        return known

    def forget(self, nodes: Sequence[Node]) -> None:
        """Let go of what was kept for these nodes alone, now that they are answered."""
        for node in nodes:
            for above in node.ancestors():
                self._unanswered[above] -= 1
                if not self._unanswered[above]:
                    self._memories.pop(above, None)


def _gathered(parents: Sequence[_Memory | None]) -> tuple[DynamicCache | None, Tensor]:
    """What comes before each row, padded on the right to one length, and its mask, int64 [batch, length]."""
    lengths = [_length(parent) for parent in parents]
    longest = max(lengths)
    mask = (torch.arange(longest)[None] < torch.tensor(lengths)[:, None]).long()
    if not longest:
        return None, mask
    some = next(parent for parent in parents if parent)
    # Relatives are neighbours, so that most rows have the same parent, and few are copied.
    distinct = list({id(parent): parent for parent in parents}.values())
    numbers = {id(parent): number for number, parent in enumerate(distinct)}
    of = sent(torch.tensor([numbers[id(parent)] for parent in parents]), some.layers[0][0].device)

    def stacked(layer: int, part: int) -> Tensor:
        first = some.layers[layer][part]
        if len(distinct) == 1:
            return first.expand(len(parents), -1, -1, -1)
        rows = [parent.layers[layer][part] if parent else first[:, :0] for parent in distinct]
        padded = torch.stack([F.pad(row, (0, 0, 0, longest - row.shape[1])) for row in rows])
        return padded[of.to(padded.device)]

    cache = DynamicCache()
    for layer in range(len(some.layers)):
        cache.update(stacked(layer, 0), stacked(layer, 1), layer)
    return cache, mask


def _length(memory: _Memory | None) -> int:
    return len(memory) if memory else 0


def _kept(cache: DynamicCache, row: int, start: int, lengths: tuple[int, int], following: int) -> _Memory:
    """What a row of the cache holds, without padding.

    It holds what comes before a node, at its beginning, and the node itself, from `start`; `lengths` are theirs.
    """
    before, own = lengths

    def cut(stored: Tensor) -> Tensor:
        return torch.cat([stored[row, :, :before], stored[row, :, start : start + own]], dim=1)

    return _Memory([(cut(keys), cut(values)) for keys, values, *_ in cache], following)


Answers: TypeAlias = Callable[[], list[Any]]
"""One for each question of a batch; to ask for them waits until they have been computed."""


class Engine:
    """Answers questions by one model. Not for several threads at a time."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._known: dict[Picture, Sight] | None = None

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Keep what the vision tower made of pictures until the end, from call to call."""
        if self._known is not None:
            yield
            return
        self._known = {}
        try:
            yield
        finally:
            self._known = None

    def log_odds(
        self, questions: Sequence[Question], batch_size: int | None = None
    ) -> Iterator[list[tuple[int, float]]]:
        """The log-odds of yes after each question.

        Yields:
            After every batch its answers, each with the index of the question.
        """

        def answer(run: _Run, nodes: Sequence[Node]) -> Answers:
            return fetching(log_odds(self.backbone, run.read(nodes).hidden))

        return self._batches(questions, batch_size, answer)

    def thoughts(
        self,
        questions: Sequence[Question],
        limit: int,
        batch_size: int | None = None,
        choose: Choose | None = None,
        on_text: OnText | None = None,
    ) -> Iterator[list[tuple[int, str]]]:
        """What the model writes after each question before its verdict, at most `limit` tokens; see :func:`think`.

        `on_text` is told of every question by its index.
        """
        chosen = choose or likeliest

        def answer(run: _Run, nodes: Sequence[Node]) -> Answers:
            def tell(row: int, text: str) -> None:
                if on_text is not None:
                    for index in nodes[row].ends:
                        on_text(index, text)

            reading = run.read(nodes, keep=True)
            texts = think(self.backbone, reading, limit, chosen, None if on_text is None else tell)
            return lambda: texts

        return self._batches(questions, batch_size, answer)

    def _batches(
        self,
        questions: Sequence[Question],
        size: int | None,
        answer: Callable[[_Run, Sequence[Node]], Answers],
    ) -> Iterator[list[tuple[int, Any]]]:
        nodes = tree(questions)
        run = _Run(self.backbone, nodes, self._known)
        left = [node for node in nodes if node.ends]
        size = size or comfortable(self.backbone, questions)
        late = batches_behind(self.backbone.model.device)
        computing: deque[tuple[Sequence[Node], Answers]] = deque()
        try:
            while left:
                batch = left[:size]
                try:
                    with torch.inference_mode():
                        run.prepare(batch)
                        computing.append((batch, answer(run, batch)))
                except torch.OutOfMemoryError as error:
                    if len(batch) == 1:
                        raise ModelError(
                            "one question alone does not fit into the memory of the device; use a smaller or quantized "
                            f"model, or smaller pictures ({error})"
                        ) from error
                    size = len(batch) // 2
                    continue
                left = left[len(batch) :]
                run.forget(batch)
                while len(computing) > late:
                    yield _told(*computing.popleft())
        except Exception:
            while computing:  # what was judged before is not lost
                yield _told(*computing.popleft())
            raise
        while computing:
            yield _told(*computing.popleft())


def batches_behind(device: torch.device) -> int:
    """How many batches later answers are read: a GPU computes one batch while the next one is laid out."""
    return 0 if device.type == "cpu" else 1


def _told(nodes: Sequence[Node], found: Answers) -> list[tuple[int, Any]]:
    return [(index, value) for node, value in zip(nodes, found(), strict=True) for index in node.ends]


Choose: TypeAlias = Callable[[Tensor], Tensor]
"""From logits [rows, words] to the words chosen, int64 [rows]."""


OnText: TypeAlias = Callable[[int, str], None]
"""Told while a thought is being written: whose it is, and all of it so far.

That only grows, unless memory runs out: then it begins anew in a smaller batch.
"""


def likeliest(logits: Tensor) -> Tensor:
    """Greedy decoding."""
    return logits.argmax(-1)


def drawn(temperature: float, seed: int) -> Choose:
    """Words drawn in proportion to exp(logit / temperature)."""
    generator = torch.Generator("cpu").manual_seed(seed)

    def choose(logits: Tensor) -> Tensor:
        odds = (logits.float().cpu() / temperature).softmax(-1)
        return torch.multinomial(odds, 1, generator=generator)[:, 0].to(logits.device)

    return choose


def think(
    backbone: Backbone,
    reading: Reading,
    limit: int,
    choose: Choose = likeliest,
    on_text: OnText | None = None,
) -> list[str]:
    """Go on writing after each row, word by word as `choose` says, until the word that comes before a verdict.

    `on_text` is told of every row after every word, and of its whole text at the end.
    """
    assert reading.cache is not None
    tokenizer, head = backbone.tokenizer, backbone.model.get_output_embeddings()
    embed = backbone.model.get_input_embeddings()
    ends = backbone.model.generation_config.eos_token_id
    stops = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
    written: list[list[int]] = [[] for _ in reading.nexts]
    going = set(range(len(written)))
    hidden, mask = reading.hidden, reading.mask
    for step in range(limit):
        tokens = choose(head(hidden.to(head.weight.device)))
        for row, token in enumerate(tokens.tolist()):
            if row not in going:
                continue
            if token in stops:
                going.discard(row)
                continue
            written[row].append(token)
            if VERDICT in tokenizer.decode(written[row][-8:]):
                going.discard(row)
            elif on_text is not None:
                on_text(row, _so_far(tokenizer.decode(written[row], skip_special_tokens=True)))
        if not going:
            break
        positions = torch.stack([backbone.positions(None, 1, start + step)[0] for start in reading.nexts], dim=1)
        mask = F.pad(mask, (0, 1), value=1)
        embeddings = embed(tokens[:, None].to(embed.weight.device))
        hidden = backbone.read(embeddings, positions.to(mask.device), mask, reading.cache, [[]] * len(tokens))[:, -1]
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    thoughts = [text.split(VERDICT)[0].strip() for text in texts]
    if on_text is not None:
        for row, thought in enumerate(thoughts):
            on_text(row, thought)
    return thoughts


def _so_far(text: str) -> str:
    """What of a text will stay: no letter of which bytes are missing, and no beginning of the word before a verdict."""
    text = text.split(VERDICT)[0].rstrip("\ufffd")
    held = next((length for length in range(len(VERDICT) - 1, 0, -1) if text.endswith(VERDICT[:length])), 0)
    return text[: len(text) - held].strip()


def comfortable(backbone: Backbone, questions: Sequence[Question]) -> int:
    """How many questions at a time the free memory of the device has room for.

    Counts the keys and values of a question twice (kept and copied), and the widest layer's activations.
    """
    device = backbone.model.device
    if device.type != "cuda" or not questions:
        return BATCH_SIZE
    config = backbone.model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    numbers = 4 * config.num_hidden_layers * heads * width + 3 * config.intermediate_size + 8 * config.hidden_size
    tokens = max(sum(map(len, item.texts)) + TOKENS_PER_PICTURE * len(item.pictures) for item in questions)
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, min(4 * BATCH_SIZE, int(0.5 * free / (numbers * tokens * backbone.model.dtype.itemsize))))
