//! Finding something free among many, in few looks.

use std::net::Ipv4Addr;

use crate::report::error::Result;
use crate::request::address::Cidr;

/// The addresses that a container can have in the subnet of a bridge with this address, by their position
/// from the lowest.
#[derive(Debug, Clone, Copy)]
pub struct Pool(pub Cidr);

impl Pool {
    /// How many there are: all but the network's, the broadcast address and the bridge's own.
    pub fn len(self) -> u32 {
        let span = self.0.broadcast().to_bits() - self.0.network().to_bits();
        span.saturating_sub(2)
    }

    /// The address at `position`, counted from 0.
    pub fn nth(self, position: u32) -> Ipv4Addr {
        let plain = self.0.network().to_bits() + 1 + position;
        let past_the_bridge = u32::from(plain >= self.0.ip.to_bits());
        Ipv4Addr::from_bits(plain + past_the_bridge)
    }

    /// All of them, the lowest first.
    pub fn all(self) -> impl Iterator<Item = Ipv4Addr> {
        (0..self.len()).map(move |position| self.nth(position))
    }

    /// The same as ranges with their first and last address: below the bridge's address, and above it.
    pub fn ranges(self) -> Vec<(Ipv4Addr, Ipv4Addr)> {
        let beside = |step: i32| Ipv4Addr::from_bits(self.0.ip.to_bits().wrapping_add_signed(step));
        let (first, last) = (self.nth(0), self.nth(self.len().saturating_sub(1)));
        let ranges = [(first, last.min(beside(-1))), (first.max(beside(1)), last)];
        ranges.into_iter().filter(|(first, last)| first <= last).collect()
    }
}

/// What `look` finds at the lowest free place of `count`, if they are filled from the lowest up. It finds
/// nothing where a place is taken. The number of looks grows with the logarithm of how many are taken. Where
/// places in between are free it may be a higher one. It is `None` only after a look at each.
pub fn lowest_free<T>(
    count: u32,
    mut look: impl FnMut(u32) -> Result<Option<T>>,
) -> Result<Option<T>> {
    let mut found = None;
    // The place before `low` is taken, and the place `high` is free or the end.
    let (mut low, mut high, mut place) = (0, count, 0);
    while low < high {
        match look(place)? {
            None => low = place + 1,
            free => (found, high) = (free, place),
        }
        // At first each look is twice as far.
        let further = 2 * place + 1;
        place = if found.is_none() && further < count { further } else { low.midpoint(high) };
    }
    for place in 0..count {
        if found.is_some() {
            break;
        }
        found = look(place)?;
    }
    Ok(found)
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
                    Ok((place >= filled).then_some(place))
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
                let look = |place| Ok((!taken(place)).then_some(place));
                let found = lowest_free(count, look).unwrap();
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
            let pool = Pool(bridge);
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
