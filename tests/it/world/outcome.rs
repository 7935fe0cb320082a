//! How a command ended, and what it said.

use std::os::unix::process::ExitStatusExt;
use std::process::Output;

/// The end of a command.
#[derive(Debug)]
#[must_use = "how a command ended has to be checked"]
pub(crate) struct Outcome {
    /// Its exit status, or 128 and the signal that ended it.
    pub(crate) status: i32,
    /// Its standard output.
    pub(crate) out: String,
    /// Its standard error.
    pub(crate) err: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        let signal = || 128 + output.status.signal().unwrap_or_default();
        Outcome {
            status: output.status.code().unwrap_or_else(signal),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Outcome {
    /// It succeeded and said nothing on standard error. Answers its standard output.
    #[track_caller]
    pub(crate) fn done(self) -> String {
        assert!(self.status == 0 && self.err.is_empty(), "it did not succeed: {self:?}");
        self.out
    }

    /// The command line was wrong.
    #[track_caller]
    pub(crate) fn usage(self, phrase: &str) -> String {
        self.complains(2, "usage: ", phrase)
    }

    /// The caller may not have what was asked for.
    #[track_caller]
    pub(crate) fn refused(self, phrase: &str) -> String {
        self.complains(3, "refused: ", phrase)
    }

    /// It could not be done.
    #[track_caller]
    pub(crate) fn failed(self, phrase: &str) -> String {
        let line = self.complains(1, "", phrase);
        assert!(!line.contains("usage: ") && !line.contains("refused: "), "{line:?}");
        line
    }

    /// Exit status, one line on standard error that begins right and has the phrase, and nothing
    /// on standard output. Answers the line.
    #[track_caller]
    fn complains(self, status: i32, kind: &str, phrase: &str) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.is_one_line(), "not one line: {self:?}");
        assert!(self.err.starts_with(&format!("netsetgo: {kind}")), "{self:?}");
        assert!(self.err.contains(phrase), "no {phrase:?} in {self:?}");
        assert!(self.out.is_empty(), "{self:?}");
        self.err
    }

    /// Whether standard error has one whole line of the helper's, and no control character in it.
    pub(crate) fn is_one_line(&self) -> bool {
        let line = self.err.strip_prefix("netsetgo: ").and_then(|line| line.strip_suffix('\n'));
        line.is_some_and(|line| !line.is_empty() && !line.contains(char::is_control))
    }
}
