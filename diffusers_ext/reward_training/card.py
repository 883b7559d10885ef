"""The model card that is written beside a trained judge."""

from __future__ import annotations

from dataclasses import asdict

from .config import RewardTraining


def card_of(config: RewardTraining, accuracy: float | None, records: int, held: int) -> str:
    """What was done, with what came out of it, in the hub's layout."""
    base = config.model or "the nano reward model of rewarddance"
    measured = (
        f"Accuracy on {held:,} held-out records, both orders asked: **{accuracy:.3f}**."
        if accuracy is not None
        else "It was not measured; `rewarddance evaluate --data` does so on a file of preferences."
    )
    rows = "\n".join(f"| `{name}` | {value} |" for name, value in asdict(config).items() if value not in (None, ()))
    return f"""---
library_name: transformers
tags: [reward-model, rewarddance]
---

# Reward model

A {config.objective} judge of pictures, trained from {base} on {records:,} preferences.

{measured}

```python
from diffusers_ext import RewardModel

judge = RewardModel.from_pretrained("this folder")
judge.compare("a.png", "b.png", "what both were to show")[0].reward
```

| setting | value |
|---|---|
{rows}
"""
