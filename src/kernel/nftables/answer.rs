//! Answers, read as far as they are looked at.

use netlink_packet_netfilter::nftables::SetElementFlags;

use super::{COMMENT, Element};
use crate::kernel::netlink::{self, attributes};

/// An answer of nf_tables: `struct nfgenmsg` (`linux/netfilter/nfnetlink.h`), which begins with the
/// family, and attributes.
pub(super) type Answer = netlink::Answer<4>;

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
    attributes(list).into_iter().map(|(_, element)| read_element(&element)).collect()
}

fn read_element(bytes: &[u8]) -> Element {
    // Keys and values are wrapped once more (NFTA_DATA_VALUE).
    let value = |data: &[u8]| attributes(data).pop().map(|(_, value)| value).unwrap_or_default();
    let mut element = Element::default();
    for (kind, data) in attributes(bytes) {
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
