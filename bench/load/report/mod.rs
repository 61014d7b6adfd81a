//! What is shown of a finished measurement, each a pure function of `outcome::Report`.
//!
//! | Module | Form | Read by |
//! |--------|-----|-------|
//! | `text` | a terminal | people, at the end of a run |
//! | `html` | one page without script or network | people, later and elsewhere |
//! | `json` | one object, schema 1 | programs, continuous integration |
//! | `csv`  | one row an interval | spreadsheets, data frames |
//! | `hgrm` | the percentile distribution | plotters of HdrHistogram |
//!
//! What they have in common stands in `figures` (what is derived from a run),
//! `compare` (what is derived from rounds), `verdict`, `words` (sentences and tables) and
//! `format` (how numbers are written).
//!
//! Nothing here reads a clock, a file or the environment: the same report gives the same bytes.

pub mod csv;
pub mod hgrm;
pub mod html;
pub mod json;
pub mod text;

mod compare;
pub mod figures;
pub mod format;
pub mod verdict;
mod words;

#[cfg(test)]
mod fixture;

/// The percentiles of every table and file, in rising order.
pub const PERCENTILES: [f64; 5] = [50.0, 90.0, 99.0, 99.9, 99.99];
