//! The file of a listening Unix socket: put in place only once the socket listens, replacing only
//! the file of a dead one, and removed only by its owner. See unix(7), and `RENAME_NOREPLACE` in
//! rename(2).
//!
//! A socket that is bound and doesn't listen yet can't be told from one with a dead process:
//! connecting is refused in both cases. So the socket is bound under a temporary name in the same
//! directory, and renamed once it listens.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags, flock, fstat, open, renameat_with, statat};
use rustix::io::Errno;

use crate::socket::{self, SocketAddress};

/// A socket file that this process has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode, since another file may have the path later.
    identity: (u64, u64),
}

/// Listens at `path`. An existing file is replaced if it is a socket at which no process listens
/// any more.
///
/// # Errors
/// `EADDRINUSE` when a process listens there, or the file is not a socket; those of mknod(2) and
/// rename(2); `EMFILE`.
pub fn listen(path: &Path) -> io::Result<(OwnedFd, SocketFile)> {
    let name = format!(".mp-{:016x}", crate::random::seed());
    let temporary = path.with_file_name(name);
    let socket = socket::listen(SocketAddress::File(&temporary))?;
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
    /// The number of times that the existing file may have vanished before it is examined.
    const ATTEMPTS: u32 = 10;
    for _ in 0..ATTEMPTS {
        match renameat_with(CWD, temporary, CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        match replace(temporary, path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            replaced => return replaced,
        }
    }
    Err(in_use())
}

/// Replaces a dead socket, and nothing else: in particular no symbolic link, which may lead to
/// another program's socket later.
fn replace(temporary: &Path, path: &Path) -> io::Result<()> {
    let dead = identity(path)?;
    if is_alive(path)? {
        return Err(in_use());
    }
    // Another process that has found the same dead socket must not replace the new one.
    let _turn = Turn::take(path, dead)?;
    if identity(path)? != dead || is_alive(path)? {
        return Err(in_use());
    }
    std::fs::rename(temporary, path)
}

/// The right to replace a dead socket: a lock of flock(2) on a file beside it that only this user
/// can open. Dropping it removes the file.
struct Turn {
    /// None where another user has made a file of this name, which is possible in a world-writable
    /// directory. Without the lock, two processes that start at the same moment may both replace
    /// the dead socket, but no stranger can prevent the replacement.
    held: Option<(OwnedFd, PathBuf)>,
}

impl Turn {
    fn take(path: &Path, dead: (u64, u64)) -> io::Result<Turn> {
        let name = path.with_file_name(format!(".mp-{:x}-{:x}", dead.0, dead.1));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match open(&name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => crate::fd_passing::above_stdio(file)?,
            // The errors for a symbolic link, a directory, a socket, and a file of another user.
            Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO | Errno::ACCESS | Errno::PERM) => {
                return Ok(Turn { held: None });
            }
            Err(error) => return Err(error.into()),
        };
        let stat = fstat(&file)?;
        if stat.st_uid != socket::own_user() {
            return Ok(Turn { held: None });
        }
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(in_use()),
            Err(error) => return Err(error.into()),
        }
        // The previous holder may have removed the file in between; another process may hold a lock
        // on a new one then.
        if identity(&name).ok() != Some((stat.st_dev, stat.st_ino)) {
            return Err(in_use());
        }
        Ok(Turn { held: Some((file, name)) })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // The file is removed while the lock is still held.
        if let Some((_, name)) = &self.held {
            let _ = std::fs::remove_file(name);
        }
    }
}

fn in_use() -> io::Error {
    io::Error::from_raw_os_error(libc::EADDRINUSE)
}

