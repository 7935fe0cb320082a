//! The rules of the two tables, as nft lists them, and which part of the policy each rule is for.

use std::ops::RangeInclusive;

use nix::libc::{ETH_P_ARP, ETH_P_IP, RTN_LOCAL};

use super::tables::*;
use crate::kernel::nftables::expression::*;
use crate::kernel::nftables::{Chain, NFPROTO_IPV4, Rule};
use crate::network::lease::{ADDRESS_BITS, MARK};
use crate::request::policy::{HostAccess, Isolation};
use crate::request::ports::Protocol;

/// The version of the rules below. A rule of another version is not taken for one of these. To be raised
/// with every change of a rule.
pub const VERSION: u8 = 7;

/// What of the policy and of the host decides which rules there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// Containers get a way out by NAT, and ports can be published.
    pub nat: bool,
    /// The host was no router before this program switched forwarding on, and stays none for others.
    pub no_router: bool,
    pub isolation: Isolation,
    pub host_access: HostAccess,
}

/// The rules of `setup`, chain by chain in their order.
pub fn rules(setup: Setup) -> impl Iterator<Item = &'static Rule> {
    PARTS.iter().filter(move |(wanted, _)| wanted(setup)).flat_map(|(_, rules)| *rules)
}

/// The rules of every setup.
#[cfg(test)]
pub fn all_rules() -> impl Iterator<Item = &'static Rule> {
    PARTS.iter().flat_map(|(_, rules)| *rules)
}

