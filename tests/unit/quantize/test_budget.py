from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from phiforge.quantize.budget import Candidate, choose_raised

CANDIDATES = st.lists(
    st.tuples(st.floats(0, 1), st.integers(1, 50)), min_size=1, max_size=7
).map(lambda items: [Candidate(module=f"m{i}", cost=c, extra_bytes=b) for i, (c, b) in enumerate(items)])  # fmt: skip


@given(CANDIDATES, st.integers(-5, 200))
def test_the_budget_is_kept(candidates: list[Candidate], budget: int) -> None:
    chosen = choose_raised(candidates, budget)
    assert sum(item.extra_bytes for item in candidates if item.module in chosen) <= max(budget, 0)
    assert all(item.cost > 0 for item in candidates if item.module in chosen)


@given(CANDIDATES, st.integers(0, 200))
def test_greedy_misses_at_most_one_weight(candidates: list[Candidate], budget: int) -> None:
    """The bound of the docstring, against all subsets."""
    cost = {item.module: item.cost for item in candidates}
    saved = sum(cost[module] for module in choose_raised(candidates, budget))
    best = max(
        sum(item.cost for item in subset)
        for size in range(len(candidates) + 1)
        for subset in combinations(candidates, size)
        if sum(item.extra_bytes for item in subset) <= budget
    )
    assert best <= saved + max(cost.values()) + 1e-9


def test_what_costs_most_for_its_bytes_comes_first() -> None:
    items = [
        Candidate(module="large", cost=0.9, extra_bytes=100),
        Candidate(module="small", cost=0.5, extra_bytes=10),
        Candidate(module="free", cost=0.0, extra_bytes=1),
    ]
    assert choose_raised(items, 100) == ("small",)
    assert choose_raised(items, 110) == ("large", "small")
    assert choose_raised(items, 5) == ()
