"""The command that watches a run: what its screen says, at any size, and when it ends."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from books import book, tallies
from click.testing import CliRunner
from rich.console import Console

from prequential import load_run
from prequential.cli import main
from prequential.codelength import Tally
from prequential.forecast import forecast_run
from prequential.ledger import Ledger
from prequential.progress import ahead, progress_of
from prequential.views.braille import characters, dots
from prequential.views.screen import Screen, duration, short

EVIL = "[bold red]x[/] \x1b[31m\x1b]8;;http://x\x07 \u202eabc\ud800 line\nbreak"
LOSSES = [1 + 3 * (step + 1) ** -0.3 for step in range(120)]


def run(folder="a", losses=LOSSES, **header):
    options = {"status": None, "planned_tokens": 400_000, **header}
    return load_run(book(f"{folder}/book.jsonl", tallies(losses), **options))


def drawn(screen, width=80, height=24):
    console = Console(width=width, height=height, color_system=None, force_terminal=True)
    with console.capture() as capture:
        console.print(screen, crop=False, soft_wrap=True)
    return re.sub(r"\x1b\[\d*m", "", capture.get()).rstrip("\n").splitlines()


# -- progress ---------------------------------------------------------------------------------------------------


def test_the_time_left_is_that_of_the_tokens_left_without_the_start_up():
    """1,000 tokens take a second each but the first, which took 100: (400 - 120) intervals are left."""
    one = run()
    late = replace(one, intervals=[interval._replace(elapsed_s=interval.elapsed_s + 99) for interval in one.intervals])
    progress = progress_of(late)
    assert progress.remaining_s == pytest.approx(280.0)
    assert (progress.tokens, progress.planned_tokens, progress.elapsed_s) == (120_000, 400_000, 219.0)
    assert progress.forecast == forecast_run(late, 400_000)


@pytest.mark.parametrize(
    ("losses", "planned", "reason"),
    [
        (LOSSES, None, "how many tokens are planned is not known"),
        (LOSSES, 120_000, None),
        (LOSSES, 90_000, None),
        (LOSSES[:3], 30_000, "at least 6 intervals"),
        (LOSSES, 1_200_001, "too early: from 10 % of the planned tokens on"),
        ([], None, "how many tokens are planned"),
        ([], 400_000, "too early"),
    ],
)
def test_without_a_forecast_it_is_said_why(losses, planned, reason):
    progress = progress_of(run(losses=losses, planned_tokens=planned))
    assert progress.forecast is None
    assert (progress.why_not is None) if reason is None else (reason in progress.why_not)


def test_a_forecast_on_the_way_ends_in_that_of_the_end():
    one = run()
    found = ahead(one, 400_000, 5)
    assert [at["forecast_tokens"] for at in found][-1] == 400_000
    assert found[-1] == forecast_run(one, 400_000)
    assert len(found) == 5
    sizes = [one.measured()["compressed_bytes"], *(at["forecast_compressed_bytes"] for at in found)]
    assert sizes == sorted(sizes)
    assert ahead(one, 120_000, 5) == ahead(run("b", losses=LOSSES[:3]), 10_000, 5) == []
    assert ahead(one, 1_200_001, 5) == []


# -- curves in characters ---------------------------------------------------------------------------------------


def test_a_straight_line_is_a_diagonal_of_dots():
    """Eight by eight dots, each at its place; the second route: the matrix by hand."""
    places = np.arange(8.0)
    canvas = dots(places, places, (0, 7, 0, 7), 4, 2)
    bridged = np.eye(8, dtype=bool)[::-1] | np.eye(8, k=1, dtype=bool)[::-1]  # each bridged to the one before it
    assert (canvas & np.eye(8, dtype=bool)[::-1] == np.eye(8, dtype=bool)[::-1]).all()
    assert (canvas <= bridged).all()


def test_what_lies_between_two_values_is_filled():
    """Two values far apart make one piece: every column has dots, and each touches the one before it."""
    canvas = dots(np.array([0.0, 1.0]), np.array([1.0, 0.0]), (0, 1, 0, 1), 10, 10)
    rows = [np.flatnonzero(column) for column in canvas.T]
    assert all(len(row) for row in rows)
    assert all(here.min() <= before.max() + 1 for before, here in pairwise(rows))


def test_no_peak_of_a_curve_is_lost():
    values = np.zeros(5000)
    values[1234] = 1.0
    canvas = dots(np.arange(5000.0), values, (0, 4999, 0, 1), 20, 5)
    assert canvas[0].sum() >= 1
    assert canvas[-1].all()


def test_a_curve_of_one_value_and_of_none_is_drawn():
    assert dots(np.array([1.0]), np.array([2.0]), (1, 1, 2, 2), 3, 3).any()
    assert not dots(np.array([]), np.array([]), (0, 1, 0, 1), 3, 3).any()


def test_characters_are_those_of_the_standard():
    """All dots make U+28FF; the first and the last alone U+2801 and U+2880; none a blank."""
    canvas = np.zeros((4, 8), bool)
    canvas[:, :2], canvas[0, 2], canvas[3, 5] = True, True, True
    assert characters(canvas) == ["\u28ff\u2801\u2880 "]


# -- the screen -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (40, 12), (20, 5), (200, 80)])
def test_a_screen_is_never_higher_or_wider_than_the_terminal(width, height):
    one = run(name="a long name of a run " * 9, baselines={"xz": 9})
    lines = drawn(Screen(one, progress_of(one), fill=True), width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= max(width, 45)  # figures are never cut


def test_a_screen_says_what_the_book_says():
    one = run(name="rose")
    text = "\n".join(drawn(Screen(one, progress_of(one), fill=True)))
    total = one.measured()["compressed_bytes"]
    assert f"{int(np.ceil(total)):,} compressed bytes = " in text
    assert "rose (open)" in text
    assert " 30 %, 120k tokens in 0:02:00 of 400k, about 0:04:40 left" in text
    found = forecast_run(one, 400_000)
    low, high = found["forecast_compressed_bytes_interval"]
    expected = f"estimate {int(np.ceil(found['forecast_compressed_bytes'])):,} bytes "
    assert f"at the end: {expected}(90 %: {int(low):,} to {int(np.ceil(high)):,}), ratio" in text
    assert "bits per byte: all so far, each interval" in text
    assert "\u28ff" in text or "\u2809" in text


def test_the_latest_events_stand_at_the_end_and_the_curve_makes_room():
    one = load_run(
        book("e/book.jsonl", tallies(LOSSES), status=None, events=[(f"e{n}", f"event {n}") for n in range(30)])
    )
    small, large = (drawn(Screen(one, progress_of(one), fill=True), 80, height) for height in (24, 60))
    assert small[-1].endswith("event 29")
    assert sum("event" in line for line in small) < sum("event" in line for line in large)
    assert sum("event" in line for line in drawn(Screen(one, progress_of(one)))) == 30


def test_a_book_that_is_quiet_is_said_to_be_until_it_has_ended():
    one, ended = run(), run("b", status="completed")
    assert "(open, nothing new for 0:02:05)" in drawn(Screen(one, progress_of(one), 125.0))[0]
    assert "nothing new" not in drawn(Screen(one, progress_of(one), 5.0))[0]
    assert "(completed)" in drawn(Screen(ended, progress_of(ended), 125.0))[0]


def test_a_book_without_sums_and_one_without_bytes_have_a_screen():
    for number, options in enumerate(({"losses": []}, {"bytes_known": False}, {"losses": LOSSES[:1]})):
        one = run(str(number), **options)
        assert drawn(Screen(one, progress_of(one), fill=True))


def test_strangers_text_does_not_reach_the_terminal_as_it_is():
    one = load_run(book("evil/book.jsonl", tallies(LOSSES), status=None, name=EVIL, events=[("doubt", EVIL)]))
    console = Console(width=80, height=24, color_system=None, force_terminal=True)
    with console.capture() as capture:
        console.print(Screen(one, progress_of(one), fill=True), crop=False)
    written = re.sub(r"\x1b\[[0-9;]*m", "", capture.get())
    assert "\x1b" not in written
    assert "\x07" not in written
    assert "[bold red]x[/]" in written


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00:00"), (59.9, "0:00:59"), (3661, "1:01:01"), (360_000, "100:00:00")]
)
def test_seconds_are_written_as_hours(seconds, shown):
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("number", "shown"), [(None, "\N{EN DASH}"), (0, "0"), (999, "999"), (1500, "1.5k"), (1.4e12, "1.4T")]
)
def test_tokens_are_written_in_three_digits(number, shown):
    assert short(number) == shown


# -- the command ------------------------------------------------------------------------------------------------


def call(*arguments):
    return CliRunner().invoke(main, ["watch", *arguments])


def test_without_a_terminal_one_screen_is_printed():
    run(name="rose")
    for arguments in (["a"], ["a", "--once"], ["a/book.jsonl"]):
        result = call(*arguments)
        assert (result.exit_code, result.output.count("rose (open)")) == (0, 1)
    assert " of 240k" in call("a", "--tokens", "240000").output


@pytest.mark.parametrize("arguments", [["nowhere"], ["."], ["a", "--once"]])
def test_without_a_terminal_nothing_is_waited_for(arguments):
    """A path that is not there, a folder without a book, a book without a whole line."""
    Path("a").mkdir()
    if arguments[0] == "a":
        Path("a/book.jsonl").write_bytes(b'{"kind":"header"')
    result = call(*arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "expected a book, found none at" in result.stderr


def test_wrong_options_are_wrong_usage():
    run()
    assert [
        call("a", *wrong).exit_code for wrong in (["--interval", "0"], ["--tokens", "-1"], ["--interval", "x"])
    ] == [2] * 3


def test_of_several_books_the_one_written_last_is_watched():
    for number, name in enumerate(("old", "new")):
        run(name, name=name)
        os.utime(f"{name}/book.jsonl", (number, number))
    assert "new (open" in call(".").output


class Terminal:
    """The command in a pseudo terminal of 80 by 24."""

    def __init__(self, *arguments):
        self.master, slave = pty.openpty()
        environment = {
            **os.environ,
            "TERM": "xterm",
            "COLUMNS": "80",
            "LINES": "24",
        }
        command = [
            sys.executable,
            "-c",
            "from prequential.cli import main; main()",
            "watch",
            "--interval",
            "0.1",
            *arguments,
        ]
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
        os.close(slave)
        self.text = ""

    def read_until(self, words, seconds=60):
        """Read what the terminal shows until these words come."""
        until = time.monotonic() + seconds
        while words not in self.text and time.monotonic() < until:
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    self.text += os.read(self.master, 65536).decode(errors="replace")
                except OSError:  # the terminal was left
                    break
        assert words in self.text, self.text[-2000:]

    def end(self):
        self.process.send_signal(signal.SIGINT)


def test_a_run_is_waited_for_followed_and_left_when_it_ends():
    terminal = Terminal("late")
    terminal.read_until("waiting for a book at late")
    ledger = Ledger("late/book.jsonl", {"name": "late", "bytes_known": True, "planned_steps": 3})
    total = Tally()
    for step in range(1, 4):
        tally = Tally(nats=100.0, coded_tokens=100, raw_bytes=100)
        total += tally
        ledger.sums(step, tally, float(step))
        terminal.read_until(f"{100 * step} tokens in")
    ledger.end(3, "completed", total, complete=True)
    terminal.read_until("late (completed)")
    assert terminal.process.wait(30) == 0


def test_an_interrupt_ends_it_well_and_leaves_the_last_screen():
    run(name="rose")
    terminal = Terminal("a")
    terminal.read_until("rose (open")
    terminal.end()
    terminal.read_until("\x1b[?1049l")
    assert terminal.process.wait(30) == 0
    while select.select([terminal.master], [], [], 0.5)[0]:
        try:
            terminal.text += os.read(terminal.master, 65536).decode(errors="replace")
        except OSError:
            break
    left = terminal.text.split("\x1b[?1049l")[-1]
    assert "rose (open" in left
    assert "Traceback" not in terminal.text


def test_a_book_that_is_damaged_while_it_is_watched_is_one_line():
    path = Path(run(name="rose").path)
    terminal = Terminal("a")
    terminal.read_until("rose (open")
    with open(path, "ab") as file:
        file.write(b"nonsense\n")
    terminal.read_until("is damaged: it is not JSON")
    assert terminal.process.wait(30) == 1
    assert "Traceback" not in terminal.text
