"""One slice of shared memory of Python's: CONTESTANT EVENT MILLISECONDS, as the events are called in event.rs.

Prints milliseconds, microseconds, nanoseconds, or increments a second."""

import ctypes
import multiprocessing
import os
import signal
import statistics
import sys
import time
from multiprocessing import resource_tracker, shared_memory

UNITS = {"MiB": 1 << 20, "GiB": 1 << 30}
WORD = 8

context = multiprocessing.get_context("fork")
now = time.monotonic_ns
everywhere = os.sched_getaffinity(0)


def size_of(name):
    return int(name[:-3]) * UNITS[name[-3:]]


def keep_to_processor(index):
    processors = sorted(everywhere)
    os.sched_setaffinity(0, {processors[index % len(processors)]})


def in_child(parent):
    """By itself on a processor, and no longer there than who needs it."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)
    keep_to_processor(1)


def numbers(buffer, size):
    import numpy

    return numpy.frombuffer(buffer, dtype=numpy.uint64, count=size // WORD)


def look(buffer, size, task):
    """What comes of the bytes: their sum, or the sum of the first number and the last."""
    values = numbers(buffer, size)
    return int(values.sum()) if task == "sum" else int(values[0]) + int(values[-1])


def expected(size, task):
    count = size // WORD
    return count * (count - 1) // 2 if task == "sum" else count - 1


def by_pickle(data, task):
    found = look(data, len(data), task)
    return found if task == "sum" else data


def by_name(name, size, task):
    memory = shared_memory.SharedMemory(name=name)
    found = look(memory.buf, size, task)
    memory.close()
    return found if task == "sum" else name


def hand_over(kind, task, size, slice_ns):
    """The median time of one, in nanoseconds."""
    import numpy

    # Before the workers, so that they share it: what they attach to they don't remove then.
    resource_tracker.ensure_running()
    pool = context.Pool(1, in_child, (os.getpid(),))
    keep_to_processor(0)
    pool.apply(int)
    memory = None
    try:
        if kind == "python-pool":
            data = numpy.arange(size // WORD, dtype=numpy.uint64).tobytes()

            def ask():
                return pool.apply(by_pickle, (data, task))
        else:
            # The benchmark sweeps up what has such a name, should this be killed.
            name = f"multiproc-bench-{os.getppid()}-memory-{os.getpid()}"
            memory = shared_memory.SharedMemory(name=name, create=True, size=size)
            numbers(memory.buf, size)[:] = numpy.arange(size // WORD, dtype=numpy.uint64)

            def ask():
                answer = pool.apply(by_name, (memory.name, size, task))
                return answer if task == "sum" else bytes_of(answer, size)

        times = []
        begin = now()
        # One of those that take seconds is enough, and there is nothing to warm up.
        while not times or now() - begin < slice_ns:
            sent = now()
            answer = ask()
            if isinstance(answer, bytes):
                answer = look(answer, size, task)
            times.append(now() - sent)
            if answer != expected(size, task):
                sys.exit("what came of the bytes is not what should")
        return statistics.median(times)
    finally:
        if memory is not None:
            memory.close()
            memory.unlink()
        pool.terminate()
        pool.join()


def bytes_of(name, size):
    """Attaches as the worker does, and looks at both ends."""
    again = shared_memory.SharedMemory(name=name)
    found = look(again.buf, size, "back")
    again.close()
    return found


def make(size, slice_ns):
    data = bytes(range(256)) * (size // 256)
    name = f"multiproc-bench-{os.getppid()}-memory-{os.getpid()}"
    times = []
    begin = now()
    while not times or now() - begin < slice_ns:
        part = now()
        memory = shared_memory.SharedMemory(name=name, create=True, size=size)
        memory.buf[:size] = data
        memory.close()
        memory.unlink()
        times.append(now() - part)
    return statistics.median(times)


def increment(slice_ns):
    value = context.Value("Q", 0)
    lock = value.get_lock
    times = []
    begin = now()
    # Not by a call each, which would be half of it.
    while now() - begin < slice_ns:
        part = now()
        for _ in range(2000):
            with lock():
                value.value += 1
        times.append((now() - part) / 2000)
    if value.value != 2000 * len(times):
        sys.exit("increments were lost")
    return statistics.median(times)


def element(slice_ns):
    array = context.Array("Q", 1000)
    lock = array.get_lock
    times = []
    begin = now()
    while now() - begin < slice_ns:
        part = now()
        for _ in range(2000):
            with lock():
                array[500] = 0
        times.append((now() - part) / 2000)
    return statistics.median(times)


def contended(slice_ns):
    value, counts = context.Value("Q", 0), context.RawArray("Q", 2)
    ready, stop = context.Semaphore(0), context.RawValue("i", 0)
    parent = os.getpid()

    def contend(index, until):
        count = 0
        while not until():
            with value.get_lock():
                value.value += 1
            count += 1
        counts[index] = count

    def other():
        in_child(parent)
        ready.release()
        contend(1, lambda: stop.value)

    process = context.Process(target=other, daemon=True)
    process.start()
    keep_to_processor(0)
    ready.acquire()
    begin = now()
    contend(0, lambda: now() - begin >= slice_ns)
    stop.value = 1
    process.join()
    duration = now() - begin
    if process.exitcode != 0 or sum(counts) != value.value:
        sys.exit("increments were lost")
    return sum(counts) / (duration / 1e9)


if __name__ == "__main__":
    kind, event, slice_ns = sys.argv[1], sys.argv[2].split("."), int(sys.argv[3]) * 1_000_000
    if event[0] in ("sum", "back"):
        value = hand_over(kind, event[0], size_of(event[1]), slice_ns) / (1e6 if event[0] == "sum" else 1e3)
    elif event[0] == "make":
        value = make(size_of(event[1]), slice_ns) / 1e6
    elif event[0] == "element":
        value = element(slice_ns)
    elif event[1:] == ["contended"]:
        value = contended(slice_ns)
    else:
        value = increment(slice_ns)
    print(value, flush=True)
