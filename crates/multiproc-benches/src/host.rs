//! The properties of the machine that influence the figures.

use serde::Serialize;

/// The header of each report.
#[derive(Default, Serialize)]
pub struct Host {
    pub cpus: usize,
    pub kernel: String,
    /// Whether memory comes in pages of 2 MiB, which makes a large process cheap to copy:
    /// `[always]`, `[madvise]` or `[never]`.
    pub huge_pages: String,
    pub python: Option<String>,
}

impl Host {
    /// Reads the machine's properties. The caller fills in `python`.
    pub fn look() -> Host {
        let read = |path| std::fs::read_to_string(path).map_or("unknown".to_owned(), |text| text.trim().to_owned());
        Host {
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease"),
            huge_pages: read("/sys/kernel/mm/transparent_hugepage/enabled"),
            python: None,
        }
    }

    /// Prints a one-line summary.
    pub fn print(&self) {
        let python = self.python.as_deref().unwrap_or("no Python");
        println!("Linux {}, {} CPUs, huge pages {}, {python}", self.kernel, self.cpus, self.huge_pages);
    }
}
