//! A serde deserialiser over the tree: reads the same types as `ron` does, with better words.
//!
//! Used only after `ron` has refused a file, so a gap between the two can only make a message
//! worse, never change what is accepted.

use crate::leaf::suggest;
use crate::span::{Finding, Span};
use crate::tree::{Kind, Member, Node};
use serde::de::{self, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

/// An error on its way to getting a place.
#[derive(Debug)]
pub struct Error {
    message: String,
    hint: Option<String>,
    span: Option<Span>,
    also: Option<(Span, String)>,
}

impl Error {
    /// The finding, at `whole` when no better place is known.
    #[must_use]
    pub fn into_finding(self, whole: Span) -> Finding {
        let mut finding = Finding::error(self.span.unwrap_or(whole), self.message);
        finding.hint = self.hint;
        finding.also = self.also;
        finding
    }

    fn at(mut self, span: Span) -> Error {
        self.span.get_or_insert(span);
        self
    }

    fn new(message: String) -> Error {
        Error { message, hint: None, span: None, also: None }
    }

    fn unknown(what: &str, found: &str, known: &'static [&'static str]) -> Error {
        let mut error = Error::new(format!("unknown {what} `{found}`"));
        error.hint = Some(match suggest(found, known.iter().copied()) {
            Some(s) => format!("did you mean `{s}`?"),
            None => format!("known: {}", known.join(", ")),
        });
        error
    }
}

/// What the variants of an enum are, by the first of them.
const KINDS: &[(&str, &str)] = &[
    ("Auto", "attachment"),
    ("Eth", "layer"),
    ("Run", "operation"),
    ("Ringbuf", "consumer"),
    ("At", "step"),
    ("Send", "action"),
    ("Alloc", "fault"),
    ("RoundRobin", "schedule"),
    ("Enter", "event"),
    ("Verdicts", "expectation"),
    ("Captured", "pace"),
];

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: std::fmt::Display>(msg: T) -> Self {
        Error::new(msg.to_string())
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let mut error = Error::unknown("field", field, expected);
        let owners = crate::schema::json::owners(field);
        let far = suggest(field, expected.iter().copied()).is_none();
        if far && (1..4).contains(&owners.len()) {
            error.hint = Some(format!("`{field}` belongs to {}", owners.join(", ")));
        }
        error
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let what = KINDS.iter().find(|(first, _)| expected.first() == Some(first));
        Error::unknown(what.map_or("name", |k| k.1), variant, expected)
    }

    fn missing_field(field: &'static str) -> Self {
        Error::new(format!("the field `{field}` is missing"))
    }

    fn duplicate_field(field: &'static str) -> Self {
        Error::new(format!("the field `{field}` is given twice"))
    }

    fn invalid_type(unexp: de::Unexpected<'_>, exp: &dyn de::Expected) -> Self {
        Error::new(format!("{exp} was expected, found {unexp}"))
    }
}

/// Deserialises from a node; `text` is the file it came from (raw values borrow from it).
#[derive(Clone, Copy, Debug)]
pub struct NodeDe<'de> {
    /// The node.
    pub node: &'de Node,
    /// The file's text.
    pub text: &'de str,
}

impl<'de> NodeDe<'de> {
    fn raw(&self) -> &'de str {
        &self.text[self.node.span.start as usize..self.node.span.end as usize]
    }

    fn expected<T>(&self, what: &str) -> Result<T, Error> {
        let message = format!("{what} was expected, found {}", self.node.describe());
        Err(Error::new(message).at(self.node.span))
    }

    fn on(&self, node: &'de Node) -> NodeDe<'de> {
        NodeDe { node, text: self.text }
    }

    fn open(&self) -> Span {
        let mut span = self.node.span;
        let paren = self.raw().find('(').unwrap_or(0) as u32;
        span.start += paren;
        span.end = span.start + 1;
        span
    }

    fn record<V: Visitor<'de>>(&self, members: &'de [Member], v: V) -> Result<V::Value, Error> {
        for (n, m) in members.iter().enumerate() {
            if let Some(first) = members[..n].iter().find(|f| f.name == m.name) {
                let message = format!("the field `{}` is given twice", m.name);
                let mut error = Error::new(message).at(m.name_span);
                error.also = Some((first.name_span, "first given here".to_string()));
                return Err(error);
            }
        }
        let access = Members { de: *self, members, next: 0 };
        v.visit_map(access).map_err(|e| e.at(self.open()))
    }
}

struct Members<'de> {
    de: NodeDe<'de>,
    members: &'de [Member],
    next: usize,
}

impl<'de> de::MapAccess<'de> for Members<'de> {
    type Error = Error;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some(m) = self.members.get(self.next) else { return Ok(None) };
        let key: de::value::StrDeserializer<'_, Error> = m.name.as_str().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|e| e.at(m.name_span))
    }

    fn next_value_seed<V: de::DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let m = &self.members[self.next];
        self.next += 1;
        seed.deserialize(self.de.on(&m.value)).map_err(|e| e.at(m.value.span))
    }
}

struct Entries<'de> {
    de: NodeDe<'de>,
    entries: &'de [(Node, Node)],
    next: usize,
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = Error;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some((key, _)) = self.entries.get(self.next) else { return Ok(None) };
        seed.deserialize(self.de.on(key)).map(Some).map_err(|e| e.at(key.span))
    }

    fn next_value_seed<V: de::DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (_, value) = &self.entries[self.next];
        self.next += 1;
        seed.deserialize(self.de.on(value)).map_err(|e| e.at(value.span))
    }
}

