//! Benchmarks in which contestants take turns in slices: each turn is a process of its own, which
//! has ended before the next one begins.
//!
//! The process is this program again, with `--slice <contestant> <event> <milliseconds>`, or Python
//! with a script and the same arguments. It prints one number. A contestant that hangs or crashes
//! is therefore only skipped, threads that its library has started disturb no other contestant, and
//! warm caches of the process are its own. A slice that lasts longer than a minute is ended by its
//! alarm.
//!
//! `-- --contestants a,b` and `-- --events x,y` select those with a name that contains one of the
//! words; `-- --rounds 3` sets the number of rounds.

use std::process::Command;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::figures::{Series, Skipped};
use crate::host::Host;
use crate::python::{Python, output};
use crate::random::Random;
use crate::report::{Ratio, json_of_ratios, print_ratios, write};
use crate::{Outcome, is_asked, is_quick, leftovers, sys};

/// Something that is measured for each contestant that supports it.
pub trait Event: Copy + PartialEq + 'static {
    /// The event's name: a word without spaces.
    fn key(self) -> String;

    /// The unit of the values.
    fn unit(self) -> &'static str;

    /// The length of a slice in a full run.
    fn slice(self) -> Duration;

    /// How many turns the event gets in a round of a full run.
    fn turns(self) -> u32 {
        1
    }
}

/// One implementation that is measured.
pub struct Contestant<E> {
    pub name: &'static str,
    /// Whether this is multiproc itself, so that a failure ends the benchmark.
    pub is_ours: bool,
    /// Whether the contestant supports an event.
    pub fits: fn(E) -> bool,
    pub run: Run<E>,
}

impl<E> Contestant<E> {
    pub fn peer(name: &'static str, fits: fn(E) -> bool, run: fn(E, Duration) -> Outcome<f64>) -> Contestant<E> {
        Contestant { name, is_ours: false, fits, run: Run::Here(run) }
    }

    pub fn ours(name: &'static str, fits: fn(E) -> bool, run: fn(E, Duration) -> Outcome<f64>) -> Contestant<E> {
        Contestant { name, is_ours: true, fits, run: Run::Here(run) }
    }

    pub fn python(name: &'static str, fits: fn(E) -> bool) -> Contestant<E> {
        Contestant { name, is_ours: false, fits, run: Run::Script }
    }
}

/// How a contestant's slices run.
pub enum Run<E> {
    /// In this program, by this function.
    Here(fn(E, Duration) -> Outcome<f64>),
    /// In the Python script.
    Script,
}

/// A benchmark.
pub struct Bench<E> {
    /// The name of the cargo bench target.
    pub name: &'static str,
    pub events: Vec<E>,
    pub contestants: Vec<Contestant<E>>,
    /// The script of the Python contestants: it takes a contestant, an event, and milliseconds.
    pub script: &'static str,
    /// Python contestants that need a package: contestant, package, and the module that it
    /// provides.
    pub packages: &'static [(&'static str, &'static str, &'static str)],
    /// Contestants that are known to be missing, and why.
    pub absent: &'static [(&'static str, &'static str)],
    pub rounds: u32,
    /// Prints the tables.
    pub print: fn(&Figures<E>),
    pub ratios: fn(&Figures<E>) -> Vec<Ratio>,
}

/// All measured values, by event.
pub struct Figures<E>(Vec<(E, Series)>);

impl<E: Event> Figures<E> {
    /// The values of one event, empty if there are none.
    pub fn of(&self, event: E) -> &Series {
        const NONE: &Series = &Series::none();
        self.0.iter().find(|(this, _)| *this == event).map_or(NONE, |(_, series)| series)
    }

    fn json(&self) -> Value {
        let object = |(event, series): &(E, Series)| {
            (event.key(), json!({ "unit": event.unit(), "contestants": series.json() }))
        };
        self.0.iter().map(object).collect::<Map<_, _>>().into()
    }
}

/// The maximum duration of a slice, in seconds.
const PATIENCE: u32 = 60;

/// The whole of `main`: runs a slice if this process is one, the benchmark if `cargo bench` runs
/// this program, and otherwise nothing.
///
/// # Errors
/// When one of multiproc's own contestants fails, or the figures can't be written.
pub fn main<E: Event>(bench: Bench<E>) -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, contestant, event, milliseconds] = &arguments[..]
        && first == "--slice"
    {
        println!("{}", bench.slice(contestant, event, milliseconds)?);
        return Ok(());
    }
    if !is_asked() {
        return Ok(());
    }
    leftovers::sweep();
    let result = bench.measure(&arguments);
    leftovers::sweep();
    result
}

