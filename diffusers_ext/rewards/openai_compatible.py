"""Judges behind servers that speak OpenAI's protocol: vLLM, SGLang, llama.cpp, or OpenAI itself.

The question is the one that :class:`~diffusers_ext.RewardModel` puts (:mod:`~diffusers_ext.rewards.prompts`); the
server's chat template lays it out.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from . import prompts
from .arguments import check_batch_size, check_count, example_images, prompts_for
from .config import RewardConfig
from .connection import Connection, RemoteError, gather, is_finite
from .errors import ModelError
from .images import as_images
from .instructions import DEFAULT_INSTRUCTION, Instruction, get_instruction
from .judgement import Judgement
from .remote import encoded
from .tokens import NO, YES

if TYPE_CHECKING:
    from PIL import Image

    from .images import ImageInput

TOP: Final = 20
"""How many tokens servers list with their log-probabilities; OpenAI and vLLM allow no more."""


class _Served:
    """A server, a model there, and how the log-odds of its verdicts are calibrated."""

    usual_timeout = 120.0

    def __init__(
        self,
        url: str,
        model: str,
        api_key: str | None = None,
        timeout: float | None = None,
        retries: int = 4,
        concurrency: int = 16,
        config: RewardConfig | None = None,
    ) -> None:
        """Name a server and a model; nothing is sent before the first question.

        Args:
            url: where it is, ``http://host:port``, with or without ``/v1``.
            model: what the server calls the model.
            api_key: its key, if it wants one.
            timeout: seconds for one attempt at a request; by default `usual_timeout`.
            retries: how often a request is tried again after connection errors, time-outs and the statuses 429 and 5xx.
            concurrency: questions under way at a time; the server puts them into batches.
            config: temperatures, and how long a chain of thought may get.

        Raises:
            ModelError: not a URL, or settings that make no sense.
        """
        if concurrency < 1:
            raise ModelError(f"concurrency must be at least 1, not {concurrency}")
        self.name = model
        self.config = config or RewardConfig()
        self._connection = Connection(_base(url), api_key, self.usual_timeout if timeout is None else timeout, retries)
        self._concurrency = concurrency

    def close(self) -> None:
        """Let go of the sockets."""
        self._connection.close()

    def _gather(
        self,
        ask: Callable[[range, threading.Event], list[Judgement]],
        count: int,
        batch_size: int | None,
        progress: bool,
        cancel: Callable[[], bool] | None,
    ) -> list[Judgement]:
        """Have `count` questions answered, each a request of its own."""
        check_batch_size(batch_size)
        parts = [range(index, index + 1) for index in range(count)]
        return gather(ask, parts, batch_size or self._concurrency, progress, cancel)


class OpenAIRewardModel(_Served):
    """A vision-language model behind `/v1/chat/completions`, with the face of :class:`~diffusers_ext.RewardModel`.

    The server lists the log-probabilities of the likeliest 20 tokens. The spellings of yes among them are put together
    by logsumexp, and so are those of no. Where one side is not listed at all, the lowest log-probability that is listed
    stands for it: no token that was left out can be likelier, so a verdict is not made out to be surer than it is.

    With `explain=True` the model writes until it says ``Verdict:``; then the log-probabilities are read after it, which
    needs a server that can go on with a message that was begun (`continue_final_message`: vLLM and SGLang can).

    Example:
        >>> judge = OpenAIRewardModel("http://localhost:8000", "OpenGVLab/InternVL3_5-38B-HF")
        >>> judge.score("a.png", "a red fox in the snow")
    """

    def score(
        self,
        images: ImageInput | Sequence[ImageInput],
        prompt: str | Sequence[str],
        instruction: str | Instruction = DEFAULT_INSTRUCTION,
        explain: bool = False,
        batch_size: int | None = None,
        progress: bool = False,
        cancel: Callable[[], bool] | None = None,
    ) -> list[Judgement]:
        """Judge each picture on its own; see :meth:`RewardModel.score`.

        Args:
            images: one or several: PIL images, paths, or float tensors [3, H, W] / [B, 3, H, W] in [0, 1].
            prompt: what they were to show; one for all, or one each.
            instruction: what to judge by, a preset's name or a record.
            explain: have the model write a chain of thought before its verdict.
            batch_size: questions under way at a time.
            progress: show progress on stderr.
            cancel: asked while answers are awaited; once it returns true, :class:`Cancelled` is raised.

        Raises:
            ImageError, PromptTextError, InstructionError: as in process.
            RemoteError: the server cannot be reached, refuses, or answers what cannot be.
        """
        candidates, by = as_images(images), get_instruction(instruction)
        asked = prompts_for(prompt, len(candidates))
        temperature = self.config.cot_temperature if explain else self.config.pointwise_temperature

        def ask(part: range, stop: threading.Event) -> list[Judgement]:
            (index,) = part
            value, thought = self._answer(by, asked[index], None, candidates[index], explain, stop)
            return [Judgement(value / temperature, by.name, by.criteria, index, None, thought)]

        return self._gather(ask, len(candidates), batch_size, progress, cancel)

    def compare(
        self,
        candidates: ImageInput | Sequence[ImageInput],
        reference: ImageInput | Sequence[ImageInput],
        prompt: str | Sequence[str],
        instruction: str | Instruction = DEFAULT_INSTRUCTION,
        debias: bool = True,
        explain: bool = False,
        batch_size: int | None = None,
        progress: bool = False,
        cancel: Callable[[], bool] | None = None,
    ) -> list[Judgement]:
        """Judge each candidate against a reference; see :meth:`RewardModel.compare`.

        Args:
            candidates: one or several, as in :meth:`score`.
            reference: one for all, or one each.
            prompt: what they were to show; one for all, or one each.
            instruction: what to judge by, a preset's name or a record.
            debias: ask both orders and average the log-odds, so that the rewards of (a, b) and (b, a) add up to one.
            explain: have the model write a chain of thought before its verdict.
            batch_size: questions under way at a time.
            progress: show progress on stderr.
            cancel: asked while answers are awaited; once it returns true, :class:`Cancelled` is raised.

        Raises:
            ImageError, PromptTextError, InstructionError: as in process.
            RemoteError: the server cannot be reached, refuses, or answers what cannot be.
        """
        judged, against, by = as_images(candidates), as_images(reference), get_instruction(instruction)
        check_count(len(against), len(judged))
        asked = prompts_for(prompt, len(judged))
        temperature = self.config.cot_temperature if explain else self.config.temperature

        def ask(part: range, stop: threading.Event) -> list[Judgement]:
            (index,) = part
            number = index if len(against) > 1 else 0
            orders = [(judged[index], against[number]), (against[number], judged[index])]
            found = []
            for first, second in orders if debias else orders[:1]:
                value, thought = self._answer(by, asked[index], second, first, explain, stop)
                found.append(Judgement(value / temperature, by.name, by.criteria, index, number, thought))
            return [found[0].swapped(found[1])] if debias else found

        return self._gather(ask, len(judged), batch_size, progress, cancel)

    def _answer(
        self,
        by: Instruction,
        prompt: str,
        reference: Image.Image | None,
        candidate: Image.Image,
        explain: bool,
        stop: threading.Event,
    ) -> tuple[float, str | None]:
        """Log-odds of yes, and the chain of thought if there was to be one."""
        asked = prompts.question(by, prompt, pairwise=reference is not None, explain=explain)
        shown = [picture for picture in (reference, candidate) if picture is not None]
        messages = with_pictures(asked, [*example_images(by), *shown])
        if not explain:
            return self._log_odds(messages, {}, stop), None
        limit = {"max_tokens": self.config.max_new_tokens, "stop": [prompts.VERDICT]}
        choice = self._choice({"messages": messages, **limit}, stop)
        message = choice.get("message")
        written = message.get("content") if isinstance(message, dict) else None
        if not isinstance(written, (str, type(None))):
            raise RemoteError(f"{self._connection.url}: the answer's message holds no text")
        thought = (written or "").split(prompts.VERDICT)[0].strip()
        messages = [*messages, {"role": "assistant", "content": f"{thought} {prompts.VERDICT}"}]
        going_on = {"continue_final_message": True, "add_generation_prompt": False}
        return self._log_odds(messages, going_on, stop), thought

    def _log_odds(self, messages: list[prompts.Message], options: dict[str, Any], stop: threading.Event) -> float:
        read = {"max_tokens": 1, "logprobs": True, "top_logprobs": TOP}
        choice = self._choice({"messages": messages, **read, **options}, stop)
        try:
            return log_odds(_listed(choice))
        except ModelError as error:
            raise RemoteError(f"{self._connection.url}: {error}") from error

    def _choice(self, body: dict[str, Any], stop: threading.Event) -> dict[str, Any]:
        answer = self._connection.post("/v1/chat/completions", {"model": self.name, "temperature": 0, **body}, stop)
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
            raise RemoteError(f"{self._connection.url}: answered with no choice, or with several, to one question")
        return choices[0]


def log_odds(listed: Sequence[tuple[str, float]]) -> float:
    """Log P(yes) - log P(no) by the log-probabilities of the likeliest tokens.

    Args:
        listed: tokens and their log-probabilities. A side that is not among them is taken to be as likely as the least
            likely of them, which is the most that it can be.

    Raises:
        ModelError: neither yes nor no is listed, in any spelling.
    """
    yes, no = ([value for token, value in listed if token in spellings] for spellings in (YES, NO))
    if not yes and not no:
        said = ", ".join(repr(token) for token, _ in listed[:5])
        raise ModelError(
            f"the model answers neither yes nor no; what it would rather say is {said}. Use a model that follows "
            "instructions, and see that no thinking mode is on"
        )
    lowest = min(value for _, value in listed)
    return _logsumexp(yes or [lowest]) - _logsumexp(no or [lowest])


def _logsumexp(values: Sequence[float]) -> float:
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))


def _listed(choice: dict[str, Any]) -> list[tuple[str, float]]:
    """Tokens and log-probabilities at the first place of an answer."""
    found = choice.get("logprobs")
    content = found.get("content") if isinstance(found, dict) else None
    first = content[0] if isinstance(content, list) and content else None
    top = first.get("top_logprobs") if isinstance(first, dict) else None
    if not isinstance(top, list) or not top:
        raise ModelError("the answer has no log-probabilities; the server must support `logprobs` and `top_logprobs`")
    listed: list[tuple[Any, Any]] = [(item.get("token"), item.get("logprob")) for item in top if isinstance(item, dict)]
    if len(listed) != len(top) or not all(isinstance(token, str) and is_finite(value) for token, value in listed):
        raise ModelError("the answer's log-probabilities are not all finite numbers")
    if any(value > 1e-3 for _, value in listed):
        raise ModelError("the answer's log-probabilities are not all below zero, so they are something else")
    return listed


def with_pictures(messages: Iterable[prompts.Message], pictures: Sequence[Image.Image]) -> list[prompts.Message]:
    """Chat messages with pictures, as data URLs, in the places that were kept for them."""
    left = iter(pictures)

    def part(item: dict[str, Any]) -> dict[str, Any]:
        if item != prompts.IMAGE:
            return item
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded(next(left))}"}}

    return [{**message, "content": [part(item) for item in message["content"]]} for message in messages]


def _base(url: str) -> str:
    return url.rstrip("/").removesuffix("/v1")


class RerankerRewardModel(_Served):
    """Qwen3-VL-Reranker behind vLLM's `/classify`; it judges one picture at a time and at once, as in process.

    Start it as a classifier whose one logit is that of "yes" less that of "no", and leave its chat template alone::

        vllm serve Qwen/Qwen3-VL-Reranker-2B --runner pooling --hf_overrides '{"architectures":
          ["Qwen3VLForSequenceClassification"], "classifier_from_token": ["no", "yes"],
          "is_original_qwen3_reranker": true}'
    """

    usual_timeout = 60.0

    def score(
        self,
        images: ImageInput | Sequence[ImageInput],
        prompt: str | Sequence[str],
        instruction: str | Instruction = DEFAULT_INSTRUCTION,
        explain: bool = False,
        batch_size: int | None = None,
        progress: bool = False,
        cancel: Callable[[], bool] | None = None,
    ) -> list[Judgement]:
        """Judge each picture on its own; see :meth:`OpenAIRewardModel.score`.

        Raises:
            ModelError: an explanation, or an instruction with examples: this model knows neither.
        """
        candidates, by = as_images(images), get_instruction(instruction)
        asked = prompts_for(prompt, len(candidates))
        if explain or by.examples:
            raise ModelError(f"{self.name}: a reranker judges at once and without examples; it cannot explain")

        def ask(part: range, stop: threading.Event) -> list[Judgement]:
            (index,) = part
            value = self._logit(by, asked[index], candidates[index], stop) / self.config.pointwise_temperature
            return [Judgement(value, by.name, by.criteria, index)]

        return self._gather(ask, len(candidates), batch_size, progress, cancel)

    def compare(self, *_: Any, **__: Any) -> list[Judgement]:
        """Refused: a reranker sees one picture only.

        Raises:
            ModelError: always.
        """
        raise ModelError(
            f"{self.name}: a reranker judges one picture at a time; use score, or the ranking method 'pointwise'"
        )

    def _logit(self, by: Instruction, prompt: str, candidate: Image.Image, stop: threading.Event) -> float:
        messages = with_pictures(prompts.reranker_question(by, prompt), [candidate])
        # Without the activation the answer is the logit itself, which does not saturate.
        options = {"add_generation_prompt": True, "use_activation": False}
        answer = self._connection.post("/classify", {"model": self.name, "messages": messages, **options}, stop)
        data = answer.get("data") if isinstance(answer, dict) else None
        first = data[0] if isinstance(data, list) and len(data) == 1 else None
        values = first.get("probs") if isinstance(first, dict) else None
        if not isinstance(values, list) or len(values) != 1 or not is_finite(values[0]):
            raise RemoteError(
                f"{self._connection.url}: answered with {str(values)[:80]} where one logit was expected; start the "
                'server with "classifier_from_token": ["no", "yes"] (docs/serving.md)'
            )
        return float(values[0])
