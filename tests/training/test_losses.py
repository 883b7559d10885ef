"""Every loss against a second computation in float64, and its gradient against finite differences."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from scipy import stats

from diffusers_ext.training.advantages import group_advantages
from diffusers_ext.training.ddpo import DDPO, ddim_transition
from diffusers_ext.training.diffusion import Level, Prediction, denoise
from diffusers_ext.training.distillation import GuidanceDistillation
from diffusers_ext.training.draft import DRaFT
from diffusers_ext.training.grpo import FlowGRPO, flow_transition
from diffusers_ext.training.nft import DiffusionNFT, nft_loss, optimality
from diffusers_ext.training.policy_gradient import Gaussian, clipped_loss
from diffusers_ext.training.refl import ReFL
from tests.training.toy import Toy, diffusion_schedule, flow_schedule, situation

ADVANTAGES = torch.tensor([1.3, -0.7, 0.2, -2.0, 0.9, 0.4], dtype=torch.float64)


def mean_loss(algorithm, toy, schedule, experience):
    """The mean loss over an experience's rows, in which every picture has the advantage of its place."""
    rows = experience.rows
    return algorithm.losses(situation(toy, schedule), rows, ADVANTAGES[rows["of"]]).mean()


def differences(function, toy, step=1e-6):
    """Central differences in a and b."""
    found = []
    for item in (toy.a, toy.b):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                item += sign * step
                values.append(float(function()))
                item -= sign * step
        found.append((values[0] - values[1]) / (2 * step))
    return found


def explored(algorithm, toy, schedule):
    with torch.no_grad():
        return algorithm.explore(situation(toy, schedule))


CLIMBING = {
    "refl": (ReFL(kl=0.3), flow_schedule()),
    "draft-1": (DRaFT(steps=1, kl=0.3), flow_schedule()),
    "draft-3": (DRaFT(steps=3, checkpointing=False), flow_schedule()),
    "alignprop": (DRaFT(steps=3, random=True), flow_schedule()),
    "refl, epsilon": (ReFL(), diffusion_schedule()),
}


@pytest.mark.parametrize("name", CLIMBING)
def test_gradient_of_climbed_rewards_is_that_of_finite_differences(name):
    algorithm, schedule = CLIMBING[name]
    toy = Toy(kind="epsilon" if "epsilon" in name else "flow")
    experience = explored(algorithm, toy, schedule)
    loss = mean_loss(algorithm, toy, schedule, experience)
    loss.backward()
    expected = differences(lambda: mean_loss(algorithm, toy, schedule, experience), toy)
    assert [float(toy.a.grad), float(toy.b.grad)] == pytest.approx(expected, rel=1e-6)


def test_draft_through_all_steps_is_the_reward_of_the_finished_picture():
    toy, schedule = Toy(), flow_schedule()
    algorithm = DRaFT(steps=9)
    experience = explored(algorithm, toy, schedule)
    here = situation(toy, schedule)
    reward = here.reward(denoise(toy.denoiser(), here.noise, schedule), experience.rows["of"])
    torch.testing.assert_close(mean_loss(algorithm, toy, schedule, experience), -reward.mean())


def test_nft_learns_from_pictures_of_the_guided_old_policy():
    toy, schedule, scale = Toy(), flow_schedule(3), 2.0
    experience = explored(DiffusionNFT(guidance=scale), toy, schedule)
    a, b = (float(value) for value in toy.old)
    x, times = situation(toy, schedule).noise.numpy(), schedule.noise.numpy()
    for time, to in itertools.pairwise(times):
        prompted, unprompted = np.tanh(a * x + b * time), np.tanh(a * x + b * time + 0.5)
        x = x + (to - time) * (unprompted + scale * (prompted - unprompted))
    np.testing.assert_allclose(experience.clean.numpy(), x)


def test_nft_draws_its_levels_from_the_noisiest_ones():
    everywhere, early = (
        explored(DiffusionNFT(within=within), Toy(), flow_schedule()).rows["uniform"] for within in (1.0, 0.25)
    )
    np.testing.assert_allclose(early, 0.75 + 0.25 * everywhere, atol=1e-6)


