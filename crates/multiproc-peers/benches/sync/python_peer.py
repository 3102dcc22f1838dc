"""One slice of a lock or a signal of Python's: CONTESTANT EVENT MILLISECONDS, as the events are called in event.rs.

Prints nanoseconds, acquisitions a second, or microseconds."""

import ctypes
import multiprocessing
import os
import signal
import statistics
import sys
import time

REST = 0.001  # as long as the others keep still before a signal
STEPS = {"tiny": 0, "1us": 30}

context = multiprocessing.get_context("fork")
now = time.monotonic_ns
everywhere = os.sched_getaffinity(0)


def keep_to_processor(index):
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processors[index % len(processors)]})


def start(target):
    """By itself on a processor, as is from now on who calls it."""
    parent = os.getpid()

    def run():
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)
        os.sched_setaffinity(0, everywhere)
        keep_to_processor(1)
        target()

    process = context.Process(target=run, daemon=True)
    process.start()
    os.sched_setaffinity(0, everywhere)
    keep_to_processor(0)
    return process


def end(process):
    process.join()
    if process.exitcode != 0:
        sys.exit(f"a child ended with {process.exitcode}")


def uncontended(slice_ns):
    lock = context.Lock()
    acquire, release = lock.acquire, lock.release
    times = []
    begin = now()
    while now() - begin < slice_ns:
        part = now()
        for _ in range(5000):
            acquire()
            release()
        times.append((now() - part) / 5000)
    return statistics.median(times)


def contended(steps, slice_ns):
    lock, ready, stop = context.Lock(), context.Semaphore(0), context.RawValue("i", 0)
    tally, counts = context.RawValue("q", 0), context.RawArray("q", 2)

    def contend(index, until):
        count = 0
        while not until():
            lock.acquire()
            tally.value += 1
            for _ in range(steps):
                pass
            lock.release()
            for _ in range(steps):
                pass
            count += 1
        counts[index] = count

    def other():
        ready.release()
        contend(1, lambda: stop.value)

    process = start(other)
    ready.acquire()
    begin = now()
    contend(0, lambda: now() - begin >= slice_ns)
    stop.value = 1
    end(process)
    duration = now() - begin
    if sum(counts) != tally.value:
        sys.exit("both had the lock")
    return sum(counts) / (duration / 1e9)


def hand_over(slice_ns):
    locks = [context.Lock() for _ in range(3)]
    ready, amount = context.Semaphore(0), 200

    def steps(place, amount):
        for _ in range(amount):
            locks[(place + 1) % 3].acquire()
            locks[place].release()
            place = (place + 1) % 3

    while True:
        def other():
            locks[1].acquire()
            ready.release()
            steps(1, amount)
            locks[(1 + amount) % 3].release()

        locks[0].acquire()
        process = start(other)
        ready.acquire()
        begin = now()
        steps(0, amount)
        duration = now() - begin
        locks[amount % 3].release()
        end(process)
        if duration >= slice_ns / 2:
            return duration / 1e3 / (2 * amount)
        amount = min(amount * 8, int(slice_ns / duration * amount))


def wake(wait, notify, slice_ns):
    armed, woken = context.RawValue("q", 0), context.RawValue("q", 0)

    def other():
        while True:
            armed.value += 1
            wait()
            woken.value = now()

    process = start(other)
    times = []
    begin = now()
    while len(times) < 5 or now() - begin < slice_ns:
        while armed.value <= len(times):
            time.sleep(0.0001)
        fall_asleep(process.pid)
        sent = now()
        notify()
        while armed.value <= len(times) + 1:
            time.sleep(0.0001)
        times.append(woken.value - sent)
    process.kill()
    process.join()
    return statistics.median(times) / 1e3


def fall_asleep(pid):
    time.sleep(REST)
    while open(f"/proc/{pid}/stat").read().rpartition(") ")[2][0] != "S":
        time.sleep(0.001)


def signals(kind):
    if kind == "python-event":
        event = context.Event()

        def wait():
            event.wait()
            event.clear()

        return wait, event.set
    condition, flag = context.Condition(), context.RawValue("i", 0)

    def wait():
        with condition:
            while not flag.value:
                condition.wait()
            flag.value = 0

    def notify():
        with condition:
            flag.value = 1
            condition.notify()

    return wait, notify


if __name__ == "__main__":
    kind, event, slice_ns = sys.argv[1], sys.argv[2], int(sys.argv[3]) * 1_000_000
    if event == "uncontended":
        value = uncontended(slice_ns)
    elif event.startswith("contended."):
        value = contended(STEPS[event.removeprefix("contended.")], slice_ns)
    elif event == "hand-over":
        value = hand_over(slice_ns)
    else:
        value = wake(*signals(kind), slice_ns)
    print(value, flush=True)
    # The child that was killed may have left a lock behind.
    os._exit(0)
