//! Finding something free among many, in few looks.

use std::net::Ipv4Addr;

use crate::report::error::Result;
use crate::request::address::Cidr;

/// The subnet's addresses that a container can have, by their position from the lowest.
#[derive(Debug, Clone, Copy)]
pub struct Pool {
    bridge: Cidr,
}

impl Pool {
    /// The pool of the subnet of a bridge with this address.
    pub fn of(bridge: Cidr) -> Pool {
        Pool { bridge }
    }

    /// How many there are: all but the network's, the broadcast address and the bridge's own.
    pub fn len(self) -> u32 {
        let span = self.bridge.broadcast().to_bits() - self.bridge.network().to_bits();
        span.saturating_sub(2)
    }

    /// The address at `position`, counted from 0.
    pub fn nth(self, position: u32) -> Ipv4Addr {
        let plain = self.bridge.network().to_bits() + 1 + position;
        let past_the_bridge = u32::from(plain >= self.bridge.ip.to_bits());
        Ipv4Addr::from_bits(plain + past_the_bridge)
    }

    /// All of them, the lowest first.
    pub fn all(self) -> impl Iterator<Item = Ipv4Addr> {
        (0..self.len()).map(move |position| self.nth(position))
    }

    /// The same as ranges with their first and last address: below the bridge's address, and above it.
    pub fn ranges(self) -> Vec<(Ipv4Addr, Ipv4Addr)> {
        let beside =
            |step: i32| Ipv4Addr::from_bits(self.bridge.ip.to_bits().wrapping_add_signed(step));
        let (first, last) = (self.nth(0), self.nth(self.len().saturating_sub(1)));
        let ranges = [(first, last.min(beside(-1))), (first.max(beside(1)), last)];
        ranges.into_iter().filter(|(first, last)| first <= last).collect()
    }
}

/// The lowest free place of `count`, if they are filled from the lowest up. The number of looks grows with
/// the logarithm of how many are taken. Where places in between are free it may give a higher one. It gives
/// `None` only after a look at each.
pub fn lowest_free(count: u32, mut taken: impl FnMut(u32) -> Result<bool>) -> Result<Option<u32>> {
    // The place `low` is taken, and the place `high` is free.
    let mut low = None;
    let mut high = 0;
    while high < count && taken(high)? {
        low = Some(high);
        high = 2 * high + 1;
    }
    high = high.min(count);
    while let Some(taken_at) = low
        && high - taken_at > 1
    {
        let middle = taken_at.midpoint(high);
        if taken(middle)? {
            low = Some(middle);
        } else {
            high = middle;
        }
    }
    if high < count {
        return Ok(Some(high));
    }
    for place in 0..count {
        if !taken(place)? {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_place_is_found_with_few_looks() {
        for count in [1, 2, 5, 253, 1021] {
            for filled in 0..=count {
                let mut looks = 0;
                let found = lowest_free(count, |place| {
                    looks += 1;
                    Ok(place < filled)
                });
                assert_eq!(found.unwrap(), (filled < count).then_some(filled));
                assert!(filled == count || looks <= 21, "{count} {filled}: {looks}");
            }
        }
    }

    #[test]
    fn whatever_the_holes_full_is_said_only_when_it_is() {
        for count in 1..=11_u32 {
            for pattern in 0..1_u32 << count {
                let taken = |place: u32| pattern >> place & 1 == 1;
                let found = lowest_free(count, |place| Ok(taken(place))).unwrap();
                match found {
                    Some(place) => assert!(place < count && !taken(place)),
                    None => assert_eq!(pattern, (1 << count) - 1),
                }
            }
        }
    }

    #[test]
    fn the_pool_leaves_out_what_no_container_can_have() {
        for bridge in ["10.10.10.1/24", "10.10.10.254/24", "10.10.10.77/24", "10.0.0.2/30"] {
            let bridge: Cidr = bridge.parse().unwrap();
            let pool = Pool::of(bridge);
            let all: Vec<_> = pool.all().collect();
            let expected: Vec<_> = (bridge.network().to_bits()..=bridge.broadcast().to_bits())
                .map(Ipv4Addr::from_bits)
                .filter(|ip| bridge.is_host(*ip) && *ip != bridge.ip)
                .collect();
            assert_eq!(all, expected);
            let span = |(first, last): (Ipv4Addr, Ipv4Addr)| first.to_bits()..=last.to_bits();
            let ranges: Vec<_> =
                pool.ranges().into_iter().flat_map(span).map(Ipv4Addr::from).collect();
            assert_eq!(ranges, expected);
        }
    }
}
