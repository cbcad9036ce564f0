from __future__ import annotations

import itertools
import shutil

import numpy as np
import pytest
import torch
from fakes import make_model, point_windows

from robot_wm import precision
from robot_wm.data import TokenStore
from robot_wm.models.latent import channel_stats
from robot_wm.precision import choose_precision
from robot_wm.training import TrainConfig, Training, held_out_error, learning_rate, train


def test_training_beats_copying_and_needs_the_right_actions():
    model = make_model()
    config = TrainConfig(num_steps=250, learning_rate=3e-3)
    rows = list(train(model, point_windows(range(32)), config))
    errors = held_out_error(model, point_windows(range(32, 40)), horizon=4)
    assert rows[-1]["loss"] < rows[0]["loss"] / 2
    assert [row["step"] for row in rows] == list(range(1, 251))
    for h in range(4):
        assert errors["true"][h] < 0.7 * errors["copy_last"][h]
        assert errors["true"][h] < 0.7 * errors["shuffled"][h]
        assert errors["true"][h] < 0.7 * errors["zero"][h]
    assert not any(p.requires_grad for p in model.predictor.parameters())


def test_the_same_seed_trains_the_same_weights():
    results = []
    for _ in range(2):
        model = make_model()
        rows = list(train(model, point_windows(range(32)), TrainConfig(num_steps=5)))
        results.append([row["loss"] for row in rows])
    assert results[0] == results[1]


@pytest.mark.parametrize("how", [{}, {"ema": 0.9}, {"num_microbatches": 2}])
def test_a_run_that_was_saved_goes_on_bit_for_bit(how, tmp_path):
    config = TrainConfig(num_steps=9, **how)

    def begin():
        model = make_model()
        return model, Training(model, point_windows(range(32)), config)

    whole, run = begin()
    expected = list(run.steps())
    _, first = begin()
    for row in itertools.islice(first.steps(), 4):
        first.loop.rows.append(row)
    first.loop.save(tmp_path / "save", about={"data": "this"})
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)  # as a process that is kept to other cores has
    again, second = begin()
    second.loop.resume(tmp_path / "save", about={"data": "this"})
    assert torch.get_num_threads() == threads
    assert [row["step"] for row in second.loop.rows] == [1, 2, 3, 4]
    rows = list(second.steps())
    assert [row["loss"] for row in rows] == [row["loss"] for row in expected[4:]]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    with pytest.raises(ValueError, match="by its data"):
        begin()[1].loop.resume(tmp_path / "save", about={"data": "that"})


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_windows():
    model = make_model()
    before = {name: value.clone() for name, value in model.predictor.state_dict().items()}
    sampler = point_windows(range(32))
    good = sampler.batch

    def bad(step):
        batch = good(step)
        batch.tokens[0] = torch.nan
        return batch

    sampler.batch = bad
    with pytest.raises(FloatingPointError, match=r"step 0.*windows"):
        list(train(model, sampler, TrainConfig(num_steps=2)))
    for name, value in model.predictor.state_dict().items():
        assert torch.equal(value, before[name])


def weights_after(num_steps=4, model=None, **config):
    model = model or make_model()
    settings = TrainConfig(**{"num_steps": num_steps, "precision": "float32", **config})
    rows = list(train(model, point_windows(range(32)), settings))
    return torch.cat([p.flatten() for p in model.predictor.parameters()]), rows


@pytest.mark.parametrize("prefix", ["first", "random"])
def test_a_batch_in_parts_is_the_same_step(prefix):
    model = {"rollout_prefix": prefix, "rollout_steps": 3}
    whole, rows = weights_after(model=make_model(**model))
    parts, split = weights_after(model=make_model(**model), num_microbatches=3)
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=0)
    assert [r["loss"] for r in rows] == pytest.approx([r["loss"] for r in split], rel=1e-4)


