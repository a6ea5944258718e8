//! Places in files, values that know their place, and findings about them.
//!
//! A value's place comes from `ron`'s `RawValue`, a slice of the input: the difference of two
//! addresses is the offset. No `unsafe`, works wherever ron can reach, inside derived types.

use crate::leaf::Leaf;
use crate::tree::{self, Node};
use serde::de::{Deserialize, Deserializer, Error as _};
use std::cell::RefCell;

/// A byte range of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct Span {
    /// Number of the file: 0 is the scenario, then includes in order of appearance.
    pub file: u16,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The file cannot be run.
    Error,
    /// The file can be run but probably does not mean what it says.
    Warning,
}

/// Something to tell the author, at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// Where.
    pub span: Span,
    /// What to do about it.
    pub hint: Option<String>,
    /// A second place that explains the first.
    pub also: Option<(Span, String)>,
}

impl Finding {
    /// An error at a place.
    #[must_use]
    pub fn error(span: Span, message: impl Into<String>) -> Finding {
        let message = message.into();
        Finding { severity: Severity::Error, message, span, hint: None, also: None }
    }

    /// A warning at a place.
    #[must_use]
    pub fn warning(span: Span, message: impl Into<String>) -> Finding {
        Finding { severity: Severity::Warning, ..Finding::error(span, message) }
    }

    /// With a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Finding {
        self.hint = Some(hint.into());
        self
    }

    /// With a second place.
    #[must_use]
    pub fn also(mut self, span: Span, label: impl Into<String>) -> Finding {
        self.also = Some((span, label.into()));
        self
    }
}

/// The file being read: serde hands no context to a deserialiser.
#[derive(Debug, Default)]
pub(crate) struct Source {
    /// Address of the first byte of the text.
    pub(crate) base: usize,
    /// Length of the text.
    pub(crate) len: usize,
    /// File number for spans.
    pub(crate) file: u16,
    /// Values of matrix variables in this cell, as RON text.
    pub(crate) vars: Vec<(String, String)>,
    /// Variables the file refers to.
    pub(crate) used: Vec<(String, Span)>,
    /// The first leaf error: its place is better than ron's.
    pub(crate) first: Option<Finding>,
}

thread_local! {
    static SOURCE: RefCell<Vec<Source>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` with `source` as the current file and returns what was collected.
pub(crate) fn with_source<R>(source: Source, f: impl FnOnce() -> R) -> (R, Source) {
    SOURCE.with_borrow_mut(|s| s.push(source));
    let out = f();
    let source = SOURCE.with_borrow_mut(Vec::pop).expect("pushed above");
    (out, source)
}

fn offset_of(raw: &str) -> Option<(u16, u32)> {
    SOURCE.with_borrow(|s| {
        let s = s.last()?;
        let at = (raw.as_ptr() as usize).checked_sub(s.base)?;
        (at <= s.len).then(|| (s.file, u32::try_from(at).unwrap_or(u32::MAX)))
    })
}

fn keep_first(finding: &Finding) {
    SOURCE.with_borrow_mut(|s| {
        if let Some(s) = s.last_mut() {
            s.first.get_or_insert_with(|| finding.clone());
        }
    });
}

/// Reads one node from a raw slice of the current file.
fn node_of(raw: &str) -> Result<Node, Finding> {
    let (file, at) = offset_of(raw).unwrap_or((0, 0));
    tree::parse_value(raw, file, at)
}

/// The text that stands for the variable named by `node`, if it is one.
fn variable(node: &Node) -> Option<Result<Node, Finding>> {
    let name = node.as_str()?.strip_prefix('$')?.to_string();
    let found = SOURCE.with_borrow_mut(|s| {
        let s = s.last_mut()?;
        s.used.push((name.clone(), node.span));
        s.vars.iter().find(|v| v.0 == name).map(|v| v.1.clone())
    });
    // Without a cell (`check`), a variable stands for any value: 1 reads as a number and a count.
    let text = found.unwrap_or_else(|| "1".to_string());
    Some(tree::parse_value(&text, node.span.file, 0).map(|mut n| {
        n.move_to(node.span);
        n
    }))
}

/// Reads a leaf: the one way from ron to a value with a place.
pub(crate) fn leaf<'de, T: Leaf, D: Deserializer<'de>>(d: D) -> Result<(T, Span), D::Error> {
    let raw = <&'de ron::value::RawValue>::deserialize(d)?.get_ron();
    let read = node_of(raw).and_then(|node| {
        let node = variable(&node).unwrap_or(Ok(node))?;
        Ok((T::from_node(&node)?, node.span))
    });
    read.map_err(|finding| {
        keep_first(&finding);
        D::Error::custom(finding.message)
    })
}

/// Keeps a finding made by a hand-written deserialiser and turns it into a serde error.
pub(crate) fn refuse<E: serde::de::Error>(finding: Finding) -> E {
    keep_first(&finding);
    E::custom(finding.message)
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spanned<T> {
    /// The value.
    pub v: T,
    /// Its place.
    pub span: Span,
}

impl<T> Spanned<T> {
    /// A value that stands nowhere: a default.
    pub fn nowhere(v: T) -> Spanned<T> {
        Spanned { v, span: Span::default() }
    }
}

impl<T: Default> Default for Spanned<T> {
    fn default() -> Self {
        Spanned::nowhere(T::default())
    }
}

impl<'de, T: Leaf> Deserialize<'de> for Spanned<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        leaf(d).map(|(v, span)| Spanned { v, span })
    }
}