impl<E: Event> Bench<E> {
    /// Runs one turn in this process.
    fn slice(&self, contestant: &str, event: &str, milliseconds: &str) -> Outcome<f64> {
        // Otherwise a child would be started ahead while others are measured.
        multiproc::process::set_standby(false);
        let contestant = self.contestants.iter().find(|one| one.name == contestant).ok_or("no such contestant")?;
        let event = self.events.iter().find(|one| one.key() == event).ok_or("no such event")?;
        let slice = Duration::from_millis(milliseconds.parse()?);
        match contestant.run {
            Run::Here(run) => run(*event, slice),
            Run::Script => Err("that contestant runs in Python".into()),
        }
    }

    fn measure(mut self, arguments: &[String]) -> Outcome<()> {
        let given = |key: &str| arguments.iter().skip_while(|argument| *argument != key).nth(1);
        let is_wanted =
            |key: &str, name: &str| given(key).is_none_or(|words| words.split(',').any(|word| name.contains(word)));
        self.contestants.retain(|contestant| is_wanted("--contestants", contestant.name));
        self.events.retain(|event| is_wanted("--events", &event.key()));

        let mut skipped = Skipped::default();
        self.absent.iter().for_each(|(name, why)| skipped.add(name, why));
        let mut host = Host::look();
        let python = self.find_python(&mut skipped);
        host.python = python.as_ref().map(|python| python.version().to_owned());

        let mut figures = Figures(self.events.iter().map(|event| (*event, Series::default())).collect());
        let mut random = Random::new();
        let rounds = match given("--rounds") {
            Some(rounds) => rounds.parse().map_err(|error| format!("--rounds {rounds}: {error}"))?,
            None if is_quick() => 1,
            None => self.rounds,
        };
        for round in 1..=rounds {
            eprintln!("round {round} of {rounds}");
            let turns = |index: usize| if is_quick() { 1 } else { figures.0[index].0.turns() as usize };
            let mut order: Vec<usize> =
                (0..figures.0.len()).flat_map(|index| std::iter::repeat_n(index, turns(index))).collect();
            random.shuffle(&mut order);
            for event in order {
                let (event, series) = &mut figures.0[event];
                self.turns(*event, python.as_ref(), &mut random, series, &mut skipped)?;
            }
        }

        host.print();
        (self.print)(&figures);
        let ratios = (self.ratios)(&figures);
        print_ratios(&skipped, &ratios);
        let whole = json!({
            "host": host,
            "quick": is_quick(),
            "events": figures.json(),
            "ratios": json_of_ratios(&ratios),
            "skipped": skipped.0,
        });
        write(self.name, &whole)
    }

    /// Finds the interpreter; None if no contestant needs it. Removes the contestants that it can't
    /// run.
    fn find_python(&mut self, skipped: &mut Skipped) -> Option<Python> {
        if !self.contestants.iter().any(|contestant| matches!(contestant.run, Run::Script)) {
            return None;
        }
        let found = Python::find(self.script);
        let mut python = match found {
            Ok(python) => python,
            Err(error) => {
                skipped.add("python3", &error);
                self.contestants.retain(|contestant| !matches!(contestant.run, Run::Script));
                return None;
            }
        };
        for (name, package, module) in self.packages {
            if self.contestants.iter().any(|contestant| contestant.name == *name)
                && let Err(error) = python.with_package(package, module, !is_quick())
            {
                skipped.add(name, &error);
                self.contestants.retain(|contestant| contestant.name != *name);
            }
        }
        Some(python)
    }

    /// Runs one slice of each contestant in one event, in random order.
    fn turns(
        &mut self,
        event: E,
        python: Option<&Python>,
        random: &mut Random,
        series: &mut Series,
        skipped: &mut Skipped,
    ) -> Outcome<()> {
        random.shuffle(&mut self.contestants);
        let slice = if is_quick() { event.slice() / 10 } else { event.slice() };
        for contestant in self.contestants.iter().filter(|contestant| (contestant.fits)(event)) {
            let label = format!("{} {}", event.key(), contestant.name);
            if skipped.names(&label) {
                continue;
            }
            let arguments = [contestant.name, &event.key(), &slice.as_millis().to_string()];
            let mut command = match (&contestant.run, python) {
                (Run::Script, Some(python)) => python.command(arguments),
                (Run::Script, None) => continue,
                (Run::Here(_), _) => {
                    let mut command = Command::new(std::env::current_exe()?);
                    command.arg("--slice").args(arguments);
                    command
                }
            };
            sys::keep_short(&mut command, PATIENCE);
            match output(&mut command).and_then(|text| Ok(text.trim().parse::<f64>()?)) {
                Ok(value) => series.add(contestant.name, value),
                Err(error) if contestant.is_ours => return Err(format!("{label}: {error}").into()),
                Err(error) => {
                    series.remove(contestant.name);
                    skipped.add(&label, &error);
                }
            }
        }
        Ok(())
    }
}
