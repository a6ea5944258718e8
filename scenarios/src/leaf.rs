//! Values read from one node: numbers, names, units, addresses, patterns and typed data.
//!
//! A leaf error stands at the exact text that is wrong and says what to write instead.

use crate::span::{Finding, Span, leaf};
use crate::tree::{Kind, Node};
use serde::de::{Deserialize, Deserializer};
use std::net::{Ipv4Addr, Ipv6Addr};

/// A value that is read from a node.
pub trait Leaf: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong, at the node.
    fn from_node(node: &Node) -> Result<Self, Finding>;
}

fn expected<T>(node: &Node, what: &str) -> Result<T, Finding> {
    Err(Finding::error(node.span, format!("{what} was expected, found {}", node.describe())))
}

/// An integer of a node as i128, or `None` when it is no integer.
#[must_use]
pub fn int_of(node: &Node) -> Option<i128> {
    match node.kind {
        Kind::Int { negative, value } => {
            Some(if negative { -i128::from(value) } else { i128::from(value) })
        }
        _ => None,
    }
}

macro_rules! int_leaf {
    ($($t:ty),*) => {$(
        impl Leaf for $t {
            fn from_node(node: &Node) -> Result<Self, Finding> {
                let Some(n) = int_of(node) else { return expected(node, "a number") };
                <$t>::try_from(n).map_err(|_| {
                    let range = format!("the range is {}..={}", <$t>::MIN, <$t>::MAX);
                    Finding::error(node.span, format!("{n} does not fit; {range}"))
                })
            }
        }
    )*};
}
int_leaf!(u8, u16, u32, u64, i32, i64);

impl Leaf for f64 {
    fn from_node(node: &Node) -> Result<Self, Finding> {
        match (&node.kind, int_of(node)) {
            (Kind::Float(f), _) => Ok(*f),
            (_, Some(n)) => Ok(n as f64),
            _ => expected(node, "a number"),
        }
    }
}

impl Leaf for bool {
    fn from_node(node: &Node) -> Result<Self, Finding> {
        if let Kind::Bool(b) = node.kind { Ok(b) } else { expected(node, "true or false") }
    }
}

impl Leaf for String {
    fn from_node(node: &Node) -> Result<Self, Finding> {
        match &node.kind {
            Kind::Str(s) => Ok(s.clone()),
            Kind::Name(n) => {
                Err(Finding::error(node.span, format!("a name in quotes was expected, found {n}"))
                    .hint(format!("write \"{n}\"")))
            }
            _ => expected(node, "text"),
        }
    }
}

/// Implements serde's `Deserialize` for leaf types through [`leaf`].
macro_rules! deserialize_leaf {
    ($($t:ty),* $(,)?) => {$(
        impl<'de> Deserialize<'de> for $t {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                leaf(d).map(|(v, _)| v)
            }
        }
    )*};
}

/// A span of virtual time; one retired BPF instruction is one nanosecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Nanoseconds.
    pub ns: u64,
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Bytes {
    /// Bytes.
    pub n: u64,
}

/// Something per second: packets, events or bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Units per second.
    pub per_second: f64,
    /// `bps` counts bits, the others things.
    pub bits: bool,
}

deserialize_leaf!(Time, Bytes, Rate, Mac, Data, TextIs);

