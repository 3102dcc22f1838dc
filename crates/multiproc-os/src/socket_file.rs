//! The file of a Unix socket that somebody listens at: put in place only when it is live, in place of one that is dead, and taken away only by
//! its owner. See unix(7), and `RENAME_NOREPLACE` in rename(2).
//!
//! A socket that was bound and does not listen yet can't be told from one whose process is dead: to connect is refused in both cases. So it
//! comes to be under another name in the same directory, and gets its own when it listens.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, RenameFlags, renameat_with, statat};

use crate::socket::{self, Place};

/// A file that this process has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode. Another file may be in its place some day.
    identity: (u64, u64),
}

/// Listens at `path`. A file that is there is replaced if it is a socket that nobody listens at any more.
///
/// # Errors
/// `EADDRINUSE` when somebody listens there, or it is no socket; what mknod(2) and rename(2) say; `EMFILE`.
pub fn listen(path: &Path) -> io::Result<(OwnedFd, SocketFile)> {
    let name = format!(".mp-{:016x}", crate::random::seed());
    let temporary = path.with_file_name(name);
    let socket = socket::listen(Place::File(&temporary))?;
    let placed = identity(&temporary).and_then(|identity| {
        put_in_place(&temporary, path)?;
        Ok(SocketFile { path: path.to_owned(), identity })
    });
    match placed {
        Ok(file) => Ok((socket, file)),
        Err(error) => {
            let _ = std::fs::remove_file(&temporary);
            Err(error)
        }
    }
}

fn put_in_place(temporary: &Path, path: &Path) -> io::Result<()> {
    match renameat_with(CWD, temporary, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(()),
        Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    if is_alive(path)? {
        return Err(in_use());
    }
    // Whoever replaces a dead one holds a name that the kernel lets go of with him: another who has found the same dead one must not replace
    // what is there by then.
    let dead = identity(path)?;
    let held = format!("multiproc/replaces/{}/{}", dead.0, dead.1);
    let _held = socket::listen(Place::Abstract(held.as_bytes()))?;
    if identity(path)? != dead || is_alive(path)? {
        return Err(in_use());
    }
    std::fs::rename(temporary, path)
}

fn in_use() -> io::Error {
    io::Error::from_raw_os_error(libc::EADDRINUSE)
}

/// Whether there is somebody, or something that is none of ours to remove.
fn is_alive(path: &Path) -> io::Result<bool> {
    // Nobody is waited for: whoever has a line of people waiting is alive.
    let soon = std::time::Instant::now() + std::time::Duration::from_millis(1);
    match socket::connect(Place::File(path), Some(soon)) {
        // It is also what is said of a file that is no socket.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Ok(rustix::fs::FileType::from_raw_mode(statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?.st_mode)
                != rustix::fs::FileType::Socket)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => Err(error),
        Ok(_) | Err(_) => Ok(true),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let stat = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok((stat.st_dev, stat.st_ino))
}

impl SocketFile {
    /// Removes it, if it is still the one that was made.
    pub fn remove(&self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Directory {
            let path = std::env::temp_dir().join(format!("multiproc-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir(&path).unwrap();
            Directory(path)
        }

        fn names(&self) -> Vec<String> {
            let entries = std::fs::read_dir(&self.0).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn who_is_dead_is_replaced_and_who_lives_is_not() {
        let directory = Directory::new("replaced");
        let path = directory.0.join("socket");
        let (live, first) = listen(&path).unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(live);
        let (_socket, second) = listen(&path).unwrap();
        // The first is not the one that is there now.
        first.remove();
        assert_eq!(directory.names(), ["socket"]);
        second.remove();
        second.remove();
        assert!(directory.names().is_empty());
    }

    #[test]
    fn what_is_no_socket_stays() {
        let directory = Directory::new("no-socket");
        let path = directory.0.join("file");
        std::fs::write(&path, "text").unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(std::fs::read(&path).unwrap(), b"text");
        assert_eq!(directory.names(), ["file"]);
        assert_eq!(listen(&directory.0.join("no/where")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn of_many_at_once_one_gets_it() {
        let directory = Directory::new("race");
        let path = directory.0.join("socket");
        for _ in 0..50 {
            // What a dead one has left.
            drop(listen(&path).unwrap());
            let won: Vec<_> = std::thread::scope(|scope| {
                let racers: Vec<_> = (0..4).map(|_| scope.spawn(|| listen(&path))).collect();
                racers.into_iter().filter_map(|racer| racer.join().unwrap().ok()).collect()
            });
            assert!(!won.is_empty());
            let there = identity(&path).unwrap();
            assert!(won.iter().any(|(_, file)| file.identity == there));
            assert_eq!(won.len(), 1, "one listens");
            assert_eq!(directory.names(), ["socket"]);
            won.into_iter().for_each(|(_, file)| file.remove());
        }
    }
}
