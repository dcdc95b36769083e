"""Steps in C. gdb runs this file: a victim dies or stands still at the n-th run of a line of native/.

CRASH_STEP is "FILE FUNCTION LINE TIME", and CRASH_ACTION says what happens there. Or CRASH_RECORD names a
file for the lines that the victim runs. With SIGUSR1 and SIGUSR2 a victim says that its steps begin and end.
"""

import mmap
import os
import signal
import time
from collections import Counter

import gdb

FILES = (
    *("layout.h", "ring.h", "lock.h", "end.h", "producer.h", "wait.h", "read_message.h", "consumer.h"),
    *("message_writer.h", "message_reader.h"),
)
ACTED = 5  # a word of the board, as in board.py
STOPPED = 2.0  # seconds

MANY = 50  # runs of a line that are counted: a line of a spin runs too often

seen = Counter()
through = False


class Line(gdb.Breakpoint):
    def __init__(self, file, line, stops_at):
        super().__init__(f"{file}:{line}", internal=True)
        self.silent = True
        self.place, self.stops_at = (file, line), stops_at

    def stop(self):
        place = self.place[0], gdb.selected_frame().name(), self.place[1]
        seen[place] += 1
        return seen[place] == self.stops_at


def is_through(event):
    """Note it, when the victim stops to say that its steps are over."""
    global through
    through |= getattr(event, "stop_signal", "") == "SIGUSR2"


def lines_of(file):
    """The lines of a file that have code."""
    _, (first, *_) = gdb.decode_line(f"{file}:1")
    return sorted(set(first.symtab.linetable().source_lines()))


def act(board, pid):
    with open(board, "r+b") as file, mmap.mmap(file.fileno(), 4096) as memory:
        memory[ACTED * 8 : ACTED * 8 + 8] = time.monotonic_ns().to_bytes(8, "little")
    if os.environ["CRASH_ACTION"] == "kill":
        os.kill(pid, signal.SIGKILL)
    else:
        time.sleep(STOPPED)


def main():
    for setting in ("pagination off", "confirm off", "debuginfod enabled off", "auto-solib-add off"):
        gdb.execute(f"set {setting}")
    gdb.execute("handle all nostop noprint pass")
    gdb.execute("handle SIGUSR1 SIGUSR2 stop nopass")
    gdb.execute("run")  # to where the steps begin
    gdb.execute("sharedlibrary _native")  # to load the symbols of everything takes seconds
    record, step = os.environ.get("CRASH_RECORD"), os.environ.get("CRASH_STEP")
    if record:
        points = [Line(file, line, MANY) for file in FILES for line in lines_of(file)]
    else:
        file, _, line, times = step.split()
        points = [Line(file, line, int(times))]
    gdb.events.stop.connect(is_through)
    gdb.execute("continue")
    while record and not through:
        for point in [point for point in points if point.hit_count >= MANY]:
            points.remove(point)
            point.delete()
        gdb.execute("continue")
    if record:
        with open(record, "w") as file:
            for (name, function, line), times in seen.items():
                print(name, function, line, times, file=file)
    elif not through:
        act(os.environ["CRASH_BOARD"], gdb.selected_inferior().pid)
    for point in points:
        point.delete()
    while gdb.selected_inferior().pid:
        gdb.execute("continue")


main()
