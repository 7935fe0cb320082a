//! Changes of the ruleset without a lock. The kernel counts the transactions on it, and carries one out
//! only if the count (the generation) is still the one that the transaction names.

use nix::errno::Errno;

use crate::kernel::nftables::Batch;
use crate::network::Host;
use crate::network::take::TRIES;
use crate::report::error::{Failed, Result};
use crate::request::policy::Grant;

/// How often a run makes the tables anew that are flushed while it works.
const MENDS: usize = 10;

/// What a look at the ruleset and at the host leads to.
pub enum Step<T> {
    /// The work is done, with this outcome.
    Done(T),
    /// This transaction does the work, if nothing changes before it. Then this is the outcome.
    Commit(Batch, T),
    /// What was seen is over: look again.
    Again,
}

/// Repeats `step`, which looks at everything that its transaction depends on, until nothing has changed
/// between its look and its transaction. The policy is part of that: it is read again each time.
///
/// [`Failed::Contended`] if others are faster each time. An ENOENT is the step's own: what its
/// transaction adds to is not there.
pub fn optimistic<T>(
    host: &mut Host,
    mut step: impl FnMut(&mut Host) -> Result<Step<T>>,
) -> Result<T> {
    for _ in 0..TRIES {
        let generation = host.generation()?;
        host.check_policy()?;
        let (batch, outcome) = match step(host)? {
            Step::Done(outcome) => return Ok(outcome),
            Step::Again => continue,
            Step::Commit(batch, outcome) => (batch, outcome),
        };
        match host.ruleset("changing it", |ruleset| ruleset.commit(batch, generation)) {
            Ok(()) => {
                // A transaction of this run leaves whole what was whole. The next generation is its own.
                host.whole =
                    host.whole.map(|whole| whole.wrapping_add(u32::from(whole == generation)));
                return Ok(outcome);
            }
            Err(error) if error.is(Errno::ERESTART) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Failed::Contended.into())
}

/// The same where the tables must be there: they are made anew if they were flushed meanwhile.
pub fn optimistic_mending<T>(
    host: &mut Host,
    grant: &Grant,
    mut step: impl FnMut(&mut Host) -> Result<Step<T>>,
) -> Result<T> {
    for _ in 0..MENDS {
        match optimistic(host, &mut step) {
            Err(error) if error.is(Errno::ENOENT) => super::mend(host, grant)?,
            done => return done,
        }
    }
    optimistic(host, step)
}
