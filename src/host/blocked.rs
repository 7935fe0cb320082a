//! Other firewalls on the host. What they drop stays dropped, whatever ours lets through; nothing of
//! theirs is edited, but it is said.

use std::fmt;

use super::Host;
use super::firewall::TABLE;
use crate::address::IfName;
use crate::error::Result;
use crate::nftables::{NFPROTO_INET, NFPROTO_IPV4};
use crate::policy::Grant;

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
/// rule in its table that is about the bridge. What cannot be told is taken for no obstacle.
///
/// # Errors
/// [`crate::error::Failed::Caller`].
pub fn way_out(host: &mut Host, grant: &Grant) -> Result<Option<Blocked>> {
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
            let (table, name) = (text(&chain.table), text(&chain.name));
            if (chain.hook, chain.policy) != (FORWARD, DROP) || table == TABLE {
                continue;
            }
            let rules = ruleset.rules_of(chain.family, &chain.table)?;
            if !rules.iter().any(|rule| is_about(&rule.expressions, &grant.bridge)) {
                let bridge = grant.bridge.clone();
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

/// Whether a rule names the bridge, or looks something up in a set, where that may be.
fn is_about(expressions: &[u8], bridge: &IfName) -> bool {
    let contain = |needle: &[u8]| expressions.windows(needle.len()).any(|part| part == needle);
    contain(&[bridge.as_str().as_bytes(), &[0]].concat()) || contain(b"lookup\0")
}

/// A name that ends with a zero.
fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned()
}
