//! The scenario language, version 1: RON files that script a machine, its events and what holds.
//!
//! ```text
//!  text ──ron (decides)──► Scenario ──validate(&dyn Objects)──► findings, or a scenario to run
//!    └──── on error: tree + serde over the tree (explains) ──► Finding with the exact place
//! ```
//!
//! Modules in reading order: [`span`] places and findings, [`tree`] spanned syntax tree,
//! [`leaf`] values read from one node (units, addresses, patterns, typed data), [`schema`] the
//! records, [`parse`](mod@parse) text to records with includes, [`validate`] names and order,
//! [`render`] findings as text or JSON, [`edit`] changes by byte range,
//! [`reference`](mod@reference) the page.
//!
//! **Invariants.** Pure data: executes nothing, depends on no other crate of the workspace, does
//! no I/O of its own (files come through a [`parse::Files`]). `ron` is the authority on what a
//! valid file is; the tree only words the errors.

pub mod de;
pub mod edit;
pub mod leaf;
pub mod parse;
pub mod reference;
pub mod render;
pub mod schema;
pub mod span;
pub mod tree;
pub mod validate;

pub use parse::{Files, parse};
pub use schema::Scenario;
pub use span::{Finding, Severity, Span, Spanned};
