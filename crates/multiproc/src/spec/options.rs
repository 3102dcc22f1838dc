//! The options of a child in which it differs from its parent: environment, directory, limits,
//! priority. The parent records them, and the child applies them before its target runs.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use multiproc_os::errno::EPERM;
use multiproc_os::limits;
use serde::{Deserialize, Serialize};

use multiproc_shm::units::Size;

pub use multiproc_os::limits::Resource;

/// The options of one process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Options {
    pub(crate) environment: Vec<Variable>,
    directory: Option<Vec<u8>>,
    pub(crate) process_group: Option<i32>,
    pub(crate) niceness: Option<i32>,
    pub(crate) affinity: Option<Vec<usize>>,
    /// By number, since `Resource` is in a crate that doesn't depend on serde.
    limits: Vec<(u32, u64, u64)>,
    /// In bytes.
    pub(crate) memory_limit: Option<u64>,
}

/// A change to the environment. Changes apply in the order of the builder's calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Variable {
    Set(Vec<u8>, Vec<u8>),
    Remove(Vec<u8>),
    Clear,
}

impl Variable {
    pub(crate) fn set(name: OsString, value: OsString) -> Variable {
        Variable::Set(name.into_vec(), value.into_vec())
    }

    pub(crate) fn remove(name: OsString) -> Variable {
        Variable::Remove(name.into_vec())
    }

    /// Returns the variable's name if no environment can contain the variable.
    fn impossible(&self) -> Option<String> {
        let impossible = match self {
            Variable::Set(name, value) => {
                name.is_empty() || name.contains(&b'=') || name.contains(&0) || value.contains(&0)
            }
            Variable::Remove(name) => name.is_empty() || name.contains(&b'=') || name.contains(&0),
            Variable::Clear => false,
        };
        match self {
            Variable::Set(name, _) | Variable::Remove(name) if impossible => {
                Some(String::from_utf8_lossy(name).into_owned())
            }
            _ => None,
        }
    }
}

const RESOURCES: [Resource; 9] = [
    Resource::AddressSpace,
    Resource::Data,
    Resource::Stack,
    Resource::CoreFile,
    Resource::FileSize,
    Resource::CpuTime,
    Resource::OpenFiles,
    Resource::Processes,
    Resource::LockedMemory,
];

/// An option that could not be applied, and why.
#[derive(Debug)]
pub(crate) struct NotSet {
    pub(crate) what: String,
    pub(crate) source: io::Error,
}

impl Options {
    pub(crate) fn set_directory(&mut self, directory: PathBuf) {
        self.directory = Some(directory.into_os_string().into_vec());
    }

    pub(crate) fn add_limit(&mut self, resource: Resource, soft: u64, hard: u64) {
        self.limits.push((resource as u32, soft, hard));
    }

    /// Whether no option is set, so that nothing can fail.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Options::default()
    }

    /// In the parent: rejects options that can be seen to be invalid without trying.
    pub(crate) fn check(&self) -> Result<(), NotSet> {
        match self.environment.iter().find_map(Variable::impossible) {
            None => Ok(()),
            Some(name) => Err(NotSet {
                what: format!("the environment variable {name:?} has an invalid name or value"),
                source: io::ErrorKind::InvalidInput.into(),
            }),
        }
    }

    /// In the child: applies all options but the memory limit, which comes last; see
    /// [`limit_memory`](Options::limit_memory).
    ///
    /// # Safety
    /// No other thread may access the environment meanwhile, and no pointer into it may be in use.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn apply(&self) -> Result<(), NotSet> {
        for variable in &self.environment {
            let os = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
            // SAFETY: guaranteed by the caller.
            unsafe {
                match variable {
                    Variable::Set(name, value) => std::env::set_var(os(name), os(value)),
                    Variable::Remove(name) => std::env::remove_var(os(name)),
                    Variable::Clear => {
                        let names: Vec<OsString> = std::env::vars_os().map(|(name, _)| name).collect();
                        names.into_iter().filter(|name| !name.is_empty()).for_each(|name| std::env::remove_var(name));
                    }
                }
            }
        }
        let not_set = |what: String| move |source| NotSet { what, source };
        if let Some(directory) = &self.directory {
            let directory = std::ffi::OsStr::from_bytes(directory);
            let what = format!("the current directory {directory:?} could not be entered");
            std::env::set_current_dir(directory).map_err(not_set(what))?;
        }
        if let Some(group) = self.process_group {
            limits::set_process_group(group).map_err(not_set(format!("process group {group} could not be joined")))?;
        }
        if let Some(processors) = &self.affinity {
            let what = format!("its affinity could not be set to processors {processors:?}");
            limits::set_affinity(processors).map_err(not_set(what))?;
        }
        if let Some(niceness) = self.niceness {
            limits::set_niceness(niceness).map_err(not_set(format!("its niceness could not be set to {niceness}")))?;
        }
        for (number, soft, hard) in &self.limits {
            let Some(resource) = RESOURCES.into_iter().find(|resource| *resource as u32 == *number) else { continue };
            limits::set(resource, *soft, *hard)
                .map_err(not_set(format!("its limit {resource:?} could not be set to {soft} (hard limit {hard})")))?;
        }
        if let Some(bytes) = self.memory_limit
            && limits::get(Resource::Data).is_ok_and(|(_, hard)| hard < bytes)
        {
            let what = format!("its memory could not be limited to {}: there is a lower limit", Size(bytes));
            return Err(NotSet { what, source: io::Error::from_raw_os_error(EPERM) });
        }
        Ok(())
    }

    /// In the child: sets the memory limit, as the last option, since the others may need memory.
    pub(crate) fn limit_memory(&self) -> Result<(), NotSet> {
        let Some(bytes) = self.memory_limit else { return Ok(()) };
        limits::set(Resource::Data, bytes, bytes)
            .map_err(|source| NotSet { what: format!("its memory could not be limited to {}", Size(bytes)), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_variables() {
        let check = |variable| Options { environment: vec![variable], ..Options::default() }.check().is_ok();
        assert!(check(Variable::set("NAME".into(), "a=b".into())));
        assert!(check(Variable::remove("NAME".into())));
        assert!(check(Variable::Clear));
        for name in ["", "A=B", "A\0B"] {
            assert!(!check(Variable::set(name.into(), "".into())), "{name:?}");
            assert!(!check(Variable::remove(name.into())), "{name:?}");
        }
        assert!(!check(Variable::set("NAME".into(), "\0".into())));
    }
}
