//! What spares a look at every rule. The kernel counts the transactions on its ruleset, whoever's they
//! are. A run that has seen the tables to be whole writes down under which number it has seen them so;
//! as long as that is the present one, nobody has changed anything, and no other run has to look.
//!
//! The note is an element of a set, and made by a transaction, which begins a new generation: it says
//! the next number, and counts only if nothing came between the look and the note. Notes of the past
//! are not taken out but left to expire: whoever deletes from the ruleset waits, when he closes his
//! socket, until all processors have seen it (`nft_rcv_nl_event`, some 10 ms).

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::rules::{SEEN, VERSION};
use crate::firewall::forwarding::Forwarding;
use crate::kernel::nftables::{Batch, Element};
use crate::request::policy::Grant;

/// Numbers begin anew when the host is started, and an administrator may load what he has saved.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// That the tables are whole under a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    /// Its number.
    pub generation: u32,
    /// What is vouched for.
    wanted: u64,
    /// Whether it is written down.
    pub written: bool,
}

/// What is to be vouched for: what `grant` and `forwarding` want, that nothing is in the way of the
/// bridge with this index, and the boot. `None` where that cannot be told: then every run looks.
pub fn wanted(grant: &Grant, bridge: u32, forwarding: Forwarding) -> Option<u64> {
    let boot = fs::read(BOOT_ID).ok()?;
    let Grant { bridge: name, address, nat, dns, isolation, host_access, .. } = grant;
    let wanted = (name.as_str(), address, nat, dns, isolation, host_access);
    let mut hasher = DefaultHasher::new();
    (VERSION, boot, wanted, bridge, forwarding).hash(&mut hasher);
    Some(hasher.finish())
}

impl Seal {
    /// That the tables are as is [`wanted`], under this generation.
    pub fn new(generation: u32, wanted: u64) -> Seal {
        Seal { generation, wanted, written: false }
    }

    /// The one after a transaction that leaves the tables whole, if it was carried out under this
    /// one's generation.
    pub fn after(self, generation: u32) -> Option<Seal> {
        // 0 is left out (`nf_tables_commit`, `net/netfilter/nf_tables_api.c`).
        let next = self.generation.checked_add(1).unwrap_or(1);
        (self.generation == generation).then_some(Seal { generation: next, ..self })
    }

    /// It as a key of the set.
    pub fn key(self) -> Vec<u8> {
        [&self.generation.to_ne_bytes()[..], &self.wanted.to_ne_bytes()].concat()
    }

    /// Has a transaction take it along, if it is written down.
    pub fn take_along(self, batch: &mut Batch) {
        if self.written {
            batch.add(&SEEN, &[Element::key(self.key())]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_is_of_the_generation_after_the_one_that_was_looked_at() {
        let seal = Seal::new(7, 9);
        assert_eq!(seal.after(7).map(|seal| seal.generation), Some(8));
        assert_eq!(seal.after(8), None);
        let last = Seal { generation: u32::MAX, ..seal };
        assert_eq!(last.after(u32::MAX).map(|seal| seal.generation), Some(1));
    }
}
