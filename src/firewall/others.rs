//! Other firewalls on the host. What they drop stays dropped, whatever ours lets through; nothing of
//! theirs is edited, but it is said.

use std::fmt;

use super::NAME;
use crate::kernel::nftables::{NFPROTO_INET, NFPROTO_IPV4, SeenChain};
use crate::network::Host;
use crate::report::error::Result;
use crate::request::address::IfName;
use crate::request::policy::Grant;

/// `NF_INET_FORWARD`, and `NF_DROP` as a chain's policy (`linux/netfilter.h`).
const FORWARD: u32 = 2;
const DROP: u32 = 0;

/// Somebody else's chain that drops what is forwarded.
#[derive(Debug, PartialEq)]
pub struct Blocked {
    family: &'static str,
    table: String,
    chain: String,
    bridge: IfName,
}

/// The first chain of another table that visibly drops what containers send: by its policy, with no
/// rule in its table that is about the bridge, whose index is `index` if it is there. What cannot be told is taken for no obstacle.
///
/// # Errors
/// [`crate::report::error::Failed::Caller`].
pub fn way_out(host: &mut Host, grant: &Grant, index: Option<u32>) -> Result<Option<Blocked>> {
    if !grant.nat {
        return Ok(None);
    }
    let found = host.ruleset(|ruleset| {
        for chain in ruleset.base_chains()? {
            let family = match chain.family {
                NFPROTO_INET => "inet",
                NFPROTO_IPV4 => "ip",
                _ => continue,
            };
            if (chain.hook, chain.policy) != (FORWARD, DROP) || chain.table == NAME {
                continue;
            }
            let rules = ruleset.rules_of(chain.family, &chain.table)?;
            if !rules.iter().any(|rule| is_about(&rule.expressions, grant, index)) {
                let bridge = grant.bridge.clone();
                let SeenChain { table, name, .. } = chain;
                return Ok(Some(Blocked { family, table, chain: name, bridge }));
            }
        }
        Ok(None)
    })?;
    // It is a courtesy: where it cannot be found out, the container is attached all the same.
    Ok(found.unwrap_or(None))
}

impl fmt::Display for Blocked {
    /// What there is to say about it, with what mends it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Blocked { family, table, chain, bridge } = self;
        let insert =
            |end: &str| format!("nft insert rule {family} {table} {chain} {end} {bridge} accept");
        write!(
            f,
            "another firewall drops what containers send (table {family} {table}, chain \
             {chain}, policy drop); to let it through: {} && {}",
            insert("iifname"),
            insert("oifname")
        )
    }
}

/// Whether a rule is about the containers, as far as that can be told from what it compares with: the
/// bridge's name, a part of it or its index, or a part of the subnet. One that looks something up in
/// a set may be.
fn is_about(expressions: &[u8], grant: &Grant, index: Option<u32>) -> bool {
    let contain = |needle: &[u8]| expressions.windows(needle.len()).any(|part| part == needle);
    let compare = |value: &[u8]| {
        // NFTA_DATA_VALUE, after its length.
        let length = u16::try_from(4 + value.len()).unwrap_or_default().to_ne_bytes();
        contain(&[&length[..], &1_u16.to_ne_bytes(), value].concat())
    };
    let begins = |whole: &[u8]| (1..=whole.len()).any(|end| whole.get(..end).is_some_and(compare));
    let name = grant.bridge.as_str().as_bytes();
    contain(b"lookup\0")
        || contain(&[name, &[0]].concat())
        || begins(name)
        || begins(&grant.address.network().octets())
        || index.is_some_and(|index| compare(&index.to_ne_bytes()))
}

/// What the fuzz targets check here.
#[cfg(fuzzing)]
#[path = "../../tests/fuzz/within/others.rs"]
pub mod fuzzing;
