//! Whether the two tables are as they should be. Every attach asks, so that it finds out if the admin, or
//! another program, has flushed or changed them.

use super::elements;
use super::forwarding::Forwarding;
use super::routed::NO_ROUTER_FOR_OTHERS;
use super::rules::{Rules, Setup};
use super::tables::*;
use crate::kernel::netlink::Error;
use crate::kernel::nftables::{Chain, Element, RuleMark, Ruleset};
use crate::network::pool::Pool;
use crate::request::address::Cidr;
use crate::request::policy::{Grant, Isolation};

/// The tables as they are.
pub struct Seen<'a> {
    /// The generation of the ruleset before the look.
    pub generation: u32,
    /// The host's forwarding then.
    pub forwarding: Forwarding,
    pub setup: Setup<'a>,
    /// All rules are there, in their order and in force, and all elements that this network needs.
    pub whole: bool,
    /// The memory of who had which address is there.
    pub remembers: bool,
    /// The bridge table knows the user, or does not have to.
    pub knows_user: bool,
}

/// Looks at the tables. `setup` is what they should be for this policy and this state of forwarding.
pub fn look<'a>(
    ruleset: &mut Ruleset,
    grant: &'a Grant,
    forwarding: Forwarding,
    generation: u32,
) -> Result<Seen<'a>, Error> {
    let in_force = ruleset.has_table(ROUTED)? && ruleset.has_table(BRIDGED)?;
    let found = by_chain([ruleset.marks(ROUTED)?, ruleset.marks(BRIDGED)?].concat());
    let has = |chain: &Chain| {
        found
            .iter()
            .any(|(family, name, _)| (*family, name.as_str()) == (chain.table.family, chain.name))
    };
    // What an earlier policy with `nat = true` has brought about stays: the host may still forward.
    let nat = grant.nat || has(&BEHIND_HOST);
    let forwards = nat || forwarding == Forwarding::Ours;
    let mut setup = Setup { policy: grant, nat, forwards, no_router: true };
    let version = setup.version();
    setup.no_router = match forwarding {
        Forwarding::Off => true,
        // In tables for a router, a run that was stopped has written this over what the admin wrote.
        Forwarding::Ours => {
            let is_there = |(rule, _): &Rules| found.contains(&rule.mark(&version));
            !has(&FORWARDED) || has(&NO_ROUTER) || NO_ROUTER_FOR_OTHERS.iter().any(is_there)
        }
        Forwarding::Others => false,
    };
    let wanted = by_chain(setup.rules().map(|(rule, _)| rule.mark(&version)).collect());
    let mut remembers = true;
    for (set, key) in elements::memory(grant) {
        remembers = remembers && ruleset.element(set, key)?.is_some();
    }
    // Then the run that switches forwarding on commits first, which ends the transactions of those that
    // took the host for a router.
    let in_force = in_force && !(grant.nat && forwarding == Forwarding::Off);
    Ok(Seen {
        generation,
        forwarding,
        setup,
        // A chain or set that a rule names cannot be deleted while the rule is there; elements can.
        whole: in_force && found == wanted && remembers && has_elements(ruleset, grant)?,
        remembers,
        knows_user: grant.isolation != Isolation::User
            || ruleset.element(&USERS, elements::user(grant.uid).key)?.is_some(),
    })
}

/// Rules chain by chain, each chain's in their order.
fn by_chain(mut rules: Vec<RuleMark>) -> Vec<RuleMark> {
    rules.sort_by(|(family, chain, _), (other, others, _)| (family, chain).cmp(&(other, others)));
    rules
}

/// Whether the sets have what this network needs. Elements are made together, so of many one tells.
fn has_elements(ruleset: &mut Ruleset, grant: &Grant) -> Result<bool, Error> {
    let subnet = grant.address;
    let pool = Pool(subnet);
    for (set, element) in [
        (&BRIDGES, elements::bridge(&grant.bridge)),
        (&WITHIN, elements::within(&grant.bridge)),
        (&LEASES, elements::lease(pool.nth(0))),
    ] {
        if ruleset.element(set, element.key)?.is_none() {
            return Ok(false);
        }
    }
    for (set, wanted) in
        [(&NAME_SERVERS, elements::name_servers(grant)), (&PROTOCOLS, elements::protocols(grant))]
    {
        let found = ruleset.elements(set)?;
        // One that the policy no longer names is wrong as well.
        if found.len() != wanted.len() || !wanted.iter().all(|element| found.contains(element)) {
            return Ok(false);
        }
    }
    let apart = grant.isolation == Isolation::None
        || covers(&ruleset.elements(&ADDRESSES)?, &elements::addresses(pool), subnet);
    Ok(apart && covers(&ruleset.elements(&SUBNETS)?, &elements::subnet(subnet), subnet))
}

/// Whether a set of ranges has these, and no others in this subnet.
fn covers(ranges: &[Element], own: &[Element], subnet: Cidr) -> bool {
    let inside = |element: &Element| {
        let ip = element.ipv4();
        // At the subnet's beginning another range may end.
        let before = element.end && ip == Some(subnet.network());
        ip.is_some_and(|ip| subnet.contains(ip)) && !before
    };
    own.iter().all(|element| ranges.contains(element))
        && ranges.iter().all(|element| own.contains(element) || !inside(element))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_is_covered_by_its_own_range_alone() {
        let ranges = |subnets: &[&str]| -> Vec<Element> {
            subnets.iter().flat_map(|subnet| elements::subnet(subnet.parse().unwrap())).collect()
        };
        let subnet = "10.10.8.1/22".parse().unwrap();
        let own = elements::subnet(subnet);
        assert!(covers(&ranges(&["10.10.8.1/22"]), &own, subnet));
        assert!(covers(&ranges(&["10.10.12.1/24", "10.10.8.1/22", "10.10.7.1/24"]), &own, subnet));
        for others in
            [&[][..], &["10.10.8.1/24"], &["10.10.0.1/16"], &["10.10.8.1/22", "10.10.9.1/24"]]
        {
            assert!(!covers(&ranges(others), &own, subnet), "{others:?}");
        }
    }
}
