//! Which rules there are, and which part of the policy each is for.

use super::bridged::*;
use super::routed::*;
use crate::kernel::nftables::expression::*;
use crate::kernel::nftables::{Chain, Rule};
use crate::network::lease::MARK;
use crate::request::policy::{Grant, HostAccess, Isolation, LocalUsers};

/// The version of the rules below. A rule of another version is not taken for one of these. To be raised
/// with every change of a rule.
const VERSION: u8 = 8;

/// What of the policy and of the host decides which rules there are.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    pub policy: &'a Grant,
    /// Containers get a way out by NAT, and ports can be published.
    pub nat: bool,
    /// The host forwards, for containers, or for others who must not get more by it.
    pub forwards: bool,
    /// The host was no router before this program switched forwarding on, and stays none for others.
    pub no_router: bool,
}

impl Setup<'_> {
    /// What tells the rules of this program's version, with the numbers in them, from others.
    pub fn version(&self) -> Vec<u8> {
        let Grant { connections, connections_to_port, fragments, mtu, .. } = *self.policy;
        let numbers = [connections, connections_to_port, fragments, mtu];
        [VERSION].into_iter().chain(numbers.into_iter().flat_map(u32::to_be_bytes)).collect()
    }

    /// The rules, chain by chain in their order.
    pub fn rules(&self) -> impl Iterator<Item = &'static Rules> {
        PARTS.iter().filter(|(wanted, _)| wanted(self)).flat_map(|(_, rules)| *rules)
    }
}

/// What a rule of this setup consists of.
type Statements = fn(&Setup) -> Statement;
pub type Rules = (Rule, Statements);

/// Whether a setup has these rules, and the rules.
type Part = (fn(&Setup) -> bool, &'static [Rules]);

const PARTS: [Part; 12] = [
    (|_| true, &NOT_PAST_THE_BRIDGE),
    (|setup| setup.forwards, &FORWARDING),
    (|setup| setup.forwards && setup.no_router, &NO_ROUTER_FOR_OTHERS),
    (|setup| setup.nat, &NAT),
    (|setup| setup.policy.fragments > 0, &SOME_FRAGMENTS),
    (|_| true, &LIMITS),
    (|setup| setup.policy.host_access == HostAccess::Published, &HOST_ACCESS),
    (|setup| setup.policy.local_users == LocalUsers::Owner, &LOCAL_USERS),
    (|setup| setup.policy.isolation != Isolation::None, &NOT_BY_WAY_OF_THE_HOST),
    (|_| true, &NO_FORGED_SOURCE),
    (|setup| setup.policy.isolation == Isolation::User, &USERS_APART),
    (|setup| setup.policy.isolation == Isolation::Container, &CONTAINERS_APART),
];

/// An interface that is a host end.
pub fn host_end(interface: Field) -> Statement {
    is(interface.bits(MARK), &MARK.to_ne_bytes())
}

/// A rule of a chain, with its comment.
pub const fn rule(chain: &'static Chain, comment: &'static str, statements: Statements) -> Rules {
    (Rule { chain, comment }, statements)
}
