//! DNAT of others. Their chains come before netsetgo's, so what they translate stays theirs, and a port
//! that such a rule takes is not published. Attributes have the numbers of
//! `linux/netfilter/nf_tables.h`.
//!
//! A rule takes a port if it compares the port, and nothing that can be judged keeps the packet from it.
//! An interface or a source cannot be judged: a rule takes the port also if it does so for some clients.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::NAME;
use super::others::{DPORT, Field, Has, Outcome, has, outcome, payload, reaches};
use crate::kernel::answer::Attributes;
use crate::kernel::netlink::Error;
use crate::kernel::nftables::{Answer, NFPROTO_INET, NFPROTO_IPV4, Ruleset, Table};
use crate::network::Host;
use crate::report::error::Result;
use crate::request::ports::Mapping;

/// A table of others with NAT.
pub struct Nat {
    family: u8,
    name: String,
    rules: Vec<Answer>,
    /// The only port that each rule is for, if there is one: with thousands of rules, most are passed over
    /// by this.
    only: Vec<Option<u16>>,
}

/// Where the rule is that takes what is sent to this port of one of these addresses. The rules are read
/// once in a run.
pub fn taker(host: &mut Host, to: &Mapping, addresses: &[Ipv4Addr]) -> Result<Option<String>> {
    let known = host.others_nat.take();
    let (found, tables) = host.ruleset("reading the other tables", |ruleset| {
        let tables = known.map_or_else(|| read(ruleset), Ok)?;
        let found = tables.iter().find_map(|Nat { family, name, rules, only }| {
            let mut has = has(ruleset, Table { family: *family, name });
            let (rule, _) = rules.iter().zip(only).find(|(rule, only)| {
                only.is_none_or(|only| only == to.host_port)
                    && takes(rule, rules, to, addresses, &mut has)
            })?;
            let family = if *family == NFPROTO_INET { "inet" } else { "ip" };
            Some(format!("table {family} {name}, chain {}", rule.name(2)))
        });
        Ok((found, tables))
    })?;
    host.others_nat = Some(tables);
    Ok(found)
}

fn read(ruleset: &mut Ruleset) -> Result<Vec<Nat>, Error> {
    let nat = |chain: Answer| {
        let ([family, ..], name) = (chain.header, chain.text(1)?);
        let others = [NFPROTO_INET, NFPROTO_IPV4].contains(&family) && name != NAME;
        (others && chain.text(7)? == "nat").then_some((family, name))
    };
    let mut tables = Vec::new();
    for (family, name) in ruleset.chains()?.into_iter().filter_map(nat).collect::<BTreeSet<_>>() {
        let table = Table { family, name: &name };
        if ruleset.has_table(table)? {
            let rules = ruleset.rules(table)?;
            let only = rules.iter().map(only_port).collect();
            tables.push(Nat { family, name, rules, only });
        }
    }
    Ok(tables)
}

/// The port of a rule that compares the port with one.
fn only_port(rule: &Answer) -> Option<u16> {
    let mut is_port = false;
    for (_, expression) in rule.nested(4).iter() {
        let expression = Attributes(expression);
        let (name, data) = (expression.name(1), expression.nested(2));
        if is_port && name == "cmp" && data.number_be(2) == Some(0) {
            return Some(u16::from_be_bytes(*data.nested(3).get(1)?.first_chunk()?));
        }
        let loads = |key| name == "payload" && data.number_be(key) == Some(2);
        is_port = loads(2) && loads(3);
    }
    None
}

