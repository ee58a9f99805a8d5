"""How much of the server one client may have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knot.access.rates import MAX_CLIENTS, SAVED, ConnectionLimit, Rates

RATES = st.sampled_from([0.05, 0.1, 1.0, 3.0, 20.0, 1000.0])
STEPS = st.lists(st.floats(0, 30), min_size=1, max_size=300)


@pytest.mark.parametrize(("rate", "burst"), [(1, 10), (20, 200), (0.5, 5), (0.1, 1), (0.001, 1)])
def test_ten_seconds_worth_may_come_at_once(rate: float, burst: int) -> None:
    rates = Rates(rate)
    taken = [rates.wait("a", 100.0) for _ in range(burst + 20)]
    assert taken[:burst] == [0] * burst
    assert all(1 <= wait <= 1 / rate + 1 for wait in taken[burst:])


@given(RATES, STEPS)
def test_no_span_of_time_has_more_than_the_burst_and_the_rate(
    rate: float, steps: list[float]
) -> None:
    rates, now, answered = Rates(rate), 1000.0, []
    for step in steps:
        now += step / rate / 10
        if rates.wait("a", now) == 0:
            answered.append(now)
    burst = max(rate * SAVED, 1)
    for first, begin in enumerate(answered):
        for last in range(first, len(answered)):
            assert last - first + 1 <= burst + rate * (answered[last] - begin) + 1e-3


@given(RATES, STEPS)
def test_who_comes_no_faster_than_the_rate_is_always_answered(
    rate: float, steps: list[float]
) -> None:
    rates, now = Rates(rate), 1000.0
    for step in steps:
        now += (1 + step) / rate * (1 + 1e-9)
        assert rates.wait("a", now) == 0


@given(RATES, STEPS)
def test_who_waits_as_long_as_it_is_told_is_answered(rate: float, steps: list[float]) -> None:
    rates, now = Rates(rate), 1000.0
    for step in steps:
        now += step / rate / 20
        wait = rates.wait("a", now)
        if wait:
            now += wait
            assert rates.wait("a", now) == 0


def test_one_client_does_not_wait_for_another() -> None:
    rates = Rates(1)
    while rates.wait("greedy", 5.0) == 0:
        pass
    assert rates.wait("modest", 5.0) == 0


def test_so_many_clients_are_known_and_no_more() -> None:
    rates = Rates(0.1)
    for number in range(3 * MAX_CLIENTS):
        assert rates.wait(f"client {number}", 1.0) == 0
        if number % 1000 == 0:
            rates.wait("one that keeps asking", 1.0)  # is not forgotten for the others
            assert rates.wait("one that keeps asking", 1.0) > 0
    assert len(rates._full) == MAX_CLIENTS


OPEN = st.lists(st.tuples(st.booleans(), st.sampled_from(["::1", "::2", "1:2::", "192.0.2.1"])))


@given(st.integers(1, 4), OPEN)
def test_a_crowd_is_counted_by_client(most: int, steps: list[tuple[bool, str]]) -> None:
    connection_limit = ConnectionLimit(most)
    inside: list[str] = []
    same = {"::1": "::", "::2": "::"}
    for comes, address in steps:
        client = same.get(address, address)
        if comes:
            assert connection_limit.enter(address) == (inside.count(client) < most)
            if inside.count(client) < most:
                inside.append(client)
        elif client in inside:
            connection_limit.leave(address)
            inside.remove(client)
    assert connection_limit._open == {client: inside.count(client) for client in inside}


def test_connections_of_trusted_proxies_do_not_count() -> None:
    connection_limit = ConnectionLimit(1, {"192.0.2.1"}.__contains__)
    for _ in range(5):
        assert connection_limit.enter("192.0.2.1")
    connection_limit.leave("192.0.2.1")
    assert connection_limit.enter("192.0.2.2")
    assert not connection_limit.enter("192.0.2.2")
    connection_limit.leave("192.0.2.2")
    assert connection_limit._open == {}
