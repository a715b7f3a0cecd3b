"""Progress displays, against a clock that the test moves."""

import io
import re
import sys

import pytest
from rich.console import Console
from rich.text import Text

from robusteval.display import Bars, Journey, Lines, display_for


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def console(*, terminal: bool, width: int = 150) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width)


def written(target: Console) -> str:
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


def test_lines_come_at_most_every_thirty_seconds(clock):
    out = console(terminal=False)
    lines = Lines(out, Journey((1.0, 1.0), clock), clock)
    with lines:
        lines.cell("standard")
        lines.begin("train", 400)
        for _ in range(100):
            clock.now += 0.5
            lines.advance(note="loss 1.203")
    # 100 steps in 50 seconds: told once, at 30 s, when 60 of 400 were done at 2 a second.
    assert written(out) == "[1/2] standard: train 60/400, 2:50 left, loss 1.203\n"


def test_the_time_left_counts_the_work_of_this_process_only(clock):
    out = console(terminal=False)
    lines = Lines(out, Journey((1.0,), clock), clock)
    lines.cell("a")
    lines.begin("train", 400)
    lines.advance(0)
    lines.advance(300)  # an earlier process did these
    for _ in range(40):
        clock.now += 1
        lines.advance()
    assert written(out) == "a: train 330/400, 1:10 left\n"


def test_a_stage_that_reports_nothing_new_has_no_time_left(clock):
    out = console(terminal=False)
    lines = Lines(out, Journey((1.0,), clock), clock)
    lines.begin("pgd", 10)
    clock.now += 40
    lines.advance(0)
    assert written(out) == ": pgd 0/10\n"


def test_the_whole_journey_is_reckoned_from_the_cells_that_are_done(clock):
    journey = Journey((1.0, 2.0, 3.0), clock)
    journey.next("a")
    assert journey.text() == "[1/3] a"
    clock.now += 60
    journey.next("b")
    assert journey.text() == "[2/3] b, 5:00 left in all"
    clock.now += 30
    assert journey.text() == "[2/3] b, 4:30 left in all"
    clock.now += 1000
    assert journey.text() == "[2/3] b, 0:00 left in all"
    journey.next("c")
    assert journey.text() == "[3/3] c, 18:10 left in all"  # 1090 s for 3 of 6


def test_a_terminal_gets_bars_and_a_pipe_gets_lines():
    assert isinstance(display_for(console(terminal=True)), Bars)
    assert isinstance(display_for(console(terminal=False)), Lines)


def test_bars_show_cell_stage_count_and_note_and_no_markup_of_labels():
    out = console(terminal=True)
    bars = display_for(out, (1.0, 1.0))
    with bars:
        bars.cell("a [red]x[/]")
        bars.begin("train", 10)
        bars.advance(4, note="loss [1.5]")
        bars.say("done [b]")
    text = written(out)
    assert "[1/2] a [red]x[/]" in text
    assert "train" in text
    assert "4/10" in text
    assert "loss [1.5]" in text
    assert "done [b]\n" in text


def test_eighty_columns_hold_the_cell_in_a_line_and_bar_count_time_and_note_in_the_next(clock):
    out = console(terminal=True, width=80)
    journey = Journey((1.0, 1.0), clock)
    bars = Bars(out, journey)
    bars.bars.live.auto_refresh = False
    with bars:
        bars.cell("mixup seed 0")
        clock.now += 60
        bars.cell("entprop seed 0 (resnet8, cifar10-sample)")
        bars.begin("corruption", 1500)
        for _ in range(3):
            bars.advance(100, note="loss 1.203")
    page = console(terminal=True, width=80)
    page.print(bars.bars.get_renderable())
    place, bar = written(page).splitlines()
    assert "[2/2] entprop seed 0 (resnet8, cifar10-sample), 1:00 left in all" in place
    plain = Text.from_ansi(bar).plain
    assert len(plain) <= 80
    assert re.fullmatch(r"corruption \S{20,} +300/1500 [-\d]:[-\d]{2}:[-\d]{2} loss 1\.203 *", plain)


def test_bars_leave_standard_output_alone(capsys):
    """Results may be piped while the bars are shown on the terminal."""
    out = console(terminal=True)
    with display_for(out):
        sys.stdout.write("a result\n")
    assert capsys.readouterr().out == "a result\n"
    assert "a result" not in written(out)


def test_no_color_is_respected(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    out = console(terminal=True)
    bars = display_for(out)
    with bars:
        bars.cell("a")
        bars.begin("train", 10)
        bars.advance(5)
    assert "5/10" in written(out)
    assert "\x1b[3" not in written(out)  # SGR foreground colours
