//! Taking elements out.
//!
//! Whoever deletes one waits when he closes his socket until all processors have seen it, and so does
//! whoever else closes one just then (`nft_rcv_nl_event`, `net/netfilter/nf_tables_api.c`): 7 ms at
//! least, and 100 on a busy machine. For one that expires nobody waits, and since Linux 6.12 one that
//! stays can be made to, by adding it again. From its end on it matches nothing, is not told of, and
//! one like it can be created; the kernel takes it away later. So elements are told to expire, and
//! deleted only where that does nothing.
//!
//! The end of a timeout begins no generation. What still stands but does not stay must therefore be
//! told from what does: nobody may build on it, and an attach waits until it is gone.

use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;

use super::{all_of, element_of, is_done};
use crate::firewall::{LIVE, LIVE_AT, PORTS, PORTS_AT, PUBLISHING};
use crate::kernel::nftables::{Batch, Element, Set};
use crate::network::Host;
use crate::report::error::Result;
use crate::request::ports::MOST_PORTS;

/// An element, and what it is in.
pub type Placed = (&'static Set, Element);

/// What leads to containers: connections, and then the ports that begin them.
const LEADING: [&Set; 4] = [&LIVE, &LIVE_AT, &PORTS, &PORTS_AT];

/// How long to sleep between two looks at an element that expires, and how often at most: together a
/// few of the longest ticks that a kernel counts in.
const NAP: Duration = Duration::from_micros(500);
const NAPS: u32 = 80;

/// How many elements are told to expire at once: what one container can have, and what the kernel takes
/// in one message.
const AT_ONCE: usize = 2 * MOST_PORTS;

/// All that leads to containers and that `meant` says is meant.
pub fn leading(host: &mut Host, meant: impl Fn(&Element) -> bool) -> Result<Vec<Placed>> {
    let mut leading = Vec::new();
    for set in LEADING {
        let found = all_of(host, set)?.into_iter().filter(&meant);
        leading.extend(found.map(|element| (set, element)));
    }
    Ok(leading)
}

/// A run's way to take elements out.
#[derive(Default)]
pub struct Removal {
    /// Whether they are deleted, as they do not expire.
    deletes: bool,
}

impl Removal {
    /// Has elements go, of which there is at least one, if nothing was changed since this generation.
    /// What has come of it is to be looked at, and what is there yet to be given to this again.
    pub fn go_on(
        &mut self,
        host: &mut Host,
        mut elements: Vec<Placed>,
        generation: u32,
    ) -> Result<()> {
        elements.truncate(AT_ONCE);
        let mut batch = Batch::default();
        for set in LEADING.into_iter().chain([&PUBLISHING]) {
            let of_set = elements.iter().filter(|(other, _)| other.name == set.name);
            let of_set = of_set.map(|(_, element)| element.clone());
            if self.deletes {
                batch.delete(set, &of_set.collect::<Vec<_>>());
            } else {
                // To add one whose end has come meanwhile would be to create it.
                batch.expire(set, &of_set.filter(|element| !element.expires).collect::<Vec<_>>());
            }
        }
        if !batch.is_empty() {
            let committed = host.commit(batch, generation)?;
            if !self.deletes && committed.as_ref().is_err_and(|error| error.is(Errno::EINVAL)) {
                // A table of an earlier version's, or one that an old kernel took for the same.
                self.deletes = true;
            } else if !is_done(committed)? {
                return Ok(());
            }
        }
        if self.deletes {
            return Ok(());
        }
        for _ in 0..NAPS {
            let Some((set, Element { key, .. })) = elements.last() else { break };
            match element_of(host, set, key)? {
                Some(element) if element.expires => sleep(NAP),
                Some(_) => break,
                None => return Ok(()),
            }
        }
        self.deletes = true;
        Ok(())
    }
}
