//! Attributes and maps.
