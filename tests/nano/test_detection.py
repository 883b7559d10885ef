from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from diffusers_ext.nano.detection import CELLS, Detector, targets_of
from diffusers_ext.nano.preferences import Group, Picture, sample_group
from diffusers_ext.nano.render import CLEAN, Degradation
from diffusers_ext.nano.reward_model import ARCHITECTURES, TOKENS_PER_IMAGE, build_model
from diffusers_ext.nano.scenes import COLOURS, SHAPES, SeenObject, parse_prompt

SPEC = parse_prompt("a photo of a star")


def picture(*objects: SeenObject, degradation: Degradation = CLEAN) -> Picture:
    return Picture(np.zeros((64, 64, 3), np.uint8), objects, degradation)


@pytest.mark.parametrize("token", range(TOKENS_PER_IMAGE))
def test_a_picture_token_looks_at_the_cell_it_answers_for(nano_tokenizer, token):
    """With attention silenced every patch speaks for itself, so gradients show which pixels a token comes from."""
    torch.manual_seed(0)
    model = build_model(ARCHITECTURES["reward-1m"], nano_tokenizer)
    for name, parameter in model.named_parameters():
        if name.endswith("lambda_1"):
            torch.nn.init.zeros_(parameter)
    pixels = torch.randn(1, 3, 64, 64, requires_grad=True)
    features = model.get_image_features(pixels, return_dict=True).pooler_output
    assert features.shape[:2] == (1, TOKENS_PER_IMAGE)
    features[0, token].square().sum().backward()
    reached = pixels.grad[0].abs().sum(0) > 0
    size = 64 // CELLS
    row, column = divmod(token, CELLS)
    expected = torch.zeros(64, 64, dtype=torch.bool)
    expected[row * size : (row + 1) * size, column * size : (column + 1) * size] = True
    assert torch.equal(reached, expected)


def test_objects_by_hand_land_in_their_cells():
    first = picture(SeenObject("star", "red", 60.0, 4.0, 8.0), SeenObject("cross", "blue", 8.0, 40.0, 8.0))
    second = picture(SeenObject("circle", "white", 20.0, 17.0, 8.0))
    found = targets_of([Group(SPEC, (first, second))])
    assert found.present.shape == (2, 16)
    assert found.present[0].nonzero().flatten().tolist() == [3, 8]
    assert found.present[1].nonzero().flatten().tolist() == [5]
    assert [list(COLOURS)[index] for index in found.colours] == ["red", "blue", "white"]
    assert [SHAPES[index] for index in found.shapes] == ["star", "cross", "circle"]
    expected = torch.tensor([[0.75, 0.25], [0.5, 0.5], [0.25, 0.0625]])
    torch.testing.assert_close(found.places, expected)


def test_the_order_of_objects_in_a_scene_does_not_matter():
    items = [SeenObject("star", "red", 60.0, 60.0, 8.0), SeenObject("cross", "blue", 8.0, 8.0, 8.0)]
    one, other = (targets_of([Group(SPEC, (picture(*order),))]) for order in (items, items[::-1]))
    assert torch.equal(one.colours, other.colours) and torch.equal(one.places, other.places)
    assert [SHAPES[index] for index in one.shapes] == ["cross", "star"]


@pytest.mark.parametrize(("x", "cell"), [(-1.0, 0), (0.0, 0), (63.9, 3), (64.0, 3), (70.0, 3)])
def test_centres_at_and_over_the_border_stay_in_the_picture(x, cell):
    found = targets_of([Group(SPEC, (picture(SeenObject("star", "red", x, 1.0, 8.0)),))])
    assert found.present[0].nonzero().flatten().tolist() == [cell]
    assert 0.0 <= float(found.places[0, 0]) <= 1.0


