//! Integration tests, one binary with a module each.
