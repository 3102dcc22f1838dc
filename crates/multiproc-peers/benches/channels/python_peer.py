"""One slice of a channel of Python's: CONTESTANT EVENT MILLISECONDS, as the events are called in event.rs.

Prints messages a second, or the time of a round trip in microseconds."""

import ctypes
import multiprocessing
import os
import signal
import statistics
import sys
import time

UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20}
REST = 0.005  # as long as the others keep still before a round trip
LAST = b"\x07"

context = multiprocessing.get_context("fork")


def ends(kind, size):
    """put and get, and what to call when all has been put."""
    if kind == "python-queue":
        queue = context.Queue()

        def flush():
            queue.close()
            queue.join_thread()

        return queue.put, queue.get, flush
    if kind == "python-simple-queue":
        queue = context.SimpleQueue()
        return queue.put, queue.get, None
    if kind == "python-pipe":
        reader, writer = context.Pipe(duplex=False)
        return writer.send, reader.recv, None
    if kind == "faster-fifo":
        import faster_fifo

        queue = faster_fifo.Queue(max_size_bytes=max(4_000_000, 5 * size))
        return (lambda item: queue.put(item, timeout=60)), (lambda: queue.get(timeout=60)), None
    sys.exit(f"no such contestant: {kind}")


def keep_to_processor(index):
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processors[index % len(processors)]})


def start(target, *args):
    parent = os.getpid()

    def run():
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)
        target(*args)

    process = context.Process(target=run, daemon=True)
    process.start()
    return process


def produce(commands, put, flush, message):
    while amount := commands.recv():
        for _ in range(amount):
            put(message)
    if flush is not None:
        flush()


def consume(commands, get, size):
    while amount := commands.recv():
        for _ in range(amount):
            message = get()
            if len(message) != size or message[-1:] != LAST:
                sys.exit("a message is not what was sent")
        commands.send(time.monotonic_ns())


def throughput(kind, each, size, slice_ns):
    put, get, flush = ends(kind, size)
    message = bytes(size - 1) + LAST
    producers, consumers, processes = [], [], []
    for _ in range(each):
        ours, theirs = context.Pipe()
        consumers.append(ours)
        processes.append(start(consume, theirs, get, size))
        ours, theirs = context.Pipe()
        producers.append(ours)
        processes.append(start(produce, theirs, put, flush, message))

    def run(amount):
        """amount for each; the time from the first order to the last message taken."""
        begin = time.monotonic_ns()
        for commands in consumers + producers:
            commands.send(amount)
        try:
            return max(commands.recv() for commands in consumers) - begin
        except EOFError:
            # The child has said why.
            os._exit(1)

    amount, duration = fill(run, 1 if size > 1 << 16 else 16, slice_ns)
    for commands in consumers + producers:
        commands.send(0)
    for process in processes:
        process.join()
        if process.exitcode != 0:
            sys.exit(f"a child ended with {process.exitcode}")
    return amount * each / (duration / 1e9)


def fill(run, amount, slice_ns):
    while True:
        duration = run(amount)
        fitting = max(2, int(slice_ns / duration * amount))
        if duration >= slice_ns / 8:
            return fitting, run(fitting)
        amount = min(fitting, amount * 8)


def echo(put, get):
    keep_to_processor(1)
    while True:
        put(get())


def round_trip(kind, size, asleep, slice_ns):
    put, their_get, _ = ends(kind, size)
    their_put, get, _ = ends(kind, size)
    process = start(echo, their_put, their_get)
    keep_to_processor(0)
    message = bytes(size - 1) + LAST
    times = []
    for _ in range(2):
        put(message)
        get()
    begin = time.monotonic_ns()
    while not times or time.monotonic_ns() - begin < slice_ns:
        if asleep:
            fall_asleep(process.pid)
        sent = time.monotonic_ns()
        put(message)
        if len(get()) != size:
            sys.exit("a message is not what was sent")
        times.append(time.monotonic_ns() - sent)
    process.kill()
    process.join()
    return statistics.median(times) / 1e3


def fall_asleep(pid):
    time.sleep(REST)
    while open(f"/proc/{pid}/stat").read().rpartition(") ")[2][0] != "S":
        time.sleep(0.001)


if __name__ == "__main__":
    kind, event, slice_ns = sys.argv[1], sys.argv[2].split("."), int(sys.argv[3]) * 1_000_000
    digits = event[2].rstrip("BKMi")
    size = int(digits) * UNITS[event[2][len(digits):]]
    if event[0] == "throughput":
        value = throughput(kind, int(event[1].split(":")[0]), size, slice_ns)
    else:
        value = round_trip(kind, size, event[1] == "asleep", slice_ns)
    print(value, flush=True)
    # A queue's thread may still be busy with what nobody waits for.
    os._exit(0)
