//! Python's own multiprocessing, if there is a `python3`.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::Outcome;

/// A start method of Python's.
#[derive(Clone, Copy)]
pub(crate) struct Method {
    pub(crate) contestant: &'static str,
    name: &'static str,
    /// Milliseconds, where the others take tens of them.
    pub(crate) is_fast: bool,
}

pub(crate) const METHODS: [Method; 3] = [
    Method { contestant: "python-fork", name: "fork", is_fast: true },
    Method { contestant: "python-forkserver", name: "forkserver", is_fast: true },
    Method { contestant: "python-spawn", name: "spawn", is_fast: false },
];

/// An interpreter, and the script that it runs, which goes when this is dropped.
pub(crate) struct Python {
    version: String,
    directory: PathBuf,
    script: PathBuf,
}

impl Python {
    /// The first `python3` on the path.
    pub(crate) fn find() -> Outcome<Python> {
        let output = Command::new("python3").arg("--version").output()?;
        if !output.status.success() {
            return Err(format!("python3 --version ended: {}", output.status).into());
        }
        let version = String::from_utf8(output.stdout)?.trim().to_owned();
        // A file, because the methods that start a new interpreter have it import the script.
        let directory = std::env::temp_dir().join(format!("multiproc-bench-{}", std::process::id()));
        std::fs::create_dir(&directory)?;
        let python = Python { version, script: directory.join("python_peer.py"), directory };
        std::fs::write(&python.script, include_str!("python_peer.py"))?;
        Ok(python)
    }

    /// As it says itself: `Python 3.13.0`.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// The times of start and join in an interpreter that has touched `resident` bytes, in microseconds.
    pub(crate) fn measure(&self, method: Method, resident: usize, iterations: u32) -> Outcome<Vec<f64>> {
        let output = Command::new("python3")
            .arg(&self.script)
            .args([method.name, &resident.to_string(), &iterations.to_string()])
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{}: {}", output.status, errors.lines().last().unwrap_or_default()).into());
        }
        let times: Result<Vec<f64>, _> =
            str::from_utf8(&output.stdout)?.lines().map(serde_json::from_str::<f64>).collect();
        Ok(times?.into_iter().map(|nanoseconds| nanoseconds / 1000.0).collect())
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
