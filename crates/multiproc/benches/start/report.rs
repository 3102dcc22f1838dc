//! What is printed and written of the figures.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::figures::{Figures, Series, Summary};
use super::{Outcome, RESIDENT, rate};

/// A figure that multiproc is held to.
struct Ratio {
    key: &'static str,
    /// None when something was skipped.
    value: Option<f64>,
    bound: Bound,
}

#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    fn parts(self) -> (&'static str, f64) {
        match self {
            Bound::AtMost(target) => ("<=", target),
            Bound::AtLeast(target) => (">=", target),
        }
    }
}

fn ratios(figures: &Figures) -> Vec<Ratio> {
    use Bound::{AtLeast, AtMost};
    let [small, large] = &figures.start;
    let [.., sixteen] = &figures.rate;
    let median = |series: &Series, name| series.summary(name).map(|summary| summary.median);
    let within = |series: &Series, over, under| Some(median(series, over)? / median(series, under)?);
    let ratio = |key, value, bound| Ratio { key, value, bound };
    let growth = || Some(median(large, "forkserver")? / median(small, "forkserver")?);
    vec![
        ratio("start.forkserver/bare-server", within(small, "forkserver", "bare-server"), AtMost(1.3)),
        ratio("start.forkserver.1GiB/10MB", growth(), AtMost(1.15)),
        ratio("start.command/forkserver", within(small, "command", "forkserver"), AtLeast(4.0)),
        ratio("start.procspawn/forkserver", within(small, "procspawn", "forkserver"), AtLeast(6.0)),
        ratio("start.python-forkserver/forkserver", within(small, "python-forkserver", "forkserver"), AtLeast(40.0)),
        ratio("start.spawn/posix_spawn", within(small, "spawn", "posix_spawn"), AtMost(1.2)),
        ratio(
            "first-line.forkserver/bare-server",
            within(&figures.first_line, "forkserver", "bare-server"),
            AtMost(0.6),
        ),
        ratio("rate16.forkserver/bare-server", within(sixteen, "forkserver", "bare-server"), AtLeast(0.8)),
        ratio("pss.forkserver-child-kB", median(&figures.pss, "forkserver"), AtMost(120.0)),
    ]
}

/// The tables, and after them the ratios.
pub(crate) fn print(figures: &Figures) {
    let host = &figures.host;
    let python = host.python.as_deref().unwrap_or("no Python");
    println!("Linux {}, {} CPUs, huge pages {}, {python}", host.kernel, host.cpus, host.huge_pages);

    let [small, large] = &figures.start;
    table("start and wait of an empty function, µs", &[("10 MB resident", small), ("1 GiB resident", large)]);
    table("from start to the target's first line, µs", &[("", &figures.first_line)]);
    let [one, two, sixteen] = &figures.rate;
    table("starts per second", &[("1 in flight", one), ("2 in flight", two), ("16 in flight", sixteen)]);
    table("PSS of an idle child, kB", &[("", &figures.pss)]);

    println!();
    for line in &figures.skipped {
        println!("skipped {line}");
    }
    for Ratio { key, value, bound } in ratios(figures) {
        let (op, target) = bound.parts();
        match value {
            Some(value) => println!("RATIO {key} {value:.2} {op} {target}"),
            None => println!("skipped {key}: not measured"),
        }
    }
}

/// A line for each contestant of the first column, in its order.
fn table(title: &str, columns: &[(&str, &Series)]) {
    println!("\n{title}");
    if columns.len() > 1 {
        print!("{:20}", "");
        columns.iter().for_each(|(heading, _)| print!("{heading:>31}"));
        println!();
    }
    print!("{:20}", "");
    columns.iter().for_each(|_| print!("{:>11}{:>10}{:>10}", "median", "min", "p90"));
    println!();
    for (name, _) in columns[0].1.summaries() {
        print!("{name:20}");
        for (_, series) in columns {
            match series.summary(name) {
                Some(Summary { median, min, p90, .. }) => print!("{median:>11.0}{min:>10.0}{p90:>10.0}"),
                None => print!("{:>11}{:>10}{:>10}", "-", "-", "-"),
            }
        }
        println!();
    }
}

/// All of it again, as `bench/start.json` in the target directory.
pub(crate) fn write(figures: &Figures) -> Outcome<()> {
    let object = |series: &Series| -> Value {
        series.summaries().into_iter().map(|(name, summary)| (name.to_owned(), json!(summary))).collect()
    };
    let resident = RESIDENT.iter().zip(&figures.start);
    let start: Map<String, Value> = resident.map(|(bytes, series)| (bytes.to_string(), object(series))).collect();
    let depths = rate::IN_FLIGHT.iter().zip(&figures.rate);
    let rates: Map<String, Value> = depths.map(|(depth, series)| (depth.to_string(), object(series))).collect();
    let ratios: Vec<Value> = ratios(figures)
        .into_iter()
        .map(|Ratio { key, value, bound }| {
            let (op, target) = bound.parts();
            json!({ "key": key, "value": value, "op": op, "target": target })
        })
        .collect();
    let whole = json!({
        "host": figures.host,
        "quick": figures.quick,
        "start_us_by_resident_bytes": start,
        "first_line_us": object(&figures.first_line),
        "starts_per_second_by_processes_in_flight": rates,
        "idle_child_pss_kb": object(&figures.pss),
        "ratios": ratios,
        "skipped": figures.skipped,
    });
    let directory = target_directory()?.join("bench");
    std::fs::create_dir_all(&directory)?;
    let path = directory.join("start.json");
    std::fs::write(&path, format!("{whole:#}\n"))?;
    println!("\nall figures: {}", path.display());
    Ok(())
}

/// Where cargo builds. A relative `CARGO_TARGET_DIR` is relative to where cargo was called, which this program can't
/// know; but cargo marks the directory with a `CACHEDIR.TAG`, and this program lies in it.
fn target_directory() -> Outcome<PathBuf> {
    if let Some(directory) = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from).filter(|path| path.is_absolute()) {
        return Ok(directory);
    }
    let program = std::env::current_exe()?;
    let marked = program.ancestors().find(|directory| directory.join("CACHEDIR.TAG").exists());
    Ok(marked.ok_or("this program does not lie in a target directory of cargo's")?.to_path_buf())
}
