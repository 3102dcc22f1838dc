//! With the feature `anyhow`: errors of this type are sent between processes as their messages.

use std::error::Error;

use anyhow::Context;
use multiproc::Process;

fn read(path: String) -> anyhow::Result<String> {
    std::fs::read_to_string(&path).with_context(|| format!("no configuration at {path}"))
}

#[multiproc::test]
fn error_chain() {
    let child = Process::new(read, ("/no/such/file".into(),)).start().unwrap();
    assert_eq!(child.wait().unwrap().exit_code(), Some(1));
    let error = child.join().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "no configuration at /no/such/file");
    assert_eq!(error.source().unwrap().to_string(), "No such file or directory (os error 2)");
}