def test_distillation_follows_the_guided_base_and_learns_its_velocities():
    toy, schedule, scale = Toy(), flow_schedule(3), 2.5
    algorithm = GuidanceDistillation(scale=scale)
    experience = explored(algorithm, toy, schedule)
    rows = {name: value.numpy() for name, value in experience.rows.items()}
    a, b = (float(value) for value in toy.base)
    x, times = situation(toy, schedule).noise.numpy(), schedule.noise.numpy()
    for index, (time, to) in enumerate(itertools.pairwise(times)):
        prompted, unprompted = np.tanh(a * x + b * time), np.tanh(a * x + b * time + 0.5)
        velocity = unprompted + scale * (prompted - unprompted)
        here = rows["step"] == index
        np.testing.assert_allclose(rows["x"][here], x)
        np.testing.assert_allclose(rows["velocity"][here], velocity)
        x = x + (to - time) * velocity

    def reference():
        now = np.tanh(toy.a.item() * rows["x"] + toy.b.item() * times[rows["step"]][:, None])
        return ((now - rows["velocity"]) ** 2).mean()

    loss = mean_loss(algorithm, toy, schedule, experience)
    loss.backward()
    assert loss.item() == pytest.approx(reference())
    assert [float(toy.a.grad), float(toy.b.grad)] == pytest.approx(differences(reference, toy), rel=1e-6)


def test_refl_stops_each_picture_at_a_late_step_of_its_own():
    toy, schedule = Toy(), flow_schedule(10)
    rows = explored(ReFL(earliest=0.6, latest=0.9), toy, schedule).rows
    assert set(rows["step"].tolist()) <= {6, 7, 8} and len(set(rows["step"].tolist())) > 1
    noise = situation(toy, schedule).noise
    for row, stop in enumerate(rows["step"].tolist()):
        expected = denoise(toy.denoiser(), noise[row : row + 1], schedule, end=stop)
        torch.testing.assert_close(rows["x"][row : row + 1], expected)


@pytest.mark.parametrize(
    "algorithm", [FlowGRPO(kl=0.2, clip=0.5, train_steps=3), DDPO(kl=0.2, clip=0.5, train_steps=3)]
)
def test_gradient_of_policy_losses_is_that_of_finite_differences(algorithm):
    flows = algorithm.name == "grpo"
    schedule = flow_schedule() if flows else diffusion_schedule()
    toy = Toy(kind="flow" if flows else "epsilon")
    experience = explored(algorithm, toy, schedule)
    with torch.no_grad():
        toy.a += 0.01  # learned a little since it explored, so that ratios are not one
    loss = mean_loss(algorithm, toy, schedule, experience)
    loss.backward()
    expected = differences(lambda: mean_loss(algorithm, toy, schedule, experience), toy)
    assert [float(toy.a.grad), float(toy.b.grad)] == pytest.approx(expected, rel=1e-5)


def test_policy_losses_begin_at_minus_the_mean_advantage():
    toy, schedule = Toy(), flow_schedule()
    algorithm = FlowGRPO(kl=0.0, train_steps=1)
    loss = mean_loss(algorithm, toy, schedule, explored(algorithm, toy, schedule))
    assert loss.item() == pytest.approx(-float(ADVANTAGES.mean()))


def test_clipped_loss_by_cases():
    before = np.array([-1.0, -1.0, -1.0, -1.0, -1.0])
    now = before + np.array([0.0, 0.5, 0.5, -0.5, -0.5])
    advantages = np.array([2.0, 2.0, -2.0, 2.0, -2.0])
    # A ratio that has gone too far the right way earns no more; one that has gone the wrong way costs all it costs.
    expected = [-2.0, -2.0 * 1.2, 2.0 * math.exp(0.5), -2.0 * math.exp(-0.5), 2.0 * 0.8]
    found = clipped_loss(*(torch.tensor(values) for values in (now, before, advantages)), clip=0.2)
    np.testing.assert_allclose(found, expected)


