//! What a run says: nothing, a text, or a CNI result; and of an error, one line.

pub mod audit;
pub mod cni;
pub mod dns;
pub mod error;

use std::fmt::Display;
use std::io;

use nix::errno::Errno;
use nix::unistd::write;
use serde::Serialize;

use self::error::{Error, Failed, Result};

/// Prints `what` as one line of JSON.
///
/// # Errors
/// [`Failed::Output`].
pub fn print_json(what: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(what).map_err(|_| Failed::Output(Errno::EINVAL))?;
    print(&(text + "\n"))
}

/// A text of somebody else's as one word that can be shown anywhere.
pub fn one_word(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}

/// Prints `text` on standard output, in one write.
///
/// # Errors
/// [`Failed::Output`], also when only a part of it could be written.
pub fn print(text: &str) -> Result<()> {
    match write(io::stdout(), text.as_bytes()) {
        Ok(length) if length == text.len() => Ok(()),
        Ok(_) => Err(Failed::Output(Errno::ENOSPC).into()),
        Err(errno) => Err(Failed::Output(errno).into()),
    }
}

/// Warns on standard error, in one line and one write, of what came with a success.
///
/// # Errors
/// The one that came instead.
pub fn warned<T: Display>(outcome: Result<Option<T>>) -> Result<()> {
    if let Some(what) = outcome? {
        say(&format!("warning: {what}"));
    }
    Ok(())
}

/// Says on standard error why the run failed, in one line and one write, and gives the exit status.
pub fn failure(error: &Error) -> i32 {
    say(&error.to_string());
    error.exit_status()
}

fn say(text: &str) {
    // Where even this cannot be written, the exit status still says it.
    let _ = write(io::stderr(), line(text).as_bytes());
}

/// What is said, as one line.
pub fn line(text: &str) -> String {
    // What would be escaped does something else to a terminal than to be shown: it ends the line, moves
    // the cursor, or turns the direction of writing round.
    let shown = |c: char| matches!(c, '"' | '\'' | '\\') || c.escape_debug().len() == 1;
    let text: String = text.chars().map(|c| if shown(c) { c } else { ' ' }).collect();
    format!("netsetgo: {text}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_one_line_that_only_shows() {
        assert_eq!(line("a \"b\" 'c' \\ \u{e4}"), "netsetgo: a \"b\" 'c' \\ \u{e4}\n");
        assert_eq!(line("a\nb\u{1b}[1m\u{202e}c\u{2028}d"), "netsetgo: a b [1m c d\n");
    }
}