/// Whether a process listens at `path`.
///
/// # Errors
/// `NotFound`; `AddrInUse` if the file is not a socket, and so may not be replaced.
fn is_alive(path: &Path) -> io::Result<bool> {
    let kind = rustix::fs::FileType::from_raw_mode(statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?.st_mode);
    let what = match kind {
        rustix::fs::FileType::Socket => None,
        rustix::fs::FileType::Symlink => Some("the path is a symbolic link, which is not replaced"),
        _ => Some("the path exists and is no socket, so it is not replaced"),
    };
    if let Some(what) = what {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, what));
    }
    // A short deadline suffices: a socket with a full backlog is alive.
    let soon = std::time::Instant::now() + std::time::Duration::from_millis(1);
    match socket::connect(SocketAddress::File(path), Some(soon)) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(error),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => Err(error),
        Ok(_) | Err(_) => Ok(true),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let stat = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok((stat.st_dev, stat.st_ino))
}

impl SocketFile {
    /// Removes the file, if it is still the file that [`listen`] made.
    pub fn remove(&self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// The path of the file.
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

    /// Closes a listening socket as the end of its process does: for connects, also while a process
    /// that another test has just forked has a copy of it.
    fn end(socket: OwnedFd) {
        rustix::net::shutdown(&socket, rustix::net::Shutdown::Both).unwrap();
    }

    #[test]
    fn replace_only_dead_owner() {
        let directory = Directory::new("replaced");
        let path = directory.0.join("socket");
        let (live, first) = listen(&path).unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        end(live);
        let (_socket, second) = listen(&path).unwrap();
        // The first file is no longer the one at the path.
        first.remove();
        assert_eq!(directory.names(), ["socket"]);
        second.remove();
        second.remove();
        assert!(directory.names().is_empty());
    }

    #[test]
    fn other_file_is_kept() {
        let directory = Directory::new("no-socket");
        let (link, target) = (directory.0.join("link"), directory.0.join("target"));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        for dead in [false, true] {
            if dead {
                end(listen(&target).unwrap().0);
            }
            let error = listen(&link).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
            assert!(error.to_string().contains("symbolic link"), "{error}");
            assert_eq!(std::fs::read_link(&link).unwrap(), target);
        }
        std::fs::remove_file(&link).unwrap();
        std::fs::remove_file(&target).unwrap();
        let path = directory.0.join("file");
        std::fs::write(&path, "text").unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(std::fs::read(&path).unwrap(), b"text");
        assert_eq!(directory.names(), ["file"]);
        assert_eq!(listen(&directory.0.join("no/where")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    /// Whatever another user does in a world-writable directory, a dead socket can be replaced.
    #[test]
    fn dead_lock_owner() {
        let directory = Directory::new("stranger");
        let path = directory.0.join("socket");
        end(listen(&path).unwrap().0);
        let (device, inode) = identity(&path).unwrap();
        let name = format!("multiproc/replaces/{device}/{inode}");
        let _stranger = socket::listen(SocketAddress::Abstract(name.as_bytes())).unwrap();
        std::os::unix::fs::symlink("/nowhere", directory.0.join(format!(".mp-{device:x}-{inode:x}"))).unwrap();
        let (_socket, _file) = listen(&path).unwrap();
    }

    /// A lock file is used once, and one left behind by a killed process doesn't hinder its
    /// successors.
    #[test]
    fn lock_is_exclusive() {
        let directory = Directory::new("turn");
        let path = directory.0.join("socket");
        end(listen(&path).unwrap().0);
        let dead = identity(&path).unwrap();
        let turn = Turn::take(&path, dead).unwrap();
        assert_eq!(Turn::take(&path, dead).err().unwrap().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let (_, name) = turn.held.as_ref().unwrap();
        std::fs::write(directory.0.join("left"), "").unwrap();
        let name = name.clone();
        drop(turn);
        std::fs::rename(directory.0.join("left"), &name).unwrap();
        end(listen(&path).unwrap().0);
        assert_eq!(directory.names(), ["socket"]);
    }

    #[test]
    fn concurrent_binds() {
        let directory = Directory::new("race");
        let path = directory.0.join("socket");
        for _ in 0..50 {
            // The file left behind by a dead process.
            end(listen(&path).unwrap().0);
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