const TIME_UNITS: &[(&str, f64)] =
    &[("insns", 1.0), ("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9)];
const SIZE_UNITS: &[(&str, f64)] = &[
    ("B", 1.0),
    ("KiB", 1024.0),
    ("MiB", 1048576.0),
    ("GiB", 1073741824.0),
    ("kB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("pages", 4096.0),
];
const RATE_UNITS: &[(&str, f64)] = &[
    ("pps", 1.0),
    ("kpps", 1e3),
    ("Mpps", 1e6),
    ("Hz", 1.0),
    ("kHz", 1e3),
    ("MHz", 1e6),
    ("bps", 1.0),
    ("kbps", 1e3),
    ("Mbps", 1e6),
    ("Gbps", 1e9),
];

/// Reads `"10us"`: one number, an optional fraction, one unit.
fn with_unit(
    node: &Node,
    what: &str,
    example: &str,
    units: &[(&'static str, f64)],
) -> Result<(f64, &'static str), Finding> {
    if let Kind::Int { value: 0, .. } = node.kind {
        return Ok((0.0, units[0].0));
    }
    let Some(text) = node.as_str() else {
        let found = node.describe();
        let message =
            format!("{what} needs a unit and is text, as in \"{example}\", found {found}");
        let finding = Finding::error(node.span, message);
        return Err(match int_of(node) {
            Some(n) => finding.hint(format!("write \"{n}{}\"", units[2.min(units.len() - 1)].0)),
            None => finding,
        });
    };
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_');
    let (number, unit) = text.split_at(split.unwrap_or(text.len()));
    let unit = unit.trim();
    let names = || units.iter().map(|u| u.0).collect::<Vec<_>>().join(" ");
    let Ok(number) = number.replace('_', "").parse::<f64>() else {
        let message = format!("{what} begins with a number, as in \"{example}\"");
        return Err(Finding::error(node.span, message));
    };
    let Some(&(name, factor)) = units.iter().find(|u| u.0 == unit) else {
        let message = if unit.is_empty() {
            format!("{what} needs a unit, as in \"{example}\" (units: {})", names())
        } else {
            format!("unknown unit {unit:?} (units: {})", names())
        };
        return Err(Finding::error(node.span, message));
    };
    Ok((number * factor, name))
}

impl Leaf for Time {
    fn from_node(node: &Node) -> Result<Self, Finding> {
        let (ns, _) = with_unit(node, "a time", "10us", TIME_UNITS)?;
        if ns > 9.2e18 {
            return Err(Finding::error(node.span, "a time beyond 292 years"));
        }
        Ok(Time { ns: ns.round() as u64 })
    }
}

impl Leaf for Bytes {
    fn from_node(node: &Node) -> Result<Self, Finding> {
        let (n, _) = with_unit(node, "a size", "64B", SIZE_UNITS)?;
        Ok(Bytes { n: n.round() as u64 })
    }
}

impl Leaf for Rate {
    fn from_node(node: &Node) -> Result<Self, Finding> {
        let (per_second, unit) = with_unit(node, "a rate", "1Mpps", RATE_UNITS)?;
        if per_second <= 0.0 {
            return Err(Finding::error(node.span, "a rate is greater than zero"));
        }
        Ok(Rate { per_second, bits: unit.ends_with("bps") })
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Reads `02:00:00:00:00:01`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Mac> {
        let mut out = [0u8; 6];
        let mut parts = text.split(':');
        for byte in &mut out {
            let part = parts.next().filter(|p| (1..=2).contains(&p.len()))?;
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        parts.next().is_none().then_some(Mac(out))
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let b = self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", b[0], b[1], b[2], b[3], b[4], b[5])
    }
}

fn text_leaf<T>(
    node: &Node,
    what: &str,
    example: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, Finding> {
    let Some(text) = node.as_str() else {
        let message = format!("{what} is text, as in \"{example}\", found {}", node.describe());
        return Err(Finding::error(node.span, message));
    };
    parse(text).ok_or_else(|| Finding::error(node.span, format!("\"{text}\" is not {what}")))
}

impl Leaf for Mac {
    fn from_node(node: &Node) -> Result<Self, Finding> {
        text_leaf(node, "an Ethernet address", "02:00:00:00:00:01", Mac::parse)
    }
}

impl Leaf for Ipv4Addr {
    fn from_node(node: &Node) -> Result<Self, Finding> {
        text_leaf(node, "an IPv4 address", "10.0.0.1", |t| t.parse().ok())
    }
}

impl Leaf for Ipv6Addr {
    fn from_node(node: &Node) -> Result<Self, Finding> {
        text_leaf(node, "an IPv6 address", "2001:db8::1", |t| t.parse().ok())
    }
}

/// TCP flags as the letters FSRPAUEC (and `N` for the old NS bit is not one of them).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TcpFlags(pub u8);

impl Leaf for TcpFlags {
    fn from_node(node: &Node) -> Result<Self, Finding> {
        text_leaf(node, "a set of TCP flags (letters of FSRPAUEC)", "SA", |t| {
            t.chars().try_fold(0u8, |bits, c| "FSRPAUEC".find(c).map(|n| bits | 1 << n))
        })
        .map(TcpFlags)
    }
}

/// A value of a packet field: given, any, one of a set, or wrong on purpose.
#[derive(Clone, Debug, PartialEq)]
pub enum Is<T> {
    /// Exactly this.
    Value(T),
    /// `_`: anything.
    Any,
    /// `a..=b` (bounds included after reading).
    Range(Option<T>, Option<T>),
    /// `OneOf([..])`.
    OneOf(Vec<Is<T>>),
    /// `Not(..)`.
    Not(Box<Is<T>>),
    /// `Bad`: the right value with one bit flipped; only for checksums and lengths.
    Bad,
}

impl<T: PartialOrd> Is<T> {
    /// Whether a value is what the pattern asks for.
    pub fn matches(&self, value: &T) -> bool {
        match self {
            Is::Value(v) => v == value,
            Is::Any => true,
            Is::Range(from, to) => {
                from.as_ref().is_none_or(|f| f <= value) && to.as_ref().is_none_or(|t| value <= t)
            }
            Is::OneOf(list) => list.iter().any(|p| p.matches(value)),
            Is::Not(p) => !p.matches(value),
            Is::Bad => false,
        }
    }

    /// True for everything but a plain value or `Bad`: such a field cannot be sent.
    pub fn is_pattern(&self) -> bool {
        !matches!(self, Is::Value(_) | Is::Bad)
    }
}

/// Types whose half-open upper bound can be made inclusive.
pub trait Bound: Leaf {
    /// The greatest value below, if there is one.
    fn below(self) -> Option<Self>;
}

macro_rules! int_bound {
    ($($t:ty),*) => {$(
        impl Bound for $t {
            fn below(self) -> Option<Self> { self.checked_sub(1) }
        }
    )*};
}
int_bound!(u8, u16, u32, u64, i64);

impl Bound for Ipv4Addr {
    fn below(self) -> Option<Self> {
        u32::from(self).checked_sub(1).map(Ipv4Addr::from)
    }
}

impl Bound for Ipv6Addr {
    fn below(self) -> Option<Self> {
        u128::from(self).checked_sub(1).map(Ipv6Addr::from)
    }
}

impl Bound for Mac {
    fn below(self) -> Option<Self> {
        None
    }
}

impl Bound for TcpFlags {
    fn below(self) -> Option<Self> {
        None
    }
}

impl Bound for bool {
    fn below(self) -> Option<Self> {
        None
    }
}

impl Bound for String {
    fn below(self) -> Option<Self> {
        None
    }
}

impl<T: Bound + PartialOrd> Leaf for Is<T> {
    fn from_node(node: &Node) -> Result<Self, Finding> {
        Ok(match &node.kind {
            Kind::Name(n) if n == "_" => Is::Any,
            Kind::Name(n) if n == "Bad" => Is::Bad,
            Kind::Range { from, to, inclusive } => range(node, from, to, *inclusive)?,
            Kind::Call(n, args) if n == "OneOf" => Is::OneOf(one_of(node, args)?),
            Kind::Call(n, args) if n == "Not" => match args.as_slice() {
                [only] => Is::Not(Box::new(Is::from_node(only)?)),
                _ => return Err(Finding::error(node.span, "Not takes one value, as in Not(5)")),
            },
            _ => Is::Value(T::from_node(node)?),
        })
    }
}

fn range<T: Bound + PartialOrd>(
    node: &Node,
    from: &Option<Box<Node>>,
    to: &Option<Box<Node>>,
    inclusive: bool,
) -> Result<Is<T>, Finding> {
    let read = |n: &Option<Box<Node>>| n.as_ref().map(|n| T::from_node(n)).transpose();
    let (from, mut to) = (read(from)?, read(to)?);
    if !inclusive && let Some(bound) = to {
        to = bound.below();
        if to.is_none() {
            return Err(Finding::error(node.span, "this range is empty").hint("write `..=`"));
        }
    }
    if let (Some(f), Some(t)) = (&from, &to)
        && f > t
    {
        return Err(Finding::error(node.span, "this range is empty: its lower bound is above"));
    }
    Ok(Is::Range(from, to))
}

fn one_of<T: Bound + PartialOrd>(node: &Node, args: &[Node]) -> Result<Vec<Is<T>>, Finding> {
    match args {
        [Node { kind: Kind::List(items), .. }] if !items.is_empty() => {
            items.iter().map(Is::from_node).collect()
        }
        _ => Err(Finding::error(node.span, "OneOf takes a list, as in OneOf([1, 2])")),
    }
}

impl<'de, T: Bound + PartialOrd> Deserialize<'de> for Is<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        leaf(d).map(|(v, _)| v)
    }
}

/// A value or pattern that the program's BTF types: kept as a tree until the object is at hand.
#[derive(Clone, Debug, PartialEq)]
pub struct Data {
    /// The tree.
    pub node: Node,
}

impl Leaf for Data {
    fn from_node(node: &Node) -> Result<Self, Finding> {
        Ok(Data { node: node.clone() })
    }
}

impl Data {
    /// Place of the value.
    #[must_use]
    pub fn span(&self) -> Span {
        self.node.span
    }
}

/// A text that must occur: the value of `has` and `log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextIs(pub String);

impl Leaf for TextIs {
    fn from_node(node: &Node) -> Result<Self, Finding> {
        String::from_node(node).map(TextIs)
    }
}

/// An enum of bare names, read with suggestions.
#[macro_export]
macro_rules! names {
    ($(#[$doc:meta])* $vis:vis enum $name:ident as $what:literal {
        $($(#[$vdoc:meta])* $variant:ident = $text:literal),* $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        $vis enum $name { $($(#[$vdoc])* $variant),* }

        impl $name {
            /// Every name.
            pub const NAMES: &'static [&'static str] = &[$($text),*];

            /// The name as written.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text),* }
            }
        }

        impl $crate::leaf::Leaf for $name {
            fn from_node(
                node: &$crate::tree::Node,
            ) -> Result<Self, $crate::span::Finding> {
                let found = $crate::leaf::name_of(node, $what)?;
                match found.as_str() {
                    $($text => Ok($name::$variant),)*
                    other => Err($crate::leaf::unknown_name(node, $what, other, Self::NAMES)),
                }
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "description": $what, "enum": Self::NAMES })
            }
        }

        impl<'de> serde::de::Deserialize<'de> for $name {
            fn deserialize<D: serde::de::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                $crate::span::leaf(d).map(|(v, _)| v)
            }
        }
    };
}

/// The bare name of a node; text in quotes is pointed out.
///
/// # Errors
/// The node is something else.
pub fn name_of(node: &Node, what: &str) -> Result<String, Finding> {
    match &node.kind {
        Kind::Name(n) => Ok(n.clone()),
        Kind::Str(s) => {
            Err(Finding::error(node.span, format!("{what} was expected, found the text {s:?}"))
                .hint(format!("write {s} without quotes")))
        }
        _ => expected(node, what),
    }
}

/// "unknown X; did you mean Y?" for a list of known names.
#[must_use]
pub fn unknown_name(node: &Node, what: &str, found: &str, known: &[&str]) -> Finding {
    let finding = Finding::error(node.span, format!("{found} is not {what}"));
    match suggest(found, known.iter().copied()) {
        Some(s) => finding.hint(format!("did you mean {s}?")),
        None => finding.hint(format!("known: {}", known.join(", "))),
    }
}

/// The known name nearest to `found`, if at most a third of it differs.
pub fn suggest<'a>(found: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (found.chars().count() / 3).max(1);
    known
        .map(|k| (distance(found, k), k))
        .filter(|(d, _)| *d <= limit)
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// Damerau-Levenshtein distance (optimal string alignment), ignoring case for equal letters.
fn distance(a: &str, b: &str) -> usize {
    if a.eq_ignore_ascii_case(b) {
        return 0;
    }
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if swapped {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::parse_value;

    fn read<T: Leaf>(text: &str) -> Result<T, String> {
        T::from_node(&parse_value(text, 0, 0).unwrap()).map_err(|f| f.message)
    }

    #[test]
    fn units() {
        assert_eq!(read::<Time>("\"1.5 ms\""), Ok(Time { ns: 1_500_000 }));
        assert_eq!(read::<Time>("0"), Ok(Time { ns: 0 }));
        assert_eq!(read::<Bytes>("\"64MiB\""), Ok(Bytes { n: 64 << 20 }));
        assert!(read::<Time>("\"40msec\"").unwrap_err().starts_with("unknown unit \"msec\""));
        assert!(read::<Time>("40").unwrap_err().contains("needs a unit"));
    }

    #[test]
    fn patterns() {
        let p = read::<Is<u16>>("OneOf([5, 7..10, Not(_)])").unwrap();
        assert!(p.matches(&5) && p.matches(&9) && !p.matches(&10));
        assert_eq!(read::<u16>("80000").unwrap_err(), "80000 does not fit; the range is 0..=65535");
        assert!(read::<Ipv4Addr>("\"10.0.0.256\"").unwrap_err().contains("not an IPv4 address"));
        assert_eq!(read::<TcpFlags>("\"SA\""), Ok(TcpFlags(0x12)));
    }

    #[test]
    fn suggestions_are_near() {
        assert_eq!(suggest("eht0", ["eth0", "lan"].into_iter()), Some("eth0"));
        assert_eq!(suggest("TCP", ["Tcp", "Udp"].into_iter()), Some("Tcp"));
        assert_eq!(suggest("zzz", ["eth0"].into_iter()), None);
    }
}
