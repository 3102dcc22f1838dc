//! Prints and writes the figures.

use multiproc_benches::figures::Series;
use multiproc_benches::report::{Bound, Cell, Column, First, Ratio, json_of_ratios, print_ratios, write};
use multiproc_benches::{Outcome, report};
use serde_json::{Map, Value, json};

use super::figures::Figures;
use super::{RESIDENT, rate};

fn ratios(figures: &Figures) -> Vec<Ratio> {
    use Bound::{AtLeast, AtMost};
    let [small, large] = &figures.start;
    let [.., sixteen] = &figures.rate;
    let ratio = |key: &str, value, bound| Ratio::new(key, value, bound);
    let growth = || Some(large.median("forkserver")? / small.median("forkserver")?);
    vec![
        ratio("start.forkserver/bare-server", small.ratio("forkserver", "bare-server"), AtMost(1.3)),
        ratio("start.forkserver.1GiB/10MB", growth(), AtMost(1.15)),
        ratio("start.command/forkserver", small.ratio("command", "forkserver"), AtLeast(4.0)),
        ratio("start.procspawn/forkserver", small.ratio("procspawn", "forkserver"), AtLeast(6.0)),
        ratio("start.python-forkserver/forkserver", small.ratio("python-forkserver", "forkserver"), AtLeast(40.0)),
        ratio("start.spawn/posix_spawn", small.ratio("spawn", "posix_spawn"), AtMost(1.2)),
        ratio("first-line.forkserver/bare-server", figures.first_line.ratio("forkserver", "bare-server"), AtMost(0.6)),
        ratio("rate16.forkserver/bare-server", sixteen.ratio("forkserver", "bare-server"), AtLeast(0.8)),
        ratio("pss.forkserver-child-kB", figures.pss.median("forkserver"), AtMost(120.0)),
    ]
}

/// Prints the tables, and after them the ratios.
pub(crate) fn print(figures: &Figures) {
    figures.host.print();
    let [small, large] = &figures.start;
    table("start and wait of an empty function, µs", &[("10 MB resident", small), ("1 GiB resident", large)]);
    table("from start to the target's first line, µs", &[("", &figures.first_line)]);
    let [one, two, sixteen] = &figures.rate;
    table("starts per second", &[("1 in flight", one), ("2 in flight", two), ("16 in flight", sixteen)]);
    table("PSS of an idle child, kB", &[("", &figures.pss)]);

    print_ratios(&figures.skipped, &ratios(figures));
}

/// Prints a line for each contestant of the first column, in its order.
fn table(title: &str, columns: &[(&str, &Series)]) {
    let cells: [Cell<'_>; 3] = [
        ("median", 11, &|summary| format!("{:.0}", summary.median)),
        ("min", 10, &|summary| format!("{:.0}", summary.min)),
        ("p90", 10, &|summary| format!("{:.0}", summary.p90)),
    ];
    let columns =
        columns.iter().map(|(heading, series)| Column { heading: heading.to_string(), series, cells: &cells });
    report::table(title, First::Smallest, &columns.collect::<Vec<_>>());
}

/// Writes all figures to `bench/start.json` in the target directory.
pub(crate) fn keep(figures: &Figures) -> Outcome<()> {
    let resident = RESIDENT.iter().zip(&figures.start);
    let start: Map<String, Value> = resident.map(|(bytes, series)| (bytes.to_string(), series.json())).collect();
    let depths = rate::IN_FLIGHT.iter().zip(&figures.rate);
    let rates: Map<String, Value> = depths.map(|(depth, series)| (depth.to_string(), series.json())).collect();
    let whole = json!({
        "host": figures.host,
        "quick": figures.quick,
        "start_us_by_resident_bytes": start,
        "first_line_us": figures.first_line.json(),
        "starts_per_second_by_processes_in_flight": rates,
        "idle_child_pss_kb": figures.pss.json(),
        "ratios": json_of_ratios(&ratios(figures)),
        "skipped": figures.skipped.0,
    });
    write("start", &whole)
}
