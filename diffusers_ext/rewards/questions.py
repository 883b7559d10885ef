"""Questions as the model reads them, and what several of them have in common.

A question is a row of *pieces*, each a picture (but for the first) and the text after it. Questions that begin alike
are joined into a tree, so that what they share is computed once: the instruction, the prompt and the reference of a
ranking, or the example pictures of an instruction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from PIL import Image


@dataclass(frozen=True)
class Picture:
    """What stands in one place of a question, equal to any other with the same pixels.

    Attributes:
        digest: names it by what it shows.
        frames: one 8-bit RGB picture, or several frames of a video that the model takes as one.
        interval: seconds from frame to frame; None for a picture that is no part of a video.
    """

    digest: bytes
    frames: tuple[Image.Image, ...] = field(compare=False, repr=False)
    interval: float | None = None

    @classmethod
    def of(cls, *frames: Image.Image, interval: float | None = None) -> Picture:
        """Name a picture, or frames of one size."""
        name = hashlib.blake2b(digest_size=16, salt=b"%d" % frames[0].width)
        for frame in frames:
            name.update(frame.tobytes())
        return cls(name.digest(), frames, interval)


@dataclass(frozen=True)
class Piece:
    picture: Picture | None
    text: tuple[int, ...]


@dataclass(frozen=True)
class Question:
    """One question: `texts` has the tokens before the first picture, then those after each picture."""

    texts: tuple[tuple[int, ...], ...]
    pictures: tuple[Picture, ...]

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        return tuple(Piece(*piece) for piece in zip((None, *self.pictures), self.texts, strict=True))


@dataclass(eq=False)
class Node:
    """A stretch of pieces that all questions below it share.

    Attributes:
        pieces: the stretch.
        parent: what comes before it; None at the start of a question.
        children: what comes after it.
        ends: indices of the questions that end here.
    """

    pieces: list[Piece]
    parent: Node | None = None
    children: dict[Piece, Node] = field(default_factory=dict)
    ends: list[int] = field(default_factory=list)

    def ancestors(self) -> list[Node]:
        """All nodes before this one, the first of the question first."""
        found: list[Node] = []
        node = self.parent
        while node is not None:
            found.insert(0, node)
            node = node.parent
        return found

    def walk(self) -> Iterator[Node]:
        """This node and all below it, depth first, so that relatives are neighbours."""
        yield self
        for child in self.children.values():
            yield from child.walk()


def tree(questions: Sequence[Question]) -> list[Node]:
    """Join questions where they begin alike, and return every node, depth first."""
    roots: dict[Piece, Node] = {}
    for index, question in enumerate(questions):
        level, parent = roots, None
        for piece in question.pieces:
            parent = level.setdefault(piece, Node([piece], parent))
            level = parent.children
        assert parent is not None
        parent.ends.append(index)
    for root in roots.values():
        _join_only_children(root)
    return [node for root in roots.values() for node in root.walk()]


def _join_only_children(node: Node) -> None:
    """Make one node of every line of nodes in which nothing branches: it is computed in one go."""
    while len(node.children) == 1 and not node.ends:
        (child,) = node.children.values()
        node.pieces += child.pieces
        node.children, node.ends = child.children, child.ends
    for child in node.children.values():
        child.parent = node
        _join_only_children(child)
