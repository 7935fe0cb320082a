//! The OCI hook: a runtime calls it at the start and at the end of a container.

use std::io::stdin;
use std::thread::sleep;
use std::time::{Duration, Instant};

use caps::Capability;

use crate::commands::attach::attach;
use crate::commands::delete::{is_of, take_out};
use crate::commands::list::processes;
use crate::commands::prune::prune;
use crate::kernel::link::Link;
use crate::network::Host;
use crate::network::take::NAP;
use crate::privilege::caller::Caller;
use crate::privilege::capability;
use crate::report;
use crate::report::audit::Trail;
use crate::report::error::{Error, Result};
use crate::request::cli::{Attach, Which};
use crate::request::hook_state::State;
use crate::request::policy::Grant;

/// Attaches the container whose state is on standard input, with the options of the command line and,
/// with `-annotations`, of the container. If the container has stopped, takes its veth pair away,
/// and the published ports of containers that are gone.
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
            let trail = Trail::new("delete", caller.uid, None);
            trail.ends(see_off(caller, &state.name(), request.wait, &trail))?;
            match Grant::of(caller) {
                // To prune is for users whom the policy allows containers.
                Err(Error::Refused(_)) => capability::give_up_all(),
                _ => prune(caller),
            }
        }
    }
}

/// Takes the veth pairs of the caller's containers of this name away, once no process is in them any more,
/// and waits for that at most for `patience`. A further container may share the network namespace.
fn see_off(caller: &Caller, name: &str, patience: Duration, trail: &Trail) -> Result<()> {
    let deadline = Instant::now() + patience;
    let privilege = caller.privilege()?;
    privilege.give_up(Capability::CAP_SYS_PTRACE)?;
    let mut host = Host::open(&privilege)?;
    let is_of_it = |link: &Link| link.alias.as_deref() == Some(name) && is_of(caller.uid, link);
    loop {
        let mut all = host.leases()?;
        if !all.iter().any(is_of_it) {
            return Ok(());
        }
        let processes = processes(&mut host.netlink);
        let lives = |link: &Link| {
            link.peer_namespace.is_some_and(|namespace| processes.contains_key(&namespace))
        };
        take_out(&mut host, trail, &all, |link| is_of_it(link) && !lives(link))?;
        all.retain(|link| is_of_it(link) && lives(link));
        if all.is_empty() || Instant::now() >= deadline {
            return Ok(());
        }
        sleep(NAP);
    }
}