/// Whether a setup has these rules, and the rules.
type Part = (fn(Setup) -> bool, &'static [Rule]);

const PARTS: [Part; 9] = [
    (|_| true, &NOT_PAST_THE_BRIDGE),
    (|setup| setup.nat, &FORWARDING),
    (|setup| setup.nat && setup.no_router, &NO_ROUTER_FOR_OTHERS),
    (|setup| setup.nat, &NAT),
    (|setup| setup.host_access == HostAccess::Published, &HOST_ACCESS),
    (|setup| setup.isolation != Isolation::None, &NOT_BY_WAY_OF_THE_HOST),
    (|_| true, &NO_FORGED_SOURCE),
    (|setup| setup.isolation == Isolation::User, &USERS_APART),
    (|setup| setup.isolation == Isolation::Container, &CONTAINERS_APART),
];

/// The host's ports that containers send from. A remote host sends its answers there, and the kernel
/// hands them to the container that began the flow. A container that could choose the port would so
/// receive what remote clients send to a published port, or to a program of the host. These are the lower
/// client ports (`ip_local_port_range`), below those that root gets a free one of.
const CLIENT_PORTS: RangeInclusive<u16> = 32768..=49151;

/// The port that DHCP servers send from (RFC 2131).
const DHCP_SERVER: u16 = 67;

/// ICMP and its echo request (RFC 792).
const ICMP: u8 = 1;
const ECHO_REQUEST: u8 = 8;

/// `IPS_DST_NAT` (`linux/netfilter/nf_conntrack_common.h`).
const DNAT: u32 = 0x20;
/// `NF_CT_STATE_BIT(IP_CT_RELATED)`, `NF_CT_STATE_INVALID_BIT`, `NF_CT_STATE_UNTRACKED_BIT` (same file).
const RELATED: u32 = 0x4;
const INVALID_OR_UNTRACKED: u32 = 0x1 | 0x40;
/// `IP_CT_DIR_REPLY` (`linux/netfilter/nf_conntrack_tuple_common.h`).
const REPLY: u8 = 1;

/// `PACKET_HOST` (`linux/if_packet.h`): a frame to this host's own Ethernet address.
const TO_THIS_HOST: u8 = 0;

/// How the Ethernet addresses of containers begin ([`crate::request::address::Mac`]).
const CONTAINER_MAC: [u8; 2] = [0x02, 0x4e];

const LOOPBACK_NET: u8 = 127;
const LOOPBACK_INDEX: u32 = 1;

/// A published port of one address, and of every address.
const AT_ADDRESS: [Field; 3] = [DADDR, L4PROTO, DPORT];
const AT_EVERY_ADDRESS: [Field; 3] = [DADDR.bits(0), L4PROTO, DPORT];

/// The connection of a published port of one address, and of every address.
const LIVE_AT_ADDRESS: [Field; 5] =
    [CT_ORIGINAL_DADDR, CT_PROTOCOL, CT_ORIGINAL_DPORT, CT_REPLY_SADDR, CT_REPLY_SPORT];
const LIVE_AT_EVERY_ADDRESS: [Field; 5] =
    [CT_ORIGINAL_DADDR.bits(0), CT_PROTOCOL, CT_ORIGINAL_DPORT, CT_REPLY_SADDR, CT_REPLY_SPORT];

fn ipv4() -> Statement {
    is(NFPROTO, &[NFPROTO_IPV4])
}

fn protocol(protocol: Protocol) -> Statement {
    is(L4PROTO, &[protocol.number()])
}

/// An interface that is a host end.
fn host_end(interface: Field) -> Statement {
    is(interface.bits(MARK), &MARK.to_ne_bytes())
}

/// A destination that is an address of the host's.
fn local(kind: Field) -> Statement {
    is(kind, &u32::from(RTN_LOCAL).to_ne_bytes())
}

fn loopback(address_prefix: Field) -> Statement {
    [ipv4(), is(address_prefix, &[LOOPBACK_NET])].concat()
}

fn not_from_lo() -> Statement {
    is_not(IIF, &LOOPBACK_INDEX.to_ne_bytes())
}

/// What [`LEASES`] says of a bridge port: these are the addresses that belong to it.
fn leased(ether: Field, ip: Field) -> Statement {
    within(&[IIF.bits(ADDRESS_BITS), ether, ip], &LEASES)
}

fn bridged_ipv4() -> Statement {
    is(PROTOCOL, &ether_type(ETH_P_IP))
}

const fn ether_type(number: i32) -> [u8; 2] {
    (number as u16).to_be_bytes()
}

#[rustfmt::skip] // A rule in two lines: it is read as nft lists it.
const NOT_PAST_THE_BRIDGE: [Rule; 1] = [
    rule(&ARRIVING, "routed from a bridge port itself, as its bridge is gone or the frame went past it",
        || [host_end(IIF), drop()].concat()),
];

#[rustfmt::skip]
const FORWARDING: [Rule; 15] = [
    rule(&ARRIVING, "127.0.0.1 is reached from the host alone, whatever route_localnet says",
        || [not_from_lo(), loopback(DADDR_PREFIX), drop()].concat()),
    rule(&ARRIVING, "and only the host sends from 127.0.0.1",
        || [not_from_lo(), loopback(SADDR_PREFIX), drop()].concat()),

    rule(&TO_HOST, "published ports, for packets from outside and from containers",
        || [local(FIB_DADDR_TYPE), jump(&TO_CONTAINER)].concat()),
    rule(&FROM_HOST, "published ports, for packets of the host itself",
        || [local(FIB_DADDR_TYPE), jump(&TO_CONTAINER)].concat()),
    rule(&TO_CONTAINER, "a port that is published on one address",
        || [ipv4(), dnat(&AT_ADDRESS, &PORTS)].concat()),
    rule(&TO_CONTAINER, "a port that is published on every address",
        || [ipv4(), dnat(&AT_EVERY_ADDRESS, &PORTS)].concat()),

    // Each packet of every connection passes here, so the commonest are asked for first.
    rule(&FORWARDED, "to containers",
        || [within(&[OIFNAME], &BRIDGES), jump(&COMING_IN)].concat()),
    rule(&FORWARDED, "from containers to other networks",
        || [within(&[IIFNAME], &BRIDGES), jump(&GETTING_OUT)].concat()),
    rule(&COMING_IN, "answers",
        || [is(CT_DIRECTION, &[REPLY]), accept()].concat()),
    rule(&COMING_IN, "to a published port; the chain published decides how long",
        || [any_of(CT_STATUS, DNAT), accept()].concat()),
    rule(&COMING_IN, "between containers of one bridge",
        || [within(&[IIFNAME, OIFNAME], &WITHIN), accept()].concat()),
    rule(&COMING_IN, "nothing else reaches a container",
        drop),
    rule(&GETTING_OUT, "without a connection a packet is not masqueraded",
        || [any_of(CT_STATE, INVALID_OR_UNTRACKED), drop()].concat()),
    rule(&GETTING_OUT, "from an address of a container",
        || [ipv4(), within(&[SADDR], &SUBNETS), accept()].concat()),
    rule(&GETTING_OUT, "nothing else leaves",
        drop),
];

#[rustfmt::skip]
const NO_ROUTER_FOR_OTHERS: [Rule; 5] = [
    rule(&FORWARDED, "netsetgo switched forwarding on (ip_forward is 2), for containers only",
        || [ipv4(), jump(&NO_ROUTER)].concat()),

    rule(&NO_ROUTER, "answers",
        || [is(CT_DIRECTION, &[REPLY]), accept()].concat()),
    rule(&NO_ROUTER, "what DNAT of others sends on",
        || [any_of(CT_STATUS, DNAT), accept()].concat()),
    rule(&NO_ROUTER, "from a bridge of others: they decide",
        || [is(IIFKIND, &kind("bridge")), accept()].concat()),
    rule(&NO_ROUTER, "from any other interface the host routes nothing, as before",
        drop),
];

#[rustfmt::skip]
const NAT: [Rule; 12] = [
    rule(&LEAVING, "connections to published ports, both directions",
        || [any_of(CT_STATUS, DNAT), within(&[CT_REPLY_SADDR], &SUBNETS), jump(&PUBLISHED)].concat()),
    rule(&PUBLISHED, "the port is still published (tcp, one address)",
        || [protocol(Protocol::Tcp), within(&LIVE_AT_ADDRESS, &LIVE), accept()].concat()),
    rule(&PUBLISHED, "the port is still published (tcp, every address)",
        || [protocol(Protocol::Tcp), within(&LIVE_AT_EVERY_ADDRESS, &LIVE), accept()].concat()),
    rule(&PUBLISHED, "the port is still published (udp, one address)",
        || [protocol(Protocol::Udp), within(&LIVE_AT_ADDRESS, &LIVE), accept()].concat()),
    rule(&PUBLISHED, "the port is still published (udp, every address)",
        || [protocol(Protocol::Udp), within(&LIVE_AT_EVERY_ADDRESS, &LIVE), accept()].concat()),
    rule(&PUBLISHED, "errors about such a connection, while the container publishes a port",
        || [any_of(CT_STATE, RELATED), within(&[CT_REPLY_SADDR], &PUBLISHING), accept()].concat()),
    rule(&PUBLISHED, "the container is gone; the next one at its address gets nothing of this",
        drop),

    rule(&BEHIND_HOST, "containers have the host's address outside (tcp)",
        || [within(&[IIFNAME], &BRIDGES), not_within(&[OIFNAME], &BRIDGES), protocol(Protocol::Tcp),
            masquerade_to(CLIENT_PORTS)].concat()),
    rule(&BEHIND_HOST, "containers have the host's address outside (udp)",
        || [within(&[IIFNAME], &BRIDGES), not_within(&[OIFNAME], &BRIDGES), protocol(Protocol::Udp),
            masquerade_to(CLIENT_PORTS)].concat()),
    rule(&BEHIND_HOST, "containers have the host's address outside (without ports)",
        || [within(&[IIFNAME], &BRIDGES), not_within(&[OIFNAME], &BRIDGES), masquerade()].concat()),
    rule(&BEHIND_HOST, "from container to published port: the answer has to come back through the host",
        || [within(&[OIFNAME], &BRIDGES), ipv4(), within(&[DADDR], &PUBLISHING),
            any_of(CT_STATUS, DNAT), ipv4(), within(&[SADDR], &SUBNETS), masquerade()].concat()),
    rule(&BEHIND_HOST, "from 127.0.0.1 to published port: likewise",
        || [within(&[OIFNAME], &BRIDGES), loopback(SADDR_PREFIX), masquerade()].concat()),
];

#[rustfmt::skip]
const HOST_ACCESS: [Rule; 4] = [
    rule(&FOR_HOST, "answers to connections that the host began",
        || [within(&[IIFNAME], &BRIDGES), is(CT_DIRECTION, &[REPLY]), accept()].concat()),
    rule(&FOR_HOST, "ping of the bridge's address",
        || [within(&[IIFNAME], &BRIDGES), ipv4(), is(L4PROTO, &[ICMP]), is(ICMP_TYPE, &[ECHO_REQUEST]),
            local(FIB_DADDR_IIF_TYPE), accept()].concat()),
    rule(&FOR_HOST, "name servers of the policy that are the host",
        || [within(&[IIFNAME], &BRIDGES), ipv4(), within(&[L4PROTO, DADDR, DPORT], &NAME_SERVERS),
            accept()].concat()),
    rule(&FOR_HOST, "nothing else of the host is for containers (host_access)",
        || [within(&[IIFNAME], &BRIDGES), is(ETHER_SADDR_PREFIX, &CONTAINER_MAC), drop()].concat()),
];

#[rustfmt::skip]
const NOT_BY_WAY_OF_THE_HOST: [Rule; 2] = [
    rule(&SENT_IPV4, "to another container, but by the host's Ethernet address: isolation would not see it",
        || [is(PKTTYPE, &[TO_THIS_HOST]), bridged_ipv4(), within(&[DADDR], &ADDRESSES), drop()].concat()),
    rule(&PASSED_ON, "to the host, which sent it to a published port (bridge-nf-call-iptables)",
        || [is(PKTTYPE, &[TO_THIS_HOST]), accept()].concat()),
];

#[rustfmt::skip]
const NO_FORGED_SOURCE: [Rule; 9] = [
    rule(&SENT, "not from a container",
        || [is_not(IIF.bits(MARK), &MARK.to_ne_bytes()), accept()].concat()),
    rule(&SENT, "IPv4, as the frame itself says: a tagged frame is something else",
        || [is(ETHER_TYPE, &ether_type(ETH_P_IP)), jump(&SENT_IPV4)].concat()),
    rule(&SENT, "ARP, likewise",
        || [is(ETHER_TYPE, &ether_type(ETH_P_ARP)), jump(&SENT_ARP)].concat()),
    rule(&SENT, "nothing else: no IPv6, no tagged frame, no STP",
        drop),
    rule(&SENT_IPV4, "no DHCP server",
        || [protocol(Protocol::Udp), is(SPORT, &DHCP_SERVER.to_be_bytes()), drop()].concat()),
    rule(&SENT_IPV4, "from the addresses that belong to the bridge port",
        || [bridged_ipv4(), leased(ETHER_SADDR, SADDR), accept()].concat()),
    rule(&SENT_IPV4, "from any other address",
        drop),
    rule(&SENT_ARP, "from the addresses that belong to the bridge port, in the frame and in the message",
        || [is(ETHER_TYPE, &ether_type(ETH_P_ARP)), is(ARP_TYPES, &[0, 1, 8, 0]),
            is(ARP_LENGTHS, &[6, 4]), leased(ETHER_SADDR, ARP_SADDR_IP),
            leased(ARP_SADDR_ETHER, ARP_SADDR_IP), accept()].concat()),
    rule(&SENT_ARP, "from any other address",
        drop),
];

#[rustfmt::skip]
const USERS_APART: [Rule; 1] = [
    rule(&PASSED_ON, "from a container of one user to one of another (isolation)",
        || [host_end(IIF), host_end(OIF), not_within(&[IIFNAME, OIFNAME], &USERS), drop()].concat()),
];

#[rustfmt::skip]
const CONTAINERS_APART: [Rule; 1] = [
    rule(&PASSED_ON, "from one container to another (isolation)",
        || [host_end(IIF), host_end(OIF), drop()].concat()),
];

const fn rule(chain: &'static Chain, comment: &'static str, statements: fn() -> Statement) -> Rule {
    Rule { chain, comment, statements }
}

/// The kind of an interface, filled up with zeros.
fn kind(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}
