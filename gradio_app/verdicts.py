"""A comparison as HTML: bars, a table of criteria by judges, and thoughts."""

from __future__ import annotations

from .comparing import Answer, Comparison, Writing
from .telling import say, text


def bar(share: float, label: str) -> str:
    """A bar split between A and B; `share` in [0, 1] is A's."""
    width = f"{100 * share:.2f}"
    filled = f'<span class="rd-a" style="width:{width}%"></span>'
    return f'<div class="rd-bar" role="img" aria-label="{text(label)}">{filled}</div>'


def as_html(known: Comparison) -> str:
    """All that a comparison says."""
    parts = [say(note) for note in known.notes]
    parts += [f'<p class="rd-failure">{text(name)}: {text(reason)}</p>' for name, reason in known.failures]
    if known.answers:
        parts += [_headline(answer) for answer in known.by(known.criteria[0])]
        parts.append(_table(known))
    parts += [_thought(answer) for answer in known.reasoned]
    if known.writing is not None:
        parts.append(_writing(known.writing))
    return f'<div class="rd-result">{"".join(parts)}</div>'


def _headline(answer: Answer) -> str:
    share = answer.debiased.reward
    side, sure = ("A", share) if answer.debiased.verdict else ("B", 1.0 - share)
    line = f"{side} is better ({answer.criterion})"
    return (
        f'<div class="rd-headline"><span class="rd-judge">{text(answer.judge)}</span>'
        f'<strong class="rd-side-{side.lower()}">{text(line)}</strong><span>{100 * sure:.1f}%</span>'
        f"{bar(share, f'probability that A is better: {100 * share:.1f}%')}</div>"
    )


def _table(known: Comparison) -> str:
    head = "".join(f"<th>{text(judge)}</th>" for judge in known.judges)
    rows: list[str] = []
    for criterion in known.criteria:
        disputed = known.disputed(criterion)
        mark = '<br><span class="rd-dispute">judges disagree</span>' if disputed else ""
        answers = {answer.judge: answer for answer in known.by(criterion)}
        found = [_cell(answers[judge]) if judge in answers else "" for judge in known.judges]
        cells = "".join(f"<td>{cell}</td>" for cell in found)
        rows.append(f'<tr class="{"rd-disputed" if disputed else ""}"><th>{text(criterion)}{mark}</th>{cells}</tr>')
    return (
        f'<div class="rd-scroll"><table class="rd-table"><thead><tr><th>criterion</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="rd-note">The better one and how sure the judge is of it: both orders together, then as asked '
        "about A and about B. Where those two differ much, the judge goes by the places of the pictures.</p>"
    )


def _cell(answer: Answer) -> str:
    share = answer.debiased.reward
    shares = (share, answer.forward.reward, 1 - answer.backward.reward)
    side = "A" if answer.debiased.verdict else "B"
    both, about_a, about_b = (100 * (item if side == "A" else 1 - item) for item in shares)
    return (
        f'<span class="rd-side-{side.lower()}">{side}</span> {both:.1f}%'
        f'{bar(share, f"A: {100 * share:.1f}%")}<span class="rd-orders">{about_a:.0f}% / {about_b:.0f}%</span>'
    )


def _writing(thought: Writing) -> str:
    said = "".join(
        f"<h4>asked about {letter}</h4><pre>{text(written)}<span>▍</span></pre>"
        for letter, written in (("A", thought.about_a), ("B", thought.about_b))
    )
    head = f"{text(thought.judge)} is writing its reasons ({text(thought.criterion)})"
    return f'<div class="rd-thought rd-writing" aria-busy="true"><h3>{head}</h3>{said}</div>'


def _thought(answer: Answer) -> str:
    share = answer.debiased.reward
    side = "A" if answer.debiased.verdict else "B"
    said = "".join(
        f"<h4>asked about {letter} ({100 * item.reward:.0f}% yes)</h4><pre>{text(item.explanation or 'nothing')}</pre>"
        for letter, item in (("A", answer.forward), ("B", answer.backward))
    )
    return (
        f'<div class="rd-thought"><h3>{text(answer.judge)} explains ({text(answer.criterion)})</h3>{said}'
        f"<p>After reasoning: {side} is better, P(A) = {100 * share:.1f}%</p></div>"
    )
