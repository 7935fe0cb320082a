//! Other firewalls on the host. What another table drops stays dropped, whatever netsetgo's tables
//! accept. Other tables are never changed; `-check` tells the admin. How their rules are judged serves
//! [`super::dnat`] as well.
//!
//! A chain with the policy drop certainly drops a packet if no rule that the packet reaches may accept it.
//! An expression that cannot be judged is one that may match. Attributes have the numbers of
//! `linux/netfilter/nf_tables.h`.

use std::cmp::Ordering;

use nix::libc::{RT_TABLE_MAIN, RTA_OIF};

use super::NAME;
use super::elements::padded;
use super::tables::set;
use crate::kernel::answer::Attributes;
use crate::kernel::link::By;
use crate::kernel::nftables::{Answer, NFPROTO_INET, NFPROTO_IPV4, Ruleset, Table};
use crate::kernel::route;
use crate::network::Host;
use crate::report::error::{Failed, Result};
use crate::request::policy::Grant;
use crate::request::ports::Protocol;

/// `NF_INET_FORWARD`, and `NF_DROP` as a chain's policy (`linux/netfilter.h`).
const FORWARD: u32 = 2;
const DROP: u32 = 0;

/// What to say of the first chain of another table that certainly drops, by its policy, the first packet
/// of a TCP connection from a container to the host's default route. What cannot be told is no finding.
pub fn find_drop(host: &mut Host, grant: &Grant) -> Result<Option<String>> {
    let packet = first_packet(host, grant)?;
    host.ruleset("reading the other tables", |ruleset| {
        for chain in ruleset.chains()? {
            let family = match chain.header {
                [NFPROTO_INET, ..] => "inet",
                [NFPROTO_IPV4, ..] => "ip",
                _ => continue,
            };
            let [table, name] = [1, 3].map(|kind| chain.text(kind).unwrap_or_default());
            let hook = chain.nested(4).number_be(1);
            let drops = (hook, chain.number_be(5)) == (Some(FORWARD), Some(DROP));
            let at = Table { family: chain.header[0], name: &table };
            if !drops || table == NAME || !ruleset.has_table(at)? {
                continue;
            }
            let rules = ruleset.rules(at)?;
            let mut has = has(ruleset, at);
            if !reaches(&rules, &name, &packet, &mut has, &Outcome::Accept) {
                let bridge = &grant.bridge;
                let accept = format!("nft insert rule {family} {table} {name}");
                return Ok(Some(format!(
                    "another firewall drops what containers send (table {family} {table}, \
                     chain {name}); to let it through: {accept} iifname {bridge} accept && \
                     {accept} oifname {bridge} accept"
                )));
            }
        }
        Ok(None)
    })
}

