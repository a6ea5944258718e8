//! What is wrong with an object file: where, what, and what to do about it.

use std::fmt;

/// A problem in an object file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ObjectError {
    /// ELF section, empty when the file as a whole is meant.
    pub section: String,
    /// Symbol (program, function, map, variable), empty when unknown.
    pub symbol: String,
    /// Byte offset in the section, when one instruction or record is meant.
    pub offset: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

impl ObjectError {
    /// Something is wrong in a section.
    #[must_use]
    pub fn new(section: &str, what: impl Into<String>) -> ObjectError {
        ObjectError {
            section: section.to_owned(),
            symbol: String::new(),
            offset: None,
            what: what.into(),
            hint: String::new(),
        }
    }

    /// Names the symbol.
    #[must_use]
    pub fn symbol(mut self, symbol: &str) -> ObjectError {
        self.symbol = symbol.to_owned();
        self
    }

    pub(super) fn offset(mut self, offset: u64) -> ObjectError {
        self.offset = Some(offset);
        self
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> ObjectError {
        self.hint = hint.into();
        self
    }
}

impl fmt::Display for ObjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.section.is_empty() {
            write!(f, "section '{}'", self.section)?;
            if !self.symbol.is_empty() {
                write!(f, ", '{}'", self.symbol)?;
            }
            if let Some(offset) = self.offset {
                write!(f, ", offset {offset:#x}")?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.what)?;
        if !self.hint.is_empty() {
            write!(f, "; {}", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for ObjectError {}
