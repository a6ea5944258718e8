//! Helpers of packet programs.

use super::HelperRow;

/// The rows.
pub(crate) const ROWS: &[HelperRow] = &[];