@pytest.mark.parametrize("decay", [0.3, 0.9])
def test_the_average_of_the_weights_is_the_average_of_the_weights(decay):
    model = make_model()

    def flat():
        return torch.cat([p.detach().flatten() for p in model.predictor.parameters()])

    config = TrainConfig(num_steps=5, learning_rate=1e-2, ema=decay)
    path = [flat()]
    for _ in train(model, point_windows(range(32)), config):
        path.append(flat())
    mean = path[0]
    for step, weights in enumerate(path[1:]):
        share = min(decay, (1 + step) / (10 + step))
        mean = share * mean + (1 - share) * weights
    torch.testing.assert_close(flat(), mean, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(flat(), path[-1], atol=1e-4)


def test_shuffled_actions_are_never_a_windows_own(monkeypatch):
    model, seen = make_model(), []
    rollout = model.rollout

    def watch(state, actions, *given):
        seen.append(actions)
        return rollout(state, actions, *given)

    monkeypatch.setattr(model, "rollout", watch)
    held_out_error(model, point_windows(range(32, 34)), horizon=4, max_batches=1)
    true, shuffled, zero = seen
    assert not (true == shuffled).all(dim=(1, 2)).any() and not zero.any()
    torch.testing.assert_close(true.sum(0), shuffled.sum(0))


def test_training_in_bfloat16_goes_the_same_way():
    model = make_model()
    config = TrainConfig(num_steps=8, precision="bfloat16")
    rows = list(train(model, point_windows(range(32)), config))
    _, exact = weights_after(num_steps=8)
    assert all(p.dtype == torch.float32 for p in model.predictor.parameters())
    losses, expected = ([r["loss"] for r in which] for which in (rows, exact))
    assert losses == pytest.approx(expected, rel=0.03) and losses != expected


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_blocks_train_alike():
    _, plain = weights_after(num_steps=3)
    model = make_model()
    _, compiled = weights_after(num_steps=3, model=model, compile=True)
    assert [r["loss"] for r in compiled] == pytest.approx([r["loss"] for r in plain], rel=1e-3)
    assert not any("_orig_mod" in name for name in model.predictor.state_dict())


def test_precision_is_chosen_by_what_the_processor_does(monkeypatch):
    cpu = torch.device("cpu")
    for fast, wanted in ((2.0, torch.bfloat16), (1.1, torch.float32), (0.01, torch.float32)):
        rates = {torch.float32: 1.0, torch.bfloat16: fast}
        monkeypatch.setattr(precision, "matmul_rate", lambda dtype, *_, rates=rates: rates[dtype])
        assert choose_precision("auto", cpu) == wanted
    assert choose_precision("float32", cpu) == torch.float32
    assert choose_precision("bfloat16", cpu) == torch.bfloat16


def test_channel_statistics_are_those_of_the_training_tokens():
    tokens = [np.random.default_rng(i).normal(i, 1 + i, (5, 2, 3)) for i in range(4)]
    tokens[3] += 100  # held out
    store = TokenStore(np.concatenate(tokens).astype(np.float32), (5,) * 4)
    stats = channel_stats(store, (0, 1, 2))
    seen = np.concatenate(tokens[:3]).reshape(-1, 3)
    np.testing.assert_allclose(stats.mean, seen.mean(0), atol=1e-5)
    np.testing.assert_allclose(stats.std, seen.std(0), rtol=1e-5)


def test_schedule_warms_up_holds_and_falls_to_zero():
    config = TrainConfig(num_steps=100, learning_rate=6.0, warmup_share=0.1, decay_share=0.4)
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[0] == pytest.approx(1.0) and rates[10] == 6.0 and rates[59] == 6.0
    assert rates[80] == pytest.approx(3.0) and rates[100] == 0.0


@pytest.mark.parametrize(
    "bad",
    [
        *({"num_steps": 0}, {"learning_rate": 0.0}, {"decay_share": 1.0}),
        *({"num_microbatches": 0}, {"precision": "float16"}, {"ema": 1.0}),
        *({"grad_clip": -1.0}, {"weight_decay": -1.0}, {"num_steps": 1.5}),
        {"warmup_share": float("nan")},
    ],
)
def test_impossible_training_settings_are_refused(bad):
    with pytest.raises(ValueError, match=f"TrainConfig|{next(iter(bad))}"):
        TrainConfig(**bad)
