//! Prints and writes the figures.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::Outcome;
use crate::figures::{Series, Skipped, Summary};

/// A ratio or figure that multiproc must meet.
pub struct Ratio {
    pub key: String,
    /// None when the measurement was skipped.
    pub value: Option<f64>,
    pub bound: Bound,
}

/// The target of a figure.
#[derive(Clone, Copy)]
pub enum Bound {
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

impl Ratio {
    pub fn new(key: impl Into<String>, value: Option<f64>, bound: Bound) -> Ratio {
        Ratio { key: key.into(), value, bound }
    }

    fn json(&self) -> Value {
        let (op, target) = self.bound.parts();
        json!({ "key": self.key, "value": self.value, "op": op, "target": target })
    }
}

/// Prints what is missing, and then a line for each ratio.
pub fn print_ratios(skipped: &Skipped, ratios: &[Ratio]) {
    println!();
    for line in &skipped.0 {
        println!("skipped {line}");
    }
    for Ratio { key, value, bound } in ratios {
        let (op, target) = bound.parts();
        match value {
            Some(value) => println!("RATIO {key} {value:.2} {op} {target}"),
            None => println!("skipped {key}: not measured"),
        }
    }
}

/// An array of all ratios.
pub fn json_of_ratios(ratios: &[Ratio]) -> Value {
    ratios.iter().map(Ratio::json).collect()
}

/// A column group of a table: its heading, its values, and the cells printed for each contestant.
pub struct Column<'a> {
    pub heading: String,
    pub series: &'a Series,
    pub cells: &'a [Cell<'a>],
}

/// A cell: its heading, its width, and how it is formatted from the summary.
pub type Cell<'a> = (&'a str, usize, &'a dyn Fn(Summary) -> String);

/// Whether the contestant with the smallest or the largest median comes first in a table.
#[derive(Clone, Copy, PartialEq)]
pub enum First {
    Smallest,
    Largest,
}

/// Prints a table with a line for each contestant, in the order of the first column group;
/// contestants that are missing there follow in the order of the next one. Columns without values
/// are left out.
pub fn table(title: &str, first: First, columns: &[Column<'_>]) {
    let columns: Vec<_> = columns.iter().filter(|column| !column.series.is_empty()).collect();
    if columns.is_empty() {
        return;
    }
    println!("\n{title}");
    let mut seen = BTreeSet::new();
    let mut names = Vec::new();
    for column in &columns {
        let mut these = column.series.summaries();
        if first == First::Largest {
            these.reverse();
        }
        names.extend(these.into_iter().map(|(name, _)| name).filter(|name| seen.insert(*name)));
    }
    let margin = names.iter().map(|name| name.chars().count()).max().unwrap_or_default();
    if columns.iter().any(|column| !column.heading.is_empty()) {
        print!("{:margin$}", "");
        for column in &columns {
            let width: usize = column.cells.iter().map(|(_, width, _)| width).sum();
            print!("{:>width$}", column.heading);
        }
        println!();
    }
    print!("{:margin$}", "");
    for (heading, width, _) in columns.iter().flat_map(|column| column.cells) {
        print!("{heading:>width$}");
    }
    println!();
    for name in names {
        print!("{name:margin$}");
        for Column { series, cells, .. } in &columns {
            let summary = series.summary(name);
            for (_, width, show) in *cells {
                print!("{:>width$}", summary.map_or("-".to_owned(), show));
            }
        }
        println!();
    }
}

/// Formats a number with three significant digits: `6.8 M`, `88.1 k`, `0.74`.
pub fn short(value: f64) -> String {
    let (value, unit) = match value {
        v if v >= 999.5e6 => (v / 1e9, " G"),
        v if v >= 999.5e3 => (v / 1e6, " M"),
        v if v >= 9995.0 => (v / 1e3, " k"),
        v => (v, ""),
    };
    let digits = match value {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        v if v >= 0.1 => 2,
        _ => 3,
    };
    format!("{value:.digits$}{unit}")
}

/// Writes `bench/<name>.json` in the target directory.
///
/// # Errors
/// When there is no such directory, or it can't be written to.
pub fn write(name: &str, whole: &Value) -> Outcome<()> {
    let path = directory()?.join(format!("{name}.json"));
    std::fs::write(&path, format!("{whole:#}\n"))?;
    println!("\nall figures: {}", path.display());
    Ok(())
}

/// Returns the directory `bench` in cargo's target directory, and creates it if necessary. A
/// relative `CARGO_TARGET_DIR` is relative to the directory where cargo was called, which this
/// program can't know; but cargo marks its target directory with a `CACHEDIR.TAG`, and this program
/// lies in it.
///
/// # Errors
/// When there is no target directory, or nothing can be created in it.
pub fn directory() -> Outcome<PathBuf> {
    let given = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let program = std::env::current_exe()?;
    let marked = || program.ancestors().find(|directory| directory.join("CACHEDIR.TAG").exists()).map(PathBuf::from);
    let target = given.or_else(marked).ok_or("this program is not in a cargo target directory")?;
    let directory = target.join("bench");
    std::fs::create_dir_all(&directory)?;
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn significant_digits() {
        let shown = [0.0123, 0.74, 1.2345, 35.678, 999.0, 1234.0, 88_123.0, 6_800_000.0, 2.5e9].map(short);
        assert_eq!(shown, ["0.012", "0.74", "1.23", "35.7", "999", "1234", "88.1 k", "6.80 M", "2.50 G"]);
    }
}
