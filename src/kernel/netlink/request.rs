//! Requests, written as the kernel reads them: a structure, and attributes after it (`netlink(7)`).

use netlink_packet_core::NetlinkSerializable;

/// The length of an attribute's header, and the alignment of attributes (`linux/netlink.h`).
const HEADER: usize = 4;
const ALIGNMENT: usize = 4;

/// A request of one of the kernel's services. The names and numbers of what it consists of are those
/// of the kernel's headers.
#[derive(Debug, Clone)]
pub struct Request {
    kind: u16,
    body: Vec<u8>,
}

impl Request {
    /// A request of the type `kind` that begins with `structure`.
    pub fn new(kind: u16, structure: &[u8]) -> Request {
        let mut body = Vec::with_capacity(256);
        body.extend(structure);
        Request { kind, body }
    }

    /// Its type.
    pub fn kind(&self) -> u16 {
        self.kind
    }

    /// With an attribute, whose value is so many bytes.
    #[must_use]
    pub fn bytes(self, kind: u16, value: &[u8]) -> Request {
        self.nest(kind, |inside| inside.raw(value))
    }

    /// With an attribute, whose value is a byte.
    #[must_use]
    pub fn byte(self, kind: u16, value: u8) -> Request {
        self.bytes(kind, &[value])
    }

    /// With an attribute, whose value is a number of two bytes, as the machine writes it.
    #[must_use]
    pub fn short(self, kind: u16, value: u16) -> Request {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// With an attribute, whose value is a number of four bytes, as the machine writes it.
    #[must_use]
    pub fn number(self, kind: u16, value: u32) -> Request {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// With an attribute, whose value is a text, with a zero at its end.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Request {
        self.nest(kind, |inside| inside.raw(value.as_bytes()).raw(&[0]))
    }

    /// With an attribute, whose value is what `fill` adds.
    #[must_use]
    pub fn nest(mut self, kind: u16, fill: impl FnOnce(Request) -> Request) -> Request {
        let start = self.body.len();
        self.body.extend([[0; 2], kind.to_ne_bytes()].concat());
        let mut filled = fill(self);
        // The kernel refuses one that is longer than its length can say.
        let length = u16::try_from(filled.body.len() - start).unwrap_or_default();
        let place = filled.body.iter_mut().skip(start).take(HEADER);
        place.zip(length.to_ne_bytes()).for_each(|(to, from)| *to = from);
        filled.body.resize(filled.body.len().next_multiple_of(ALIGNMENT), 0);
        filled
    }

    /// With these bytes as they are: a structure that stands where attributes do.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Request {
        self.body.extend(bytes);
        self
    }
}

impl NetlinkSerializable for Request {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.iter_mut().zip(&self.body).for_each(|(to, from)| *to = *from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_aligned_and_know_their_lengths() {
        let request = Request::new(16, &[9, 9, 9, 9])
            .byte(1, 7)
            .nest(2, |inside| inside.text(3, "ab").short(4, 0x0102))
            .bytes(5, &[]);
        let [low, high] = 0x0102_u16.to_ne_bytes();
        let nla = |length: u16, kind: u16| [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        let expected = [
            vec![9, 9, 9, 9],
            [nla(5, 1), vec![7, 0, 0, 0]].concat(),
            nla(20, 2),
            [nla(7, 3), b"ab\0\0".to_vec()].concat(),
            [nla(6, 4), vec![low, high, 0, 0]].concat(),
            nla(4, 5),
        ]
        .concat();
        assert_eq!(request.body, expected);
        let mut buffer = vec![0; request.buffer_len()];
        request.serialize(&mut buffer);
        assert_eq!((request.message_type(), buffer), (16, expected));
    }

    #[test]
    fn an_attribute_that_is_too_long_has_no_length() {
        let request = Request::new(16, &[]).bytes(1, &vec![0; usize::from(u16::MAX) - 3]);
        assert_eq!(request.body.first_chunk(), Some(&[0, 0]));
    }
}
