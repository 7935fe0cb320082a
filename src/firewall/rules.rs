//! The rules of the two tables, as nft lists them, and which part of the policy each rule is for.

use std::ops::RangeInclusive;

use nix::libc::{ETH_P_ARP, ETH_P_IP, RTN_LOCAL};

use super::elements;
use super::tables::*;
use crate::kernel::nftables::expression::*;
use crate::kernel::nftables::{Chain, NFPROTO_IPV4, Rule};
use crate::network::lease::{ADDRESS_BITS, MARK};
use crate::request::policy::{Grant, HostAccess, Isolation, LocalUsers};
use crate::request::ports::Protocol;

/// The version of the rules below. A rule of another version is not taken for one of these. To be raised
/// with every change of a rule.
const VERSION: u8 = 8;

/// What of the policy and of the host decides which rules there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// Containers get a way out by NAT, and ports can be published.
    pub nat: bool,
    /// The host was no router before this program switched forwarding on, and stays none for others.
    pub no_router: bool,
    isolation: Isolation,
    host_access: HostAccess,
    local_users: LocalUsers,
    connections: u32,
    connections_to_port: u32,
    fragments: u32,
    mtu: u32,
}

impl Setup {
    pub fn new(grant: &Grant, nat: bool, no_router: bool) -> Setup {
        Setup {
            nat,
            no_router,
            isolation: grant.isolation,
            host_access: grant.host_access,
            local_users: grant.local_users,
            connections: grant.connections,
            connections_to_port: grant.connections_to_port,
            fragments: grant.fragments,
            mtu: grant.mtu,
        }
    }

    /// What tells the rules of this program's version, with the numbers in them, from others.
    pub fn version(&self) -> Vec<u8> {
        let numbers = [self.connections, self.connections_to_port, self.fragments, self.mtu];
        [VERSION].into_iter().chain(numbers.into_iter().flat_map(u32::to_be_bytes)).collect()
    }

    /// The rules, chain by chain in their order.
    pub fn rules(&self) -> impl Iterator<Item = &'static Rules> {
        PARTS.iter().filter(|(wanted, _)| wanted(self)).flat_map(|(_, rules)| *rules)
    }
}

/// What a rule of this setup consists of.
type Statements = fn(&Setup) -> Statement;
type Rules = (Rule, Statements);

