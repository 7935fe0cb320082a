//! The OCI hook: a runtime calls it at the start and at the end of a container.

use std::io::stdin;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::commands::attach::attach;
use crate::commands::prune::prune;
use crate::kernel::link::{self, Kind, Link};
use crate::kernel::netlink::Netlink;
use crate::network::lease::user_of;
use crate::network::take::NAP;
use crate::privilege::caller::Caller;
use crate::report;
use crate::report::error::{Failed, Result};
use crate::request::cli::{Attach, Which};
use crate::request::hook_state::State;

/// Attaches the container whose state is on standard input, with the options of the command line and,
/// with `-annotations`, of the container. If the container has stopped, takes out the published ports of
/// containers that are gone.
pub fn hook(caller: &Caller, mut request: Attach) -> Result<()> {
    let state = State::read(stdin().lock())?;
    match state.process()? {
        Some(pid) => {
            let ignored = state.complete(&mut request)?;
            attach(caller, &Which::Pid(pid), &request)?;
            if ignored {
                report::note(
                    "annotations netsetgo.* count only with the hook's argument -annotations",
                );
            }
            Ok(())
        }
        None => {
            see_off(caller, &state.name(), request.wait)?;
            prune(caller)
        }
    }
}

/// Waits, at most for `patience`, until the caller's containers of this name have no veth pair any more.
/// crun calls the hook as soon as the container's processes have ended. The kernel takes the network
/// namespace down some milliseconds later, and only then the published ports belong to a container
/// that is gone.
fn see_off(caller: &Caller, name: &str, patience: Duration) -> Result<()> {
    let failed = Failed::netlink("reading the links");
    let deadline = Instant::now() + patience;
    let is_own = |link: &Link| caller.is_root() || user_of(&link.name) == Some(caller.uid);
    let is_of_it = |link: &Link| link.alias.as_deref() == Some(name) && is_own(link);
    let mut netlink = Netlink::open().map_err(&failed)?;
    while link::all(&mut netlink, Kind::Veth).map_err(&failed)?.iter().any(is_of_it)
        && Instant::now() < deadline
    {
        sleep(NAP);
    }
    Ok(())
}
