"""Start and join of an empty function by multiprocessing: METHOD RESIDENT_BYTES ITERATIONS.

Prints the time of each iteration in nanoseconds, one JSON number a line."""

import multiprocessing
import sys
import time

WARM_UP = 2


def empty():
    pass


if __name__ == "__main__":
    method, size, iterations = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    resident = bytearray(size)
    resident[::4096] = b"\1" * len(range(0, size, 4096))
    context = multiprocessing.get_context(method)
    times = []
    for _ in range(WARM_UP + iterations):
        begin = time.perf_counter_ns()
        process = context.Process(target=empty)
        process.start()
        process.join()
        times.append(time.perf_counter_ns() - begin)
        if process.exitcode != 0:
            sys.exit(f"a child ended with {process.exitcode}")
    # Not before: forked children would print again what the buffer still holds.
    for nanoseconds in times[WARM_UP:]:
        print(nanoseconds)
