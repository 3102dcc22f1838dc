//! Names of processes, and their relations.

use crate::common::{self, Ends, for_each_method, sleep_long};
use multiproc::{Process, active_children, current_process, parent_process};

fn whoami() -> (String, i32, bool) {
    let this = current_process();
    (this.name().to_owned(), this.pid(), this.daemon())
}

fn lists_active(method: multiproc::StartMethod) {
    let child = Ends(Process::new(sleep_long, ()).start_method(method).start().unwrap());
    let listed = |pid| active_children().iter().any(|child| child.pid() == pid);
    assert!(listed(child.pid()));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!listed(child.pid()));
}

for_each_method! {
    fn default_name(method) {
        let first = Process::new(whoami, ()).start_method(method);
        let second = Process::new(whoami, ()).start_method(method);
        let number = |name: String| name.rsplit(['-', ':']).next().unwrap().parse::<u32>().unwrap();
        assert!(number(first.get_name()) < number(second.get_name()));
        let name = first.get_name();
        assert_eq!(first.start().unwrap().join().unwrap().0, name);
    }

    fn given_name(method) {
        let child = Process::new(whoami, ()).name("naïve 名前").start_method(method).start().unwrap();
        assert_eq!(child.name(), "naïve 名前");
        let pid = child.pid();
        assert_eq!(child.join().unwrap(), ("naïve 名前".to_string(), pid, false));
    }

    fn grandchild_name(method) {
        let child = Process::new(
            || {
                let grandchildren: Vec<_> = (0..2).map(|_| Process::new(whoami, ()).start().unwrap()).collect();
                let own = current_process().name().to_owned();
                (own, grandchildren.into_iter().map(|child| child.join().unwrap().0).collect::<Vec<_>>())
            },
            (),
        );
        let name = child.get_name();
        let (own, grandchildren) = child.start_method(method).start().unwrap().join().unwrap();
        assert_eq!(own, name);
        assert_eq!(grandchildren, [format!("{name}:1"), format!("{name}:2")]);
    }

    fn shown_by_the_system(method) {
        let child = Process::new(
            || {
                let read = |file| std::fs::read_to_string(format!("/proc/self/{file}")).unwrap();
                (read("comm"), read("cmdline"), std::env::args().collect::<Vec<_>>())
            },
            (),
        );
        let child = child.name("a name of more than 15 bytes").start_method(method).start().unwrap();
        let (comm, cmdline, arguments) = child.join().unwrap();
        assert_eq!(comm, "a name of more \n");
        let mut shown: Vec<String> = cmdline.split_terminator('\0').map(str::to_owned).collect();
        assert_eq!(shown.remove(1), "[a name of more than 15 bytes]");
        assert_eq!((&shown, arguments), (&std::env::args().collect(), shown.clone()));
    }

    fn parent(method) {
        // Under `Fork`, the test runs in a process of its own.
        assert_eq!(parent_process().is_none(), method != multiproc::StartMethod::Fork);
        let child = Process::new(|| parent_process().map(|parent| (parent.name().to_owned(), parent.pid())), ());
        let parent = child.start_method(method).start().unwrap().join().unwrap();
        assert_eq!(parent, Some((current_process().name().to_owned(), current_process().pid())));
    }

    fn daemon_is_inherited(method) {
        let child = Process::new(|| (whoami().2, Process::new(whoami, ()).start().unwrap().join().unwrap().2), ());
        assert_eq!(child.daemon(true).start_method(method).start().unwrap().join().unwrap(), (true, true));
        let child = Process::new(|| Process::new(whoami, ()).daemon(false).start().unwrap().join().unwrap().2, ());
        assert!(!child.daemon(true).start_method(method).start().unwrap().join().unwrap());
    }

    fn listed_as_active(method) {
        // `active_children` reaps the children of other tests, too.
        common::in_its_own_process(lists_active, method);
    }

    fn start_method_is_inherited(method) {
        // In a child, so that the default of the other tests doesn't change.
        let child = Process::new(|method| {
            multiproc::set_start_method(method);
            Process::new(multiproc::process::start_method, ()).start().unwrap().join().unwrap()
        }, (method,));
        assert_eq!(child.start().unwrap().join().unwrap(), method);
    }
}

#[multiproc::test]
fn display_and_debug() {
    let process = Process::new(sleep_long, ()).name("p");
    assert_eq!(format!("{process} {process:?}"), "<Process(p, initial)> <Process(p, initial)>");
    assert!(!process.is_alive());
    let child = Ends(process.daemon(true).start().unwrap());
    assert_eq!(child.to_string(), "<Process(p, started daemon)>");
    child.interrupt().unwrap();
    child.wait().unwrap();
    assert_eq!(format!("{:?}", *child), "<Process(p, stopped[SIGINT] daemon)>");
    assert_eq!(format!("{:?}", current_process()), "<CurrentProcess(MainProcess, started)>");
}

#[multiproc::test]
fn cpu_count() {
    let all = multiproc::cpu_count();
    assert!(all >= 1);
    let one = Process::new(
        || {
            // SAFETY: a set of zeroes is valid, and the kernel copies it.
            unsafe {
                let mut set: libc::cpu_set_t = std::mem::zeroed();
                libc::sched_getaffinity(0, size_of_val(&set), &raw mut set);
                let first = (0..1024).find(|cpu| libc::CPU_ISSET(*cpu, &set)).unwrap();
                libc::CPU_ZERO(&mut set);
                libc::CPU_SET(first, &mut set);
                libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
            }
            multiproc::cpu_count()
        },
        (),
    );
    assert_eq!(one.start().unwrap().join().unwrap(), 1);
}