def test_all_that_is_drawn_is_a_target():
    rng = np.random.default_rng(1)
    groups = [sample_group(rng) for _ in range(6)]
    found = targets_of(groups)
    pictures = [item for group in groups for item in group.pictures]
    cells = [{(int(o.y // 16), int(o.x // 16)) for o in item.objects} for item in pictures]
    assert found.present.sum(1).tolist() == [len(places) for places in cells]
    assert int(found.present.sum()) == len(found.colours) == len(found.shapes) == len(found.places)
    assert found.known.all()
    flaws = [[p.degradation.blur, p.degradation.noise, p.degradation.washout, p.degradation.breakage] for p in pictures]
    torch.testing.assert_close(found.flaws, torch.tensor(flaws))


def test_of_generated_pictures_no_flaws_are_known():
    flawed = picture(SeenObject("star", "red", 8.0, 8.0, 8.0), degradation=Degradation(0.5, 0.6, 0.7, 0.8))
    groups = [Group(SPEC, (picture(),) * 2, generated=True), Group(SPEC, (flawed,))]
    found = targets_of(groups)
    assert found.known.tolist() == [False, False, True]
    torch.testing.assert_close(found.flaws, torch.tensor([[0.5, 0.6, 0.7, 0.8]]))
    only = targets_of(groups[:1])
    assert only.flaws.shape == (0, 4)
    assert only.places.shape == (0, 2)


def test_the_readout_costs_what_it_should():
    """All four parts of the loss, computed again from the linear layer's output."""
    torch.manual_seed(0)
    groups = [sample_group(np.random.default_rng(2))]
    found = targets_of(groups)
    features = torch.randn(6, 16, 32)
    detector = Detector(32)
    loss, figures = detector(features, found)
    raw = features @ detector.read.weight.T + detector.read.bias
    here = found.present
    expected = (
        4 * F.binary_cross_entropy_with_logits(raw[..., 0], here.float())
        + F.cross_entropy(raw[..., 1:9][here], found.colours)
        + F.cross_entropy(raw[..., 9:14][here], found.shapes)
        + F.smooth_l1_loss(raw[..., 14:16][here], found.places)
        + 4 * F.mse_loss(raw[..., 16:].mean(1), found.flaws)
    )
    torch.testing.assert_close(loss, expected)
    assert float(figures["colours"]) == pytest.approx(
        float((raw[..., 1:9][here].argmax(-1) == found.colours).float().mean())
    )


def test_pictures_of_unknown_flaws_cost_nothing_for_them():
    torch.manual_seed(0)
    drawn = sample_group(np.random.default_rng(3))
    generated = Group(drawn.spec, drawn.pictures, generated=True)
    detector = Detector(32)
    features = torch.randn(6, 16, 32)
    loss, _ = detector(features, targets_of([generated]))
    loss.backward()
    assert torch.isfinite(loss)
    assert detector.read.weight.grad[16:].abs().sum() == 0
    assert detector.read.weight.grad[:16].abs().sum() > 0


def test_an_exact_readout_costs_almost_nothing():
    """Features that hold the truth, and a read-out that passes them on."""
    found = targets_of([sample_group(np.random.default_rng(4))])
    features = torch.zeros(6, 16, 20)
    features[..., 0] = torch.where(found.present, 30.0, -30.0)
    features[..., 1:14] = -30.0
    picked = found.present.nonzero()
    for (index, cell), colour, shape, place in zip(picked, found.colours, found.shapes, found.places, strict=True):
        features[index, cell, 1 + colour] = 30.0
        features[index, cell, 9 + shape] = 30.0
        features[index, cell, 14:16] = place
    features[..., 16:] = found.flaws[:, None]
    detector = Detector(20)
    with torch.no_grad():
        detector.read.weight.copy_(torch.eye(20))
        detector.read.bias.zero_()
    loss, figures = detector(features, found)
    assert float(loss) < 1e-6
    assert (figures["found"], figures["colours"], figures["shapes"]) == (1.0, 1.0, 1.0)
    assert float(figures["flaws"]) == pytest.approx(0.0, abs=1e-6)
