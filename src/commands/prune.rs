//! Repairs the firewall, and takes out the published ports of containers that are gone.

use crate::network::{Host, port};
use crate::privilege::caller::Caller;
use crate::privilege::capability;
use crate::report::audit::Trail;
use crate::report::error::Result;
use crate::request::grant::granted_links;
use crate::request::policy::Grant;
use crate::{firewall, publish};

/// Takes out every published port whose container is gone. Repairs the firewall's rules, if they were
/// flushed, or if the admin has made the host a router. Any caller whom the policy allows containers
/// may do this: such ports belong to no user.
pub fn prune(caller: &Caller) -> Result<()> {
    Trail::new("prune", caller.uid, None).ends(step_by_step(caller))
}

fn step_by_step(caller: &Caller) -> Result<()> {
    let privilege = caller.privilege()?;
    let grant = Grant::of(caller)?;
    privilege.give_up(caps::Capability::CAP_SYS_PTRACE)?;
    let mut host = Host::open(&privilege)?;
    let unchanged = || grant.unchanged(Grant::of(caller)?);
    host.policy = Some(&unchanged);
    firewall::mend(&mut host, &grant)?;
    if caller.is_root() {
        firewall::overrule(&mut host, &grant)?;
        port::delete_closed(&mut host, granted_links()?)?;
    }
    publish::remove::prune(&mut host)?;
    capability::give_up_all()
}
