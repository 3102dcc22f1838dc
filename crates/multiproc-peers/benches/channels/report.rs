//! The tables, and the ratios that multiproc's channels must meet.

use multiproc_benches::figures::{Series, Summary};
use multiproc_benches::report::{Bound, Cell, Column, First, Ratio, short, table};
use multiproc_benches::slices::Figures;

use super::event::{Event, SHARED_SIZES, SIZES, name_of};
use super::ours;

type All = Figures<Event>;

pub(crate) fn print(figures: &All) {
    throughput(figures, "1 producer, 1 consumer", 1, &SIZES);
    throughput(figures, "4 producers, 4 consumers", 4, &SHARED_SIZES);

    let cells: [Cell<'_>; 1] = [("µs", 12, &|summary| short(summary.median))];
    let asleep = Event::RoundTrip { size: 64, asleep: true };
    let both_run = |size| Event::RoundTrip { size, asleep: false };
    let mut columns = vec![Column { heading: "64B, asleep".into(), series: figures.of(asleep), cells: &cells }];
    columns.extend(SIZES.map(|size| Column {
        heading: name_of(size),
        series: figures.of(both_run(size)),
        cells: &cells,
    }));
    table("round trip, with the other side asleep each time, and while both run; medians", First::Smallest, &columns);

    let cells: [Cell<'_>; 3] = [
        ("ms", 9, &|summary| short(summary.median)),
        ("min", 9, &|summary| short(summary.min)),
        ("max", 9, &|summary| short(summary.max)),
    ];
    let columns = [Column { heading: String::new(), series: figures.of(Event::Work), cells: &cells }];
    table("a fixed amount of work, dealt out to 8 processes", First::Smallest, &columns);
}

fn throughput(figures: &All, title: &str, each: usize, sizes: &[usize]) {
    let series = |size| figures.of(Event::Throughput { size, producers: each, consumers: each });
    let messages: [Cell<'_>; 2] =
        [("messages/s", 12, &|summary| short(summary.median)), ("min", 9, &|summary| short(summary.min))];
    let bytes: Vec<_> =
        sizes.iter().map(|size| move |summary: Summary| short(summary.median * *size as f64 / 1e9)).collect();
    let cells: Vec<[Cell<'_>; 3]> =
        bytes.iter().map(|bytes| -> [Cell<'_>; 3] { [messages[0], messages[1], ("GB/s", 8, bytes)] }).collect();
    let columns = sizes.iter().zip(&cells);
    let columns = columns.map(|(size, cells)| Column { heading: name_of(*size), series: series(*size), cells });
    table(&format!("{title}, medians"), First::Largest, &columns.collect::<Vec<_>>());
}

pub(crate) fn ratios(figures: &All) -> Vec<Ratio> {
    use Bound::{AtLeast, AtMost};
    use ours::{BOUNDED, BYTES, QUEUE};
    const CROSSBEAM_BOUNDED: &str = "crossbeam-bounded (threads)";
    const CROSSBEAM_UNBOUNDED: &str = "crossbeam-unbounded (threads)";

    let rate = |each, size| figures.of(Event::Throughput { size, producers: each, consumers: each });
    let (one, four) = (rate(1, 64), rate(4, 64));
    let (large, huge) = (rate(1, 1 << 20), rate(1, 64 << 20));
    let asleep = figures.of(Event::RoundTrip { size: 64, asleep: true });
    let both_run = figures.of(Event::RoundTrip { size: 64, asleep: false });
    let ratio = |prefix: &str, series: &Series, over: &str, under: &str, bound| {
        let bare = |name: &str| name.replace("multiproc-", "").replace(" (threads)", "");
        Ratio::new(format!("{prefix}.{}/{}", bare(over), bare(under)), series.ratio(over, under), bound)
    };
    vec![
        ratio("64B.1:1", one, BOUNDED, CROSSBEAM_BOUNDED, AtLeast(1.0)),
        ratio("64B.1:1", one, QUEUE, CROSSBEAM_UNBOUNDED, AtLeast(1.0)),
        ratio("64B.1:1", one, QUEUE, "ipc-channel", AtLeast(15.0)),
        ratio("64B.1:1", one, QUEUE, "python-queue", AtLeast(60.0)),
        ratio("64B.4:4", four, BOUNDED, CROSSBEAM_BOUNDED, AtLeast(0.4)),
        // Neither allocates a list for each message.
        ratio("64B.4:4", four, BYTES, "crossbeam-array (threads)", AtLeast(0.4)),
        ratio("64B.4:4", four, QUEUE, "pipe", AtLeast(2.0)),
        ratio("64B.4:4", four, QUEUE, "python-queue", AtLeast(50.0)),
        ratio("1MiB.1:1", large, BYTES, "iceoryx2-event", AtLeast(0.8)),
        ratio("1MiB.1:1", large, BYTES, "ipc-channel-bytes", AtLeast(8.0)),
        ratio("64MiB.1:1", huge, BYTES, "iceoryx2-event", AtLeast(0.8)),
        ratio("round-trip.asleep", asleep, QUEUE, "futex", AtMost(1.2)),
        Ratio::new("round-trip.both-run.queue-µs", both_run.median(QUEUE), AtMost(1.0)),
        // These are times, so this is how much longer it takes.
        ratio("work.1:8", figures.of(Event::Work), QUEUE, "static", AtMost(1.05)),
    ]
}
