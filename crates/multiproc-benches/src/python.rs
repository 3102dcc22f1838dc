//! Runs Python peers, if there is a `python3`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Outcome, leftovers, report};

/// An interpreter and the script that it runs. The script's file is removed on drop.
pub struct Python {
    program: PathBuf,
    version: String,
    directory: PathBuf,
    script: PathBuf,
}

impl Python {
    /// Finds the first `python3` on the path.
    ///
    /// # Errors
    /// When there is none, or the script's file can't be written.
    pub fn find(script: &str) -> Outcome<Python> {
        let program = PathBuf::from("python3");
        let version = output(Command::new(&program).arg("--version"))?.trim().to_owned();
        // A file, because the start methods that run a new interpreter import the script there.
        let directory = Path::new("/tmp").join(leftovers::prefix(std::process::id()) + "python");
        std::fs::create_dir(&directory)?;
        let python = Python { program, version, script: directory.join("peer.py"), directory };
        std::fs::write(&python.script, script)?;
        Ok(python)
    }

    /// The version as the interpreter prints it: `Python 3.13.0`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// A command that runs the script with these arguments.
    pub fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(&self.script).args(arguments);
        command
    }

    /// Runs the script and returns its output.
    ///
    /// # Errors
    /// When the script fails, with the last line that it wrote to standard error.
    pub fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Outcome<String> {
        output(&mut self.command(arguments))
    }

    /// Switches to an interpreter that has `package`, in a virtual environment of the benchmarks'
    /// own. Installs the package there first if `install` is set.
    ///
    /// # Errors
    /// When the package is missing. The interpreter is then unchanged.
    pub fn with_package(&mut self, package: &str, module: &str, install: bool) -> Outcome<()> {
        let environment = report::directory()?.join("python");
        let program = environment.join("bin/python3");
        let has_it = |program: &Path| output(Command::new(program).args(["-c", &format!("import {module}")]));
        if has_it(&program).is_err() {
            if !install {
                return Err(format!("there is no {package}; a full run would try to install it").into());
            }
            eprintln!("installing {package} in {}", environment.display());
            output(Command::new(&self.program).args(["-m", "venv"]).arg(&environment))?;
            let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries=1", "--timeout=10"];
            output(Command::new(&program).args(pip).arg(package))?;
            has_it(&program)?;
        }
        self.program = program;
        Ok(())
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Runs a command and returns its output.
///
/// # Errors
/// When it can't be started or fails: with the last line that it wrote to standard error.
pub fn output(command: &mut Command) -> Outcome<String> {
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}: {}", output.status, errors.lines().last().unwrap_or_default()).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}
