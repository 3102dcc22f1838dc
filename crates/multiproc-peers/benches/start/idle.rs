//! The memory cost of an idle child: its proportional set size, in which a page that n processes
//! share counts as 1/n.

use std::io;
use std::time::Duration;

use multiproc::{Process, StartMethod};
use multiproc_benches::Outcome;
use multiproc_benches::figures::Series;

use super::bare_server::{BareServer, Task};
use super::sys;

/// Longer than any measurement.
const LIFE: Duration = Duration::from_secs(1000);

/// How long a child gets to become idle. It can't report that: the report would take memory.
const SETTLE: Duration = Duration::from_millis(100);

/// Measures one child of each kind, one at a time.
pub(crate) fn run(server: &BareServer, series: &mut Series) -> Outcome<()> {
    for (name, method) in [("forkserver", StartMethod::ForkServer), ("spawn", StartMethod::Spawn)] {
        let child = Process::new(std::thread::sleep, (LIFE,)).start_method(method).start()?;
        let pss = settled_pss(child.pid());
        child.kill()?;
        series.add(name, pss?);
    }
    server.request(Task::Sleep)?;
    let pid = server.answer()?;
    let pss = settled_pss(pid);
    // Otherwise it would outlive this program.
    sys::end(pid)?;
    series.add("bare-server", pss?);
    Ok(())
}

/// In kB; see proc_pid_smaps(5).
fn settled_pss(pid: i32) -> io::Result<f64> {
    std::thread::sleep(SETTLE);
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    rollup
        .lines()
        .find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse().ok())
        .ok_or_else(|| io::Error::other(format!("no Pss in {rollup:?}")))
}
