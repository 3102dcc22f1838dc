//! Python's own multiprocessing, if there is a `python3`.

use multiproc_benches::Outcome;
use multiproc_benches::python::Python;

/// A start method of Python.
#[derive(Clone, Copy)]
pub(crate) struct Method {
    pub(crate) contestant: &'static str,
    name: &'static str,
    /// Whether a start takes milliseconds rather than tens of them.
    pub(crate) is_fast: bool,
}

pub(crate) const METHODS: [Method; 3] = [
    Method { contestant: "python-fork", name: "fork", is_fast: true },
    Method { contestant: "python-forkserver", name: "forkserver", is_fast: true },
    Method { contestant: "python-spawn", name: "spawn", is_fast: false },
];

/// Returns the times of start and join in an interpreter that has touched `resident` bytes, in
/// microseconds.
pub(crate) fn measure(python: &Python, method: Method, resident: usize, iterations: u32) -> Outcome<Vec<f64>> {
    let output = python.run([method.name, &resident.to_string(), &iterations.to_string()])?;
    let times: Result<Vec<f64>, _> = output.lines().map(serde_json::from_str::<f64>).collect();
    Ok(times?.into_iter().map(|nanoseconds| nanoseconds / 1000.0).collect())
}
