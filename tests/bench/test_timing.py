from __future__ import annotations

import pytest

from moe_export.bench.timing import Times, Turn, alternate


def times(*turns):
    """Times of turns given as (seconds of the calls, sample)."""
    return Times(turns=tuple(Turn(seconds=tuple(calls), sample=sample) for calls, sample in turns))


@pytest.fixture
def clock(monkeypatch):
    """Time stands still but where ``clock.pass_`` says so."""

    class Clock:
        now = 100.0

        def pass_(self, seconds):
            self.now += seconds

    made = Clock()
    monkeypatch.setattr("time.perf_counter", lambda: made.now)
    monkeypatch.setattr("time.sleep", made.pass_)
    return made


def test_every_contestant_has_a_turn_in_every_round_and_every_other_round_runs_backwards(clock):
    called = []

    def contestant(name):
        def call():
            called.append(name)
            clock.pass_(1.0)

        return call

    alternate(
        {"a": contestant("a"), "b": contestant("b")},
        rounds=3,
        turn_seconds=0.5,
        sample=lambda: 1.0,
    )
    # A first turn has one call more, which is not counted.
    assert "".join(called) == "aabb" + "ba" + "ab"


def test_short_calls_are_counted_until_the_turn_is_over_and_the_first_of_a_turn_never(clock):
    lengths = iter([9.0, 1.0, 1.0, 1.0, 9.0, 1.0, 1.0, 1.0])
    made = alternate(
        {"a": lambda: clock.pass_(next(lengths))}, rounds=2, turn_seconds=2.5, sample=lambda: 1.0
    )
    assert [turn.seconds for turn in made["a"].turns] == [(1.0, 1.0, 1.0)] * 2


def test_a_turn_has_the_mean_of_the_samples_around_it(clock):
    samples = iter([1.0, 3.0, 5.0])
    made = alternate(
        {"a": lambda: clock.pass_(1), "b": lambda: clock.pass_(1)},
        rounds=1,
        turn_seconds=0.5,
        sample=lambda: next(samples),
    )
    assert [made[name].turns[0].sample for name in "ab"] == [2.0, 4.0]


def test_a_ratio_is_taken_within_each_round():
    """The machine became three times as slow for both: neither is faster for that."""
    ours = times(([1.0], 1), ([3.0], 1), ([1.0], 1))
    theirs = times(([2.0], 1), ([6.0], 1), ([2.0], 1))
    assert ours.faster_than(theirs) == 2.0
    assert theirs.faster_than(ours) == 0.5


def test_a_share_is_of_the_sample_beside_the_turn():
    own = times(([1.0], 100.0), ([2.0], 50.0), ([1.0], 100.0))
    assert own.share(80.0) == 0.8


def test_median_and_middle_half_are_those_of_all_calls():
    own = times(([1.0, 2.0], 1), ([3.0, 4.0, 5.0], 1))
    assert own.seconds == 3.0
    assert own.quartiles == (2.0, 4.0)
    assert own.spread == pytest.approx(2 / 3)


def test_one_call_has_no_spread():
    assert times(([2.0], 1)).spread == 0
