//! VICI messages: sections, values and lists, as a tree over the bytes they came in.
//!
//! The format is that of strongSwan's `src/libcharon/plugins/vici/README.md`, "Message format". Names
//! and values are opaque bytes. The tree is bounded in depth and size.

use super::{
    Fault,
    limits::{MAX_DEPTH, MAX_ELEMENTS},
};

const SECTION_START: u8 = 1;
const SECTION_END: u8 = 2;
const KEY_VALUE: u8 = 3;
const LIST_START: u8 = 4;
const LIST_ITEM: u8 = 5;
const LIST_END: u8 = 6;

/// A named thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node<'a> {
    /// Text, mostly.
    Value(&'a [u8]),
    /// Several.
    List(Vec<&'a [u8]>),
    /// More named things.
    Section(Section<'a>),
}

/// Named things in the order they came in; also a whole message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section<'a>(Vec<(&'a [u8], Node<'a>)>);

impl<'a> Section<'a> {
    /// Reads a whole message.
    ///
    /// # Errors
    /// It is none, or exceeds [`MAX_DEPTH`] or [`MAX_ELEMENTS`].
    pub fn parse(message: &'a [u8]) -> Result<Self, Fault> {
        let mut reader = Reader {
            rest: message,
            elements: 0,
            cut: false,
        };
        reader.section(0)
    }

    /// Reads what a message begins with, where the rest is missing or exceeds [`MAX_ELEMENTS`].
    ///
    /// # Errors
    /// It exceeds [`MAX_DEPTH`].
    pub fn parse_beginning(message: &'a [u8]) -> Result<Self, Fault> {
        let mut reader = Reader {
            rest: message,
            elements: 0,
            cut: true,
        };
        reader.section(0)
    }

    /// The first value of this name.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&'a [u8]> {
        self.0.iter().find_map(|(known, node)| match node {
            Node::Value(value) if *known == name.as_bytes() => Some(*value),
            _ => None,
        })
    }

    /// The first value of this name, as a decimal number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        std::str::from_utf8(self.value(name)?).ok()?.parse().ok()
    }

    /// The first list of this name; empty if there is none.
    #[must_use]
    pub fn list(&self, name: &str) -> &[&'a [u8]] {
        let found = self.0.iter().find_map(|(known, node)| match node {
            Node::List(items) if *known == name.as_bytes() => Some(items.as_slice()),
            _ => None,
        });
        found.unwrap_or_default()
    }

    /// The first section of this name.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&Section<'a>> {
        self.sections()
            .find(|(known, _)| *known == name.as_bytes())
            .map(|(_, section)| section)
    }

    /// All sections with their names.
    pub fn sections(&self) -> impl Iterator<Item = (&'a [u8], &Section<'a>)> {
        self.0.iter().filter_map(|(name, node)| match node {
            Node::Section(section) => Some((*name, section)),
            _ => None,
        })
    }

    /// A section of these things.
    #[must_use]
    pub fn of(things: Vec<(&'a [u8], Node<'a>)>) -> Self {
        Self(things)
    }

    /// The bytes of it as a message. Names have at most 255 bytes, values at most 65,535.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.encode_to(&mut bytes);
        bytes
    }

    fn encode_to(&self, bytes: &mut Vec<u8>) {
        for (name, node) in &self.0 {
            match node {
                Node::Value(value) => {
                    push_name(bytes, KEY_VALUE, name);
                    push_value(bytes, value);
                }
                Node::List(items) => {
                    push_name(bytes, LIST_START, name);
                    for item in items {
                        bytes.push(LIST_ITEM);
                        push_value(bytes, item);
                    }
                    bytes.push(LIST_END);
                }
                Node::Section(section) => {
                    push_name(bytes, SECTION_START, name);
                    section.encode_to(bytes);
                    bytes.push(SECTION_END);
                }
            }
        }
    }
}

fn push_name(bytes: &mut Vec<u8>, element: u8, name: &[u8]) {
    bytes.push(element);
    bytes.push(u8::try_from(name.len()).expect("names are short"));
    bytes.extend_from_slice(name);
}

fn push_value(bytes: &mut Vec<u8>, value: &[u8]) {
    let length = u16::try_from(value.len()).expect("values are short");
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(value);
}

struct Reader<'a> {
    rest: &'a [u8],
    elements: usize,
    /// Where it cannot go on, the message and all of its sections are over.
    cut: bool,
}

impl<'a> Reader<'a> {
    fn section(&mut self, depth: usize) -> Result<Section<'a>, Fault> {
        if depth > MAX_DEPTH {
            return Err(Fault::TooDeep);
        }
        let mut things = Vec::new();
        loop {
            match self.thing(depth) {
                Ok(Some(thing)) => things.push(thing),
                Ok(None) => break,
                Err(Fault::Malformed | Fault::TooMany) if self.cut => {
                    self.rest = &[];
                    break;
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(Section(things))
    }

    /// The next thing of a section; `None` at its end.
    fn thing(&mut self, depth: usize) -> Result<Option<(&'a [u8], Node<'a>)>, Fault> {
        let element = match self.element()? {
            // The message is over, or the section.
            None if depth == 0 => return Ok(None),
            Some(SECTION_END) if depth > 0 => return Ok(None),
            Some(element) => element,
            None => return Err(Fault::Malformed),
        };
        let node: fn(&mut Self, usize) -> Result<Node<'a>, Fault> = match element {
            SECTION_START => |reader, depth| Ok(Node::Section(reader.section(depth + 1)?)),
            KEY_VALUE => |reader, _| Ok(Node::Value(reader.value()?)),
            LIST_START => |reader, _| Ok(Node::List(reader.items()?)),
            _ => return Err(Fault::Malformed),
        };
        Ok(Some((self.name()?, node(self, depth)?)))
    }

    fn items(&mut self) -> Result<Vec<&'a [u8]>, Fault> {
        let mut items = Vec::new();
        loop {
            match self.element()? {
                Some(LIST_ITEM) => items.push(self.value()?),
                Some(LIST_END) => return Ok(items),
                _ => return Err(Fault::Malformed),
            }
        }
    }

    fn element(&mut self) -> Result<Option<u8>, Fault> {
        let Some((&element, rest)) = self.rest.split_first() else {
            return Ok(None);
        };
        self.rest = rest;
        self.elements += 1;
        if self.elements > MAX_ELEMENTS {
            return Err(Fault::TooMany);
        }
        Ok(Some(element))
    }

    fn name(&mut self) -> Result<&'a [u8], Fault> {
        let (&length, rest) = self.rest.split_first().ok_or(Fault::Malformed)?;
        self.rest = rest;
        self.take(length.into())
    }

    fn value(&mut self) -> Result<&'a [u8], Fault> {
        let (length, rest) = self.rest.split_first_chunk().ok_or(Fault::Malformed)?;
        self.rest = rest;
        self.take(u16::from_be_bytes(*length).into())
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Fault::Malformed)?;
        self.rest = rest;
        Ok(taken)
    }
}