/// A field of a packet: the expression that loads it, the key (`NFT_META_*`, `NFT_CT_*`, [`payload`]), and
/// the value as the kernel loads it.
pub type Field = (&'static str, u32, Vec<u8>);

/// The key of payload: a header (`enum nft_payload_bases`), and an offset there.
pub const fn payload(header: u32, offset: u32) -> u32 {
    header | offset << 8
}

/// The destination port of TCP and of UDP.
pub const DPORT: u32 = payload(2, 2);

/// The bit of a new connection in `ct state` (`linux/netfilter/nf_conntrack_common.h`).
const NEW: u32 = 8;

/// What is known of the packet. Addresses and ports are not.
fn first_packet(host: &mut Host, grant: &Grant) -> Result<Vec<Field>> {
    let routes = route::routes(&mut host.netlink, RT_TABLE_MAIN)
        .map_err(Failed::netlink("reading the routes"))?;
    // The first one has the lowest metric.
    let default = routes.iter().find(|route| matches!(route.header, [_, 0, ..]));
    let out = default.and_then(|route| route.number(RTA_OIF)).map(By::Index);
    let out = out.map(|out| host.link(out)).transpose()?.flatten();
    let mut fields = vec![
        ("meta", 6, padded(grant.bridge.as_str())),
        ("meta", 15, vec![NFPROTO_IPV4]),
        ("meta", 16, vec![Protocol::Tcp.number()]),
        ("ct", 0, NEW.to_ne_bytes().to_vec()),
    ];
    fields.extend(out.as_ref().map(|out| ("meta", 7, padded(&out.name))));
    for (link, key) in [(host.link(By::Name(&grant.bridge))?, 4), (out, 5)] {
        fields.extend(link.map(|link| ("meta", key, link.index.to_ne_bytes().to_vec())));
    }
    Ok(fields)
}

/// Whether the set of this name has this key; `None` if that cannot be told.
pub type Has<'a> = dyn FnMut(&str, Vec<u8>) -> Option<bool> + 'a;

/// Asks the kernel about the sets of a table.
pub fn has(ruleset: &mut Ruleset, table: Table) -> impl FnMut(&str, Vec<u8>) -> Option<bool> {
    move |name, key| Some(ruleset.element(&set(table, name, &[], ""), key).ok()?.is_some())
}

/// Whether a rule that the packet may reach from this chain may have this outcome.
pub fn reaches(
    rules: &[Answer],
    base: &str,
    packet: &[Field],
    has: &mut Has,
    wanted: &Outcome,
) -> bool {
    let mut chains = vec![base.to_owned()];
    let mut walked = 0;
    while let Some(name) = chains.get(walked).cloned() {
        walked += 1;
        for rule in rules.iter().filter(|rule| rule.name(2) == name) {
            match outcome(rule.get(4).unwrap_or_default(), packet, has) {
                outcome if outcome == *wanted => return true,
                Outcome::Call(chain) if !chains.contains(&chain) => chains.push(chain),
                _ => {}
            }
        }
    }
    false
}

/// What a rule may do with the packet.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    Accept,
    /// Give it another destination.
    Translate,
    /// Jump to this chain, or go to it.
    Call(String),
    /// Drop it, leave the chain, or leave it to the next rule.
    Other,
}