struct Items<'de> {
    de: NodeDe<'de>,
    items: &'de [Node],
    next: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = Error;

    fn next_element_seed<T: de::DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        let Some(item) = self.items.get(self.next) else { return Ok(None) };
        self.next += 1;
        seed.deserialize(self.de.on(item)).map(Some).map_err(|e| e.at(item.span))
    }
}

impl<'de> Deserializer<'de> for NodeDe<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, v: V) -> Result<V::Value, Error> {
        let at = self.node.span;
        match &self.node.kind {
            Kind::Int { negative: false, value } => v.visit_u64(*value),
            Kind::Int { negative: true, value } => v.visit_i64((*value as i64).wrapping_neg()),
            Kind::Float(f) => v.visit_f64(*f),
            Kind::Bool(b) => v.visit_bool(*b),
            Kind::Str(s) => v.visit_str(s),
            Kind::List(items) | Kind::Tuple(items) => {
                v.visit_seq(Items { de: self, items, next: 0 })
            }
            Kind::Record(_, members) => self.record(members, v),
            Kind::Map(entries) => v.visit_map(Entries { de: self, entries, next: 0 }),
            Kind::Name(_) | Kind::Call(..) | Kind::Range { .. } => self.expected("a plain value"),
        }
        .map_err(|e| e.at(at))
    }

    fn deserialize_option<V: Visitor<'de>>(self, v: V) -> Result<V::Value, Error> {
        match &self.node.kind {
            Kind::Name(n) if n == "None" => v.visit_none(),
            Kind::Call(n, args) if n == "Some" && args.len() == 1 => {
                v.visit_some(self.on(&args[0]))
            }
            _ => v.visit_some(self),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        v: V,
    ) -> Result<V::Value, Error> {
        match &self.node.kind {
            Kind::Record(head, members) if head.as_deref().is_none_or(|h| h == name) => {
                self.record(members, v)
            }
            Kind::Tuple(items) if items.is_empty() => self.record(&[], v),
            Kind::Call(head, items) if head == name && items.is_empty() => self.record(&[], v),
            _ => self.expected(&format!("a record, as in (..), for {name}")),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        v: V,
    ) -> Result<V::Value, Error> {
        // The token by which ron's RawValue asks for the text itself.
        if name == "$ron::private::RawValue" {
            return v.visit_borrowed_str(self.raw());
        }
        v.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        v: V,
    ) -> Result<V::Value, Error> {
        let head = match &self.node.kind {
            Kind::Name(n) | Kind::Call(n, _) | Kind::Record(Some(n), _) => n,
            _ => return self.expected(&format!("one of {}", variants.join(", "))),
        };
        let mut name_span = self.node.span;
        name_span.end = name_span.start + head.len() as u32;
        v.visit_enum(Variant { de: self, head, name_span })
    }

    fn deserialize_map<V: Visitor<'de>>(self, v: V) -> Result<V::Value, Error> {
        match &self.node.kind {
            Kind::Map(entries) => v.visit_map(Entries { de: self, entries, next: 0 }),
            _ => self.expected("a map, as in {\"name\": ..}"),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, v: V) -> Result<V::Value, Error> {
        match &self.node.kind {
            Kind::List(items) => v.visit_seq(Items { de: self, items, next: 0 }),
            _ => self.expected("a list, as in [..]"),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct tuple tuple_struct identifier ignored_any
    }
}

struct Variant<'de> {
    de: NodeDe<'de>,
    head: &'de str,
    name_span: Span,
}

impl<'de> de::EnumAccess<'de> for Variant<'de> {
    type Error = Error;
    type Variant = Variant<'de>;

    fn variant_seed<V: de::DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Variant<'de>), Error> {
        let head: de::value::StrDeserializer<'_, Error> = self.head.into_deserializer();
        let value = seed.deserialize(head).map_err(|e| e.at(self.name_span))?;
        Ok((value, self))
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        match &self.de.node.kind {
            Kind::Name(_) => Ok(()),
            _ => {
                let message = format!("{} takes nothing: write it without (..)", self.head);
                Err(Error::new(message).at(self.de.node.span))
            }
        }
    }

    fn newtype_variant_seed<T: de::DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        match &self.de.node.kind {
            Kind::Call(_, items) if items.len() == 1 => seed.deserialize(self.de.on(&items[0])),
            _ => self.de.expected(&format!("{}(..) with one value", self.head)),
        }
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, v: V) -> Result<V::Value, Error> {
        match &self.de.node.kind {
            Kind::Call(_, items) if items.len() == len => {
                v.visit_seq(Items { de: self.de, items, next: 0 })
            }
            _ => self.de.expected(&format!("{}(..) with {len} values", self.head)),
        }
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        v: V,
    ) -> Result<V::Value, Error> {
        match &self.de.node.kind {
            Kind::Record(_, members) => self.de.record(members, v).map_err(|mut e| {
                if e.message.starts_with("unknown field") && !e.message.contains(" of ") {
                    e.message = e.message.replacen("field", &format!("field of {}", self.head), 1);
                }
                e
            }),
            Kind::Call(_, items) if items.is_empty() => self.de.record(&[], v),
            _ => {
                let fields: Vec<String> = fields.iter().map(|f| format!("{f}: ..")).collect();
                self.de.expected(&format!("{}({})", self.head, fields.join(", ")))
            }
        }
    }
}
