//! The tables, and the ratios that multiproc's shared memory must meet.

use multiproc_benches::report::{Bound, Cell, Column, First, Ratio, short, table};
use multiproc_benches::slices::Figures;

use super::event::{Event, FILLED, MADE, SIZES, THERE_AND_BACK, name_of};
use super::make::{COPY, PWRITE};
use super::numbers::{ATOMIC, RAW_VALUE, ROBUST, VALUE};
use super::{ADVISED, BYTES, IN_PROCESS, MAPPED, MEMORY, PREFAULTED, RAW, WRITABLE};

pub(crate) fn print(figures: &Figures<Event>) {
    let cells: [Cell<'_>; 2] =
        [("median", 9, &|summary| short(summary.median)), ("min", 8, &|summary| short(summary.min))];
    let print = |title: &str, first, columns: Vec<(String, Event)>| {
        let column = |(heading, event)| Column { heading, series: figures.of(event), cells: &cells };
        table(title, first, &columns.into_iter().map(column).collect::<Vec<_>>());
    };
    let mut sums = SIZES.map(|size| (name_of(size), Event::Sum { size }));
    // The largest size determines the order.
    sums.reverse();
    print("bytes to a worker that sums them, and the sum back, ms", First::Smallest, sums.into());
    let mut filled = FILLED.map(|size| (name_of(size), Event::Fill { size }));
    filled.reverse();
    print("bytes to a worker that writes them anew, and its word back, ms", First::Smallest, filled.into());
    let mut back = THERE_AND_BACK.map(|size| (name_of(size), Event::Back { size }));
    back.reverse();
    print("bytes to a worker that looks at their ends, and back, µs", First::Smallest, back.into());
    let made = vec![(name_of(MADE), Event::Make { size: MADE })];
    print("bytes in shared memory, made of others, and let go; ms", First::Smallest, made);
    let alone = [(String::new(), Event::Increment { contended: false })];
    print("an increment, nobody else makes any, ns", First::Smallest, alone.into());
    let contended = [(String::new(), Event::Increment { contended: true })];
    print("increments by two at the same time, increments/s", First::Largest, contended.into());
    print("one value of an array, nobody else wants it, ns", First::Smallest, vec![(String::new(), Event::Element)]);
}

pub(crate) fn ratios(figures: &Figures<Event>) -> Vec<Ratio> {
    use Bound::{AtLeast, AtMost};
    let ratio = |event: Event, name: &str, over: &str, under: &str, bound| {
        Ratio::new(name, figures.of(event).ratio(over, under), bound)
    };
    let increment = |contended| Event::Increment { contended };
    let mut all = Vec::new();
    // The largest size that was measured: a quick run has no gigabyte.
    if let Some(size) = SIZES.into_iter().rev().find(|size| !figures.of(Event::Sum { size: *size }).is_empty()) {
        let sum = |name: &str, over, under, bound| {
            ratio(Event::Sum { size }, &format!("sum.{}.{name}", name_of(size)), over, under, bound)
        };
        all.extend([
            sum("bytes/raw", BYTES, RAW, AtMost(1.1)),
            sum("memory/raw-writable", MEMORY, WRITABLE, AtMost(1.1)),
            sum("mapped/in-process", MAPPED, IN_PROCESS, AtMost(1.1)),
            sum("bytes/ipc-channel", BYTES, "ipc-channel", AtMost(1.1)),
            sum("bytes/python-shared-memory", BYTES, "python-shared-memory", AtMost(1.1)),
            sum("python-pool/bytes", "python-pool", BYTES, AtLeast(20.0)),
        ]);
    }
    if let Some(size) = FILLED.into_iter().rev().find(|size| !figures.of(Event::Fill { size: *size }).is_empty()) {
        let name = format!("fill.{}.memory-prefault/raw-populate-read", name_of(size));
        all.push(ratio(Event::Fill { size }, &name, PREFAULTED, ADVISED, AtMost(1.1)));
    }
    all.extend([
        ratio(Event::Make { size: MADE }, "make.bytes/memfd-write", COPY, PWRITE, AtMost(1.1)),
        ratio(increment(false), "increment.python-value/value", "python-value", VALUE, AtLeast(30.0)),
        ratio(increment(false), "increment.value/pthread-robust", VALUE, ROBUST, AtMost(1.3)),
        ratio(increment(false), "increment.raw-value/atomic", RAW_VALUE, ATOMIC, AtMost(1.1)),
        ratio(increment(true), "increment.contended.value/python-value", VALUE, "python-value", AtLeast(1.0)),
    ]);
    all
}
