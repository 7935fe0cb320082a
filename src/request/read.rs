//! Reading what others wrote. The length has a bound, and a FIFO in place of a file does not hold
//! the run up.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc::O_NONBLOCK;

/// Opens a file of any kind for reading.
pub fn open(path: impl AsRef<Path>) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)
}

/// Opens a regular file for reading. Any other kind is an error.
pub fn open_regular(path: impl AsRef<Path>) -> io::Result<File> {
    let file = open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}

/// Reads to the end. More than `most` bytes are an error.
pub fn at_most(most: u64, source: impl Read) -> io::Result<Vec<u8>> {
    // Most files are read at once.
    let mut bytes = Vec::with_capacity(4096);
    source.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("larger than {most} bytes")));
    }
    Ok(bytes)
}
