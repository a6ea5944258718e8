//! The records of version 1, in the order of the reference page.

pub mod expect;
pub mod json;
pub mod machine;
pub mod packet;
pub mod play;

pub use expect::{Event, Expect};
pub use machine::{Attach, Machine, Object};
pub use packet::{Flows, Layer};
pub use play::{Action, Consumer, Fault, Matrix, Schedule, Step, Task};

use crate::leaf::Leaf as _;
use crate::span::{Finding, Span, Spanned, refuse};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// The name of something, in quotes, with its place.
pub type Name = Spanned<String>;

/// One file: one machine, one story, one list of expectations.
#[derive(Debug, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields, rename = "Scenario")]
pub struct Scenario {
    /// Format version; required.
    pub orrery: Spanned<u32>,
    /// One sentence, shown in reports.
    pub about: Option<String>,
    /// Files whose objects, packets, flows and tasks are added.
    pub include: Vec<Name>,
    /// The machine.
    pub machine: Machine,
    /// What is loaded, by name.
    pub objects: Names<Object>,
    /// Attached in order before time 0.
    pub attach: Vec<Attach>,
    /// Packets by name.
    pub packets: Names<Vec<Layer>>,
    /// Traffic generators by name.
    pub flows: Names<Flows>,
    /// Tasks by name.
    pub tasks: Names<Task>,
    /// User space that reads at a pace, by name.
    pub consumers: Names<Consumer>,
    /// What happens when.
    pub timeline: Vec<Step>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// Who runs when.
    pub schedule: Schedule,
    /// Axes of repetition.
    pub matrix: Option<Matrix>,
    /// What must hold; required and not empty.
    pub expect: Vec<Expect>,
    /// Place of the whole scenario; filled in after reading.
    #[serde(skip)]
    pub span: Span,
}

/// An ordered map from names to things; a name given twice is an error.
#[derive(Debug)]
pub struct Names<T>(pub Vec<(Name, T)>);

impl<T> Default for Names<T> {
    fn default() -> Self {
        Names(Vec::new())
    }
}

impl<T> Names<T> {
    /// The thing of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&T> {
        self.0.iter().find(|(k, _)| k.v == name).map(|(_, v)| v)
    }

    /// All entries in file order.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &T)> {
        self.0.iter().map(|(k, v)| (k, v))
    }

    /// All names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(k, _)| k.v.as_str())
    }

    /// True when nothing is named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Names<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Entries<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Names<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map from names to things, as in {\"eth0\": ()}")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names<T>, A::Error> {
                let mut out: Vec<(Name, T)> = Vec::new();
                while let Some(key) = map.next_key::<Name>()? {
                    if let Some((first, _)) = out.iter().find(|(k, _)| k.v == key.v) {
                        let message = format!("the name \"{}\" is given twice", key.v);
                        return Err(refuse(
                            Finding::error(key.span, message).also(first.span, "first given here"),
                        ));
                    }
                    out.push((key, map.next_value()?));
                }
                Ok(Names(out))
            }
        }
        d.deserialize_map(Entries(std::marker::PhantomData))
    }
}

/// A record of named counts or values whose names the program decides: `(DROP: 3, PASS: _)`.
#[derive(Clone, Debug, Default)]
pub struct NamedCounts(pub Vec<(Spanned<String>, Spanned<crate::leaf::Is<u64>>)>);

impl<'de> Deserialize<'de> for NamedCounts {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let (data, _) = crate::span::leaf::<crate::leaf::Data, D>(d)?;
        let members = match data.node.kind {
            crate::tree::Kind::Record(None, members) => members,
            crate::tree::Kind::Tuple(items) if items.is_empty() => Vec::new(),
            _ => {
                let message = format!(
                    "counts by name were expected, as in (DROP: 3, PASS: _), found {}",
                    data.node.describe()
                );
                return Err(refuse(Finding::error(data.node.span, message)));
            }
        };
        let read = members.into_iter().map(|m| {
            let count = crate::leaf::Is::<u64>::from_node(&m.value)?;
            let name = Spanned { v: m.name, span: m.name_span };
            Ok((name, Spanned { v: count, span: m.value.span }))
        });
        read.collect::<Result<Vec<_>, Finding>>().map(NamedCounts).map_err(refuse)
    }
}
