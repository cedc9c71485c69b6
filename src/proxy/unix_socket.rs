//! Unix sockets that clients come in by, and the files that name them.
//!
//! A socket is bound under a name of its own and then renamed over its path, as HAProxy does, so
//! that clients meet the old socket or the new one and nothing in between.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use socket2::{Domain, SockAddr, Socket, Type};

use super::listener::Inlet;

/// sizeof(sun_path) on Linux, without the final zero.
pub const PATH_BYTES_MAX: usize = 107;
/// Whoever may come to the file may connect, as with PostgreSQL's own socket.
const MODE: u32 = 0o777;

/// What is wrong with a path, where no system call has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnixError {
    #[error("the path is too long for a socket")]
    TooLong,
    #[error("there is a file that is not a socket")]
    NotASocket,
    #[error("another process listens there")]
    Taken,
    #[error("the path has no directory and file name")]
    NoName,
}

impl UnixError {
    pub fn advice(self) -> String {
        match self {
            UnixError::TooLong => format!("the kernel takes {PATH_BYTES_MAX} bytes at most; choose a shorter path"),
            UnixError::NotASocket => "move it away, or choose another path".to_owned(),
            UnixError::Taken => "`ss -lxp` names it; stop it or choose another path".to_owned(),
            UnixError::NoName => "write an absolute path such as /run/pgvane/.s.PGSQL.5433".to_owned(),
        }
    }
}

impl From<UnixError> for io::Error {
    fn from(error: UnixError) -> io::Error {
        io::Error::other(error)
    }
}

/// The file of a bound socket. Its drop removes it.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Where it is until it is revealed.
    hidden: PathBuf,
    is_revealed: AtomicBool,
    device: u64,
    inode: u64,
}

impl SocketFile {
    pub fn reveal(&self) -> io::Result<()> {
        fs::rename(&self.hidden, &self.path)?;
        self.is_revealed.store(true, Relaxed);
        Ok(())
    }

    /// Unless somebody has put another one there.
    pub fn remove(&self) {
        let path = if self.is_revealed.load(Relaxed) { &self.path } else { &self.hidden };
        if self.is(path) {
            let _gone_already = fs::remove_file(path);
        }
    }

    fn is(&self, path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Binds a socket for `path` under another name. Looks first whether it may take the path later.
pub(super) fn bind(path: &Path, ours: &[Arc<Inlet>]) -> io::Result<(Socket, SocketFile)> {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let number = LAST.fetch_add(1, Relaxed);
    let (Some(folder), Some(_)) = (path.parent(), path.file_name()) else { return Err(UnixError::NoName.into()) };
    let hidden = folder.join(format!(".{}.{number}", process::id()));
    if path.as_os_str().len().max(hidden.as_os_str().len()) > PATH_BYTES_MAX {
        return Err(UnixError::TooLong.into());
    }
    may_replace(path, ours)?;
    // Left behind by a process that had the same number and crashed.
    if fs::symlink_metadata(&hidden).is_ok_and(|found| found.file_type().is_socket()) {
        fs::remove_file(&hidden)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(&hidden)?)?;
    let made = fs::symlink_metadata(&hidden)?;
    let (device, inode) = (made.dev(), made.ino());
    let file = SocketFile { path: path.to_owned(), hidden, is_revealed: AtomicBool::new(false), device, inode };
    fs::set_permissions(&file.hidden, fs::Permissions::from_mode(MODE))?;
    Ok((socket, file))
}

/// Nothing, a socket that nobody listens on, or one of our own.
fn may_replace(path: &Path, ours: &[Arc<Inlet>]) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.parent().is_some_and(Path::exists) => {
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Err(UnixError::NotASocket.into());
    }
    if ours.iter().filter_map(|inlet| inlet.file()).any(|file| file.is(path)) {
        return Ok(());
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // With a full backlog a connect would wait, and somebody is there.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Ok(()) => Err(UnixError::Taken.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // EPROTOTYPE and EACCES: it is somebody's, whoever that is.
        Err(_) => Err(UnixError::Taken.into()),
    }
}
