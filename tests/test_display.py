"""Progress displays, against a clock that the test moves."""

import io
import re
import sys

import pytest
from rich.console import Console
from rich.text import Text

from robusteval.display import Journey, Lines, Planned, Table, display_for
from robusteval.display.live import chosen


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def console(*, terminal: bool, width: int = 150, height: int = 24) -> Console:
    # force_terminal and an explicit TERM: the tests may run on a dumb terminal.
    environ = {"TERM": "xterm-256color"}
    return Console(file=io.StringIO(), force_terminal=terminal, width=width, height=height, _environ=environ)


def written(target: Console) -> str:
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


def screen(table: Table) -> list[str]:
    """The lines that the table shows now, without styles."""
    page = console(terminal=True, width=table.console.width, height=table.console.height)
    page.print(table.screen())
    return [line.rstrip() for line in Text.from_ansi(written(page)).plain.splitlines()]


def many(count: int, *stages: tuple[str, float]) -> list[Planned]:
    return [Planned(f"cell {number}", stages or (("train", 1.0),)) for number in range(count)]


def test_lines_come_at_most_every_thirty_seconds(clock):
    out = console(terminal=False)
    with Lines(out, Journey([Planned("standard"), Planned("next")], clock)) as lines:
        lines.cell("standard")
        lines.begin("train", 400)
        for _ in range(100):
            clock.now += 0.5
            lines.advance(note="loss 1.203")
    # 100 steps in 50 seconds: told once, at 30 s, when 60 of 400 were done at 2 a second.
    assert written(out) == "[1/2] standard: train 60/400, 2:50 left, loss 1.203\n"


def test_quiet_lines_say_only_what_they_are_given(clock):
    out = console(terminal=False)
    with Lines(out, Journey((), clock), quiet=True) as lines:
        lines.cell("a")
        lines.begin("train", 400)
        clock.now += 100
        lines.advance()
        lines.say("failed: reason")
    assert written(out) == "failed: reason\n"


def test_the_time_left_counts_the_work_of_this_process_only(clock):
    out = console(terminal=False)
    lines = Lines(out, Journey((), clock))
    lines.cell("a")
    lines.begin("train", 400)
    lines.advance(300)  # an earlier process did these
    for _ in range(40):
        clock.now += 1
        lines.advance()
    assert written(out) == "a: train 330/400, 1:10 left\n"


def test_after_a_report_of_nothing_much_at_once_is_work(clock):
    """An attack is told first that nothing was drafted, then of all the images that need no step."""
    journey = Journey((), clock)
    journey.begin("pgd", 400)
    journey.advance(0, "")
    clock.now += 1
    journey.advance(99, "")
    clock.now += 1
    journey.advance(1, "")
    assert journey.stage.left(clock.now) == pytest.approx(300 / 50)


def test_a_stage_that_reports_nothing_new_has_no_time_left(clock):
    out = console(terminal=False)
    lines = Lines(out, Journey((), clock))
    lines.begin("pgd", 10)
    clock.now += 40
    lines.advance(0)
    assert written(out) == "pgd 0/10\n"


def test_the_time_left_in_all_is_known_in_the_first_cell(clock):
    # A training of 30 units and a task of 10, three times; 10 units of the first training took 20 s.
    journey = Journey([Planned(name, (("train", 30.0), ("pgd", 10.0))) for name in "abc"], clock)
    journey.cell("a")
    assert journey.left() is None
    journey.begin("train", 300)
    assert journey.left() is None
    for _ in range(10):
        clock.now += 2
        journey.advance(10, "")
    assert journey.left() == pytest.approx(2 * (30 * 3 + 10 * 3 - 10))
    clock.now += 5  # without a report the rest of the stage runs down, the stages to come do not
    assert journey.left() == pytest.approx(2 * (30 * 3 + 10 * 3 - 10) - 5)


def test_stages_are_reckoned_at_the_pace_of_their_own_name(clock):
    journey = Journey([Planned(name, (("train", 30.0), ("pgd", 10.0))) for name in "abc"], clock)
    journey.cell("a")
    for name, seconds in (("train", 60), ("pgd", 200)):  # pgd takes ten times as long as was thought
        journey.begin(name, 1)
        clock.now += seconds
        journey.advance(1, "")
    journey.ended("done")
    assert journey.expected(journey.cells[1]) == pytest.approx(60 + 200)
    journey.cell("b")
    journey.begin("train", 4)
    clock.now += 30
    journey.advance(1, "")  # half as fast as the first: 30 s for 7.5 units, so far 90 s for 37.5
    assert journey.left() == pytest.approx(90 + 200 + 30 * 90 / 37.5 + 200)


def test_a_stage_that_was_taken_up_again_counts_with_what_this_process_did(clock):
    journey = Journey([Planned(name, (("train", 30.0),)) for name in "ab"], clock)
    journey.cell("a")
    journey.begin("train", 300)
    journey.advance(200, "")  # by an earlier process
    for _ in range(100):
        clock.now += 1
        journey.advance(1, "")
    journey.ended("done")
    assert journey.left() == pytest.approx(300)


