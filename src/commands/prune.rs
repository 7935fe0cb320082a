//! Mending the firewall, and taking out the published ports of containers that are gone.

use crate::network::Host;
use crate::privilege::caller::Caller;
use crate::privilege::capability;
use crate::report::audit::Trail;
use crate::report::error::Result;
use crate::request::policy::Grant;
use crate::{firewall, publish};

/// Takes out every published port whose container is gone, and puts the firewall's rules right if
/// somebody has flushed them, or has made the host a router. The caller has to be one whom the
/// policy allows containers; whose ports they were makes no difference, since they are nobody's now.
///
/// # Errors
/// Any [`crate::report::error::Error`].
pub fn prune(caller: &Caller) -> Result<()> {
    Trail::new("prune", caller.uid, None).ends(mend_and_take_out(caller))
}

fn mend_and_take_out(caller: &Caller) -> Result<()> {
    let privilege = caller.privilege()?;
    let grant = Grant::of(caller)?;
    privilege.give_up(caps::Capability::CAP_SYS_PTRACE)?;
    let mut host = Host::open(&privilege)?;
    firewall::mend(&mut host, &grant)?;
    publish::prune(&mut host)?;
    capability::give_up_all()
}