/// Whether a rule takes this port, or a chain of these rules that it calls.
fn takes(
    rule: &Answer,
    rules: &[Answer],
    to: &Mapping,
    addresses: &[Ipv4Addr],
    has: &mut Has,
) -> bool {
    let end = |port, ip, has: &mut Has| {
        outcome(rule.get(4).unwrap_or_default(), &packet(to, port, ip), has)
    };
    // Most rules are for other ports, wherever a packet goes.
    if end(to.host_port, None, has) == Outcome::Other {
        return false;
    }
    addresses.iter().copied().map(Some).any(|ip| {
        // A rule that compares the port passes by a packet for some other one.
        [0, u16::MAX].iter().any(|port| end(*port, ip, has) == Outcome::Other)
            && match end(to.host_port, ip, has) {
                Outcome::Translate => true,
                Outcome::Call(chain) => {
                    let packet = packet(to, to.host_port, ip);
                    reaches(rules, &chain, &packet, has, &Outcome::Translate)
                }
                _ => false,
            }
    })
}

/// What is known of the first packet of a client. Payload is known by its header
/// (`enum nft_payload_bases`) and its offset there.
fn packet(to: &Mapping, port: u16, ip: Option<Ipv4Addr>) -> Vec<Field> {
    let protocol = vec![to.protocol.number()];
    let mut fields = vec![
        ("meta", 15, vec![NFPROTO_IPV4]),
        ("meta", 16, protocol.clone()),
        ("payload", payload(1, 9), protocol),
        ("payload", DPORT, port.to_be_bytes().to_vec()),
    ];
    fields.extend(ip.map(|ip| ("payload", payload(1, 16), ip.octets().to_vec())));
    fields
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader};

    use super::*;
    use crate::request::ports::Publication;

    /// An attribute.
    fn nla(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let padding = vec![0; value.len().next_multiple_of(4) - value.len()];
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value, &padding].concat()
    }

    /// An expression, with numbers, constants and texts as its attributes.
    fn expression(name: &str, data: &[Vec<u8>]) -> Vec<u8> {
        nla(1, &[nla(1, format!("{name}\0").as_bytes()), nla(2, &data.concat())].concat())
    }

    fn number(kind: u16, value: u32) -> Vec<u8> {
        nla(kind, &value.to_be_bytes())
    }

    fn constant(kind: u16, bytes: &[u8]) -> Vec<u8> {
        nla(kind, &nla(1, bytes))
    }

    fn load(name: &str, numbers: &[(u16, u32)]) -> Vec<u8> {
        let data: Vec<_> = numbers.iter().map(|(kind, value)| number(*kind, *value)).collect();
        expression(name, &data)
    }

    fn dport() -> Vec<u8> {
        load("payload", &[(1, 1), (2, 2), (3, 2), (4, 2)])
    }

    fn cmp(how: u32, bytes: &[u8]) -> Vec<u8> {
        expression("cmp", &[number(1, 1), number(2, how), constant(3, bytes)])
    }

    /// `xt_tcp` or `xt_udp`, for these destination ports.
    fn xt(name: &str, first: u16, last: u16, inverted: u8) -> Vec<u8> {
        let ports = [0, u16::MAX, first, last].map(u16::to_ne_bytes).concat();
        let end = if name == "tcp" { vec![0, 0, 0, inverted] } else { vec![inverted, 0] };
        expression(
            "match",
            &[nla(1, format!("{name}\0").as_bytes()), nla(3, &[ports, end].concat())],
        )
    }

    fn target(name: &str) -> Vec<u8> {
        expression("target", &[nla(1, format!("{name}\0").as_bytes())])
    }

    fn rule(chain: &str, expressions: &[Vec<u8>]) -> Answer {
        let chain = nla(2, format!("{chain}\0").as_bytes());
        let bytes = [vec![0; 4], chain, nla(4, &expressions.concat())].concat();
        Answer::deserialize(&NetlinkHeader::default(), &bytes).unwrap()
    }

    /// Whether the first of these rules takes the port; each set has this key alone.
    fn taken(rules: &[Answer], port: &str, key: &[u8]) -> bool {
        let to = port.parse::<Publication>().unwrap().0[0];
        let addresses =
            to.host_ip.map_or(vec![Ipv4Addr::LOCALHOST, [10, 1, 2, 3].into()], |ip| vec![ip]);
        let takes = takes(&rules[0], rules, &to, &addresses, &mut |_, asked| Some(asked == key));
        assert!(!takes || only_port(&rules[0]).is_none_or(|only| only == to.host_port));
        takes
    }

    #[track_caller]
    fn check(expressions: &[Vec<u8>], key: &[u8], yes: &[&str], no: &[&str]) {
        let rules = [rule("a", expressions)];
        for (ports, expected) in [(yes, true), (no, false)] {
            for port in ports {
                assert_eq!(taken(&rules, port, key), expected, "{port}");
            }
        }
        // What is cut short is judged as well, and changes nothing that comes after it.
        let whole = expressions.concat();
        for end in 0..whole.len() {
            taken(&[rule("a", &[whole[..end].to_vec()])], "80:1", key);
        }
    }

    #[test]
    fn a_rule_takes_the_port_that_it_compares() {
        let redir = || load("redir", &[]);
        check(&[dport(), cmp(0, &[0, 80]), redir()], &[], &["80:1", "80:1/udp"], &["81:1", "79:1"]);
        let dnat = load("nat", &[(1, 1)]);
        check(&[dport(), cmp(0, &[0, 80]), dnat], &[], &["80:1"], &["81:1"]);
        let snat = load("nat", &[(1, 0)]);
        check(&[dport(), cmp(0, &[0, 80]), snat], &[], &[], &["80:1"]);
        check(
            &[dport(), cmp(5, &[0, 80]), cmp(3, &[0, 90]), redir()],
            &[],
            &["80:1", "90:1"],
            &["91:1"],
        );
        check(&[dport(), cmp(2, &[0, 80]), redir()], &[], &["79:1"], &["80:1"]);
        check(&[dport(), cmp(4, &[0, 80]), redir()], &[], &["81:1", "65535:1"], &["80:1"]);
        let range = |how| {
            expression(
                "range",
                &[number(1, 1), number(2, how), constant(3, &[0, 80]), constant(4, &[0, 90])],
            )
        };
        check(&[dport(), range(0), redir()], &[], &["80:1", "90:1"], &["79:1", "91:1"]);
        // Every port but some, and another field that was loaded meanwhile, are no port.
        check(&[dport(), range(1), redir()], &[], &[], &["80:1", "91:1"]);
        check(
            &[dport(), load("meta", &[(1, 1), (2, 3)]), cmp(0, &[0, 80]), redir()],
            &[],
            &[],
            &["80:1"],
        );
        check(&[dport(), load("byteorder", &[]), cmp(0, &[0, 80]), redir()], &[], &[], &["80:1"]);
        check(&[redir()], &[], &[], &["80:1"]);
    }

    #[test]
    fn a_rule_for_one_port_is_passed_over_for_others() {
        let only = |how| only_port(&rule("a", &[dport(), cmp(how, &[31, 144])]));
        assert_eq!((only(0), only(1), only(5)), (Some(8080), None, None));
        let sport = load("payload", &[(1, 1), (2, 2), (3, 0), (4, 2)]);
        assert_eq!(only_port(&rule("a", &[sport, cmp(0, &[31, 144])])), None);
    }

    #[test]
    fn protocol_and_address_count_if_they_are_compared() {
        let redir = || load("redir", &[]);
        let port = || [dport(), cmp(0, &[0, 80]), redir()].concat();
        for protocol in
            [load("meta", &[(1, 1), (2, 16)]), load("payload", &[(1, 1), (2, 1), (3, 9), (4, 1)])]
        {
            check(&[protocol, cmp(0, &[17]), port()], &[], &["80:1/udp"], &["80:1"]);
        }
        let family = load("meta", &[(1, 1), (2, 15)]);
        check(&[family, cmp(0, &[10]), port()], &[], &[], &["80:1"]);
        let daddr = |length| load("payload", &[(1, 1), (2, 1), (3, 16), (4, length)]);
        let (here, elsewhere) = ("10.1.2.3:80:1", "127.0.0.1:80:1");
        check(&[daddr(4), cmp(0, &[10, 1, 2, 3]), port()], &[], &["80:1", here], &[elsewhere]);
        check(&[daddr(1), cmp(0, &[10]), port()], &[], &["80:1", here], &[elsewhere]);
        check(&[daddr(4), cmp(0, &[8, 8, 8, 8]), port()], &[], &[], &["80:1", here, elsewhere]);
        let mask = expression(
            "bitwise",
            &[number(1, 1), number(2, 1), constant(4, &[255, 240, 0, 0]), constant(5, &[0; 4])],
        );
        check(
            &[daddr(4), mask, cmp(0, &[10, 0, 0, 0]), port()],
            &[],
            &["80:1", here],
            &[elsewhere],
        );
    }

    #[test]
    fn sets_are_asked_for_the_whole_key() {
        let redir = || load("redir", &[]);
        let lookup =
            |flags| expression("lookup", &[nla(1, b"s\0"), number(2, 1), number(5, flags)]);
        check(&[dport(), lookup(0), redir()], &[0, 80], &["80:1"], &["81:1"]);
        check(&[dport(), lookup(1), redir()], &[0, 80], &[], &["80:1", "81:1"]);
        let protocol = load("meta", &[(1, 1), (2, 16)]);
        let beside = load("payload", &[(1, 9), (2, 2), (3, 2), (4, 2)]);
        let key = [17, 0, 0, 0, 0, 80, 0, 0];
        check(
            &[protocol, beside.clone(), lookup(0), redir()],
            &key,
            &["80:1/udp"],
            &["80:1", "81:1/udp"],
        );
        // With a part that is not known, it may have the port.
        let mark = load("meta", &[(1, 1), (2, 3)]);
        check(&[mark, beside, lookup(0), redir()], &[], &[], &["80:1"]);
    }

    #[test]
    fn matches_of_iptables_are_read() {
        for target in [target("DNAT"), target("REDIRECT")] {
            check(&[xt("tcp", 80, 80, 0), target.clone()], &[], &["80:1"], &["81:1"]);
            check(&[xt("udp", 80, 90, 0), target.clone()], &[], &["80:1", "90:1"], &["91:1"]);
            check(&[xt("udp", 0, 79, 2), target.clone()], &[], &["80:1"], &["79:1"]);
            check(&[xt("tcp", 0, u16::MAX, 0), target], &[], &[], &["80:1"]);
        }
        check(&[xt("tcp", 80, 80, 0), target("MASQUERADE")], &[], &[], &["80:1"]);
    }

    #[test]
    fn a_chain_is_followed_from_the_port() {
        let call = |chain: &str| {
            let verdict = [number(1, -3_i32 as u32), nla(2, format!("{chain}\0").as_bytes())];
            expression("immediate", &[number(1, 0), nla(2, &nla(2, &verdict.concat()))])
        };
        let port = |port| [dport(), cmp(0, &[0, port])].concat();
        let first = |chain: &str| rule("nodeports", &[port(80), call(chain)]);
        let rest =
            || [rule("b", &[call("c")]), rule("c", &[target("DNAT")]), rule("d", &[call("d")])];
        let taken = |chain, port| {
            let rules: Vec<_> = [first(chain)].into_iter().chain(rest()).collect();
            taken(&rules, port, &[])
        };
        assert!(taken("b", "80:1") && !taken("b", "81:1"));
        assert!(taken("c", "80:1") && !taken("d", "80:1") && !taken("e", "80:1"));
    }
}

/// What the fuzz targets check here.
#[cfg(fuzzing)]
#[path = "../../tests/fuzz/within/dnat.rs"]
pub mod fuzzing;