pub fn outcome(expressions: &[u8], packet: &[Field], has: &mut Has) -> Outcome {
    const VERDICT: Option<u32> = Some(0);
    // `NFT_CMP_*`.
    const COMPARE: [fn(Ordering) -> bool; 6] = [
        Ordering::is_eq,
        Ordering::is_ne,
        Ordering::is_lt,
        Ordering::is_le,
        Ordering::is_gt,
        Ordering::is_ge,
    ];
    // The registers that were loaded, and the values that are known.
    let mut loaded: Vec<(Option<u32>, Option<Vec<u8>>)> = Vec::new();
    for (_, expression) in Attributes(expressions).iter() {
        let expression = Attributes(expression);
        let (name, data) = (expression.name(1), expression.nested(2));
        let number = |kind| data.number_be(kind);
        let constant = |kind| Some(data.nested(kind).get(1)?.to_vec());
        let last = loaded.last().filter(|(register, _)| *register == number(1));
        let value = last.and_then(|(_, value)| value.as_ref());
        let matches = match (name, data.name(1)) {
            ("meta" | "ct" | "payload", _) => {
                let key = number(2).map(|key| payload(key, number(3).unwrap_or_default()));
                let is_it = |(kind, own, _): &&Field| *kind == name && Some(*own) == key;
                let known = packet.iter().find(is_it).map(|(.., value)| value.clone());
                loaded.push((number(1), known));
                None
            }
            ("bitwise", _) => {
                let [mask, xor] = [4, 5].map(|kind| constant(kind).unwrap_or_default());
                let bits = |((value, mask), xor): ((&u8, u8), u8)| value & mask ^ xor;
                let masked = value.filter(|_| number(6).unwrap_or_default() == 0);
                let masked =
                    masked.map(|value| value.iter().zip(mask).zip(xor).map(bits).collect());
                loaded = vec![(number(2), masked)];
                None
            }
            ("cmp", _) => value.zip(constant(3)).and_then(|(value, to)| {
                let compare = COMPARE.get(usize::try_from(number(2)?).ok()?)?;
                Some(compare(value.get(..to.len())?.cmp(&to)))
            }),
            ("range", _) => {
                value.zip(constant(3).zip(constant(4))).and_then(|(value, (low, high))| {
                    let value = value.get(..low.len())?;
                    Some((&low[..]..=&high[..]).contains(&value) == (number(2) == Some(0)))
                })
            }
            ("lookup", set) => {
                let from = loaded.iter().rposition(|(register, _)| *register == number(2));
                let parts = from.map(|from| loaded.split_off(from)).unwrap_or_default();
                // Beside others, each part of a key fills whole registers.
                let whole = if parts.len() == 1 { 1 } else { 4 };
                let parts = parts.into_iter().map(|(_, part)| {
                    let mut part = part?;
                    part.resize(part.len().next_multiple_of(whole), 0);
                    Some(part)
                });
                let key = parts.collect::<Option<Vec<_>>>().filter(|key| !key.is_empty());
                let found = key.and_then(|key| has(set, key.concat()));
                loaded.clear();
                if number(3) == VERDICT && found != Some(false) {
                    return Outcome::Accept;
                }
                found.map(|found| found == (number(5).unwrap_or_default() == 0))
            }
            ("match", "conntrack") => is_new(data.get(3).unwrap_or_default()),
            ("match", protocol @ ("tcp" | "udp")) => {
                let is_port = |(kind, key, _): &&Field| (*kind, *key) == ("payload", DPORT);
                let port = packet.iter().find(is_port);
                port.and_then(|(.., port)| is_to(port, protocol, data.get(3).unwrap_or_default()))
            }
            ("redir", _) | ("target", "DNAT" | "REDIRECT") => return Outcome::Translate,
            // `NFT_NAT_DNAT`.
            ("nat", _) if number(1) == Some(1) => return Outcome::Translate,
            ("immediate", _) if number(1) == VERDICT => {
                let data = data.nested(2);
                let verdict = data.nested(2);
                return match (verdict.number_be(1).map(u32::cast_signed), verdict.text(2)) {
                    // `drop` and `return`; `jump` and `goto`.
                    (Some(0 | -5), _) => Outcome::Other,
                    (Some(-3 | -4), Some(chain)) => Outcome::Call(chain),
                    _ => Outcome::Accept,
                };
            }
            ("target", "LOG" | "REJECT") => None,
            ("target" | "queue", _) => return Outcome::Accept,
            _ => {
                loaded.clear();
                None
            }
        };
        if matches == Some(false) {
            return Outcome::Other;
        }
    }
    Outcome::Other
}

/// iptables' `-m conntrack --ctstate`: no match if the states are without `NEW` (`struct
/// xt_conntrack_mtinfo3`, `linux/netfilter/xt_conntrack.h`).
fn is_new(info: &[u8]) -> Option<bool> {
    let word = |at: usize| info.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes);
    let (compares_state, inverted, states) = (word(146)? & 1, word(148)? & 1, word(150)?);
    let matches = (u32::from(states) & NEW != 0) == (inverted == 0);
    Some(matches || compares_state == 0)
}

/// iptables' `-m tcp --dport` (`struct xt_tcp`, `struct xt_udp`, `linux/netfilter/xt_tcpudp.h`).
fn is_to(port: &[u8], protocol: &str, info: &[u8]) -> Option<bool> {
    let word = |at: usize| info.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes);
    let port = u16::from_be_bytes(*port.first_chunk()?);
    let inverted = info.get(if protocol == "tcp" { 11 } else { 8 })? & 2 != 0;
    Some((word(4)?..=word(6)?).contains(&port) != inverted)
}

/// What the fuzz targets check here.
#[cfg(fuzzing)]
#[path = "../../tests/fuzz/within/others.rs"]
pub mod fuzzing;
