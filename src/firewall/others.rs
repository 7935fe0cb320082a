//! Other firewalls on the host. What another table drops stays dropped, whatever netsetgo's tables
//! accept. Other tables are never changed; `-check` tells the admin.

use std::collections::BTreeMap;

use nix::libc::{RT_TABLE_MAIN, RTA_OIF};

use super::NAME;
use super::elements::padded;
use crate::kernel::answer::Attributes;
use crate::kernel::link::By;
use crate::kernel::nftables::{NFPROTO_INET, NFPROTO_IPV4, SeenChain, SeenRule, Table};
use crate::kernel::route;
use crate::network::Host;
use crate::report::error::{Failed, Result};
use crate::request::address::IfName;
use crate::request::policy::Grant;

/// `NF_INET_FORWARD`, and `NF_DROP` as a chain's policy (`linux/netfilter.h`).
const FORWARD: u32 = 2;
const DROP: u32 = 0;

/// What to say of the first chain of another table that certainly drops the first packet of a TCP
/// connection from a container to the host's default route. What cannot be told is no finding.
pub fn find_drop(host: &mut Host, grant: &Grant, bridge: Option<u32>) -> Result<Option<String>> {
    let packet = first_packet(grant, bridge, default_route(host)?);
    host.ruleset("reading the other tables", |ruleset| {
        for SeenChain { family, hook, policy, table, name } in ruleset.base_chains()? {
            let family_name = match family {
                NFPROTO_INET => "inet",
                NFPROTO_IPV4 => "ip",
                _ => continue,
            };
            let at = Table { family, name: &table };
            if hook != FORWARD || table == NAME || !ruleset.has_table(at)? {
                continue;
            }
            let rules = ruleset.rules(at)?;
            let mut has = |set: &str, key| ruleset.has_key(at, set, key).ok();
            let chains = BTreeMap::new();
            let fates = Walk { rules: &rules, packet: &packet, chains, has: &mut has }.chain(&name);
            if fates & ACCEPTED == 0 && (fates & RETURNED == 0 || policy == DROP) {
                let accept = |end: &str| {
                    let bridge = &grant.bridge;
                    format!("nft insert rule {family_name} {table} {name} {end} {bridge} accept")
                };
                return Ok(Some(format!(
                    "another firewall drops what containers send (table {family_name} {table}, \
                     chain {name}); to let it through: {} && {}",
                    accept("iifname"),
                    accept("oifname")
                )));
            }
        }
        Ok(None)
    })
}

/// A field of a packet: the expression that loads it, the key, and the value as the kernel loads it.
type Field = (&'static str, u32, Vec<u8>);

/// The bit of a new connection in `ct state` (`linux/netfilter/nf_conntrack_common.h`).
const NEW: u32 = 8;

/// What is known of the packet. Addresses and ports are not, and the way out may not be.
fn first_packet(grant: &Grant, bridge: Option<u32>, out: Option<(u32, IfName)>) -> Vec<Field> {
    // Keys are NFT_META_* and NFT_CT_* (`linux/netfilter/nf_tables.h`).
    let mut fields = vec![
        ("meta", 1, vec![8, 0]),
        ("meta", 6, padded(&grant.bridge)),
        ("meta", 15, vec![NFPROTO_IPV4]),
        ("meta", 16, vec![6]),
        ("ct", 0, NEW.to_ne_bytes().to_vec()),
        // No rule has redirected it.
        ("ct", 2, vec![0; 4]),
    ];
    fields.extend(bridge.map(|index| ("meta", 4, index.to_ne_bytes().to_vec())));
    if let Some((index, name)) = out {
        fields.push(("meta", 5, index.to_ne_bytes().to_vec()));
        fields.push(("meta", 7, padded(&name)));
    }
    fields
}

/// The interface of the default route: the first one has the lowest metric.
fn default_route(host: &mut Host) -> Result<Option<(u32, IfName)>> {
    let routes = route::routes(&mut host.netlink, RT_TABLE_MAIN)
        .map_err(Failed::netlink("reading the routes"))?;
    let default = routes.iter().find(|route| matches!(route.header, [_, 0, ..]));
    let Some(index) = default.and_then(|route| route.number(RTA_OIF)) else { return Ok(None) };
    let link = host.link(By::Index(index))?;
    Ok(link.and_then(|link| Some((index, link.name.parse().ok()?))))
}

/// What may become of the packet, as a set of bits: it is accepted or dropped, it leaves the chain by
/// `return` or at its end, or the next rule decides.
type Fates = u8;
const ACCEPTED: Fates = 1;
const DROPPED: Fates = 2;
const RETURNED: Fates = 4;
const CONTINUED: Fates = 8;
const ANY: Fates = 15;

/// The packet's walk through the chains of a table.
struct Walk<'a> {
    rules: &'a [SeenRule],
    packet: &'a [Field],
    /// The fates in the chains that have been walked.
    chains: BTreeMap<String, Fates>,
    /// Whether the set of this name has this key; `None` if that cannot be told.
    has: &'a mut dyn FnMut(&str, Vec<u8>) -> Option<bool>,
}

