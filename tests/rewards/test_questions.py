from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffusers_ext.rewards.questions import Picture, Question, tree

PICTURES = [Picture.of(Image.new("RGB", (4, 4), (shade, 0, 0))) for shade in range(3)]
texts = st.tuples(st.integers(0, 2))
questions = st.integers(0, 2).flatmap(
    lambda count: st.builds(
        Question,
        st.tuples(*[texts] * (count + 1)),
        st.tuples(*[st.sampled_from(PICTURES)] * count),
    )
)


def test_pictures_are_equal_by_what_they_show():
    one, same, other = (Picture.of(Image.new("RGB", size, "red")) for size in ((4, 2), (4, 2), (2, 4)))
    assert one == same
    assert hash(one) == hash(same)
    assert one != other


@given(st.lists(questions, max_size=12))
def test_the_way_to_every_end_spells_its_question(asked):
    nodes = tree(asked)
    found = {}
    for node in nodes:
        pieces = tuple(piece for above in [*node.ancestors(), node] for piece in above.pieces)
        found |= dict.fromkeys(node.ends, pieces)
    assert found == {index: question.pieces for index, question in enumerate(asked)}


@given(st.lists(questions, max_size=12))
def test_nothing_is_read_twice_and_nothing_split_without_need(asked):
    nodes = tree(asked)
    ways = [tuple(piece for above in [*node.ancestors(), node] for piece in above.pieces) for node in nodes]
    assert len(set(ways)) == len(ways)
    beginnings = {question.pieces[: end + 1] for question in asked for end in range(len(question.pieces))}
    assert sum(len(node.pieces) for node in nodes) == len(beginnings)
    assert all(len(node.children) != 1 or node.ends for node in nodes)


@given(st.lists(questions, max_size=12))
def test_parents_come_before_their_children(asked):
    nodes = tree(asked)
    places = {node: index for index, node in enumerate(nodes)}
    assert all(node.parent is None or places[node.parent] < index for node, index in places.items())
    assert all(child.parent is node for node in nodes for child in node.children.values())
