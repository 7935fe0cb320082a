//! What a run says: nothing, a text or a CNI result; and one line about an error.

pub mod audit;
pub mod cni;
pub mod dns;
pub mod error;

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::write;
use serde::Serialize;

use self::error::{Error, Failed, Result};

/// How long the reader of a full standard output that does not block may take, in all.
const PATIENCE: Duration = Duration::from_secs(5);

pub fn print_json(what: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(what).map_err(|_| Failed::Output(Errno::EINVAL))?;
    print(&(text + "\n"))
}

/// Prints `text` on standard output, all of it. A run has given up every capability by then: its
/// caller decides how long a pipe stays full.
pub fn print(text: &str) -> Result<()> {
    Ok(write_all(io::stdout(), text.as_bytes()).map_err(Failed::Output)?)
}

fn write_all(file: impl AsFd, mut bytes: &[u8]) -> nix::Result<()> {
    let end = Instant::now() + PATIENCE;
    while !bytes.is_empty() {
        match write(&file, bytes) {
            Ok(0) => return Err(Errno::ENOSPC),
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) if Instant::now() < end => {
                let left = end.saturating_duration_since(Instant::now());
                let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
                // The next write tells what the wait has changed.
                let _ = poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLOUT)], timeout);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Another's text as one word, which can be shown anywhere.
pub fn one_word(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}

/// Says on standard error why the run failed, in one line and one write, and gives the exit status.
pub fn failure(error: &Error) -> i32 {
    note(&error.to_string());
    error.exit_status()
}

/// Says one line on standard error. Without standard error the exit status still tells.
pub fn note(text: &str) {
    let _ = write(io::stderr(), line(text).as_bytes());
}

pub fn line(text: &str) -> String {
    format!("netsetgo: {}\n", shown(text))
}

/// The text in one line, so that it does nothing to a terminal.
pub fn shown(text: &str) -> String {
    // A character that Rust escapes does more to a terminal than to be shown: it ends the line,
    // moves the cursor, or changes the direction of writing.
    let plain = |c: char| matches!(c, '"' | '\'' | '\\') || c.escape_debug().len() == 1;
    text.chars().map(|c| if plain(c) { c } else { ' ' }).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::thread;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::*;

    #[test]
    fn a_text_larger_than_a_full_pipe_that_does_not_block_is_written_whole() {
        let (mut reader, writer) = io::pipe().unwrap();
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let text: Vec<u8> = (0..1 << 20).map(|place: u32| (place / 7) as u8).collect();
        let read = thread::spawn(move || {
            let mut read = Vec::new();
            reader.read_to_end(&mut read).map(|_| read)
        });
        write_all(&writer, &text).unwrap();
        drop(writer);
        assert!(read.join().unwrap().unwrap() == text);
    }

    #[test]
    fn what_is_said_is_one_line_that_only_shows() {
        assert_eq!(line("a \"b\" 'c' \\ \u{e4}"), "netsetgo: a \"b\" 'c' \\ \u{e4}\n");
        assert_eq!(line("a\nb\u{1b}[1m\u{202e}c\u{2028}d"), "netsetgo: a b [1m c d\n");
    }
}