def test_nft_loss_and_its_gradient_in_closed_form():
    rng = np.random.default_rng(0)
    learned, old, clean = rng.normal(size=(3, 4, 7))
    good, beta = rng.uniform(size=4), 0.6
    total, gradient = np.zeros(4), np.zeros((4, 7))
    for row in range(4):
        for sign, share in ((1, good[row]), (-1, 1 - good[row])):
            away = old[row] + sign * beta * (learned[row] - old[row]) - clean[row]
            weight = np.abs(away).mean()
            total[row] += share * (away**2).mean() / weight / beta
            gradient[row] += share * 2 * away * sign / 7 / weight
    tensor = torch.tensor(learned, requires_grad=True)
    found = nft_loss(tensor, torch.tensor(old), torch.tensor(clean), torch.tensor(good), beta)
    found.sum().backward()
    np.testing.assert_allclose(found.detach(), total)
    np.testing.assert_allclose(tensor.grad, gradient)


def test_nft_step_against_finite_differences_with_weights_held():
    toy, schedule = Toy(), flow_schedule()
    algorithm = DiffusionNFT(beta=0.7, kl=0.2, draws=2)
    experience = explored(algorithm, toy, schedule)
    experience.rows.update({name: experience.rows[name].double() for name in ("noise", "uniform")})
    mean_loss(algorithm, toy, schedule, experience).backward()
    rows = {name: value.numpy() for name, value in experience.rows.items()}
    good = 0.5 + 0.5 * np.clip(ADVANTAGES.numpy()[rows["of"]] / 5, -1, 1)
    time = rows["uniform"][:, None]
    x = (1 - time) * rows["clean"] + time * rows["noise"]

    def velocity(weights):
        return np.tanh(float(weights[0]) * x + float(weights[1]) * time)

    def parts():
        learned, old = x - time * velocity((toy.a.detach(), toy.b.detach())), x - time * velocity(toy.old)
        return [old + sign * 0.7 * (learned - old) - rows["clean"] for sign in (1, -1)]

    held = [np.abs(part).mean(1) for part in parts()]

    def reference():
        positive, negative = ((part**2).mean(1) / weight for part, weight in zip(parts(), held, strict=True))
        distance = ((velocity((toy.a.detach(), toy.b.detach())) - velocity(toy.base)) ** 2).mean(1)
        return (5 * (good * positive + (1 - good) * negative) / 0.7 + 0.2 * distance).mean()

    assert float(mean_loss(algorithm, toy, schedule, experience)) == pytest.approx(reference(), rel=1e-9)
    assert [float(toy.a.grad), float(toy.b.grad)] == pytest.approx(differences(reference, toy), rel=1e-6)


def test_nft_explores_with_the_old_policy():
    toy, schedule = Toy(), flow_schedule()
    found = explored(DiffusionNFT(), toy, schedule)
    with toy.acting(toy.old):
        expected = denoise(toy.denoiser(), situation(toy, schedule).noise, schedule)
    torch.testing.assert_close(found.clean, expected)


def test_a_good_picture_draws_and_a_bad_one_repels():
    old = torch.zeros(2, 3, dtype=torch.float64)
    learned = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    clean = torch.ones(2, 3, dtype=torch.float64)
    nft_loss(learned, old, clean, torch.tensor([1.0, 0.0]).double(), 1.0).sum().backward()
    assert (learned.grad[0] < 0).all() and (learned.grad[1] > 0).all()


def test_optimality_is_half_on_average_and_ends_at_its_limits():
    found = optimality(torch.tensor([-9.0, -2.5, 0.0, 2.5, 9.0]), 5.0)
    assert found.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_advantages_are_standard_scores_of_their_group():
    rewards = np.random.default_rng(0).normal(size=(3, 5))
    expected = stats.zscore(rewards, axis=1)
    np.testing.assert_allclose(group_advantages(torch.tensor(rewards)), expected, rtol=1e-3)
    overall = torch.tensor(rewards).std(correction=0)
    shared = group_advantages(torch.tensor(rewards), overall)
    np.testing.assert_allclose(shared.std(1, correction=0) * (overall + 1e-4), rewards.std(1))
    assert group_advantages(torch.ones(2, 4)).abs().max() == 0


