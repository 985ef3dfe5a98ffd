"""The frame budget: who may send when, and how much."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdop_jupyter.notebook.views.frames import FRAME_SECONDS, FrameBudget

MOST_MESSAGES, MOST_BYTES = 20, 1_000_000  # what FACTS.md's limits leave us, in any second


@dataclass
class Page:
    """Views that become dirty at given times, drawn as the budget says; remembers what was sent and who waited."""

    budget: FrameBudget[str] = field(default_factory=FrameBudget)
    now: float = 0.0
    dirty: dict[str, float] = field(default_factory=dict)
    sends: list[tuple[float, int, int, str]] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    drawn_clean: list[str] = field(default_factory=list)

    def mark(self, *keys: str) -> None:
        for key in keys:
            self.dirty.setdefault(key, self.now)
            self.budget.mark(key, self.now)

    def draw(self, size: int = 10**9, messages: int = 1, seconds: float = 0.0) -> list[str]:
        """One tick: every granted view sends, up to `size` bytes in so many messages, and takes so long."""
        grants = self.budget.plan(self.now)
        for key, max_bytes in grants:
            if key not in self.dirty:
                self.drawn_clean.append(key)
            self.waits.append(self.now - self.dirty.pop(key, self.now))
            self.sizes.append(max_bytes)
        for key, max_bytes in grants:
            self.now += seconds
            self.budget.sent(self.now, key, min(size, max_bytes), messages)
            self.sends.append((self.now, min(size, max_bytes), messages, key))
        return [key for key, _ in grants]

    def run(
        self, until: float, *, flooding: tuple[str, ...] = (), marks: list[tuple[float, str]] | None = None, **frame
    ):
        """Tick as `next_due` says; `flooding` views are dirty again as soon as they were drawn."""
        coming = sorted(marks or [])
        heapq.heapify(coming)
        self.mark(*flooding)
        while True:
            due = self.budget.next_due(self.now)
            times = [time for time in (due, coming[0][0] if coming else None) if time is not None]
            if not times or min(times) > until:
                return
            self.now = max(self.now, min(times))
            while coming and coming[0][0] <= self.now:
                self.mark(heapq.heappop(coming)[1])
            drawn = self.draw(**frame)
            self.mark(*[key for key in drawn if key in flooding])

    def worst_second(self) -> tuple[int, int]:
        """The most messages and the most bytes in any window of a second."""
        most_messages = most_bytes = first = in_messages = in_bytes = 0
        for time, size, messages, _ in self.sends:
            in_messages, in_bytes = in_messages + messages, in_bytes + size
            while self.sends[first][0] <= time - 1.0:
                in_messages, in_bytes = in_messages - self.sends[first][2], in_bytes - self.sends[first][1]
                first += 1
            most_messages, most_bytes = max(most_messages, in_messages), max(most_bytes, in_bytes)
        return most_messages, most_bytes


def names(count: int) -> tuple[str, ...]:
    return tuple(f"view {number}" for number in range(count))


@pytest.mark.parametrize("count", [1, 2, 10, 16, 60])
@pytest.mark.parametrize("messages", [1, 2, 3])
def test_floods_in_any_number_of_views_stay_within_one_budget(count, messages):
    page = Page()

    page.run(10.0, flooding=names(count), messages=messages)

    most_messages, most_bytes = page.worst_second()
    assert most_messages <= MOST_MESSAGES
    assert most_bytes <= MOST_BYTES
    assert len(page.sends) * messages >= 9 * 9  # and the budget is used


@pytest.mark.parametrize("count", [2, 10, 15, 16])
def test_every_flooding_view_is_drawn_once_a_second_while_there_are_no_more_than_messages(count):
    page = Page()

    page.run(10.0, flooding=names(count))

    assert max(page.waits) <= 1.0
    for name in names(count):
        times = [0.0, *[time for time, _, _, key in page.sends if key == name], 10.0]
        assert max(later - earlier for earlier, later in itertools.pairwise(times)) <= 1.0 + 1e-9


def test_sixty_flooding_views_take_turns():
    page = Page()

    page.run(10.0, flooding=names(60))

    counts = [sum(key == name for *_, key in page.sends) for name in names(60)]
    assert max(counts) - min(counts) <= 1


def test_one_flooding_view_gets_ten_frames_a_second():
    page = Page()

    page.run(10.0, flooding=("only",))

    assert len(page.sends) == pytest.approx(10 / FRAME_SECONDS, abs=2)


@pytest.mark.parametrize("count", [1, 5, 11])
def test_a_quiet_view_is_shown_at_once_though_others_flood(count):
    page = Page()
    page.run(4.321, flooding=names(count))
    page.now = 4.3217

    page.mark("quiet")

    assert page.draw()[:1] == ["quiet"]


def test_a_quiet_view_comes_before_those_that_were_just_shown():
    page = Page()
    page.mark("loud")
    page.draw()
    page.now = 0.5
    page.mark("loud", "quiet")

    assert page.draw() == ["quiet", "loud"]


def test_a_view_is_not_drawn_again_within_a_frame():
    page = Page()
    page.mark("view")
    page.draw()
    page.mark("view")

    page.now = FRAME_SECONDS / 2

    assert page.draw() == []
    assert page.budget.next_due(page.now) == FRAME_SECONDS


def test_views_that_find_nothing_to_send_are_paced_too():
    page = Page()

    page.run(10.0, flooding=names(60), messages=0)

    assert len(page.sends) <= 16 * 11


def test_without_anything_new_nothing_is_due():
    page = Page()

    assert page.budget.next_due(0.0) is None
    page.mark("view")
    assert page.budget.next_due(0.0) == 0.0
    page.draw()
    assert page.budget.next_due(0.0) is None
    assert page.draw() == []


def test_a_view_under_way_is_granted_again_only_after_its_answer():
    budget: FrameBudget[str] = FrameBudget()
    budget.mark("view", 0.0)
    budget.plan(0.0)
    budget.mark("view", 0.0)

    assert budget.plan(5.0) == []
    assert budget.next_due(5.0) is None
    budget.sent(5.0, "view", 10, 1)
    assert budget.next_due(5.0) == 5.0 + FRAME_SECONDS


def test_a_forgotten_view_waits_for_nothing_but_what_it_sent_counts():
    budget: FrameBudget[str] = FrameBudget()
    for name in names(16):
        budget.mark(name, 0.0)
    while grants := budget.plan(0.0):
        for key, _ in grants:
            budget.sent(0.0, key, 10, 1)
            budget.mark(key, 0.0)
            budget.forget(key)

    assert budget.next_due(0.0) is None
    budget.mark("new", 0.5)
    assert budget.plan(0.5) == []
    assert budget.next_due(0.5) == 1.0


def test_shares_shrink_where_more_was_sent_than_planned():
    page = Page()
    page.budget.sent(0.0, "a text for the file", 700_000, 1)
    page.mark(*names(10))

    while page.draw():
        pass

    assert len(page.sizes) == 10
    assert sum(page.sizes) <= 100_000
    assert min(page.sizes) >= 4_000


def test_views_wait_while_the_bytes_of_the_second_are_used_up():
    page = Page()
    page.budget.sent(0.0, "a text for the file", 798_000, 1)
    page.mark("view")

    assert page.draw() == []
    assert page.budget.next_due(0.0) == 1.0


def test_a_frame_that_fits_nowhere_is_refused():
    with pytest.raises(ValueError, match="frame_messages=17"):
        FrameBudget(frame_messages=17)


FRAMES = st.fixed_dictionaries(
    {
        "size": st.integers(0, 200_000),
        "messages": st.integers(0, 3),
        "seconds": st.sampled_from([0.0, 0.003, 0.04, 0.2]),
    }
)
MARKS = st.lists(st.tuples(st.floats(0, 3), st.integers(0, 59).map("view {}".format)), max_size=200)


@given(marks=MARKS, flooding=st.integers(0, 60), frame=FRAMES)
def test_no_second_holds_more_than_the_page_takes_whatever_the_views_do(marks, flooding, frame):
    page = Page()

    page.run(3.0, marks=marks, flooding=names(flooding), **frame)

    most_messages, most_bytes = page.worst_second()
    assert most_messages <= MOST_MESSAGES
    assert most_bytes <= MOST_BYTES
    assert not page.drawn_clean


@given(
    marks=st.lists(st.tuples(st.floats(0, 3), st.integers(0, 15).map("view {}".format)), max_size=200),
    flooding=st.integers(0, 16),
    size=st.integers(0, 200_000),
)
def test_nobody_of_sixteen_waits_over_a_second(marks, flooding, size):
    page = Page()

    page.run(5.0, marks=marks, flooding=names(flooding), size=size)

    assert all(wait <= 1.0 + 1e-9 for wait in page.waits)
    assert flooding or not page.dirty  # the clock ran until all were drawn


@given(marks=MARKS, flooding=st.integers(0, 20))
def test_when_it_says_something_is_due_something_is(marks, flooding):
    page = Page()
    coming = sorted(marks)
    page.mark(*names(flooding))

    for _ in range(100):
        due = page.budget.next_due(page.now)
        if coming and (due is None or coming[0][0] < due):
            page.now, key = max(page.now, coming[0][0]), coming.pop(0)[1]
            page.mark(key)
        elif due is not None:
            page.now = due
            drawn = page.draw()
            assert drawn
            page.mark(*[key for key in drawn if key in names(flooding)])
