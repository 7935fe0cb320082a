//! What the policy grants the caller, and what it grants of what the caller asks for.

use crate::privilege::caller::Caller;
use crate::report::error::{Failed, Refused, Result};
use crate::request::accounts;
use crate::request::address::Cidr;
use crate::request::cli::Attach;
use crate::request::policy::{Grant, PREFIXES, Policy};

impl Grant {
    /// What the policy grants the caller. Root is granted everything.
    pub fn of(caller: &Caller) -> Result<Grant> {
        let policy = match Policy::load()? {
            Some(policy) => policy,
            None if caller.is_root() => Policy::default(),
            None => return Err(Refused::NoPolicy.into()),
        };
        if caller.is_root() {
            return Ok(policy.network);
        }
        let uid = caller.uid;
        let entry = match policy.has_names() {
            false => policy.entry(uid, &[], "", ""),
            true => policy.entry(uid, &caller.gids()?, &accounts::passwd()?, &accounts::group()?),
        };
        let entry = entry.filter(|entry| entry.links > 0).ok_or(Refused::NotAllowed(uid))?;
        let (links, publish) = (entry.links, Some(entry.publish.clone()));
        Ok(Grant { uid, links, publish, ..policy.network })
    }

    /// The same, with the bridge and its address as the request has them.
    pub fn for_request(caller: &Caller, request: &Attach) -> Result<Grant> {
        Grant::of(caller)?.narrowed(caller, request)
    }

    /// Only root may ask for another bridge or bridge address than those of the policy. Of the
    /// addresses, this checks what arithmetic can tell.
    fn narrowed(mut self, caller: &Caller, request: &Attach) -> Result<Grant> {
        if let Some(bridge) = request.bridge_name.as_ref().filter(|name| **name != self.bridge) {
            if !caller.is_root() {
                return Err(Refused::Bridge(bridge.clone(), self.bridge).into());
            }
            self.bridge = bridge.clone();
        }
        if let Some(address) = request.bridge_address.filter(|address| *address != self.address) {
            if !caller.is_root() {
                return Err(Refused::BridgeAddress(address, self.address).into());
            }
            self.address = address;
        }
        check_bridge_address(self.address)?;
        if let Some(address) = request.container_address {
            check_container_address(self.address, address)?;
        }
        Ok(self)
    }
}

fn check_bridge_address(bridge: Cidr) -> Result<()> {
    let ip = bridge.ip;
    if !PREFIXES.contains(&bridge.prefix) {
        Err(Failed::SubnetSize(bridge).into())
    } else if !bridge.is_host(ip) || ip.is_loopback() || ip.is_multicast() || ip.octets()[0] == 0 {
        Err(Failed::NoHostAddress(bridge).into())
    } else {
        Ok(())
    }
}

/// Checks an address asked for with `-containerAddress` against the bridge's.
fn check_container_address(bridge: Cidr, asked: Cidr) -> Result<()> {
    let wrong = if !bridge.contains(asked.ip) {
        "not in the bridge's subnet"
    } else if asked.prefix != bridge.prefix {
        "its prefix length is not the bridge's"
    } else if asked.ip == bridge.ip {
        "the bridge's own address"
    } else if asked.ip == bridge.network() {
        "the network's own address"
    } else if asked.ip == bridge.broadcast() {
        "the broadcast address"
    } else {
        return Ok(());
    };
    Err(Failed::ContainerAddress(asked, wrong).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::cli::{self, Request};

    #[test]
    fn only_root_asks_for_another_bridge_than_the_policys() {
        let narrowed = |uid, arguments: &str| {
            let arguments = format!("-hook {arguments}");
            let Ok(Request::Hook(request)) = cli::parse(arguments.split(' ')) else {
                panic!("{arguments}")
            };
            Grant::default().narrowed(&Caller::for_test(uid), &request)
        };
        for other in ["-bridgeName tower", "-bridgeAddress 10.10.11.1/24"] {
            assert_eq!(narrowed(1000, other).unwrap_err().exit_status(), 3, "{other}");
            assert_ne!(narrowed(0, other).unwrap(), Grant::default(), "{other}");
        }
        for same in ["-bridgeName brg0", "-bridgeAddress 10.10.10.1/24"] {
            assert_eq!(narrowed(1000, same).unwrap(), Grant::default(), "{same}");
        }
        assert!(narrowed(0, "-bridgeAddress 10.0.0.1/21").is_err());
        assert!(narrowed(0, "-bridgeAddress 127.0.0.1/24").is_err());
    }

    #[test]
    fn an_address_that_no_container_can_have_is_said_to_be_so() {
        let check = |asked: &str| {
            let bridge = "10.10.10.1/24".parse().unwrap();
            check_container_address(bridge, asked.parse().unwrap())
                .map_err(|error| error.to_string())
        };
        assert!(check("10.10.10.2/24").is_ok());
        for (asked, why) in [
            ("10.10.11.2/24", "not in"),
            ("10.10.10.2/25", "prefix"),
            ("10.10.10.1/24", "own address"),
            ("10.10.10.0/24", "network"),
            ("10.10.10.255/24", "broadcast"),
        ] {
            assert!(check(asked).unwrap_err().contains(why), "{asked}");
        }
    }
}