def test_log_probability_is_that_of_a_normal_distribution_but_for_constants():
    rng = np.random.default_rng(1)
    mean, value, other = rng.normal(size=(3, 2, 6))
    gaussian = Gaussian(torch.tensor(mean), torch.full((2, 1), 0.3, dtype=torch.float64))
    found = gaussian.log_probability(torch.tensor(value)) - gaussian.log_probability(torch.tensor(other))
    expected = (stats.norm.logpdf(value, mean, 0.3) - stats.norm.logpdf(other, mean, 0.3)).mean(1)
    np.testing.assert_allclose(found, expected)


def test_flow_transition_is_the_papers_step():
    rng = np.random.default_rng(2)
    x, v = rng.normal(size=(2, 1, 4))
    t, to, a = 0.8, 0.6, 0.7
    spread = a * math.sqrt(t / (1 - t))
    dt = to - t
    mean = x + (v + spread**2 / (2 * t) * (x + (1 - t) * v)) * dt
    level, after = (Level(*(torch.tensor([value]).double() for value in (0, 1 - s, s))) for s in (t, to))
    found = level.split("flow", torch.tensor(x), torch.tensor(v))
    ways = flow_transition(torch.tensor(x), found, level, after, torch.tensor(0.9), a)
    np.testing.assert_allclose(ways.mean, mean)
    np.testing.assert_allclose(ways.deviation, [[spread * math.sqrt(-dt)]])


def test_the_sde_keeps_the_marginals_of_the_flow():
    """For normal data of deviation 0.5 the velocity is known; the SDE's pictures must have that deviation too."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20000, 1, generator=generator, dtype=torch.float64)
    times = torch.linspace(1, 0, 201, dtype=torch.float64)
    for t, to in itertools.pairwise(times[:-1]):
        variance = (1 - t) ** 2 * 0.25 + t**2
        clean = (1 - t) * 0.25 / variance * x
        noise = t / variance * x
        level, after = (Level(*(value.reshape(1) for value in (s, 1 - s, s))) for s in (t, to))
        ways = flow_transition(x, Prediction(clean, noise), level, after, times[1], 0.7)
        x = ways.mean + ways.deviation * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    assert float(x.std()) == pytest.approx(0.5, rel=0.03)


def test_ddim_transition_is_that_of_diffusers():
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    generator = torch.Generator().manual_seed(0)
    x, output, fresh = torch.randn(3, 2, 4, generator=generator, dtype=torch.float64)
    timestep = int(scheduler.timesteps[4])
    left = [scheduler.alphas_cumprod[step].double().expand(2) for step in (timestep, timestep - 100)]
    level, to = (Level(value, value.sqrt(), (1 - value).sqrt()) for value in left)
    found = level.split("epsilon", x, output)
    ways = ddim_transition(x, found, level, to, torch.ones(()), eta=0.8)
    expected = scheduler.step(output, timestep, x, eta=0.8, variance_noise=fresh).prev_sample
    torch.testing.assert_close(ways.mean + ways.deviation * fresh, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["flow", "epsilon", "v_prediction", "sample"])
def test_split_undoes_mix_whatever_is_predicted(kind):
    clean, noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    signal = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64)
    spread = 1 - signal if kind == "flow" else (1 - signal**2).sqrt()
    level = Level(signal, signal, spread)
    s, n = signal[:, None], spread[:, None]
    output = {"flow": noise - clean, "epsilon": noise, "v_prediction": s * noise - n * clean, "sample": clean}[kind]
    found = level.split(kind, level.mix(clean, noise), output)
    torch.testing.assert_close(found.clean, clean)
    torch.testing.assert_close(found.noise, noise)
