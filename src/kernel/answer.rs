//! Answers of the kernel, and the attributes that they consist of (`netlink(7)`).
//!
//! They are read by hand: this program needs a few attributes of each message, and an odd one elsewhere
//! in the message must not fail the whole.

use std::iter;
use std::net::Ipv4Addr;
use std::ops::Deref;

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLA_ALIGNTO, NLA_F_NESTED, NLA_HEADER_SIZE, NLA_TYPE_MASK,
    NetlinkDeserializable, NetlinkHeader, Nla,
};

/// An answer: a fixed structure of so many bytes, and attributes.
#[derive(Debug)]
pub struct Answer<const HEADER: usize> {
    /// The fixed structure.
    pub header: [u8; HEADER],
    attributes: Attributes<Vec<u8>>,
}

impl<const HEADER: usize> NetlinkDeserializable for Answer<HEADER> {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let (header, rest) = payload.split_first_chunk().ok_or("too short")?;
        Ok(Answer { header: *header, attributes: Attributes(rest.to_vec()) })
    }
}

impl<const HEADER: usize> Deref for Answer<HEADER> {
    type Target = Attributes<Vec<u8>>;

    fn deref(&self) -> &Self::Target {
        &self.attributes
    }
}

/// Attributes, as the kernel wrote them.
#[derive(Debug)]
pub struct Attributes<B>(pub B);

impl<B: AsRef<[u8]>> Attributes<B> {
    /// The kinds and values in their order, up to the first attribute that is malformed. This reads each
    /// header itself: others' rulesets have thousands, and the crate's iterator takes five times as long.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &[u8])> {
        let mut rest = self.0.as_ref();
        iter::from_fn(move || {
            let [a, b, c, d] = *rest.first_chunk()?;
            let length = usize::from(u16::from_ne_bytes([a, b]));
            let value = rest.get(NLA_HEADER_SIZE..length)?;
            rest = rest.get(length.next_multiple_of(NLA_ALIGNTO)..).unwrap_or_default();
            Some((u16::from_ne_bytes([c, d]) & NLA_TYPE_MASK, value))
        })
    }

    /// The value of the attribute of this kind, if there is one.
    pub fn get(&self, kind: u16) -> Option<&[u8]> {
        self.iter().find(|(own, _)| *own == kind).map(|(_, value)| value)
    }

    /// The attributes in the attribute of this kind; none if there is no such attribute.
    pub fn nested(&self, kind: u16) -> Attributes<&[u8]> {
        Attributes(self.get(kind).unwrap_or_default())
    }

    /// The number in the attribute of this kind, in the machine's byte order.
    pub fn number(&self, kind: u16) -> Option<u32> {
        self.get(kind)?.first_chunk().copied().map(u32::from_ne_bytes)
    }

    /// The number in the attribute of this kind, in network byte order.
    pub fn number_be(&self, kind: u16) -> Option<u32> {
        self.get(kind)?.first_chunk().copied().map(u32::from_be_bytes)
    }

    /// The address in the attribute of this kind.
    pub fn ipv4(&self, kind: u16) -> Option<Ipv4Addr> {
        self.get(kind)?.first_chunk().copied().map(Ipv4Addr::from)
    }

    /// The name in the attribute of this kind, without the zero at its end; empty if there is none.
    pub fn name(&self, kind: u16) -> &str {
        let name = self.get(kind).unwrap_or_default();
        str::from_utf8(name.strip_suffix(&[0]).unwrap_or(name)).unwrap_or_default()
    }

    /// The text in the attribute of this kind, without the zero at its end.
    pub fn text(&self, kind: u16) -> Option<String> {
        self.get(kind).map(text)
    }
}

/// The text that these bytes are, without the zero at its end.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
}

/// An attribute that consists of others, as netfilter wants it: with the flag that says so.
pub fn nested<T: Nla>(kind: u16, attributes: &[T]) -> DefaultNla {
    let mut value = vec![0; attributes.buffer_len()];
    attributes.emit(&mut value);
    DefaultNla::new(kind | NLA_F_NESTED, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_header_and_its_attributes() {
        let header = NetlinkHeader::default();
        let parse = |bytes: &[u8]| Answer::<4>::deserialize(&header, bytes);
        let nla = |length: u16, kind: u16| [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        let attributes =
            [nla(8, 1), vec![127, 0, 0, 1], nla(7, 2), b"ab\0".to_vec(), vec![0], nla(4, 3)]
                .concat();
        let answer = parse(&[&[9, 8, 7, 6][..], &attributes].concat()).unwrap();
        assert_eq!(answer.header, [9, 8, 7, 6]);
        assert_eq!(answer.ipv4(1), Some(Ipv4Addr::LOCALHOST));
        assert_eq!(answer.number(1), Some(u32::from_ne_bytes([127, 0, 0, 1])));
        assert_eq!(answer.text(2).as_deref(), Some("ab"));
        assert_eq!((answer.get(3), answer.get(4)), (Some(&[][..]), None));
        assert!(parse(&[1, 2, 3]).is_err());
        // The kernel marks some that consist of others.
        let marked = [nla(8, 5 | 1 << 15), nla(4, 6)].concat();
        assert_eq!(Attributes(marked).nested(5).get(6), Some(&[][..]));
        // What is cut short or makes no sense ends the list.
        for end in 4..attributes.len() {
            assert!(Attributes(&attributes[..end]).iter().count() < 3);
        }
        assert!(Attributes(nla(3, 1)).iter().count() == 0);
        assert!(Attributes(nla(u16::MAX, 1)).iter().count() == 0);
    }
}
