"""How much faster the engine is than plain transformers, as ratios measured in one run.

    python -m benchmarks.scoring                      # CPU: a mid-sized InternVL and Qwen2.5-VL
    python -m benchmarks.scoring --size 8b --device cuda --dtype bfloat16

The baseline is transformers as its documentation shows it: the processor on the whole question, then the model, batched
and padded, its logits taken at the last position only. Both sides do the same judgements in the same precision, the
processors' work included. How busy the engine keeps the device is told against the largest matrix multiplication that
was measured on it in the same run; operations are counted by torch as they are executed, so what is shared counts once.
Those that the baseline needs for one of the engine's say how much faster sharing alone can make a busy device.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.vlms import SIZES, build
from diffusers_ext.rewards.instructions import PRESETS
from diffusers_ext.rewards.model import RewardModel
from diffusers_ext.rewards.processors import load_processor

PROMPT = "a photo of a red star left of a blue square"
Pair = tuple[Image.Image, Image.Image]


def judge_of(kind: str, size: str, device: str, dtype: torch.dtype) -> RewardModel:
    """A judge with random weights."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with tempfile.TemporaryDirectory() as folder, torch.device(device):
            model = build(kind, SIZES[size], Path(folder))
            return RewardModel(model.requires_grad_(False), load_processor(folder), kind)
    finally:
        torch.set_default_dtype(before)


def plain(judge: RewardModel, pairs: Sequence[Pair], batch_size: int) -> list[float]:
    """Log-odds of each (candidate, reference), by transformers alone."""
    text = judge.backbone.question(PRESETS["overall"], PROMPT, pairwise=True, explain=False)
    answers, found = judge.backbone.answers, []
    for start in range(0, len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        images = [image for candidate, reference in batch for image in (reference, candidate)]
        inputs = judge.processor(images=images, text=[text] * len(batch), padding=True, return_tensors="pt")
        inputs.pop("num_patches", None)
        with torch.inference_mode():
            inputs = inputs.to(judge.device, judge.model.dtype)
            logits = judge.model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1].float()
        yes, no = (logits[:, list(group)].logsumexp(1) for group in (answers.yes, answers.no))
        found += (yes - no).tolist()
    return found


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """The median time of several runs."""
    times = []
    for _ in range(repeats):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def attended(query: Sequence[int], key: Sequence[int], *_: Any, **__: Any) -> int:
    """Operations of attention by the shapes [B, heads, length, width]; torch's own count knows no grouped queries."""
    batch, heads, length, width = query
    return 4 * batch * heads * length * key[2] * width


ATTENTION: Final = {
    getattr(torch.ops.aten, f"_scaled_dot_product_{kind}_attention"): attended
    for kind in ("flash", "efficient", "cudnn")
}


def operations(work: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix multiplications, convolutions and attention in some work."""
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
        work()
    return counter.get_total_flops()


def matmul_peak(device: str, dtype: torch.dtype) -> float:
    """Operations per second of the best of a few square matrix multiplications."""
    rates = []
    for side in (4096, 8192, 16384) if device != "cpu" else (1024, 2048):
        one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        work = partial(torch.mm, one, other)
        work()
        rates.append(2 * side**3 / seconds(work, 10))
    return max(rates)


def measure(kind: str, size: str, device: str, dtype: torch.dtype, count: int, repeats: int) -> dict[str, Any]:
    """Times per judgement of the engine and of the baselines."""
    judge = judge_of(kind, size, device, dtype)
    rng = np.random.default_rng(0)
    side = SIZES[size].picture
    images = [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]
    anchored = [(image, images[0]) for image in images[1:]]
    robin = [(one, other) for one in images for other in images if one is not other]
    sample = [robin[index] for index in rng.permutation(len(robin))[: 3 * count]]

    def engine(pairs: Sequence[Pair]) -> list[float]:
        candidates, references = zip(*pairs, strict=True)
        judged = judge.compare(list(candidates), list(references), PROMPT, debias=False, batch_size=count)
        return [item.log_odds for item in judged]

    gap = max(abs(one - other) for one, other in zip(engine(anchored), plain(judge, anchored, count), strict=True))
    times = {
        "engine, anchored": seconds(lambda: engine(anchored), repeats) / len(anchored),
        "engine, round-robin": seconds(lambda: engine(robin), repeats) / len(robin),
        "plain, batched, anchored": seconds(lambda: plain(judge, anchored, count), repeats) / len(anchored),
        "plain, batched, round-robin": seconds(lambda: plain(judge, sample, count), repeats) / len(sample),
        "plain, one by one": seconds(lambda: plain(judge, anchored, 1), repeats) / len(anchored),
    }
    peak = matmul_peak(device, dtype)
    needed = {
        "anchored": operations(lambda: engine(anchored)) / len(anchored),
        "round-robin": operations(lambda: engine(robin)) / len(robin),
    }
    rates = {name: found / times[f"engine, {name}"] for name, found in needed.items()}
    saved = {
        "anchored": operations(lambda: plain(judge, anchored, count)) / len(anchored) / needed["anchored"],
        "round-robin": operations(lambda: plain(judge, sample, count)) / len(sample) / needed["round-robin"],
    }
    parameters = sum(parameter.numel() for parameter in judge.model.parameters())
    return {
        "kind": kind,
        "parameters": parameters,
        "seconds per judgement": times,
        "largest gap in log-odds": gap,
        "matmul peak": peak,
        "operations per second": rates,
        "operations of plain for one of the engine": saved,
        "ratios": {
            "anchored, against batched": times["plain, batched, anchored"] / times["engine, anchored"],
            "round-robin, against batched": times["plain, batched, round-robin"] / times["engine, round-robin"],
            "anchored, against one by one": times["plain, one by one"] / times["engine, anchored"],
            "round-robin, against one by one": times["plain, one by one"] / times["engine, round-robin"],
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=["internvl-qwen2", "qwen2_5_vl"])
    parser.add_argument("--size", choices=list(SIZES), default="mid")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    results = [
        measure(kind, options.size, options.device, dtype, options.candidates, options.repeats)
        for kind in options.kinds
    ]
    if options.json:
        print(json.dumps(results, indent=2))
        return
    print(f"| {options.candidates} candidates | {' | '.join(item['kind'] for item in results)} |")
    print(f"|---|{'---:|' * len(results)}")
    rows = {"parameters": [f"{item['parameters'] / 1e6:.0f} M" for item in results]}
    rows |= {name: [f"{item['ratios'][name]:.2f}x" for item in results] for name in results[0]["ratios"]}
    rows["matmul peak, TFLOP/s"] = [f"{item['matmul peak'] / 1e12:.2f}" for item in results]
    rows |= {
        f"{name}, share of that peak": [
            f"{item['operations per second'][name] / item['matmul peak']:.0%}" for item in results
        ]
        for name in results[0]["operations per second"]
    }
    rows |= {
        f"{name}, by operations alone": [
            f"{item['operations of plain for one of the engine'][name]:.2f}x" for item in results
        ]
        for name in results[0]["operations of plain for one of the engine"]
    }
    rows["largest gap in log-odds"] = [f"{item['largest gap in log-odds']:.1e}" for item in results]
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