impl Walk<'_> {
    fn chain(&mut self, name: &str) -> Fates {
        if let Some(fates) = self.chains.get(name) {
            return *fates;
        }
        // For a chain that calls itself. The kernel lets no such chain exist.
        self.chains.insert(name.to_owned(), ANY);
        let (rules, mut fates) = (self.rules, CONTINUED);
        for rule in rules.iter().filter(|rule| rule.chain == name) {
            if fates & CONTINUED != 0 {
                fates = fates & !CONTINUED | self.rule(&rule.expressions);
            }
        }
        let fates = exchange(CONTINUED, RETURNED, fates);
        self.chains.insert(name.to_owned(), fates);
        fates
    }

    /// The attributes of each expression are known by their numbers, as `enum nft_cmp_attributes` has them
    /// (`linux/netfilter/nf_tables.h`).
    fn rule(&mut self, expressions: &[u8]) -> Fates {
        const VERDICT: Option<u32> = Some(0);
        // The register that was loaded last, and its value if that is known.
        let mut loaded: (Option<u32>, Option<Vec<u8>>) = (None, None);
        // What is possible as well after an expression that may or may not match.
        let mut otherwise = 0;
        for (_, expression) in Attributes::read(expressions).iter() {
            let (name, data) = (text(expression, 1), part(expression, &[2]));
            let number = |kind| number(&data, kind);
            let value = loaded.1.take();
            let from = |register| value.clone().filter(|_| loaded.0 == number(register));
            let matches = match (name.as_str(), text(&data, 1).as_str()) {
                ("counter" | "log", _) | ("target", "LOG") | ("match", "comment") => Some(true),
                ("reject", _) | ("target", "REJECT") => return DROPPED | otherwise,
                ("queue" | "target", _) => return ANY,
                ("immediate", _) if number(1) == VERDICT => {
                    return self.verdict(&part(&data, &[2, 2])) | otherwise;
                }
                ("meta" | "ct", _) => {
                    let field = |(kind, key, _): &&Field| *kind == name && Some(*key) == number(2);
                    let found = self.packet.iter().find(field);
                    loaded = (number(1), found.map(|(.., value)| value.clone()));
                    Some(true)
                }
                ("bitwise", _) if number(6).unwrap_or_default() == 0 => {
                    let (mask, xor) = (part(&data, &[4, 1]), part(&data, &[5, 1]));
                    let bits = from(1).map(|value| {
                        let bytes = value.iter().zip(&mask).zip(&xor);
                        bytes.map(|((value, mask), xor)| value & mask ^ xor).collect()
                    });
                    loaded = (number(2), bits);
                    Some(true)
                }
                ("cmp", _) => match (number(2), part(&data, &[3, 1])) {
                    (Some(how @ 0..=1), to) => {
                        from(1).map(|value| value.starts_with(&to) == (how == 0))
                    }
                    _ => None,
                },
                ("lookup", set) => {
                    let found = from(2).and_then(|key| (self.has)(set, key));
                    if number(3) == VERDICT && found != Some(false) {
                        return ANY;
                    }
                    found.map(|found| found == (number(5).unwrap_or_default() == 0))
                }
                ("match", "conntrack") => is_new(&part(&data, &[3])),
                _ => None,
            };
            match matches {
                Some(true) => {}
                Some(false) => return CONTINUED,
                None => otherwise = CONTINUED,
            }
        }
        CONTINUED
    }

    fn verdict(&mut self, verdict: &[u8]) -> Fates {
        let chain = text(verdict, 2);
        match number(verdict, 1).map(u32::cast_signed) {
            Some(0) => DROPPED,
            Some(1) => ACCEPTED,
            // `jump`, `goto`, `return`.
            Some(-3) => exchange(RETURNED, CONTINUED, self.chain(&chain)),
            Some(-4) => self.chain(&chain),
            Some(-5) => RETURNED,
            _ => ANY,
        }
    }
}

/// The same fates, with the fate `new` instead of `old`.
fn exchange(old: Fates, new: Fates, fates: Fates) -> Fates {
    if fates & old == 0 { fates } else { fates & !old | new }
}

/// iptables' `-m conntrack --ctstate`: no match if the states are without `NEW` (`struct
/// xt_conntrack_mtinfo3`, `linux/netfilter/xt_conntrack.h`).
fn is_new(info: &[u8]) -> Option<bool> {
    let word = |at: usize| info.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes);
    let (compares_state, inverted, states) = (word(146)? & 1, word(148)? & 1, word(150)?);
    let matches = (u32::from(states) & NEW != 0) == (inverted == 0);
    if compares_state == 1 && !matches { Some(false) } else { None }
}

/// The value of an attribute that is in other attributes, by their kinds; empty if it is not there.
fn part(bytes: &[u8], path: &[u16]) -> Vec<u8> {
    path.iter().fold(bytes.to_vec(), |bytes, kind| {
        Attributes::read(&bytes).get(*kind).unwrap_or_default().to_vec()
    })
}

fn number(bytes: &[u8], kind: u16) -> Option<u32> {
    Attributes::read(bytes).number_be(kind)
}

fn text(bytes: &[u8], kind: u16) -> String {
    Attributes::read(bytes).text(kind).unwrap_or_default()
}

/// What the fuzz targets check here.
#[cfg(fuzzing)]
#[path = "../../tests/fuzz/within/others.rs"]
pub mod fuzzing;