/// Whether a setup has these rules, and the rules.
type Part = (fn(&Setup) -> bool, &'static [Rules]);

const PARTS: [Part; 12] = [
    (|_| true, &NOT_PAST_THE_BRIDGE),
    (|setup| setup.nat, &FORWARDING),
    (|setup| setup.nat && setup.no_router, &NO_ROUTER_FOR_OTHERS),
    (|setup| setup.nat, &NAT),
    (|setup| setup.fragments > 0, &SOME_FRAGMENTS),
    (|_| true, &LIMITS),
    (|setup| setup.host_access == HostAccess::Published, &HOST_ACCESS),
    (|setup| setup.local_users == LocalUsers::Owner, &LOCAL_USERS),
    (|setup| setup.isolation != Isolation::None, &NOT_BY_WAY_OF_THE_HOST),
    (|_| true, &NO_FORGED_SOURCE),
    (|setup| setup.isolation == Isolation::User, &USERS_APART),
    (|setup| setup.isolation == Isolation::Container, &CONTAINERS_APART),
];

/// The host's ports that containers send from. A remote host sends its answers there, and the kernel
/// hands them to the container that began the flow. A container that could choose any port would so
/// receive what remote clients send to a published port, or to a program of the host. These are the ports
/// that programs in a container send from (`ip_local_port_range`), so they mostly stay as they are.
const CLIENT_PORTS: RangeInclusive<u16> = 32768..=60999;

/// The port that DHCP servers send from (RFC 2131).
const DHCP_SERVER: u16 = 67;

/// ICMP and types of its messages (RFC 792).
pub const ICMP: u8 = 1;
const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
/// Its code for a packet that is longer than the path allows (RFC 1191).
const TOO_LONG: u8 = 4;
const ECHO_REQUEST: u8 = 8;
const TIME_EXCEEDED: u8 = 11;

/// Protocols with ports that NAT knows (RFC 9260, RFC 3828, RFC 4340).
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;
const DCCP: u8 = 33;

/// The first byte of an IPv4 header without options (RFC 791).
const PLAIN_IPV4: u8 = 0x45;
/// The bits of [`IP_FRAGMENT`] that are not zero in a fragment, and in each but the first.
const IS_FRAGMENT: u32 = u32::from_ne_bytes([0, 0, 0x3f, 0xff]);
const FRAGMENT_OFFSET: u32 = u32::from_ne_bytes([0, 0, 0x1f, 0xff]);

/// `IPS_DST_NAT` and `IPS_CONFIRMED` (`linux/netfilter/nf_conntrack_common.h`). A connection is confirmed
/// when its first packet has passed all rules.
const DNAT: u32 = 0x20;
const CONFIRMED: u32 = 0x8;
/// `NF_CT_STATE_BIT` of `IP_CT_RELATED` and `IP_CT_NEW` (same file).
const RELATED: u32 = 0x4;
const NEW: u32 = 0x8;
/// `IP_CT_DIR_ORIGINAL`, `IP_CT_DIR_REPLY` (`linux/netfilter/nf_conntrack_tuple_common.h`).
const ORIGINAL: u8 = 0;
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

/// The bits of a length, one of which is set if it is much longer than this.
fn longer_than(length: u32) -> u32 {
    !((length + 1).next_power_of_two() - 1)
}

/// From an address that belongs to the bridge port.
fn from_own_address() -> Statement {
    [is(PROTOCOL, &ether_type(ETH_P_IP)), leased(ETHER_SADDR, SADDR)].concat()
}

/// The first packet of a connection from a container.
fn from_container() -> Statement {
    [none_of(CT_STATUS, CONFIRMED), within(&[IIFNAME], &BRIDGES)].concat()
}

/// Containers have the host's address on other networks, and one of its ports that are for clients.
fn behind_host(number: u8) -> Statement {
    [
        within(&[IIFNAME], &BRIDGES),
        not_within(&[OIFNAME], &BRIDGES),
        is(L4PROTO, &[number]),
        masquerade_to(CLIENT_PORTS),
    ]
    .concat()
}

const fn ether_type(number: i32) -> [u8; 2] {
    (number as u16).to_be_bytes()
}

#[rustfmt::skip] // A rule in two lines: it is read as nft lists it.
const NOT_PAST_THE_BRIDGE: [Rules; 1] = [
    rule(&ARRIVING, "routed from a bridge port itself, as its bridge is gone or the frame went past it",
        |_| [host_end(IIF), drop()].concat()),
];

#[rustfmt::skip]
const FORWARDING: [Rules; 17] = [
    rule(&ARRIVING, "127.0.0.1 is reached from the host alone, whatever route_localnet says",
        |_| [not_from_lo(), loopback(DADDR_PREFIX), drop()].concat()),
    rule(&ARRIVING, "and only the host sends from 127.0.0.1",
        |_| [not_from_lo(), loopback(SADDR_PREFIX), drop()].concat()),

    rule(&TO_HOST, "published ports, for packets from outside and from containers",
        |_| [local(FIB_DADDR_TYPE), jump(&TO_CONTAINER)].concat()),
    rule(&FROM_HOST, "published ports, for packets of the host itself",
        |_| [local(FIB_DADDR_TYPE), jump(&TO_CONTAINER)].concat()),
    rule(&TO_CONTAINER, "a port that is published on one address",
        |_| [ipv4(), dnat(&AT_ADDRESS, &PORTS)].concat()),
    rule(&TO_CONTAINER, "a port that is published on every address",
        |_| [ipv4(), dnat(&AT_EVERY_ADDRESS, &PORTS)].concat()),

    // Each packet of every connection passes here, so the commonest are asked for first.
    rule(&FORWARDED, "to containers",
        |_| [within(&[OIFNAME], &BRIDGES), jump(&COMING_IN)].concat()),
    rule(&FORWARDED, "from containers to other networks",
        |_| [within(&[IIFNAME], &BRIDGES), jump(&GETTING_OUT)].concat()),
    rule(&COMING_IN, "answers",
        |_| [is(CT_DIRECTION, &[REPLY]), accept()].concat()),
    rule(&COMING_IN, "a new connection from a container: not too many",
        |_| [from_container(), jump(&BEGINNING)].concat()),
    rule(&COMING_IN, "to a published port; the chain published decides how long",
        |_| [any_of(CT_STATUS, DNAT), accept()].concat()),
    rule(&COMING_IN, "between containers of one bridge",
        |_| [within(&[IIFNAME, OIFNAME], &WITHIN), accept()].concat()),
    rule(&COMING_IN, "nothing else reaches a container",
        |_| drop()),
    rule(&GETTING_OUT, "of a connection that was let out or in",
        |_| [any_of(CT_STATUS, CONFIRMED), accept()].concat()),
    rule(&GETTING_OUT, "a new connection: not too many",
        |_| [any_of(CT_STATE, NEW), jump(&BEGINNING)].concat()),
    rule(&GETTING_OUT, "a new connection, of a protocol that can be told from the host's own",
        |_| [any_of(CT_STATE, NEW), ipv4(), within(&[SADDR], &SUBNETS), within(&[L4PROTO], &PROTOCOLS),
            accept()].concat()),
    rule(&GETTING_OUT, "nothing else leaves; without a connection a packet is not masqueraded",
        |_| drop()),
];

#[rustfmt::skip]
const NO_ROUTER_FOR_OTHERS: [Rules; 5] = [
    rule(&FORWARDED, "netsetgo switched forwarding on (ip_forward is 2), for containers only",
        |_| [ipv4(), jump(&NO_ROUTER)].concat()),

    rule(&NO_ROUTER, "answers",
        |_| [is(CT_DIRECTION, &[REPLY]), accept()].concat()),
    rule(&NO_ROUTER, "what DNAT of others sends on",
        |_| [any_of(CT_STATUS, DNAT), accept()].concat()),
    rule(&NO_ROUTER, "from a bridge of others: they decide",
        |_| [is(IIFKIND, &elements::padded("bridge")), accept()].concat()),
    rule(&NO_ROUTER, "from any other interface the host routes nothing, as before",
        |_| drop()),
];

#[rustfmt::skip]
const NAT: [Rules; 15] = [
    rule(&LEAVING, "connections to published ports, both directions",
        |_| [any_of(CT_STATUS, DNAT), within(&[CT_REPLY_SADDR], &SUBNETS), jump(&PUBLISHED)].concat()),
    rule(&PUBLISHED, "the port is still published (tcp, one address)",
        |_| [protocol(Protocol::Tcp), within(&LIVE_AT_ADDRESS, &LIVE), accept()].concat()),
    rule(&PUBLISHED, "the port is still published (tcp, every address)",
        |_| [protocol(Protocol::Tcp), within(&LIVE_AT_EVERY_ADDRESS, &LIVE), accept()].concat()),
    rule(&PUBLISHED, "the port is still published (udp, one address)",
        |_| [protocol(Protocol::Udp), within(&LIVE_AT_ADDRESS, &LIVE), accept()].concat()),
    rule(&PUBLISHED, "the port is still published (udp, every address)",
        |_| [protocol(Protocol::Udp), within(&LIVE_AT_EVERY_ADDRESS, &LIVE), accept()].concat()),
    rule(&PUBLISHED, "errors about such a connection, while the container publishes a port",
        |_| [any_of(CT_STATE, RELATED), within(&[CT_REPLY_SADDR], &PUBLISHING), accept()].concat()),
    rule(&PUBLISHED, "the container is gone; the next one at its address gets nothing of this",
        |_| drop()),

    rule(&BEHIND_HOST, "containers have the host's address outside (tcp)",
        |_| behind_host(Protocol::Tcp.number())),
    rule(&BEHIND_HOST, "containers have the host's address outside (udp)",
        |_| behind_host(Protocol::Udp.number())),
    rule(&BEHIND_HOST, "containers have the host's address outside (sctp)",
        |_| behind_host(SCTP)),
    rule(&BEHIND_HOST, "containers have the host's address outside (udplite)",
        |_| behind_host(UDP_LITE)),
    rule(&BEHIND_HOST, "containers have the host's address outside (dccp)",
        |_| behind_host(DCCP)),
    rule(&BEHIND_HOST, "containers have the host's address outside (without ports)",
        |_| [within(&[IIFNAME], &BRIDGES), not_within(&[OIFNAME], &BRIDGES), masquerade()].concat()),
    rule(&BEHIND_HOST, "from container to published port: the answer has to come back through the host",
        |_| [within(&[OIFNAME], &BRIDGES), ipv4(), within(&[DADDR], &PUBLISHING),
            any_of(CT_STATUS, DNAT), ipv4(), within(&[SADDR], &SUBNETS), masquerade()].concat()),
    rule(&BEHIND_HOST, "from 127.0.0.1 to published port: likewise",
        |_| [within(&[OIFNAME], &BRIDGES), loopback(SADDR_PREFIX), masquerade()].concat()),
];

#[rustfmt::skip]
const LIMITS: [Rules; 6] = [
    rule(&ARRIVING, "fragments of a container take the memory that the host reassembles with",
        |_| [any_of(IP_FRAGMENT, IS_FRAGMENT), ipv4(), within(&[IIFNAME], &BRIDGES),
            jump(&IN_FRAGMENTS)].concat()),
    rule(&IN_FRAGMENTS, "no more fragments",
        |_| drop()),
    rule(&FOR_HOST, "a new connection from a container: not too many",
        |_| [from_container(), jump(&BEGINNING)].concat()),
    rule(&BEGINNING, "more connections of one container than the policy says (connections)",
        |setup| [ipv4(), more_connections(&[SADDR], &CONNECTIONS, setup.connections), drop()].concat()),
    rule(&BEGINNING, "more of them to one port than the policy says (connections_to_port)",
        |setup| [ipv4(), more_connections(&[SADDR, DADDR, L4PROTO, DPORT], &TO_PORT,
            setup.connections_to_port), drop()].concat()),
    rule(&BEGINNING, "as many pings of one host: an id is their port",
        |setup| [is(L4PROTO, &[ICMP]), ipv4(), more_connections(&[SADDR, DADDR], &TO_HOST_ICMP,
            setup.connections_to_port), drop()].concat()),
];

#[rustfmt::skip]
const SOME_FRAGMENTS: [Rules; 1] = [
    rule(&IN_FRAGMENTS, "no more of one user's a second than the policy says (fragments)",
        |_| [ipv4(), limit_of(SADDR, &FRAGMENTS), leave_chain()].concat()),
];

#[rustfmt::skip]
const HOST_ACCESS: [Rules; 4] = [
    rule(&FOR_HOST, "answers to connections that the host began",
        |_| [within(&[IIFNAME], &BRIDGES), is(CT_DIRECTION, &[REPLY]), accept()].concat()),
    rule(&FOR_HOST, "ping of the bridge's address",
        |_| [within(&[IIFNAME], &BRIDGES), ipv4(), is(L4PROTO, &[ICMP]), is(ICMP_TYPE, &[ECHO_REQUEST]),
            local(FIB_DADDR_IIF_TYPE), accept()].concat()),
    rule(&FOR_HOST, "name servers of the policy that are the host",
        |_| [within(&[IIFNAME], &BRIDGES), ipv4(), within(&[L4PROTO, DADDR, DPORT], &NAME_SERVERS),
            accept()].concat()),
    rule(&FOR_HOST, "nothing else of the host is for containers (host_access)",
        |_| [within(&[IIFNAME], &BRIDGES), is(ETHER_SADDR_PREFIX, &CONTAINER_MAC), drop()].concat()),
];

#[rustfmt::skip]
const LOCAL_USERS: [Rules; 1] = [
    rule(&LEAVING, "from a program of another user of the host, past the published ports (local_users)",
        |_| [is_not(SKUID, &[0; 4]), within(&[OIFNAME], &BRIDGES), is(CT_DIRECTION, &[ORIGINAL]),
            none_of(CT_STATUS, DNAT), ipv4(), not_within(&[DADDR, SKUID], &OWNED), drop()].concat()),
];

#[rustfmt::skip]
const NOT_BY_WAY_OF_THE_HOST: [Rules; 2] = [
    rule(&SENT_IPV4, "to another container, but by the host's Ethernet address: isolation would not see it",
        |_| [is(PKTTYPE, &[TO_THIS_HOST]), is(PROTOCOL, &ether_type(ETH_P_IP)),
            within(&[DADDR], &ADDRESSES), drop()].concat()),
    rule(&PASSED_ON, "to the host, which sent it to a published port (bridge-nf-call-iptables)",
        |_| [is(PKTTYPE, &[TO_THIS_HOST]), accept()].concat()),
];

#[rustfmt::skip]
const NO_FORGED_SOURCE: [Rules; 25] = [
    rule(&SENT, "not from a container",
        |_| [is_not(IIF.bits(MARK), &MARK.to_ne_bytes()), accept()].concat()),
    // The frame itself says what it is: a tagged one is something else. A packet that ends before the ports
    // takes the second rule.
    rule(&SENT, "IPv4: from here on its sender cannot change the headers",
        |_| [is(ETHER_TYPE, &ether_type(ETH_P_IP)), make_private(PORTS_END), jump(&SENT_IPV4)].concat()),
    rule(&SENT, "IPv4 that ends early, likewise",
        |_| [is(ETHER_TYPE, &ether_type(ETH_P_IP)), make_private(IPV4_END), jump(&SENT_IPV4)].concat()),
    rule(&SENT, "ARP, likewise",
        |_| [is(ETHER_TYPE, &ether_type(ETH_P_ARP)), make_private(PORTS_END), jump(&SENT_ARP)].concat()),
    rule(&SENT, "nothing else: no IPv6, no tagged frame, no STP",
        |_| drop()),
    rule(&SENT_IPV4, "no IPv4 options: the kernel looked for the ports before it had its own copy",
        |_| [is_not(IP_VERSION_LENGTH, &[PLAIN_IPV4]), drop()].concat()),
    rule(&SENT_IPV4, "from the addresses that belong to the bridge port",
        |_| [from_own_address(), jump(&OWN_IPV4)].concat()),
    rule(&SENT_IPV4, "from any other address",
        |_| drop()),
    rule(&OWN_IPV4, "fragments",
        |_| [any_of(IP_FRAGMENT, IS_FRAGMENT), jump(&FRAGMENT)].concat()),
    rule(&OWN_IPV4, "TCP",
        |_| [is(IP_PROTOCOL, &[Protocol::Tcp.number()]), accept()].concat()),
    rule(&OWN_IPV4, "ICMP says things of connections, which may be others'",
        |_| [is(IP_PROTOCOL, &[ICMP]), jump(&SENT_ICMP)].concat()),
    rule(&OWN_IPV4, "no DHCP server",
        |_| [is(PLAIN_SPORT, &DHCP_SERVER.to_be_bytes()), drop()].concat()),
    rule(&OWN_IPV4, "everything else from the own address",
        |_| accept()),
    rule(&FRAGMENT, "larger than a packet can be: it would fill the memory for reassembly",
        |setup| [any_of(LENGTH, longer_than(setup.mtu)), drop()].concat()),
    rule(&FRAGMENT, "after the first one, which decides",
        |_| [any_of(IP_FRAGMENT, FRAGMENT_OFFSET), accept()].concat()),
    rule(&SENT_ICMP, "echo request",
        |_| [is(PLAIN_ICMP_TYPE, &[ECHO_REQUEST]), accept()].concat()),
    rule(&SENT_ICMP, "echo reply",
        |_| [is(PLAIN_ICMP_TYPE, &[ECHO_REPLY]), accept()].concat()),
    rule(&SENT_ICMP, "no path MTU: a remote host would take it for the whole host's",
        |_| [is(PLAIN_ICMP_TYPE_CODE, &[UNREACHABLE, TOO_LONG]), drop()].concat()),
    rule(&SENT_ICMP, "destination unreachable",
        |_| [is(PLAIN_ICMP_TYPE, &[UNREACHABLE]), jump(&ICMP_ERROR)].concat()),
    rule(&SENT_ICMP, "time exceeded",
        |_| [is(PLAIN_ICMP_TYPE, &[TIME_EXCEEDED]), jump(&ICMP_ERROR)].concat()),
    rule(&SENT_ICMP, "no other message",
        |_| drop()),
    // An expression cannot compare two fields. So the error's source becomes what it should be; if it
    // was that, nothing is changed, and else it is no longer the bridge port's.
    rule(&ICMP_ERROR, "about a packet to this container: its destination is the error's source",
        |_| [make_private(INNER_PORTS_END), is(INNER_VERSION_LENGTH, &[PLAIN_IPV4]),
            copy(INNER_DADDR, SADDR), from_own_address(), accept()].concat()),
    rule(&ICMP_ERROR, "about a packet to another address, or one that cannot be told",
        |_| drop()),
    rule(&SENT_ARP, "from the addresses that belong to the bridge port, in the frame and in the message",
        |_| [is(ETHER_TYPE, &ether_type(ETH_P_ARP)), is(ARP_TYPES, &[0, 1, 8, 0]),
            is(ARP_LENGTHS, &[6, 4]), leased(ETHER_SADDR, ARP_SADDR_IP),
            leased(ARP_SADDR_ETHER, ARP_SADDR_IP), accept()].concat()),
    rule(&SENT_ARP, "from any other address",
        |_| drop()),
];

#[rustfmt::skip]
const USERS_APART: [Rules; 1] = [
    rule(&PASSED_ON, "from a container of one user to one of another (isolation)",
        |_| [host_end(IIF), host_end(OIF), not_within(&[IIFNAME, OIFNAME], &USERS), drop()].concat()),
];

#[rustfmt::skip]
const CONTAINERS_APART: [Rules; 1] = [
    rule(&PASSED_ON, "from one container to another (isolation)",
        |_| [host_end(IIF), host_end(OIF), drop()].concat()),
];

const fn rule(chain: &'static Chain, comment: &'static str, statements: Statements) -> Rules {
    (Rule { chain, comment }, statements)
}
