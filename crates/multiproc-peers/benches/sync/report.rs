//! The tables, and the ratios that multiproc's locks and signals must meet.

use multiproc_benches::report::{Bound, Cell, Column, First, Ratio, short, table};
use multiproc_benches::slices::Figures;

use super::event::{Event, Length};
use super::ours::{EVENT, LOCK};

pub(crate) fn print(figures: &Figures<Event>) {
    let cells: [Cell<'_>; 3] = [
        ("median", 10, &|summary| short(summary.median)),
        ("min", 9, &|summary| short(summary.min)),
        ("max", 9, &|summary| short(summary.max)),
    ];
    let print = |title: &str, first, columns: &[(&str, Event)]| {
        let column = |(heading, event): &(&str, Event)| -> Column<'_> {
            Column { heading: heading.to_string(), series: figures.of(*event), cells: &cells }
        };
        table(title, first, &columns.iter().map(column).collect::<Vec<_>>());
    };
    print("lock and unlock, nobody else wants it, ns", First::Smallest, &[("", Event::Uncontended)]);
    let columns = [("tiny", Event::Contended(Length::Tiny)), ("1 µs each", Event::Contended(Length::Micro))];
    print("wanted by two all the time, acquisitions/s", First::Largest, &columns);
    print("handed over from one to the other, to and fro, µs each", First::Smallest, &[("", Event::HandOver)]);
    print("from set until the sleeper runs, µs", First::Smallest, &[("", Event::Wake)]);
}

pub(crate) fn ratios(figures: &Figures<Event>) -> Vec<Ratio> {
    use Bound::{AtLeast, AtMost};
    let uncontended = figures.of(Event::Uncontended);
    let wake = figures.of(Event::Wake);
    vec![
        Ratio::new("uncontended.lock/pthread-robust", uncontended.ratio(LOCK, "pthread-robust"), AtMost(1.3)),
        Ratio::new("uncontended.python-lock/lock", uncontended.ratio("python-lock", LOCK), AtLeast(8.0)),
        Ratio::new("wake.event/futex", wake.ratio(EVENT, "futex"), AtMost(1.2)),
    ]
}