def test_a_task_without_anything_to_measure_and_one_that_was_not_planned_do_no_harm(clock):
    journey = Journey([Planned(name, (("train", 10.0), ("teacher", 5.0), ("pgd", 10.0))) for name in "ab"], clock)
    journey.cell("a")
    for name in ("train", "surprise", "pgd"):  # teacher had nothing to do
        journey.begin(name, 1)
        clock.now += 10
        journey.advance(1, "")
    assert journey.left() == pytest.approx(10 + 5 + 10)
    journey.ended("failed", "why")
    assert (journey.cells[0].state, journey.cells[0].why, journey.cells[0].took) == ("failed", "why", 30)


def test_a_terminal_gets_a_table_and_a_pipe_gets_lines():
    assert isinstance(display_for(console(terminal=True)), Table)
    assert isinstance(display_for(console(terminal=False)), Lines)
    assert isinstance(display_for(console(terminal=True), shown="lines"), Lines)
    quiet = display_for(console(terminal=True), shown="quiet")
    assert isinstance(quiet, Lines)
    assert quiet.quiet
    dumb = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    assert isinstance(display_for(dumb), Lines)  # it cannot move its cursor


def test_the_table_shows_state_count_time_losses_and_no_markup_of_labels(clock):
    table = Table(
        console(terminal=True, width=80), Journey([Planned("a [red]x[/]\x1b[31m"), Planned("b"), Planned("c")], clock)
    )
    table.cell("whatever the long name is")
    table.begin("train", 10)
    for _ in range(5):
        clock.now += 4
        table.advance(note="loss [1.5], 512 images/s")
    head, first, second, third, note = screen(table)
    assert head == "0 of 3 cells done, 2 to go; 0:20 left in all"
    assert re.fullmatch(r"a \[red\]x\[/\]\ufffd\[31m +train ━{5,}\S* +5/10 +0:20", first)
    assert re.fullmatch(r"b +next", second)
    assert re.fullmatch(r"c +next", third)
    assert note == "  loss [1.5], 512 images/s"
    table.ended("failed", "training: Diverged")
    table.cell("b")
    head, first, second, _ = screen(table)
    assert head.startswith("0 of 3 cells done, 1 failed, 1 to go")
    assert re.fullmatch(r"a \[red\]x\[/\]\ufffd\[31m: training: Diverged +failed +0:20", first)
    assert re.fullmatch(r"b +starting", second)


def test_units_per_second_are_shown_where_the_work_names_no_pace(clock):
    table = Table(console(terminal=True), Journey([Planned("a", (("clean", 1.0), ("pgd", 1.0)))], clock))
    table.cell("a")
    table.begin("clean", 100)
    for _ in range(2):
        clock.now += 1
        table.advance(25 if clock.now > 1001 else 1)
    assert screen(table)[-1] == "  13 steps/s, 0:13 left in all"


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 24), (80, 10), (60, 50)])
@pytest.mark.parametrize("position", [0, 1, 13, 27])
def test_a_suite_of_any_length_fits_the_terminal(clock, width, height, position):
    table = Table(console(terminal=True, width=width, height=height), Journey(many(28), clock))
    for number in range(position + 1):
        table.cell("")
        table.begin("corrupted_attack_long", 10)
        clock.now += 3
        table.advance(note="loss 1.203 divergence 0.012 accuracy 0.161, 67 images/s")
        if number < position:
            table.ended("failed" if number % 3 == 0 else "done", "a reason that is much too long for a row of its own")
    lines = screen(table)
    assert len(lines) <= height // 2 + 4
    assert all(len(line) <= width for line in lines)
    assert sum(line.startswith(f"cell {position} ") for line in lines) == 1
    assert f"cell {position + 1} " in "\n".join(lines) or position == 27
    more = re.findall(r"^  (\d+) more not shown$", "\n".join(lines), re.MULTILINE)
    shown = sum(line.startswith("cell ") for line in lines)
    assert shown + int(more[0] if more else 0) == 28


def test_the_cells_shown_are_those_at_work_failed_and_next(clock):
    journey = Journey(many(40), clock)
    for number in range(20):
        journey.cell("")
        if number < 19:
            journey.ended("failed" if number in (3, 7) else "done")
    assert [cell.title for cell in chosen(journey.cells, 9)] == [
        f"cell {number}" for number in (3, 7, 18, 19, 20, 21, 22, 23, 24)
    ]
    assert chosen(journey.cells, 40) == journey.cells


def test_what_is_said_stays_and_is_cleaned():
    out = console(terminal=True)
    table = display_for(out, many(2))
    with table:
        table.cell("a")
        table.say("done [b] \x1b[31m")
    assert "done [b] \ufffd[31m\n" in written(out)


def test_the_table_leaves_standard_output_alone(capsys):
    """Results may be piped while the table is shown on the terminal."""
    out = console(terminal=True)
    with display_for(out) as table:
        table.cell("a")
        sys.stdout.write("a result\n")
    assert capsys.readouterr().out == "a result\n"
    assert "a result" not in written(out)


def test_no_color_is_respected():
    shades = {}
    for name, environ in (("colour", {}), ("none", {"NO_COLOR": "1"})):
        environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
        out = Console(file=io.StringIO(), force_terminal=True, width=80, _environ=environ)
        table = display_for(out, many(3))
        assert isinstance(table, Table)
        with table:
            table.cell("a")
            table.begin("train", 10)
            table.advance(5, "loss 1")
            table.live.refresh()
        assert "5/10" in written(out)
        shades[name] = re.findall(r"\x1b\[[0-9;]*(?:3[0-9]|9[0-7]|38;[0-9;]+)m", written(out))
    assert shades["colour"]
    assert not shades["none"]
