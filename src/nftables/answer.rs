//! Answers, read as far as they are looked at.

use netlink_packet_core::{DecodeError, NetlinkDeserializable, NetlinkHeader, NlasIterator};
use netlink_packet_netfilter::nftables::SetElementFlags;

use super::{COMMENT, Element};

/// An answer of nf_tables: its family and its attributes. Most of what a ruleset consists of is
/// none of this program's business, so it is not taken apart any further than it has to be.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) family: u8,
    attributes: Vec<(u16, Vec<u8>)>,
}

impl NetlinkDeserializable for Answer {
    type Error = DecodeError;

    /// Reads `struct nfgenmsg` (`linux/netfilter/nfnetlink.h`) and what follows it.
    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        match payload {
            [family, _, _, _, rest @ ..] => Ok(Answer { family: *family, attributes: parts(rest) }),
            _ => Err(DecodeError::from("an answer of netfilter's without its header")),
        }
    }
}

impl Answer {
    pub(super) fn get(&self, kind: u16) -> Option<&[u8]> {
        let found = self.attributes.iter().find(|(own, _)| *own == kind);
        found.map(|(_, value)| value.as_slice())
    }

    pub(super) fn take(&mut self, kind: u16) -> Vec<u8> {
        let found = self.attributes.iter_mut().find(|(own, _)| *own == kind);
        found.map(|(_, value)| std::mem::take(value)).unwrap_or_default()
    }
}

/// The attributes that these bytes consist of, up to the first that is none.
pub(super) fn parts(bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let attributes = NlasIterator::new(bytes).map_while(Result::ok);
    attributes.map(|attribute| (attribute.kind(), attribute.value().to_vec())).collect()
}

/// A number as netfilter sends it.
pub(super) fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().copied().map(u32::from_be_bytes)
}

/// Attributes of elements that are read (`nft_set_elem_attributes`, `linux/netfilter/nf_tables.h`).
const ELEMENT_KEY: u16 = 1;
const ELEMENT_VALUE: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
const ELEMENT_USER_DATA: u16 = 6;

/// The elements in an answer.
pub(super) fn elements(answer: Answer) -> Vec<Element> {
    const LIST: u16 = 3;
    let list = answer.get(LIST).unwrap_or_default();
    parts(list).into_iter().map(|(_, element)| read_element(&element)).collect()
}

fn read_element(attributes: &[u8]) -> Element {
    // Keys and values are wrapped once more (NFTA_DATA_VALUE).
    let value = |data: &[u8]| parts(data).pop().map(|(_, value)| value).unwrap_or_default();
    let mut element = Element::default();
    for (kind, data) in parts(attributes) {
        match kind {
            ELEMENT_KEY => element.key = value(&data),
            ELEMENT_VALUE => element.value = value(&data),
            ELEMENT_USER_DATA => element.comment = comment(&data),
            ELEMENT_FLAGS => {
                let flags = number(&data).map(SetElementFlags::from_bits_retain);
                element.end = flags.is_some_and(|f| f.contains(SetElementFlags::IntervalEnd));
            }
            _ => {}
        }
    }
    element
}

/// The comment in the user data of an element.
fn comment(data: &[u8]) -> String {
    match data {
        [COMMENT, length, rest @ ..] => {
            let text = rest.get(..usize::from(*length)).unwrap_or_default();
            let text = text.strip_suffix(&[0]).unwrap_or(text);
            String::from_utf8_lossy(text).into_owned()
        }
        _ => String::new(),
    }
}
